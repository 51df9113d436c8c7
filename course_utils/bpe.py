"""A byte-level BPE tokenizer, as GPT-2 uses it: train, encode, decode, save, load.

Byte-pair encoding starts from the 256 bytes and keeps joining the most frequent pair of
neighbouring tokens. The list of joins, in the order they were learned, *is* the tokenizer.

Training repeats "count all pairs and merge the most frequent one"; encoding repeats "of the pairs
present, merge the one that was learned first". The code returns exactly that, but redoes only what
a merge has changed; the tests compare it with the plain loops, which chapter 2 builds.

Sources: Gage, 1994 (the compression algorithm); Sennrich et al., 2016 (words into subwords);
Radford et al., 2019 (bytes instead of characters, and the pattern that splits text first).
"""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from pathlib import Path
from typing import Literal

import regex

Pair = tuple[bytes, bytes]
Special = Literal["id", "text", "error"]

#: GPT-2's pattern. It cuts a text into words with their leading space, numbers, punctuation and
#: white space; merges never cross a cut. Together the pieces are the whole text.
PATTERN = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d"
    r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
    r"|\s+(?!\S)|\s+"
)

# How many characters past the end of a word decide where it ends: "'" is a word only if no "re"
# follows.
_LOOK_AHEAD = 2

# Byte b becomes 255 - b, so that greater tokens sort first; U+0100 is put after the end of a token
# so that it sorts after the longer ones that begin with it.
_DOWNWARDS = bytes(range(255, -1, -1))

_SURROGATE = regex.compile(r"[\ud800-\udfff]")

_CACHED_WORDS = 65_536  # words whose ids a tokenizer remembers, if they are short
_CACHED_LENGTH = 32  # characters


def _byte_symbols() -> dict[int, str]:
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = {byte: chr(byte) for byte in visible}
    hidden = (byte for byte in range(256) if byte not in symbols)
    return symbols | {byte: chr(256 + n) for n, byte in enumerate(hidden)}


#: The visible character that represents each byte in GPT-2's files. A byte that prints keeps
#: its own character; the 68 others get one from U+0100 on, so that a space is written ``Ġ``.
BYTE_SYMBOLS: dict[int, str] = _byte_symbols()
_SYMBOL_BYTES = {symbol: byte for byte, symbol in BYTE_SYMBOLS.items()}


def to_symbols(token: bytes) -> str:
    """Return ``token`` as GPT-2's files write it: ``b" the"`` becomes ``"Ġthe"``."""
    return "".join(BYTE_SYMBOLS[byte] for byte in token)


def from_symbols(symbols: str) -> bytes:
    """Return the bytes that ``symbols`` represents; the inverse of :func:`to_symbols`.

    Raises:
        ValueError: a character represents no byte.
    """
    try:
        return bytes(_SYMBOL_BYTES[symbol] for symbol in symbols)
    except KeyError as error:
        raise ValueError(f"{error.args[0]!r} in {symbols!r} does not represent a byte.") from None


def merge_pair(tokens: Sequence[bytes], pair: Pair) -> list[bytes]:
    """Return ``tokens`` with each occurrence of ``pair``, from left to right, joined into one."""
    left, right = pair
    merged, i = [], 0
    while i < len(tokens):
        if tokens[i] == left and i + 1 < len(tokens) and tokens[i + 1] == right:
            merged.append(left + right)
            i += 2
        else:
            merged.append(tokens[i])
            i += 1
    return merged


class BPETokenizer:
    """A byte-level BPE tokenizer.

    Args:
        merges: the pairs of tokens to join, in the order they were learned.
        special_tokens: texts such as ``<|endoftext|>`` that are one token each.
        vocab: the id of each token as ``{id: bytes}``, for a tokenizer that was made elsewhere.
            By default the bytes get 0 to 255, then come the merges, then the special tokens.

    Attributes:
        merges: as given.
        vocab: ``{id: bytes}`` for every token, special ones included.
        special_tokens: ``{text: id}``.

    Raises:
        ValueError: ``vocab`` lacks a byte or the result of a merge, or a special token is empty
            or is an ordinary token as well, or is not valid text.
    """

    def __init__(
        self,
        merges: Iterable[Pair],
        special_tokens: Iterable[str] = (),
        vocab: Mapping[int, bytes] | None = None,
    ):
        self.merges: list[Pair] = list(merges)
        ordinary = dict.fromkeys([bytes([byte]) for byte in range(256)])
        ordinary |= dict.fromkeys(left + right for left, right in self.merges)
        self.vocab: dict[int, bytes] = dict(enumerate(ordinary) if vocab is None else vocab)
        self._ids = {token: id_ for id_, token in self.vocab.items()}
        if missing := ordinary.keys() - self._ids.keys():
            raise ValueError(
                f"the vocabulary has no id for {min(missing)!r}. It needs one for each of the "
                "256 bytes and for the result of each merge."
            )
        self.special_tokens: dict[str, int] = {}
        for text in special_tokens:
            self._add_special_token(text, ordinary)
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._cache: dict[str, list[int]] = {}

    def _add_special_token(self, text: str, ordinary: Mapping[bytes, None]) -> None:
        token = text.encode(errors="surrogatepass")
        # in GPT-2's files, a token that is written like this one
        like_it = all(c in _SYMBOL_BYTES for c in text) and from_symbols(text) in ordinary
        if not text or token in ordinary or like_it or _SURROGATE.search(text):
            raise ValueError(
                f"the special token {text!r} is empty, an ordinary token as well, or not "
                "valid text. Choose a text that no one writes, such as '<|endoftext|>'."
            )
        if token not in self._ids:
            self._ids[token] = max(self.vocab) + 1
            self.vocab[self._ids[token]] = token
        self.special_tokens[text] = self._ids[token]

    @property
    def vocab_size(self) -> int:
        """The number of tokens: 256 bytes, the merges' results and the special tokens."""
        return len(self.vocab)

    def __repr__(self) -> str:
        sizes = f"vocab_size={self.vocab_size}, merges={len(self.merges)}"
        return f"BPETokenizer({sizes}, special_tokens={list(self.special_tokens)})"

    # Training

    @classmethod
    def train(
        cls, text: str | Iterable[str], vocab_size: int, special_tokens: Iterable[str] = ()
    ) -> "BPETokenizer":
        """Learn a tokenizer from ``text``.

        The most frequent pair is merged first; of equally frequent pairs the greater one, as
        Python compares two pairs of byte strings. Nothing is merged across the cuts of
        :data:`PATTERN`, or across or into a special token.

        Args:
            text: the text to learn from, or its pieces in order, wherever they were cut. Only the
                distinct words of the pieces are kept, so that an open file, which yields its
                lines, may be larger than memory.
            vocab_size: how many tokens to end with. There are fewer if the text has no pair left
                to merge.
            special_tokens: texts that are one token each.

        Raises:
            ValueError: ``vocab_size`` is too small for the bytes and the special tokens, or
                the text has no words.
            TypeError: ``text`` is neither a ``str`` nor pieces that are.
        """
        base = cls([], special_tokens)
        if vocab_size < base.vocab_size:
            raise ValueError(
                f"vocab_size={vocab_size} is too small: 256 bytes and "
                f"{len(base.special_tokens)} special tokens need {base.vocab_size}."
            )
        found = _words([text] if isinstance(text, str) else text, base.special_tokens)
        counts = Counter(itertools.chain.from_iterable(words for words, _ in found))
        if not counts:
            raise ValueError(
                "the corpus is empty: give text to learn from, other than special tokens. "
                "Has the file or the generator already been read to its end?"
            )
        merges = _learn_merges(counts, vocab_size - base.vocab_size)
        return cls(merges, base.special_tokens)

    # Text to ids

    def encode(self, text: str, special: Special = "id") -> list[int]:
        """Return the ids of ``text``.

        Args:
            text: any text. A lone surrogate, half of a character, counts as U+FFFD (�).
            special: what to do with a special token that is written out in the text. "id": it
                becomes its one id; where two overlap, the one that starts first counts, and of
                those that start at the same place the longest. "text": it is cut up like any
                text, which is right for what other people typed. "error": it is refused.

        Raises:
            TypeError: ``text`` is not a ``str``.
            ValueError: ``special`` is another value, or is "error" and the text holds such a token.
        """
        if not isinstance(text, str):
            raise TypeError(f"encode() got a {type(text).__name__}; it expects text, a str.")
        return list(self.encode_iterable([text], special))

    def encode_iterable(self, pieces: Iterable[str], special: Special = "id") -> Iterator[int]:
        """Return an iterator over the ids of ``"".join(pieces)``, which reads piece by piece.

        The pieces may be the lines of an open file, or cut anywhere. Whatever the next piece
        could change is held back: the last characters, in which a special token may have begun
        (one less than the longest has), and before them the last word and the two characters
        that the pattern looks at past a word. A long word is looked at again only when the text
        held has doubled, so at most two words' length is held. Memory grows with the longest
        word (which may be a run of spaces) and the longest piece, not with the text.

        Args:
            pieces: the text in pieces.
            special: see :meth:`encode`.

        Raises:
            TypeError: a piece is not a ``str``.
            ValueError: as :meth:`encode`.
        """
        if special not in ("id", "text", "error"):
            raise ValueError(
                f"special={special!r} must be 'id' (a special token becomes its id), 'text' (it is "
                "cut up like any text) or 'error' (it is refused)."
            )

        def ids() -> Iterator[int]:
            for words, found in _words(pieces, () if special == "text" else self.special_tokens):
                for word in words:
                    yield from self._cache.get(word) or self._encode_word(word)
                if found is not None and special == "error":
                    raise ValueError(
                        f"the text holds the special token {found!r}. To cut it up like any text, "
                        "pass special='text'; to give it its id, special='id'."
                    )
                if found is not None:
                    yield self.special_tokens[found]

        return ids()

    def _encode_word(self, word: str) -> list[int]:
        ids = [self._ids[token] for token in self._merge(word.encode())]
        if len(word) <= _CACHED_LENGTH and len(self._cache) < _CACHED_WORDS:
            self._cache[word] = ids
        return ids

    def _merge(self, word: bytes) -> list[bytes]:
        """Return the tokens of one word of n bytes, in time that grows as n log n.

        Of the pairs present, the one that was learned first is merged wherever it occurs, from
        left to right; then the same again. The tokens are a linked list, and a heap holds the
        ranks and places of the pairs present, so that a merge looks only at its neighbours.
        """
        n = len(word)
        heap: list[tuple[int, int]] = []
        tokens = [word[i : i + 1] for i in range(n)]  # b"": joined to the one before
        after, before = list(range(1, n + 1)), list(range(-1, n - 1))  # the neighbours' places

        def note(i: int) -> None:
            """Note that the token at ``i`` and the next one may be merged."""
            if i >= 0 and after[i] < n:
                rank = self._ranks.get((tokens[i], tokens[after[i]]))
                if rank is not None:
                    heappush(heap, (rank, i))

        for i in range(n):
            note(i)
        while heap:
            rank, merged = heap[0][0], []
            left, right = self.merges[rank]
            while heap and heap[0][0] == rank:
                i = heappop(heap)[1]
                j = after[i]
                # An earlier merge may have taken either token.
                if tokens[i] == left and j < n and tokens[j] == right:
                    tokens[i], tokens[j], after[i] = left + right, b"", after[j]
                    if after[i] < n:
                        before[after[i]] = i
                    merged.append(i)
            for i in merged:
                note(before[i])
                note(i)
        return [token for token in tokens if token]

    # Ids to text

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of ``ids``, joined.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        try:
            return b"".join([self.vocab[int(id_)] for id_ in ids])
        except KeyError as error:
            raise ValueError(
                f"id {error.args[0]} is not in the vocabulary, whose {self.vocab_size} ids go "
                f"from {min(self.vocab)} to {max(self.vocab)}. Were these ids made by another "
                "tokenizer?"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``; bytes that are not valid UTF-8 become U+FFFD (�).

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    # Files

    def save(self, folder: str | Path) -> None:
        """Write ``vocab.json`` and ``merges.txt`` into ``folder`` in GPT-2's format."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        special = {id_: text for text, id_ in self.special_tokens.items()}
        vocab = {special.get(id_) or to_symbols(token): id_ for id_, token in self.vocab.items()}
        merges = [f"{to_symbols(left)} {to_symbols(right)}\n" for left, right in self.merges]
        lines = "".join(["#version: 0.2\n", *merges])
        (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
        (folder / "merges.txt").write_text(lines, encoding="utf-8")

    @classmethod
    def from_files(cls, vocab_path: str | Path, merges_path: str | Path) -> "BPETokenizer":
        """Load a tokenizer from two files in GPT-2's format.

        An entry of the vocabulary that is neither a byte nor the result of a merge is a special
        token, as ``<|endoftext|>`` is in GPT-2's own file.

        Args:
            vocab_path: ``vocab.json``, ``{token: id}``.
            merges_path: ``merges.txt``, one pair a line.

        Raises:
            ValueError: a file is not in this format; the message says where.
        """
        merges = _read_merges(Path(merges_path))
        ordinary = {*BYTE_SYMBOLS.values(), *(to_symbols(a + b) for a, b in merges)}
        entries = _read_vocab(Path(vocab_path))
        special = [text for text in entries if text not in ordinary]
        vocab = {
            id_: from_symbols(text) if text in ordinary else text.encode(errors="surrogatepass")
            for text, id_ in entries.items()
        }
        return cls(merges, special, vocab)


def _words(
    pieces: Iterable[str], special_tokens: Iterable[str]
) -> Iterator[tuple[list[str], str | None]]:
    """Yield words in order, and the special token that follows them, if one does.

    The words are those of ``PATTERN.findall`` on the whole text between two special tokens.
    """
    text, enough = "", 0
    for more, special in _split(_valid(pieces), special_tokens):
        text += more
        if special is None and len(text) < enough:
            continue
        words = PATTERN.findall(text)
        end = len(text)
        if special is None:
            # What follows the text is not known: keep the words that may depend on it.
            while words and end > len(text) - _LOOK_AHEAD:
                end -= len(words.pop())
        yield words, special
        text = text[end:]
        # Look at a long word again when it has doubled, not for each of its letters.
        enough = 2 * len(text)
    yield PATTERN.findall(text), None


def _split(
    pieces: Iterable[str], special_tokens: Iterable[str]
) -> Iterator[tuple[str, str | None]]:
    """Yield ordinary text, and the special token that follows it; None where the text goes on."""
    # Longest first: where two special tokens start alike, the longer one is found.
    longest_first = sorted(special_tokens, key=len, reverse=True)
    pattern = regex.compile("|".join(map(regex.escape, longest_first)) or r"(?!)")  # finds nothing
    held_back = len(longest_first[0]) - 1 if longest_first else 0
    text = ""
    for piece in itertools.chain(pieces, [None]):
        text += piece or ""
        # Whether a special token starts at i is known if the longest would fit there.
        known = len(text) if piece is None else max(0, len(text) - held_back)
        start = 0
        for match in pattern.finditer(text):
            if match.start() >= known:
                break
            yield text[start : match.start()], match[0]
            start = match.end()
        known = max(start, known)
        yield text[start:known], None
        text = text[known:]


def _valid(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the pieces with pairs of surrogates joined, and U+FFFD for each lone one."""
    half = ""  # the first of a pair, if the second is in the next piece
    for piece in pieces:
        if not isinstance(piece, str):
            raise TypeError(
                f"a piece of the text is of type {type(piece).__name__}; expected str. "
                "Open a file as text: open(path, encoding='utf-8')."
            )
        piece = half + piece
        half = piece[-1:] if "\ud800" <= piece[-1:] <= "\udbff" else ""
        piece = piece[: len(piece) - len(half)]
        if _SURROGATE.search(piece):
            piece = piece.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        yield piece
    yield "\ufffd" if half else ""


def _read_vocab(path: Path) -> dict[str, int]:
    entries = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(entries, dict) or not all(type(id_) is int for id_ in entries.values()):
        raise ValueError(f'{path.name}: expected one {{"token": id, …}} with whole-number ids.')
    return entries


def _read_merges(path: Path) -> list[Pair]:
    lines = path.read_text(encoding="utf-8").split("\n")
    merges = []
    for number, line in enumerate(lines, start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise ValueError(
                f"{path.name}, line {number}: expected two tokens with a space between, "
                f"got {line!r}."
            )
        merges.append((from_symbols(parts[0]), from_symbols(parts[1])))
    return merges


def _learn_merges(word_counts: Mapping[str, int], n_tokens: int) -> list[Pair]:
    """Return the merges that add ``n_tokens`` tokens to the 256 bytes.

    The text is given as its distinct words and how often each occurs. A merge visits only the
    words that hold its pair. A heap finds the most frequent pair; its counts may be too high,
    because counts fall when a neighbour is merged, but are never too low.
    """
    words = [[bytes([byte]) for byte in word.encode()] for word in word_counts]
    counts = list(word_counts.values())
    pair_counts: defaultdict[Pair, int] = defaultdict(int)
    holders: defaultdict[Pair, set[int]] = defaultdict(set)  # pair -> indices into words
    for index, word in enumerate(words):
        for pair in pairwise(word):
            pair_counts[pair] += counts[index]
            holders[pair].add(index)
    heap = [_heap_entry(pair, count) for pair, count in pair_counts.items()]
    heapify(heap)
    merges: list[Pair] = []
    learned: set[bytes] = set()
    while heap and len(learned) < n_tokens:
        stored, _, best = heappop(heap)
        if stored != -pair_counts[best]:
            if pair_counts[best]:  # the count was too high: put it back with the current one
                heappush(heap, _heap_entry(best, pair_counts[best]))
            continue
        token = best[0] + best[1]
        merges.append(best)
        learned.add(token)
        risen: set[Pair] = set()  # only pairs with the new token can become more frequent
        for index in holders.pop(best):
            for pair in pairwise(words[index]):
                pair_counts[pair] -= counts[index]
            words[index] = merge_pair(words[index], best)
            for pair in pairwise(words[index]):
                pair_counts[pair] += counts[index]
                if token in pair:
                    holders[pair].add(index)
                    risen.add(pair)
        for pair in risen:
            heappush(heap, _heap_entry(pair, pair_counts[pair]))
    return merges


def _heap_entry(pair: Pair, count: int) -> tuple[int, tuple[str, str], Pair]:
    """Return what a heap, whose smallest entry comes first, sorts by count and pair, downwards."""
    left, right = (token.translate(_DOWNWARDS).decode("latin-1") + "\u0100" for token in pair)
    return -count, (left, right), pair
