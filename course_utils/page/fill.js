{
  const frame = document.currentScript.previousElementSibling;
  const fill = () => {
    if (frame.srcdoc) return;
    const root = document.documentElement.dataset.content_root ?? "../";
    if (location.protocol === "file:") frame.removeAttribute("sandbox");
    frame.srcdoc = frame.dataset.page.replaceAll('"../_static/', `"${root}_static/`);
  };
  // What is far down the page loads when the reader comes near, or prints.
  const near = new IntersectionObserver((seen) => seen.some((each) => each.isIntersecting) && fill(), { rootMargin: "600px" });
  near.observe(frame);
  addEventListener("beforeprint", fill);
}
