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

// A fault that is told to the reader as it is: what happened, and a way on.
live.Fault = class Fault extends Error {};

// The bytes that stand in a text as base64.
live.bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

live.STOPPED = "Loading was stopped. What is stored with the page still works.";

// Run a script that lies beside this one: from a folder nothing else may be read.
live.script = (path, name, signal) => new Promise((resolve, reject) => {
  const node = document.createElement("script");
  node.src = live.base + path;
  node.onload = () => resolve(node.remove());
  node.onerror = () => reject(new live.Fault(`${name}.js is not beside this page, or the network is gone. Try again; on disk, copy the whole folder of the built book, _static included.`));
  signal?.addEventListener("abort", () => reject(new live.Fault(live.STOPPED)));
  document.head.append(node);
});

// What a script of `model/` hands over by calling `live.arrive`.
live.arrive = (name, what) => (live.arrivals[name] = what);
live.arrivals = {};
live.bring = async function (name, { signal, version = "" } = {}) {
  try {
    await live.script(`model/${name}.js${version}`, name, signal);
    return live.arrivals[name];
  } finally {
    delete live.arrivals[name];
  }
};
