// In a notebook the kernel answers in the worker's place: course_widgets/live.py joins the parts,
// this one and the elements to one module, in anywidget's form.
live.define(function notebook(live) {
  "use strict";
  const { engine, h } = live;
  const WAITING = "The kernel has not answered yet. Is another cell running? If the kernel was restarted, run this cell again.";
  const figures = new Set(); // one for each view

  // The model is there, and the address is the notebook's.
  const { element } = live;
  live.element = (name, definition) => element(name, { ...definition, loads: "" });
  Object.assign(live, { fromAddress: () => null, toAddress: () => {}, copyLink: null });
  engine.read = engine.encode; // the kernel knows what its tokenizer begins with
  engine.isFar = true;

  // Numbers come beside a message, as bytes: {floats: n, shape} -> {data, shape}.
  function filled(value, buffers) {
    if (!value || typeof value !== "object" || Array.isArray(value)) return value;
    if (!("floats" in value))
      return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, filled(part, buffers)]));
    const { buffer, byteOffset, byteLength } = buffers[value.floats];
    return { data: new Float32Array(buffer.slice(byteOffset, byteOffset + byteLength)), shape: value.shape };
  }

  function connect(model) {
    if (engine.worker) return; // another view of the same figure
    engine.worker = { postMessage: (question) => model.send(question) };
    model.on("msg:custom", (answer, buffers) => engine.hear(filled(answer, buffers)));
    const call = engine.call.bind(engine);
    engine.call = async (...question) => {
      const late = setTimeout(() => {
        for (const figure of figures) figure.querySelector(".live-said").textContent = WAITING;
      }, 6000);
      try { return await call(...question); } finally { clearTimeout(late); }
    };
    engine.next = async (...question) => {
      const { logits, ...answer } = await engine.call("next", ...question);
      return { ...answer, logits: logits?.data };
    };
  }

  // Light text means a dark page, in whichever program.
  function follow(figure) {
    const look = () => {
      const [r, g, b] = getComputedStyle(figure.parentNode).color.match(/[\d.]+/g).map(Number);
      figure.dataset.theme = 0.3 * r + 0.6 * g + 0.1 * b > 128 ? "dark" : "light";
    };
    look();
    const observer = new MutationObserver(look);
    for (const node of [document.documentElement, document.body]) observer.observe(node, { attributes: true });
    return observer;
  }

  live.render = function ({ model, el }) {
    const name = model.get("name");
    live.stored[name] = model.get("stored");
    connect(model);
    const figure = h("figure.live", { "data-live": name, "data-state": "stored", "data-lm-suppress-shortcuts": "true" },
      h("figcaption", {}, model.get("caption")));
    el.append(figure);
    figures.add(figure);
    let observer;
    (function begin() { // once it is in the page: it is drawn in the page's colours
      if (!figure.isConnected) return void requestAnimationFrame(begin);
      observer = follow(figure);
      live.awaken(el);
    })();
    return () => {
      figures.delete(figure);
      observer?.disconnect();
    };
  };
});
