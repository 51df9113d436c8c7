// BERT's tokenizer (uncased), for comparison with GPT-2's: lower case, no accents, words cut at
// punctuation, then from the left the longest entry of the vocabulary each time. Chapter 2.
live.define(function wordpiece(live) {
  "use strict";

  const isPunctuation = (c) => /[!-/:-@[-`{-~]|\p{P}/u.test(c);
  const isIdeograph = (c) => {
    const n = c.codePointAt(0);
    return (n >= 0x4e00 && n <= 0x9fff) || (n >= 0x3400 && n <= 0x4dbf) || (n >= 0xf900 && n <= 0xfaff) ||
      (n >= 0x20000 && n <= 0x2a6df) || (n >= 0x2a700 && n <= 0x2ceaf) || (n >= 0x2f800 && n <= 0x2fa1f);
  };
  const isControl = (c) => /[\p{Cc}\p{Cf}\p{Cn}\p{Co}]/u.test(c) && !/[\t\n\r]/.test(c);

  class WordPiece {
    // `vocabulary` is the text of BERT's vocab.txt: an entry in each line, numbered from 0.
    constructor(vocabulary) {
      this.entries = vocabulary.replace(/\n$/, "").split("\n");
      this.idOf = new Map(this.entries.map((entry, id) => [entry, id]));
    }

    // Return the ids of a text, without [CLS] and [SEP].
    encode(text) {
      return this.words(text).flatMap((word) => this.idsOfWord(word));
    }

    words(text) {
      let clean = "";
      for (const c of text) {
        if (c === "\u0000" || c === "\ufffd" || isControl(c)) continue;
        clean += isIdeograph(c) ? ` ${c} ` : /\p{White_Space}/u.test(c) ? " " : c;
      }
      clean = clean.normalize("NFD").replace(/\p{Mn}/gu, "");
      clean = Array.from(clean, (c) => c.toLowerCase()).join("");
      return clean.split(" ").filter(Boolean).flatMap(cutAtPunctuation);
    }

    idsOfWord(word) {
      const letters = Array.from(word);
      const unknown = [this.idOf.get("[UNK]")];
      if (letters.length > 100) return unknown;
      const ids = [];
      for (let start = 0; start < letters.length; ) {
        let end = letters.length;
        const entry = () => (start ? "##" : "") + letters.slice(start, end).join("");
        while (end > start && !this.idOf.has(entry())) end--;
        if (end === start) return unknown;
        ids.push(this.idOf.get(entry()));
        start = end;
      }
      return ids;
    }
  }

  function cutAtPunctuation(word) {
    const parts = [""];
    for (const c of word) {
      if (isPunctuation(c)) parts.push(c, "");
      else parts[parts.length - 1] += c;
    }
    return parts.filter(Boolean);
  }

  live.WordPiece = WordPiece;
});
