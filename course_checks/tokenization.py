"""Exercises of chapter 2: BPE's pairs and merges, the decoder, WordPiece, fertility."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import combinations, pairwise
from random import Random
from typing import Any

from course_checks.exercises import Exercise, Way

PIECES = ["a", "b", "ab", "c", "bc"]  # (a, bc) and (ab, c) spell the same

# --- 1 ---------------------------------------------------------------------------------------


def _corpora(seed: int) -> list[tuple]:
    dice = Random(seed)
    sizes = [(1 + n // 4, 2 + n // 8) for n in range(60)]  # words, tokens in the longest
    words = [[dice.choices(PIECES, k=dice.randint(2, k)) for _ in range(n)] for n, k in sizes]
    return [({tuple(word): dice.randint(1, 3) for word in corpus},) for corpus in words]


def _best(counts: Mapping) -> tuple[str, str]:
    return max(counts, key=lambda pair: (counts[pair], pair))


def _frequent(pairs: Way = pairwise, best: Way = _best) -> Way:
    return lambda words: best(Counter(p for w, n in words.items() for p in [*pairs(w)] * n))


check_most_frequent_pair = Exercise(
    name="most_frequent_pair",
    task="The most frequent pair of neighbours in words with their counts; of equals the greatest.",
    right=lambda words: _frequent()(words),
    inputs=_corpora,
    mistakes={
        "A word counts as often as it occurs.": lambda words: _frequent()(dict.fromkeys(words, 1)),
        "A pair that is in a word twice counts twice.": _frequent(lambda w: set(pairwise(w))),
        "Add up the counts, `+=`; this is the last word's.": lambda words: _best(
            {p: n for w, n in words.items() for p in pairwise(w)}
        ),
        "A pair lies inside one word; you paired its last token with the next word.": (
            lambda words: _frequent()({sum((w * n for w, n in words.items()), ()): 1})
        ),
        "Of equally frequent pairs take the greatest, as Python compares tuples.": (
            _frequent(best=lambda c: max(c, key=c.get)),
            _frequent(best=lambda c: min(c, key=lambda pair: (-c[pair], pair))),
        ),
        "Return the pair, not its count.": _frequent(best=lambda c: max(c.values())),
        "Return the pair alone.": (
            _frequent(best=lambda c: c.most_common(1)[0]),
            _frequent(best=lambda c: max((n, pair) for pair, n in c.items())),
        ),
        "Return two tokens, a pair, not one text.": _frequent(best=lambda c: "".join(_best(c))),
        "This is the rarest pair.": _frequent(best=lambda c: min(c, key=lambda p: (c[p], p))),
        "This is the greatest pair, whatever its count.": _frequent(best=max),
        "A pair is two neighbours, not any two.": _frequent(lambda w: combinations(w, 2)),
        "The last pair of each word is missing.": _frequent(lambda w: pairwise(w[:-1])),
        "You left out every other pair.": _frequent(lambda w: zip(w[::2], w[1::2], strict=False)),
        "(a, b) and (b, a) differ.": _frequent(lambda w: map(tuple, map(sorted, pairwise(w)))),
        "Count pairs, not what they spell: (a, bc) and (ab, c) are two.": _frequent(
            lambda w: map("".join, pairwise(w)), lambda c: (_best(c)[0], _best(c)[1:])
        ),
    },
    notice="The counts change after each merge, so this question is asked again every time.",
)

# --- 2 ---------------------------------------------------------------------------------------


def _merge_inputs(seed: int) -> list[tuple]:
    dice = Random(seed)
    lists = [dice.choices(PIECES[:3], k=2 + n // 8) for n in range(40)]
    calls = [(tokens, tuple(dice.choices(tokens, k=2))) for tokens in lists]
    calls += [([*tokens, "a", "bc", "ab", "c"], ("ab", "c")) for tokens in lists[-4:]]
    return [*calls, (["b", "a", "a", "a"], ("a", "a")), (["a"], ("a", "a")), ([], ("a", "b"))]


def _merged(
    equal: Way = lambda two, pair: tuple(two) == pair,
    join: Way = "".join,
    step: int = 2,
    end: int = 0,
) -> Way:
    def merge_pair(tokens: list[str], pair: tuple[str, str]) -> list:
        out, n = [], 0
        while n < len(tokens) - end:
            found = equal(tokens[n : n + 2], pair)
            out.append(join(pair) if found else tokens[n])
            n += step if found else 1
        return out

    return merge_pair


def _first_only(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    at = [*pairwise(tokens), pair].index(pair)
    return [*tokens[:at], *["".join(pair)] * (at + 1 < len(tokens)), *tokens[at + 2 :]]


check_merge_pair = Exercise(
    name="merge_pair",
    task="The tokens with each occurrence of the pair, from left to right, joined into one.",
    right=lambda tokens, pair: _merged()(tokens, pair),
    inputs=_merge_inputs,
    mistakes={
        "The second half of a merge appears again: skip two tokens.": _merged(step=1),
        "The last token is lost: the loop ends one too early.": _merged(end=1),
        "A loop over neighbours loses the last token, and a merge leaves its second half: go by "
        "place.": lambda t, pair: [a + b if (a, b) == pair else a for a, b in pairwise(t)],
        "Join each occurrence, not only the first.": _first_only,
        "Go from left to right: a a a become aa a.": lambda tokens, pair: _merged(
            join=lambda two: two[1] + two[0]
        )(tokens[::-1], pair[::-1])[::-1],
        "A slice of a list never equals a tuple.": _merged(lambda *two: False),
        "Compare the two tokens, not what they spell: (a, bc) is not (ab, c).": (
            _merged(lambda two, pair: len(two) == 2 and "".join(two) == "".join(pair)),
            lambda t, pair: " ".join(t).replace(" ".join(pair), "".join(pair)).split(),
        ),
        "(b, a) is not (a, b).": _merged(lambda two, pair: set(two) == set(pair)),
        "Compare both tokens.": _merged(lambda two, pair: two[0] == pair[0]),
        "Join the two with nothing between.": (_merged(join=tuple), _merged(join=" ".join)),
        "Return a list of tokens, not one text.": lambda *call: "".join(_merged()(*call)),
    },
    notice="Merging never changes the text: joined, the tokens spell what they did before.",
)

# --- 3 ---------------------------------------------------------------------------------------

VOCAB = [b"hi", b" t", b"\xc3", b"\xa9", b"\xf0\x9f", b"\x99\x82", b"\xff", b" a "]


def _id_lists(seed: int) -> list[tuple]:
    dice, first = Random(seed), seed % 200
    calls = [[0, 1], [0, 7, 1], [2, 3], [4, 5, 1], [1, 0, 2, 3], [6, 0], [7, 6, 2]]
    calls += [dice.choices(range(len(VOCAB)), k=n // 4) for n in range(24)]
    return [([first + n for n in ids], dict(enumerate(VOCAB, first))) for ids in calls]


def _decoded(errors: str = "replace", encoding: str = "utf-8", between: bytes = b"") -> Way:
    return lambda ids, vocab: between.join(map(vocab.get, ids)).decode(encoding, errors)


def _one_by_one(errors: str, between: str = "") -> Way:
    return lambda ids, vocab: between.join(vocab[n].decode("utf-8", errors) for n in ids)


check_decode = Exercise(
    name="decode",
    task="The text of ids; bytes that are not UTF-8 become the character U+FFFD.",
    right=lambda ids, vocab: _decoded()(ids, vocab),
    inputs=_id_lists,
    mistakes={
        "Part of a character is not one: join the bytes of all tokens, then decode once.": (
            *map(_one_by_one, ("replace", "ignore", "strict")),
        ),
        "It stops at bytes that are not UTF-8: errors='replace'.": _decoded("strict"),
        "Each invalid byte becomes U+FFFD: errors='replace'.": (
            *map(_decoded, ("ignore", "backslashreplace")),
            lambda *call: _decoded()(*call).replace("\ufffd", "?"),
            lambda *call: "\ufffd" if "\ufffd" in _decoded()(*call) else _decoded()(*call),
        ),
        "Return text: decode the bytes.": lambda ids, vocab: b"".join(map(vocab.get, ids)),
        "`str` writes b'…': decode the bytes.": (
            lambda ids, vocab: str(b"".join(map(vocab.get, ids))),
            lambda ids, vocab: "".join(str(vocab[n]) for n in ids),
        ),
        "The encoding is UTF-8.": (_decoded(encoding="latin-1"), _decoded(encoding="ascii")),
        "Join with nothing between.": (_decoded(between=b" "), _one_by_one("replace", " ")),
        "Spaces belong to the text.": lambda *call: _decoded()(*call).strip(),
        "Ids are not bytes: look them up.": lambda ids, vocab: bytes(ids).decode(errors="replace"),
        "Return one text.": lambda ids, vocab: [vocab[n].decode(errors="replace") for n in ids],
    },
    notice="Joining first and decoding once is why any text survives, whatever its alphabet.",
)

# --- 4 ---------------------------------------------------------------------------------------


def _wordpiece_inputs(seed: int) -> list[tuple]:
    dice, pieces = Random(seed), [a + b for a in ("", "a", "b", "ab") for b in "abC"]
    vocabs = [
        dice.sample(pieces, 6) + [f"##{p}" for p in dice.sample(pieces, 6)] for _ in range(80)
    ]
    return [("".join(dice.choices("aabbC", k=1 + n // 16)), set(v)) for n, v in enumerate(vocabs)]


def _pieces(
    mark: str = "##",
    first: str = "",
    ends: Callable[[range], Any] = reversed,
    known: Callable[[str, set], bool] = lambda piece, vocab: piece in vocab,
    unknown: Callable[[list, str], Any] = lambda pieces, rest: ["[UNK]"],
) -> Way:
    def wordpiece_tokens(word: str, vocab: set[str]) -> Any:
        pieces, start = [], 0
        while start < len(word):
            tried = [
                (mark if start else first) + word[start:n] for n in range(start + 1, len(word) + 1)
            ]
            found = next((piece for piece in ends(tried) if known(piece, vocab)), None)
            if not found:
                return unknown(pieces, word[start:])
            pieces.append(found)
            start += len(found.removeprefix(mark))
        return pieces

    return wordpiece_tokens


check_wordpiece = Exercise(
    name="wordpiece",
    task="The pieces of a word, the longest that is known each time, later ones with ##.",
    right=lambda word, vocab: _pieces()(word, vocab),
    inputs=_wordpiece_inputs,
    mistakes={
        "Inside a word only pieces with ## may be used: look for ##b, not b.": _pieces(mark=""),
        "Keep the ## of later pieces.": lambda *call: [p.strip("#") for p in _pieces()(*call)],
        "Take the longest piece first, not the shortest.": _pieces(ends=iter),
        "A word that cannot be spelled to its end is ['[UNK]'] as a whole.": (
            _pieces(unknown=lambda pieces, rest: [*pieces, "[UNK]"]),
            _pieces(unknown=lambda pieces, rest: pieces),
            _pieces(unknown=lambda pieces, rest: [*pieces, rest]),
            _pieces(unknown=lambda pieces, rest: []),
        ),
        "Return a list for [UNK] as well.": _pieces(unknown=lambda pieces, rest: "[UNK]"),
        "Return a list, not one text.": lambda *call: " ".join(_pieces()(*call)),
        "The rest of the word as a whole was not tried.": _pieces(ends=lambda t: reversed(t[:-1])),
        "The first piece has no ##.": _pieces(first="##"),
        "A piece counts as the vocabulary has it, with ## or without.": (
            _pieces(known=lambda piece, vocab: {piece, "##" + piece, piece.strip("#")} & vocab),
            _pieces(known=lambda piece, vocab: piece.strip("#") in vocab),
        ),
        "Leave capitals as they are.": lambda word, vocab: _pieces()(word.lower(), vocab),
    },
    notice="Greedy means never going back: a long piece can turn a spellable word into [UNK].",
)

# --- 5 ---------------------------------------------------------------------------------------


def _fertility_inputs(seed: int) -> list[tuple]:
    dice, size = Random(seed), 2 + seed % 2
    words = [dice.choices(["the", "sea", "isn't", "here", "a", "shell"], k=3 + n) for n in range(4)]
    texts = [" ".join([*each, each[0]]) for each in words]
    texts += ["  ".join(words[0]) + " ", "\n".join(words[1]), "the\tsea-shell\n\n– is here!"]

    def encode(text: str) -> list[int]:
        return [ord(text[n]) for n in range(0, len(text), size)]

    return [(encode, text) for text in texts]


def _words(text: str) -> int:
    return len(text.split())


def _per(number: Way = _words, tokens: Way = len) -> Way:
    return lambda encode, text: tokens(encode(text)) / number(text)


check_fertility = Exercise(
    name="fertility",
    task="The number of tokens of a text per word; words are what white space separates.",
    right=lambda encode, text: _per()(encode, text),
    inputs=_fertility_inputs,
    mistakes={
        "This is tokens per character; divide by len(text.split()).": _per(len),
        "Turn it round: tokens per word.": lambda encode, text: 1 / _per()(encode, text),
        "Words are not what single spaces separate: text.split() knows all white space.": (
            _per(lambda text: len(text.split(" "))),
            _per(lambda text: text.count(" ") + 1),
        ),
        "You counted the gaps: use text.split().": _per(lambda text: text.count(" ")),
        "Do not round.": (lambda *call: _per()(*call) // 1, lambda *call: round(_per()(*call))),
        "This is the number of tokens; divide by the number of words.": _per(lambda text: 1),
        "Count each word, repeated ones too.": _per(lambda text: len(set(text.split()))),
        "Count each token, repeated ones too.": _per(tokens=lambda ids: len(set(ids))),
        "Encode the whole text at once: a word by itself lacks the space before it and has other "
        "tokens.": lambda encode, text: sum(len(encode(w)) for w in text.split()) / _words(text),
        "You added up the ids; count them.": _per(tokens=sum),
        "You counted characters, not tokens.": lambda encode, text: len(text) / _words(text),
        "`isn't` is one word.": _per(lambda text: len(re.findall(r"\w+", text) or "-")),
    },
    notice="Fertility 1 would be one token a word; what a language pays above that is its tax.",
)
