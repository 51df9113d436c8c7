"""The checks of chapter 2 accept right answers of any style and name the usual mistakes."""

from collections import Counter, defaultdict
from itertools import pairwise, zip_longest

import numpy as np
import pytest

from course_checks.tokenization import (
    check_decode,
    check_fertility,
    check_merge_pair,
    check_most_frequent_pair,
    check_wordpiece,
)

RIGHT, MISTAKES = {}, {}  # run by test_checks.py

CHECKS = [
    check_most_frequent_pair,
    check_merge_pair,
    check_decode,
    check_wordpiece,
    check_fertility,
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("answer", [lambda *_: None, lambda *_: 3, lambda *_: object()])
def test_nonsense_is_wrong_and_never_raises(check, answer):
    assert check(answer).passed is False


# most_frequent_pair


def counted(words):
    counts = Counter()
    for tokens, n in words.items():
        for i in range(len(tokens) - 1):
            counts[tokens[i], tokens[i + 1]] += n
    return counts


def pair_with_max(words):
    counts = counted(words)
    return max(counts, key=lambda pair: (counts[pair], pair))


def pair_with_sorting(corpus):
    table = defaultdict(int)
    for word in corpus:
        for left, right in pairwise(word):
            table[left, right] = table[left, right] + corpus[word]
    return list(sorted((n, pair) for pair, n in table.items())[-1][1])


RIGHT["check_most_frequent_pair"] = [pair_with_max, pair_with_sorting]


def unweighted(words):
    return pair_with_max(dict.fromkeys(words, 1))


def once_per_word(words):
    counts = Counter()
    for tokens, n in words.items():
        for pair in set(pairwise(tokens)):
            counts[pair] += n
    return max(counts, key=lambda pair: (counts[pair], pair))


def across_words(words):
    tokens = [t for word, n in words.items() for _ in range(n) for t in word]
    return pair_with_max({tuple(tokens): 1})


def first_of_ties(words):
    return counted(words).most_common(1)[0][0]


def smallest_of_ties(words):
    counts = counted(words)
    return min(counts, key=lambda pair: (-counts[pair], pair))


MISTAKES["check_most_frequent_pair"] = [
    (unweighted, "each distinct word once"),
    (once_per_word, "occurs twice"),
    (across_words, "inside one word"),
    (first_of_ties, "greater pair"),
    (smallest_of_ties, "greater pair"),
    (lambda words: counted(words).most_common(1)[0], "together with its count"),
    (lambda words: max((n, p) for p, n in counted(words).items()), "together with its count"),
    (lambda words: "".join(pair_with_max(words)), "as a pair"),
    (lambda words: None, "`return` missing"),
]


# merge_pair


def merge_while(tokens, pair):
    out, i = [], 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == tuple(pair):
            out.append(pair[0] + pair[1])
            i += 2
        else:
            out.append(tokens[i])
            i += 1
    return out


def merge_for(symbols, bigram):
    out, skip = [], False
    for here, following in zip_longest(symbols, symbols[1:]):
        if skip:
            skip = False
        elif (here, following) == bigram:
            out.append(here + following)
            skip = True
        else:
            out.append(here)
    return tuple(out)


RIGHT["check_merge_pair"] = [merge_while, merge_for]


def merge_without_skip(tokens, pair):
    out, i = [], 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair:
            out.append("".join(pair))
        else:
            out.append(tokens[i])
        i += 1
    return out


def merge_losing_last(tokens, pair):
    return merge_while(tokens, pair)[:-1]


def merge_loop_too_short(tokens, pair):
    out, i = [], 0
    while i < len(tokens) - 1:
        if (tokens[i], tokens[i + 1]) == pair:
            out.append("".join(pair))
            i += 2
        else:
            out.append(tokens[i])
            i += 1
    return out


def merge_first_only(tokens, pair):
    for i in range(len(tokens) - 1):
        if (tokens[i], tokens[i + 1]) == pair:
            return [*tokens[:i], "".join(pair), *tokens[i + 2 :]]
    return list(tokens)


def merge_from_the_right(tokens, pair):
    backwards = [token[::-1] for token in tokens[::-1]]
    merged = merge_while(backwards, (pair[1][::-1], pair[0][::-1]))
    return [token[::-1] for token in merged[::-1]]


def merge_text(tokens, pair):
    mark = "".join(pair)
    text = " ".join("".join(tokens).replace(mark, f"|{mark}|").split("|"))
    return [t for part in text.split() for t in ([part] if part == mark else part)]


def merge_in_place(tokens, pair):
    tokens[:] = merge_while(tokens, pair)
    return tokens


def slice_against_tuple(tokens, pair):
    out, i = [], 0
    while i < len(tokens):
        found = tokens[i : i + 2] == pair
        out.append("".join(tokens[i : i + 1 + found]))
        i += 1 + found
    return out


MISTAKES["check_merge_pair"] = [
    (merge_without_skip, "skip two tokens"),
    (merge_losing_last, "last token lost"),
    (merge_loop_too_short, "last token lost"),
    (merge_first_only, "not only the first"),
    (merge_from_the_right, "left to right"),
    (merge_text, "whole tokens"),
    (merge_in_place, "changed the list"),
    (lambda tokens, pair: " ".join(tokens), "list of tokens"),
    (slice_against_tuple, "never equal to a tuple"),
]


# decode


def decode_join(ids, vocab):
    return b"".join(vocab[id_] for id_ in ids).decode("utf-8", errors="replace")


def decode_sum(tokens, table):
    data = bytearray()
    for token in tokens:
        data += table[token]
    return str(data, "utf8", "replace")


RIGHT["check_decode"] = [decode_join, decode_sum]


MISTAKES["check_decode"] = [
    (lambda ids, v: "".join(v[i].decode("utf-8", "replace") for i in ids), "by itself"),
    (lambda ids, v: "".join(v[i].decode() for i in ids), "errors='replace'"),
    (lambda ids, v: b"".join(v[i] for i in ids).decode(), "errors='replace'"),
    (lambda ids, v: b"".join(v[i] for i in ids).decode("utf-8", "ignore"), "must become"),
    (lambda ids, v: "".join(v[i].decode("utf-8", "ignore") for i in ids), "vanished"),
    (lambda ids, v: b"".join(v[i] for i in ids).decode("latin-1"), "Latin-1"),
    (lambda ids, v: b"".join(v[i] for i in ids), "returned bytes"),
    (lambda ids, v: " ".join(v[i].decode("utf-8", "replace") for i in ids), "nothing between"),
]


# wordpiece


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


RIGHT["check_wordpiece"] = [wordpiece_loop, wordpiece_shrinking]


def wordpiece_variant(word, vocab, mark="##", shortest=False, whole=True, kept=True):
    pieces, start = [], 0
    while start < len(word):
        ends = range(start + 1, len(word) + 1)
        prefix = mark if start else ""
        found = [end for end in ends if prefix + word[start:end] in vocab]
        if not found:
            return ["[UNK]"] if whole else [*pieces, "[UNK]"]
        end = min(found) if shortest else max(found)
        pieces.append((prefix if kept else "") + word[start:end])
        start = end
    return pieces


MISTAKES["check_wordpiece"] = [
    (lambda w, v: wordpiece_variant(w, v, shortest=True), "longest"),
    (lambda w, v: wordpiece_variant(w, v, mark=""), "written with ##"),
    (lambda w, v: wordpiece_variant(w, v, whole=False), "whole word"),
    (lambda w, v: wordpiece_variant(w, v, kept=False), "Keep the ##"),
    (lambda w, v: " ".join(wordpiece_variant(w, v)), "list of pieces"),
    (lambda w, v: [w] if w in v else ["[UNK]"], "with ##"),
    (lambda w, v: [], "one piece"),
]


# fertility


def fertility_loop(encode, text):
    n_words = 0
    for _ in text.split():
        n_words += 1
    return np.float32(len(encode(text)) / n_words)


RIGHT["check_fertility"] = [lambda e, t: len(e(t)) / len(t.split()), fertility_loop]


MISTAKES["check_fertility"] = [
    (lambda e, t: sum(len(e(w)) for w in t.split()) / len(t.split()), "each word by itself"),
    (lambda e, t: len(t.split()) / len(e(t)), "turn the fraction"),
    (lambda e, t: len(e(t)) / len(t), "characters"),
    (lambda e, t: len(e(t)), "number of tokens"),
    (lambda e, t: len(e(t)) // len(t.split()), "round"),
    (lambda e, t: len(e(t)) / len(t.split(" ")), "empty word"),
    (lambda e, t: len(e(t)) / len([w for w in t.split(" ") if w]), "new lines"),
    (lambda e, t: len(e(t)) / len(set(t.split())), "each distinct word once"),
    (lambda e, t: len(set(e(t))) / len(t.split()), "each distinct token once"),
    (lambda e, t: len(t) / len(t.split()), "count characters"),
    (lambda e, t: e(t), "one number"),
]
