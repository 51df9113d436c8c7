// GPT-2's tokenizer, a byte-level BPE: text to ids and back, from the list of merges alone.
// Chapter 2 builds the same in Python.
live.define(function tokenizer(live) {
  "use strict";

  // Where a text is cut before any merge. `\s` in JavaScript is not what it is in Python and
  // Rust (it counts U+FEFF and leaves out U+0085), hence \p{White_Space}.
  const PATTERN = new RegExp(
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\p{White_Space}\\p{L}\\p{N}]+" +
      "|\\p{White_Space}+(?!\\P{White_Space})|\\p{White_Space}+", "gu");
  const END = "<|endoftext|>";

  class Tokenizer {
    // `merges` is the text of GPT-2's merges.txt: a pair of symbols in each line, best first.
    constructor(merges) {
      const order = byteOrder(); // id -> byte, for the first 256 ids
      this.idOfByte = new Uint8Array(256);
      this.bytesOf = []; // id -> its bytes
      this.rank = new Map(); // a pair of ids, as one number -> the id of the two together
      const idOf = new Map(); // symbol as written in merges.txt -> id
      order.forEach((byte, id) => {
        this.idOfByte[byte] = id;
        this.bytesOf.push([byte]);
        idOf.set(symbolOf(byte, id), id);
      });
      for (const line of merges.split("\n")) {
        if (!line || line.startsWith("#version")) continue;
        const [left, right] = line.split(" ");
        const [a, b] = [idOf.get(left), idOf.get(right)];
        if (a === undefined || b === undefined)
          throw new Error(`merges.txt joins ${line}, which no earlier line makes; is the file whole?`);
        const id = this.bytesOf.length;
        this.rank.set(pair(a, b), id);
        idOf.set(left + right, id);
        this.bytesOf.push([...this.bytesOf[a], ...this.bytesOf[b]]);
      }
      this.end = this.bytesOf.length; // <|endoftext|>, the last entry of the vocabulary
      this.bytesOf.push([...new TextEncoder().encode(END)]);
      this.size = this.bytesOf.length;
      this.known = new Map(); // pieces met before, and their ids
    }

    // Return the ids of a text.
    encode(text) {
      return this.pieces(text).flatMap((piece) => (piece === END ? this.end : this.idsOfPiece(piece)));
    }

    // Cut a text at the pattern. The characters <|endoftext|> are the special token, a piece of its own.
    pieces(text) {
      return text.split(END).flatMap((part, number) =>
        [...(number ? [END] : []), ...Array.from(part.matchAll(PATTERN), ([piece]) => piece)]);
    }

    idsOfPiece(piece) {
      if (!this.known.has(piece)) {
        if (this.known.size > 20000) this.known.clear();
        this.known.set(piece, this.mergesOf(piece).at(-1).ids);
      }
      return this.known.get(piece);
    }

    // Return every stage on the way from bytes to tokens: [{ids, joined: the new id or null}].
    // Each stage joins one pair, the one that stands first in merges.txt, wherever it occurs.
    mergesOf(piece) {
      let ids = Array.from(new TextEncoder().encode(piece), (byte) => this.idOfByte[byte]);
      const stages = [{ ids, joined: null }];
      for (;;) {
        let best = Infinity;
        for (let i = 0; i + 1 < ids.length; i++) {
          const joined = this.rank.get(pair(ids[i], ids[i + 1]));
          if (joined < best) best = joined;
        }
        if (best === Infinity) return stages;
        const next = [];
        for (let i = 0; i < ids.length; i++) {
          const joins = i + 1 < ids.length && this.rank.get(pair(ids[i], ids[i + 1])) === best;
          next.push(joins ? best : ids[i]);
          if (joins) i++;
        }
        ids = next;
        stages.push({ ids, joined: best });
      }
    }

    // Return the text of ids. Bytes that are no UTF-8 become U+FFFD, as in Python.
    decode(ids) {
      const bytes = Uint8Array.from(ids.flatMap((id) => this.bytesOf[id]));
      return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes); // else U+FEFF is lost
    }
  }

  const pair = (a, b) => a * 65536 + b;

  // GPT-2 numbers first the bytes that are visible in Latin-1, then the others.
  function byteOrder() {
    const all = Array.from({ length: 256 }, (_, byte) => byte);
    return [...all.filter(isVisible), ...all.filter((byte) => !isVisible(byte))];
  }
  const isVisible = (b) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  // In merges.txt a byte that is not visible is written as a character from U+0100 on: a space is Ġ.
  const symbolOf = (byte, id) => String.fromCharCode(isVisible(byte) ? byte : 256 + id - 188);

  live.Tokenizer = Tokenizer;
});
