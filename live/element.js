// What the elements share: making nodes, the address, a picture to save, and what is read aloud.

const SVG = "http://www.w3.org/2000/svg";

/** A node: node("p", {class: "note", onclick}, "text", child). Text is only ever text. */
export function node(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same for a part of a drawing. */
export function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

let labels = 0;

/** A labelled control, <label> above it; `control` gets an id. */
export function labelled(text, control) {
  control.id ||= `live-control-${++labels}`;
  return node("div", { class: "live-field" }, node("label", { for: control.id }, text), control);
}

/** A choice from [[value, text], …]; `chosen(value)` is called with the value's string. */
export function choice(options, value, chosen) {
  const select = node("select", { onchange: () => chosen(select.value) },
    ...options.map(([key, text]) => node("option", { value: key }, text)));
  select.value = String(value);
  return select;
}

/** What the address says about an element, "#train?rate=2&…", as an object of strings, or null. */
export function fromAddress(name) {
  const [head, ...rest] = location.hash.slice(1).split("?");
  return head === name ? Object.fromEntries(new URLSearchParams(rest.join("?"))) : null;
}

/** Put the state of an element into the address; the page does not move, Back does not step through it. */
export function toAddress(name, fields) {
  try {
    history.replaceState(history.state, "", `#${name}?${new URLSearchParams(fields)}`);
  } catch { /* a page in a frame may have no say in its address; the element works without */ }
}

/** A function that has a sentence read aloud by a screen reader, when it says something new. */
export function announcer(parent) {
  const region = node("p", { class: "live-said", role: "status", "aria-live": "polite" });
  parent.append(region);
  return (sentence) => {
    if (region.textContent !== sentence) region.textContent = sentence;
  };
}

/** Ask for fewer movements? Asked each time, because a reader may change it. */
export function prefersStill() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

const STYLES = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap",
  "stroke-linejoin", "opacity", "fill-opacity", "stroke-opacity", "font-family", "font-size",
  "font-weight", "text-anchor", "dominant-baseline", "white-space", "visibility"];

/** A copy of a drawing that needs no style sheet, on the page's ground, with its size written in it. */
export function standalone(svg) {
  const copy = svg.cloneNode(true), originals = svg.querySelectorAll("*");
  copy.querySelectorAll("*").forEach((part, i) => {
    const style = getComputedStyle(originals[i]);
    for (const name of STYLES) part.style.setProperty(name, style.getPropertyValue(name));
  });
  const { width, height } = svg.getBoundingClientRect();
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  copy.setAttribute("xmlns", SVG);
  copy.prepend(drawn("rect", { width: "100%", height: "100%", fill: ground(svg) }));
  return copy;
}

/** The colour behind an element. */
export function ground(element) {
  for (let at = element; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (colour && !/^rgba\(.*, 0\)$|^transparent$/.test(colour)) return colour;
  }
  return "#fff";
}

/** Save a drawing as a PNG of twice its size. */
export async function savePicture(svg, filename) {
  const copy = standalone(svg), source = new XMLSerializer().serializeToString(copy);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(source)}`;
  await image.decode();
  const canvas = node("canvas", { width: 2 * image.width, height: 2 * image.height });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  const link = node("a", { href: canvas.toDataURL("image/png"), download: filename });
  link.click();
}
