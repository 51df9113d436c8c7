// The room that all parts of the living pages share. Each file holds one part, a function that
// adds to `live`. The same functions, as text, are what a worker runs: that way the pages work
// from a folder on disk (file://), where a worker may not read any file.
var live = {
  parts: [],
  define(part) {
    live.parts.push(part);
    part(live);
  },
};
// Where the site keeps these files; `stored` and the model lie beside them.
live.base = document.currentScript ? new URL(".", document.currentScript.src).href : "";
