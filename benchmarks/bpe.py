"""The byte-level BPE tokenizer in pure Python against the compiled `tokenizers` library.

Times are wall-clock, the best of three runs (``quick``: one) unless a title says otherwise.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from course_utils import assets, pretrained
from course_utils.bpe import PATTERN, BPETokenizer, Pair, merge_pair
from course_utils.corpora import load_text

Table = tuple[str, list[dict[str, str]]]

DIFFICULT = {
    "empty": "",
    "white space": " \t\n  \r\n\u00a0\u3000 x  ",
    "contractions": "don't 'll 'S I'VE we're' 're",
    "combining marks": "e\u0301 naïve नमस्ते",
    "no spaces": "日本語のテキスト。ภาษาไทย",
    "emoji of several": "👩\u200d🚀🏳️\u200d🌈👍🏽",
    "right to left": "\u202eשלום\u202c مرحبا",
    "control characters": "\x00\x07\x1b[0m\x7f\ufeff\ufffd",
    "edge of Unicode": "\u07ff\u0800\uffff\U00010000\U0010ffff",
    "special tokens": "a<|endoftext|><|endoftext|>b<|endoftext|",
    "one long word": "ab" * 5_000,
}


def tables(quick: bool) -> list[Table]:
    """Return the tables as ``(title, rows)``; ``quick`` takes a small part of the corpus."""
    text = load_text()[: 30_000 if quick else None]
    runs = 1 if quick else 3
    return [training(text, runs), encoding(text, runs), round_trip()]


def training(text: str, runs: int) -> Table:
    """Compare the time to learn 500 and 5,000 entries."""
    rows = []
    for size in (500, 5_000):
        ours = theirs = float("inf")
        for _ in range(runs):  # in turns
            seconds, tokenizer = timed(partial(BPETokenizer.train, text, size))
            ours = min(ours, seconds)
            # In lines, the peer can count on all cores.
            for pieces in ([text], text.splitlines(keepends=True)):
                theirs = min(theirs, timed(partial(train_tokenizers, pieces, size))[0])
        if size == 500:  # 5,000 entries would take the textbook loop minutes
            n_merges = len(tokenizer.merges)
            slow, merges = timed(partial(textbook_merges, text, n_merges))
        equal = sum(a == b for a, b in zip(tokenizer.merges, merges, strict=False))
        rows.append(
            {
                "entries": f"{size:,}",
                "ours (s)": f"{ours:.2f}",
                "tokenizers (s)": f"{theirs:.2f}",
                "ours / tokenizers": f"{ours / theirs:.1f}",
                "textbook loop (s)": f"{slow:.2f}" if size == 500 else "not run",
                "textbook / ours": f"{slow / ours:.0f}" if size == 500 else "",
                "merges as in the textbook loop": f"{equal} of the first {n_merges}",
            }
        )
    title = (
        f"BPE training on {len(text.encode()) / 1e6:.2f} MB, seconds; peer: tokenizers' BpeTrainer "
        "(compiled) with its ByteLevel pre-tokenizer, the faster of one text and lines; the "
        "textbook loop counts the pairs of all distinct words again for each merge (one run)"
    )
    return title, rows


def train_tokenizers(pieces: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train the peer: byte-level, with GPT-2's pattern, from the 256 bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(pieces, trainer)
    return tokenizer


def textbook_merges(text: str, n_merges: int) -> list[Pair]:
    """Learn merges as Sennrich et al., 2016, list it, with bytes in place of characters."""
    words = {
        tuple(bytes([byte]) for byte in word.encode()): count
        for word, count in Counter(PATTERN.findall(text)).items()
    }
    merges: list[Pair] = []
    for _ in range(n_merges):
        counts: Counter[Pair] = Counter()
        for tokens, count in words.items():
            for pair in pairwise(tokens):
                counts[pair] += count
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        words = {tuple(merge_pair(tokens, best)): count for tokens, count in words.items()}
    return merges


def encoding(text: str, runs: int) -> Table:
    """Compare the throughput of encoding with GPT-2's vocabulary."""
    files = assets.get("gpt2-tokenizer")
    lines = text.splitlines(keepends=True)
    reference = pretrained.load_tokenizer("gpt2")
    compiled = reference.backend_tokenizer.to_str()

    def ours() -> BPETokenizer:
        return BPETokenizer.from_files(files / "vocab.json", files / "merges.txt")

    def peer() -> Tokenizer:
        return Tokenizer.from_str(compiled)

    def in_lines(tokenizer: Tokenizer) -> list[int]:
        return [id_ for line in tokenizer.encode_batch(lines) for id_ in line.ids]

    expected = reference.encode(text, verbose=False)
    ways: list[tuple[str, Callable[[], Any], Callable[[Any], Iterable[int]]]] = [
        ("ours, encode", ours, lambda t: t.encode(text)),
        ("ours, encode_iterable of lines", ours, lambda t: list(t.encode_iterable(lines))),
        ("tokenizers, encode", peer, lambda t: t.encode(text).ids),
        ("tokenizers, encode_batch of lines", peer, in_lines),
        (
            "transformers, GPT2Tokenizer",
            lambda: pretrained.load_tokenizer("gpt2"),
            lambda t: t.encode(text, verbose=False),
        ),
    ]
    size = len(text.encode()) / 1e6
    cold, warm = (dict.fromkeys([name for name, _, _ in ways], 0.0) for _ in range(2))
    equal = {}
    for _ in range(runs):  # in turns
        for name, make, encode in ways:
            tokenizer = make()
            first, ids = timed(partial(encode, tokenizer))
            again, _ = timed(partial(encode, tokenizer))
            cold[name] = max(cold[name], size / first)
            warm[name] = max(warm[name], size / again)
            equal[name] = ids == expected
    rows = [
        {
            "way": name,
            "cold (MB/s)": f"{cold[name]:.2f}",
            "warm (MB/s)": f"{warm[name]:.2f}",
            "ids of the whole text": "equal" if equal[name] else "differ",
        }
        for name, _, _ in ways
    ]
    title = (
        "BPE encoding with GPT-2's vocabulary, MB/s; peers: tokenizers (compiled; encode_batch may "
        "use all cores and does not see across lines) and transformers; cold: a new tokenizer, "
        "warm: the same text once more"
    )
    return title, rows


def round_trip() -> Table:
    """Encode and decode texts that are hard to get right."""
    files = assets.get("gpt2-tokenizer")
    tokenizer = BPETokenizer.from_files(files / "vocab.json", files / "merges.txt")
    reference = pretrained.load_tokenizer("gpt2")
    rows = []
    for name, text in DIFFICULT.items():
        ids = tokenizer.encode(text)
        rows.append(
            {
                "text": name,
                "bytes": f"{len(text.encode()):,}",
                "tokens": f"{len(ids):,}",
                "decodes to itself": "yes" if tokenizer.decode(ids) == text else "NO",
                "ids as transformers'": "yes"
                if ids == reference.encode(text, verbose=False)
                else "NO",
            }
        )
    return "BPE round trip with GPT-2's vocabulary; peer: transformers' GPT2Tokenizer", rows


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that ``action`` takes, and its result."""
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result
