"""A byte-level BPE tokenizer, as GPT-2 uses it: train, encode, decode, save, load.

Byte-pair encoding starts from the 256 bytes and keeps joining the most frequent pair of
neighbouring tokens. The list of joins, in the order they were learned, *is* the tokenizer.

Sources: Gage, 1994 (the compression algorithm); Sennrich et al., 2016 (words into subwords);
Radford et al., 2019 (bytes instead of characters, and the pattern that splits text first).
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import regex

Pair = tuple[bytes, bytes]

#: GPT-2's pattern. It cuts a text into words with their leading space, numbers, punctuation and
#: white space; merges never cross a cut. Together the pieces are the whole text.
PATTERN = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d"
    r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
    r"|\s+(?!\S)|\s+"
)

_CACHED_WORDS = 65_536  # words whose ids a tokenizer remembers


def _byte_symbols() -> dict[int, str]:
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = {byte: chr(byte) for byte in visible}
    hidden = (byte for byte in range(256) if byte not in symbols)
    return symbols | {byte: chr(256 + n) for n, byte in enumerate(hidden)}


#: The visible character that stands for each byte in GPT-2's files. A byte that prints keeps
#: its own character; the 68 others get one from U+0100 on, so that a space is written ``Ġ``.
BYTE_SYMBOLS: dict[int, str] = _byte_symbols()
_SYMBOL_BYTES = {symbol: byte for byte, symbol in BYTE_SYMBOLS.items()}


def to_symbols(token: bytes) -> str:
    """Return ``token`` as GPT-2's files write it: ``b" the"`` becomes ``"Ġthe"``."""
    return "".join(BYTE_SYMBOLS[byte] for byte in token)


def from_symbols(symbols: str) -> bytes:
    """Return the bytes that ``symbols`` stands for; the inverse of :func:`to_symbols`.

    Raises:
        ValueError: a character stands for no byte.
    """
    try:
        return bytes(_SYMBOL_BYTES[symbol] for symbol in symbols)
    except KeyError as error:
        raise ValueError(f"{error.args[0]!r} in {symbols!r} stands for no byte.") from None


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
        special_tokens: texts such as ``<|endoftext|>`` that always are one token.
        vocab: the id of each token as ``{id: bytes}``, for a tokenizer that was made elsewhere.
            By default the bytes get 0 to 255, then come the merges, then the special tokens.

    Attributes:
        merges: as given.
        vocab: ``{id: bytes}`` for every token, special ones included.
        special_tokens: ``{text: id}``.

    Raises:
        ValueError: ``vocab`` lacks a byte or the result of a merge, or a special token is empty
            or is an ordinary token as well.
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
        # Longest first: where two special tokens start alike, the longer one is found.
        longest_first = sorted(self.special_tokens, key=len, reverse=True)
        self._special_pattern = regex.compile("|".join(map(regex.escape, longest_first)))
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._cache: dict[str, list[int]] = {}

    def _add_special_token(self, text: str, ordinary: Mapping[bytes, None]) -> None:
        token = text.encode()
        if not text or token in ordinary or _written_like(text, ordinary):
            raise ValueError(
                f"the special token {text!r} is empty or an ordinary token as well. "
                "Choose a text that no one writes, such as '<|endoftext|>'."
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
        return (
            f"BPETokenizer(vocab_size={self.vocab_size}, merges={len(self.merges)}, "
            f"special_tokens={list(self.special_tokens)})"
        )

    # Training

    @classmethod
    def train(
        cls, text: str, vocab_size: int, special_tokens: Iterable[str] = ()
    ) -> "BPETokenizer":
        """Learn a tokenizer from ``text``.

        The most frequent pair is merged first; of equally frequent pairs the greater one, as
        Python compares two pairs of byte strings. Nothing is merged across the cuts of
        :data:`PATTERN`, or across or into a special token.

        Args:
            text: the text to learn from.
            vocab_size: how many tokens to end with. There are fewer where the text has no
                pair left to merge.
            special_tokens: texts that always are one token.

        Raises:
            ValueError: ``vocab_size`` is too small for the bytes and the special tokens.
        """
        base = cls([], special_tokens)
        if vocab_size < base.vocab_size:
            raise ValueError(
                f"vocab_size={vocab_size} is too small: 256 bytes and "
                f"{len(base.special_tokens)} special tokens need {base.vocab_size}."
            )
        merges = _learn_merges(Counter(base._words(text)), vocab_size - base.vocab_size)
        return cls(merges, base.special_tokens)

    # Text to ids

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``.

        A special token in the text becomes its one id. The time grows with the square of the
        longest word, which matters only for words of many thousand letters.

        Raises:
            TypeError: ``text`` is not a ``str``.
        """
        if not isinstance(text, str):
            raise TypeError(f"encode() got a {type(text).__name__}; it expects text, a str.")
        return list(self._encode(text))

    def _encode(self, text: str) -> Iterator[int]:
        for piece, is_special in self._split(text):
            if is_special:
                yield self.special_tokens[piece]
            else:
                for word in PATTERN.findall(piece):
                    yield from self._encode_word(word)

    def _encode_word(self, word: str) -> list[int]:
        if (ids := self._cache.get(word)) is not None:
            return ids
        tokens = [bytes([byte]) for byte in word.encode()]
        never = len(self._ranks)
        while len(tokens) > 1:
            # Of the pairs present, the one that was learned first.
            best = min(pairwise(tokens), key=lambda pair: self._ranks.get(pair, never))
            if best not in self._ranks:
                break
            tokens = merge_pair(tokens, best)
        ids = [self._ids[token] for token in tokens]
        if len(self._cache) < _CACHED_WORDS:
            self._cache[word] = ids
        return ids

    def _split(self, text: str) -> Iterator[tuple[str, bool]]:
        """Yield the parts of ``text`` in order, each with whether it is a special token."""
        start = 0
        if self.special_tokens:
            for match in self._special_pattern.finditer(text):
                yield text[start : match.start()], False
                yield match[0], True
                start = match.end()
        yield text[start:], False

    def _words(self, text: str) -> Iterator[str]:
        for piece, is_special in self._split(text):
            if not is_special:
                yield from PATTERN.findall(piece)

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
        lines = [f"{to_symbols(left)} {to_symbols(right)}" for left, right in self.merges]
        (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
        (folder / "merges.txt").write_text(
            "\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8"
        )

    @classmethod
    def from_files(
        cls,
        vocab_path: str | Path,
        merges_path: str | Path,
        special_tokens: Iterable[str] = (),
    ) -> "BPETokenizer":
        """Load a tokenizer from two files in GPT-2's format.

        An entry of the vocabulary that is neither a byte nor the result of a merge is a special
        token, as ``<|endoftext|>`` is in GPT-2's own file.

        Args:
            vocab_path: ``vocab.json``, ``{token: id}``.
            merges_path: ``merges.txt``, one pair a line.
            special_tokens: further special tokens; those not in the file get the next ids.

        Raises:
            ValueError: a file is not in this format; the message says where.
        """
        merges = _read_merges(Path(merges_path))
        ordinary = {BYTE_SYMBOLS[byte] for byte in range(256)}
        ordinary |= {to_symbols(left + right) for left, right in merges}
        entries = _read_vocab(Path(vocab_path))
        special = [text for text in entries if text not in ordinary]
        vocab = {
            id_: from_symbols(text) if text in ordinary else text.encode()
            for text, id_ in entries.items()
        }
        return cls(merges, dict.fromkeys([*special, *special_tokens]), vocab)


def _written_like(text: str, ordinary: Mapping[bytes, None]) -> bool:
    """Return True where ``text`` is how GPT-2's files write an ordinary token."""
    try:
        return from_symbols(text) in ordinary
    except ValueError:
        return False


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

    The text is given as its distinct words and how often each occurs. The count of each pair and
    the words that hold it are kept up to date, so that a merge visits only the words it changes.
    """
    words = [[bytes([byte]) for byte in word.encode()] for word in word_counts]
    counts = list(word_counts.values())
    pair_counts: Counter[Pair] = Counter()
    holders: defaultdict[Pair, set[int]] = defaultdict(set)  # pair -> indices into words

    def add(index: int) -> None:
        for pair in pairwise(words[index]):
            pair_counts[pair] += counts[index]
            holders[pair].add(index)

    def remove(index: int) -> None:
        for pair in pairwise(words[index]):
            pair_counts[pair] -= counts[index]
            if pair_counts[pair] == 0:
                del pair_counts[pair]
            holders[pair].discard(index)

    for index in range(len(words)):
        add(index)
    merges: list[Pair] = []
    learned: set[bytes] = set()
    while len(learned) < n_tokens and pair_counts:
        highest = max(pair_counts.values())
        best = max(pair for pair, count in pair_counts.items() if count == highest)
        for index in list(holders[best]):
            remove(index)
            words[index] = merge_pair(words[index], best)
            add(index)
        del holders[best]
        merges.append(best)
        learned.add(best[0] + best[1])
    return merges
