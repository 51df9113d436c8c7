for (const svg of document.querySelectorAll("#vis > svg[width]")) {
  const width = svg.getAttribute("width");
  if (width === "100%") continue;
  svg.setAttribute("viewBox", `0 0 ${width} ${svg.getAttribute("height")}`);
  svg.style = "display: block; max-width: 100%; height: auto";
}
