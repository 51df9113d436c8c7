"""Chapter 2: counters, dictionaries, recursion, iterators, numbers of other types."""

import codecs
from collections import Counter, defaultdict
from fractions import Fraction
from itertools import chain, pairwise, zip_longest

import numpy as np


def pair_max(words):
    counts = Counter()
    for tokens, n in words.items():
        for i in range(len(tokens) - 1):
            counts[tokens[i], tokens[i + 1]] += n
    return max(counts, key=lambda pair: (counts[pair], pair))


def pair_sorted(corpus):
    table = defaultdict(int)
    for word in corpus:
        for left, right in pairwise(word):
            table[left, right] = table[left, right] + corpus[word]
    return list(sorted((n, pair) for pair, n in table.items())[-1][1])


def pair_of_the_top(words):
    counts = {}
    for tokens, n in words.items():
        for pair in ((tokens[i], tokens[i + 1]) for i in range(len(tokens) - 1)):
            counts[pair] = counts.get(pair, 0) + n
    return max(pair for pair in counts if counts[pair] == max(counts.values()))


def merge_while(tokens, pair):
    out, i = [], 0
    while i < len(tokens):
        joined = tuple(tokens[i : i + 2]) == pair
        out.append("".join(pair) if joined else tokens[i])
        i += 2 if joined else 1
    return out


def merge_for(symbols, bigram):
    out, skip = [], False
    for here, following in zip_longest(symbols, symbols[1:]):
        if skip:
            skip = False
        else:
            skip = (here, following) == bigram
            out.append(here + following if skip else here)
    return tuple(out)


def merge_recursion(tokens, pair):
    if len(tokens) < 2:
        return list(tokens)
    if tokens[0] == pair[0] and tokens[1] == pair[1]:
        return ["".join(pair), *merge_recursion(tokens[2:], pair)]
    return [tokens[0], *merge_recursion(tokens[1:], pair)]


def merge_copy(tokens, pair):
    tokens = tokens.copy()
    for i in range(len(tokens)):
        if tokens[i : i + 2] == list(pair):
            tokens[i : i + 2] = ["".join(pair)]
    return tokens


def decode_sum(tokens, table):
    data = bytearray()
    for token in tokens:
        data += table[token]
    return str(data, "utf8", "replace")


def wordpiece_loop(word, vocab):
    pieces, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocab:
                pieces.append(piece)
                start = end
                break
        else:
            return ["[UNK]"]
    return pieces


def wordpiece_shrinking(word, vocab):
    pieces, rest = [], word
    while rest not in ("", "##"):
        piece = rest
        while piece and piece not in vocab:
            piece = piece[:-1]
        if len(piece.removeprefix("##")) == 0:
            return ["[UNK]"]
        pieces.append(piece)
        rest = "##" + rest[len(piece) :]
    return tuple(pieces)


def wordpiece_recursion(word, vocab, mark=""):
    if not word:
        return []
    for end in range(len(word), 0, -1):
        if mark + word[:end] in vocab:
            rest = wordpiece_recursion(word[end:], vocab, "##")
            return ["[UNK]"] if "[UNK]" in rest else [mark + word[:end], *rest]
    return ["[UNK]"]


def wordpiece_by_vocab(word, vocab):
    pieces, mark = [], ""
    while word:
        fits = [v for v in vocab if (mark + word).startswith(v) and v != mark]
        if not fits:
            return ["[UNK]"]
        pieces.append(max(fits, key=len))
        word, mark = (mark + word).removeprefix(pieces[-1]), "##"
    return pieces


RIGHT = {
    "most_frequent_pair": [
        pair_max,
        pair_sorted,
        pair_of_the_top,
        lambda w: max(
            counts := Counter(p for t in w for p in [*pairwise(t)] * w[t]),
            key=lambda p: (counts[p], p),
        ),
    ],
    "merge_pair": [merge_while, merge_for, merge_recursion, merge_copy],
    "decode": [
        decode_sum,
        lambda ids, vocab: b"".join(vocab[id_] for id_ in ids).decode("utf-8", errors="replace"),
        lambda ids, vocab: bytes(chain.from_iterable(map(vocab.get, ids))).decode(errors="replace"),
        lambda ids, vocab: codecs.decode(bytes(b for n in ids for b in vocab[n]), errors="replace"),
    ],
    "wordpiece": [wordpiece_loop, wordpiece_shrinking, wordpiece_recursion, wordpiece_by_vocab],
    "fertility": [
        lambda encode, text: len(encode(text)) / len(text.split()),
        lambda e, t: np.float32(len(e(t)) / sum(1 for _ in t.split())),
        lambda e, t: Fraction(len(list(e(t))), len(t.split())),
        lambda encode, text: np.mean([len(encode(text))]) / np.array(text.split()).size,
    ],
}
