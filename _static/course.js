// Draws the plotly figures of a page in the colours of the reader's theme, and again when it changes.
(() => {
  "use strict";

  function themeColours() {
    const style = getComputedStyle(document.documentElement);
    return {
      text: style.getPropertyValue("--pst-color-text-base").trim() || "#222",
      grid: style.getPropertyValue("--pst-color-border").trim() || "#ccc",
    };
  }

  function themed(layout) {
    const { text, grid } = themeColours();
    const copy = { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" };
    copy.font = { ...layout.font, color: text };
    for (const key of Object.keys(layout).filter((name) => /^[xy]axis\d*$/.test(name)).concat("xaxis", "yaxis")) {
      copy[key] = { gridcolor: grid, zerolinecolor: grid, linecolor: grid, ...layout[key] };
      copy[key].gridcolor = copy[key].zerolinecolor = copy[key].linecolor = grid;
    }
    if (layout.scene) {
      const axis = { color: text, gridcolor: grid, showbackground: false };
      copy.scene = { ...layout.scene };
      for (const key of ["xaxis", "yaxis", "zaxis"]) copy.scene[key] = { ...layout.scene[key], ...axis };
    }
    return copy;
  }

  function draw() {
    for (const holder of document.querySelectorAll(".course-plotly")) {
      const figure = JSON.parse(holder.querySelector("script[type='application/json']").textContent);
      let target = holder.querySelector(".course-plotly-figure");
      if (!target) {
        target = document.createElement("div");
        target.className = "course-plotly-figure";
        holder.appendChild(target);
      }
      const config = { responsive: true, displaylogo: false };
      Plotly.react(target, figure.data, themed(figure.layout), config).then(() => {
        if (figure.frames) Plotly.addFrames(target, figure.frames);
      });
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    if (!document.querySelector(".course-plotly")) return;
    draw();
    new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  });
})();
