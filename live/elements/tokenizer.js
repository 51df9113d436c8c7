// The tokenizer: one text in four tokenizers, and how GPT-2's builds a word, merge by merge.
live.define(function tokenizerFigure(live) {
  "use strict";
  const { h } = live;

  const TRIES = [
    ["A space, a capital", "weather weather Weather WEATHER"],
    ["Emoji", "naïve café 😀 👩‍🚀"],
    ["ภาษาไทย", "ภาษาไทยเขียนติดกัน"],
    ["Numbers", "7 2024 1234567 3.14159"],
    ["Code", "for i in range(10):\n    print(i)"],
  ];
  const MOST = 1000; // characters

  const chips = (tokens, notes) => tokens.map((token, n) =>
    h(`span.live-chip.live-hue-${n % 5}`, { title: notes?.[n] }, live.visible(token)));

  live.element("tokenizer", {
    title: "One text, four tokenizers",
    hint: "Type a word with a space in front of it, then without: do you get the same token?",
    loads: "tokenizers",

    initial: ({ text, piece, stage }) => ({ text, piece, stage }),

    tidy: (state) => ({
      text: String(state.text).slice(0, MOST),
      piece: Math.round(live.clamp(state.piece, 0, MOST, 0)),
      stage: Math.round(live.clamp(state.stage, 0, 99, 99)),
    }),

    accept: (changes) => ("text" in changes ? { piece: 0, stage: 99, ...changes } : changes),

    needs: ({ text }, { stored }) => (text === stored.text ? "" : "tokenizers"),

    async numbers({ text }, { stored, engine, ready }) {
      const chars = Array.from(text), bytes = Array.from(new TextEncoder().encode(text));
      if (!ready) return { chars, bytes, pieces: stored.pieces, wordpiece: stored.wordpiece };
      const [pieces, wordpiece] = await Promise.all([engine.pieces(text), engine.wordpiece(text)]);
      return { chars, bytes, pieces, wordpiece };
    },

    report: ({ text, stage }, { chars, pieces, wordpiece }) =>
      ({ text, gpt2: pieces.flatMap(idsOf), chars, wordpiece: wordpiece.ids, stage }),

    says: (state, { chars, bytes, pieces, wordpiece }) =>
      `${chars.length} characters, ${bytes.length} bytes, ${wordpiece.ids.length} tokens for BERT, ${pieces.flatMap(idsOf).length} for GPT-2.`,

    build(frame) {
      const text = h("textarea.live-input", { rows: 2, maxlength: MOST, spellcheck: "false" });
      text.addEventListener("input", () => {
        clearTimeout(frame.typing);
        frame.typing = setTimeout(() => frame.change({ text: text.value, piece: lastWord(text.value), stage: 99 }, { merge: "typing" }), 150);
      });
      const tries = TRIES.map(([label, value]) =>
        h("button.live-button", { onclick: () => frame.change({ text: value, piece: 0, stage: 99 }) }, label));
      const rows = h("div.live-tokenizers");
      const pick = h("select", { onchange: () => frame.change({ piece: +pick.value, stage: 99 }) });
      const slider = live.slider("Merges done", { min: 0, max: 1, onchange: (stage) => frame.change({ stage }, { merge: "stage" }) });
      const word = h("p.live-chips.live-big"), told = h("p.live-muted");
      frame.stage.append(
        h("label.live-field", {}, h("span", {}, "Your text"), text),
        h("div.live-row", {}, h("span.live-muted", {}, "Try"), tries), rows,
        h("div.live-panel", {}, h("label.live-choice", {}, "How GPT-2 puts together ", pick), slider.node, word, told));

      return (state, { chars, bytes, pieces, wordpiece }) => {
        if (document.activeElement !== text) text.value = state.text;
        const ids = pieces.flatMap(idsOf), tokens = pieces.flatMap(({ stages }) => stages.at(-1).tokens);
        rows.replaceChildren(
          row("Characters", chars.length, chips(chars, chars.map((c) => `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`))),
          row("Bytes of UTF-8", bytes.length, chips(bytes.map((b) => b.toString(16).padStart(2, "0")), bytes)),
          row("BERT's WordPiece", wordpiece.ids.length, chips(wordpiece.tokens, wordpiece.ids), wordpiece.ids),
          row("GPT-2's BPE", ids.length, chips(tokens, ids), ids));
        pick.replaceChildren(...pieces.slice(0, 60).map(({ piece }, n) => h("option", { value: n }, `“${live.visible(piece)}”`)));
        const chosen = Math.min(state.piece, pieces.length - 1);
        pick.value = chosen;
        const stages = pieces[chosen]?.stages ?? [{ ids: [], tokens: [], joined: null }];
        const at = Math.min(state.stage, stages.length - 1);
        slider.input.max = stages.length - 1;
        slider.input.disabled = stages.length === 1;
        slider.set(at);
        const { ids: now, tokens: parts, joined } = stages[at];
        word.replaceChildren(...parts.map((token, n) =>
          h(`span.live-chip.live-hue-${now[n] === joined ? 1 : 0}${now[n] === joined ? ".live-joined" : ""}`, { title: now[n] }, live.visible(token))));
        told.textContent = at === 0
          ? `${now.length} bytes, each a token. Move the slider: each step joins the pair that stands first in GPT-2's list of 50,000.`
          : `Merge ${at} of ${stages.length - 1} made token ${joined}: the pair is number ${(joined - 255).toLocaleString("en")} in the list.`;
      };
    },
  });

  const idsOf = ({ stages }) => stages.at(-1).ids;
  const lastWord = (text) => Math.max(0, (text.match(/\S+/g) ?? []).length - 1);

  function row(name, count, parts, ids) {
    return h("div.live-tokenizer", {},
      h("div", {}, h("b", {}, name), " ", h("span.live-count", {}, String(count))),
      h("p.live-chips", {}, parts),
      ids && h("details.live-ids", {}, h("summary", {}, "ids"), h("code", {}, ids.join(" "))));
  }
});
