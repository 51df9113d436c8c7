"""The teacher: SmolLM2-135M-Instruct writes texts, and says at each token what it expected.

A student learns more from "sunny 30%, cold 25%, nice 10%, …" than from the one word that was drawn
(Hinton et al., 2015, "Distilling the knowledge in a neural network"). The two models cut text
into different tokens, so an expectation is handed on where a token of both begins at the same byte,
which is nearly everywhere, and each of the teacher's tokens counts for the token with which GPT-2
would begin to write it.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_utils import pretrained
from course_utils.bpe import from_symbols
from course_utils.device import fast_dtype
from course_utils.weights import from_transformers
from tools.gpt2_mini.prompts import beginnings, requests

N_EXPECTED = 12  # how many of the teacher's most likely tokens are kept at each position
N_DRAW = 64  # the teacher draws from its 64 most likely tokens,
TEMPERATURE = 0.8  # a little bolder towards the likely ones: plainer texts, fewer lost threads
END = 50_256  # GPT-2's end of text


@dataclass
class Lesson:
    """One text for the student, token by token of GPT-2.

    Attributes:
        ids: ``(n,)``, the text, with the end of text before it.
        expected: ``(n, N_EXPECTED)``, tokens the teacher expected at this place, from all before.
        share: ``(n, N_EXPECTED)``, their probabilities; a row sums to 1.
    """

    ids: np.ndarray
    expected: np.ndarray
    share: np.ndarray


@dataclass
class Written:
    """A text in the teacher's tokens, with the log probabilities of its likeliest tokens."""

    ids: list[int]
    likely: np.ndarray  # (n, N_EXPECTED)
    log_share: np.ndarray  # (n, N_EXPECTED)


class Teacher:
    """SmolLM2 with a map from its tokens to GPT-2's."""

    def __init__(self) -> None:
        loaded = pretrained.load("smollm2")
        self.tokenizer = loaded.tokenizer
        self.model = from_transformers(loaded.model).to(fast_dtype(torch.device("cpu")))
        self.end = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.gpt2 = pretrained.load_tokenizer("gpt2")
        symbols = self.tokenizer.convert_ids_to_tokens(range(len(self.tokenizer)))
        self.n_bytes = np.array([len(from_symbols(token)) for token in symbols])
        self.to_gpt2 = np.array([self._first_piece(from_symbols(token)) for token in symbols])
        self.to_gpt2[self.end] = END
        gpt2_symbols = self.gpt2.convert_ids_to_tokens(range(len(self.gpt2)))
        self.gpt2_n_bytes = np.array([len(from_symbols(token)) for token in gpt2_symbols])

    def _first_piece(self, token: bytes) -> int:
        try:
            text = token.decode()
        except UnicodeDecodeError:
            return END  # a part of a character; too rare to matter
        return self.gpt2.encode(text)[0]

    # --- writing ------------------------------------------------------------------------------

    def batches(self, batch_size: int, seed: int) -> list[tuple[list[list[int]], bool]]:
        """Return prompts of equal length, batch by batch, and whether each begins the text itself.

        Beginnings of sentences do, requests do not. There is one beginning for every two requests.
        What is left over of a length makes a smaller batch, down to a quarter of the size.
        """
        asked = [self._chat(request) for request in requests(seed)]
        begun = [self.tokenizer.encode(text) for text in beginnings()]
        begun = (begun * (len(asked) // (2 * len(begun)) + 1))[: len(asked) // 2]
        waiting: defaultdict[tuple[int, bool], list] = defaultdict(list)
        full = []
        for prompts, begins in ((asked, False), (begun, True)):
            for prompt in prompts:
                same = waiting[len(prompt), begins]
                same.append(prompt)
                if len(same) == batch_size:
                    full.append((waiting.pop((len(prompt), begins)), begins))
        full += [
            (rest, begins) for (_, begins), rest in waiting.items() if len(rest) >= batch_size // 4
        ]
        random.Random(seed).shuffle(full)
        return full

    def _chat(self, request: str) -> list[int]:
        turns = f"<|im_start|>user\n{request}<|im_end|>\n<|im_start|>assistant\n"
        return self.tokenizer.encode(turns)

    @torch.no_grad()
    def write(
        self,
        prompts: Sequence[Sequence[int]],
        begins: bool,
        n_tokens: int,
        generator: torch.Generator,
    ) -> list[Written]:
        """Continue prompts of equal length by at most ``n_tokens``, drawn as the teacher expects.

        If ``begins``, the prompts belong to the texts.
        """
        rows = torch.arange(len(prompts))  # the texts that are still being written
        written = [_given(prompt) if begins else ([], [], []) for prompt in prompts]
        cache, ids = self.model.new_cache(), torch.tensor(prompts)
        for _ in range(n_tokens):
            values, likely = self._likely(ids, cache, N_DRAW)
            choice = torch.multinomial((values / TEMPERATURE).exp(), 1, generator=generator)
            ids = likely.gather(1, choice)  # (B, 1)
            kept = likely[:, :N_EXPECTED].numpy(), values[:, :N_EXPECTED].numpy()
            for row, token, *expected in zip(rows.tolist(), ids[:, 0].tolist(), *kept, strict=True):
                for store, item in zip(written[row], (token, *expected), strict=True):
                    store.append(item)
            going = ids[:, 0] != self.end
            if going.float().mean() < 0.75:  # what is finished leaves the batch, now and then
                if not going.any():
                    break
                rows, ids = rows[going], ids[going]
                for layer in cache:
                    layer.select(going.nonzero()[:, 0])
        texts = []
        for token_ids, expected_ids, expected in written:
            n = token_ids.index(self.end) + 1 if self.end in token_ids else len(token_ids)
            texts.append(Written(token_ids[:n], np.array(expected_ids[:n]), np.array(expected[:n])))
        return texts

    def _likely(self, ids: Tensor, cache: list, k: int) -> tuple[Tensor, Tensor]:
        logits = self.model.lm_head(self.model.hidden_states(ids, cache=cache)[:, -1])  # (B, V)
        values, likely = logits.float().log_softmax(-1).topk(k)
        return values, likely

    # --- for the student ----------------------------------------------------------------------

    def lesson(self, written: Written) -> Lesson | None:
        """Return a text in GPT-2's tokens, or None if it is no plain English prose."""
        ended = written.ids[-1] == self.end
        token_ids = written.ids[:-1] if ended else written.ids
        text = self.tokenizer.decode(token_ids)
        if not ended:  # cut at the limit: keep whole sentences
            text = text[: max(text.rfind(mark) for mark in ".!?") + 1]
        if (
            len(text) < 80
            or not text.isascii()
            or any(mark in text for mark in ("**", "##", "```"))
        ):
            return None
        ids = np.array(self.gpt2.encode(text))
        starts = np.cumsum(self.gpt2_n_bytes[ids]) - self.gpt2_n_bytes[ids]
        n_bytes = self.n_bytes[np.array(token_ids)]
        theirs = np.cumsum(n_bytes) - n_bytes
        at = np.searchsorted(theirs, starts).clip(max=len(theirs) - 1)  # (n,)
        share = np.exp(written.log_share[at])
        share /= share.sum(-1, keepdims=True)
        expected = self.to_gpt2[written.likely[at]]
        unknown = theirs[at] != starts  # no token of the teacher's begins here
        expected[unknown], share[unknown] = ids[unknown, None], 1 / N_EXPECTED
        return Lesson(
            np.concatenate([[END], ids]).astype(np.uint16),
            np.concatenate([np.full((1, N_EXPECTED), END), expected]).astype(np.uint16),
            np.concatenate([np.full((1, N_EXPECTED), 1 / N_EXPECTED), share]).astype(np.float16),
        )


def _given(ids: Sequence[int]) -> tuple[list[int], list[np.ndarray], list[np.ndarray]]:
    """Return tokens that nobody had to expect: all of the probability is on the token itself."""
    return (
        list(ids),
        [np.full(N_EXPECTED, token) for token in ids],
        [np.zeros(N_EXPECTED, np.float32) for _ in ids],
    )


def save(path: Path, lessons: Iterable[Lesson]) -> int:
    """Write lessons behind each other into an ``.npz`` file; return their number of tokens."""
    lessons = list(lessons)
    parts = {
        name: [getattr(lesson, name) for lesson in lessons] for name in ("ids", "expected", "share")
    }
    whole: dict[str, Any] = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    np.savez(path, **whole)
    return sum(map(len, parts["ids"]))
