{
  const frame = document.currentScript.previousElementSibling;
  const root = document.documentElement.dataset.content_root ?? "../";
  if (location.protocol === "file:") frame.removeAttribute("sandbox");
  frame.srcdoc = frame.dataset.page.replaceAll('"../_static/', `"${root}_static/`);
}
