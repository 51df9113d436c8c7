// A picture of a living figure as it stands.
live.define(function picture(live) {
  "use strict";
  const { h } = live;

  // Copy a figure with the styles that it has now, as SVG; canvases become images.
  live.pictureOf = function (figure) {
    const { width, height } = figure.getBoundingClientRect();
    const copy = figure.cloneNode(true);
    const [from, to] = [figure, copy].map((root) => [root, ...root.querySelectorAll("*")]);
    from.forEach((node, i) => {
      const style = getComputedStyle(node);
      to[i].setAttribute("style", [...style].map((name) => `${name}:${style.getPropertyValue(name)}`).join(";"));
      if (node.tagName === "TEXTAREA") to[i].textContent = node.value;
      if (node.tagName === "SELECT") to[i].options[node.selectedIndex]?.setAttribute("selected", "");
      if (node.tagName === "INPUT") to[i].setAttribute("value", node.value);
      if (node.tagName === "CANVAS") {
        const image = h("img", { src: node.toDataURL(), style: to[i].getAttribute("style") });
        to[i].replaceWith(image);
      }
    });
    for (const node of copy.querySelectorAll(".live-tools")) node.remove();
    copy.style.margin = "0";
    copy.style.background = getComputedStyle(document.body).backgroundColor;
    const text = new XMLSerializer().serializeToString(copy);
    const [w, t] = [Math.ceil(width), Math.ceil(height)];
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${w}" height="${t}"><foreignObject width="100%" height="100%">${text}</foreignObject></svg>`;
  };

  // Save it as a file, and return a sentence that says so.
  live.download = async function (figure, name) {
    const svg = live.pictureOf(figure), image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
    let [url, ending] = [image.src, "svg"];
    try { // a PNG where the browser can draw one, else the SVG itself
      await image.decode();
      const canvas = h("canvas", { width: 2 * image.width, height: 2 * image.height });
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      [url, ending] = [canvas.toDataURL("image/png"), "png"];
    } catch { /* the SVG */ }
    h("a", { href: url, download: `${name}.${ending}` }).click();
    return `The picture is saved as ${name}.${ending}.`;
  };
});
