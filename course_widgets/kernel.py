"""What a living figure asks, answered by a model in memory: the notebook's side of live/desk.js."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_utils.gpt import GPT, MultiHeadAttention, causal_mask, eval_mode, restrict
from course_utils.inputs import check
from course_utils.weights import from_transformers

#: Tensors by name, as in chapter 6; those of a block are in a table under its number.
Steps = dict[Any, Any]
#: What the parts of a block do to the stream: of these the last row is always sent.
STREAM = ("attention", "after attention", "MLP", "block out")


def desk_for(model: Any, tokenizer: Any) -> "Desk":
    """Return what answers for a model: its own GPT, a GPT-2 or Llama, or an encoder such as BERT.

    A GPT is asked as it is at that moment, and may be in training. Of a model of transformers that
    writes, the weights are copied, see :func:`course_utils.weights.from_transformers`.

    Raises:
        TypeError: it is none of these, or the tokenizer has no encode and decode.
        ValueError: the tokenizer belongs to another model, or our GPT lacks a part of the model.
    """
    if not all(hasattr(tokenizer, name) for name in ("encode", "decode", "vocab_size")):
        raise TypeError(
            f"tokenizer is a {type(tokenizer).__name__}; expected one with encode(), decode() and "
            "vocab_size, such as the second of pretrained.load('gpt2')."
        )
    is_encoder = isinstance(model, PreTrainedModel) and model.config.model_type == "bert"
    if is_encoder:
        return EncoderDesk(model.base_model, tokenizer)
    if not isinstance(model, (GPT, PreTrainedModel)):
        raise TypeError(
            f"model is a {type(model).__name__}; expected the course's GPT or a model of "
            "transformers: GPT-2, a Llama, or an encoder such as BERT."
        )
    return GPTDesk(model if isinstance(model, GPT) else from_transformers(model), tokenizer)


class Desk:
    """What all models can say: the tokens of a text.

    Attributes:
        sizes: the numbers of blocks, heads, channels and tokens, by the names that the page has.
        longest: how many tokens the model can read.
    """

    def __init__(self, model: Any, tokenizer: Any, sizes: Mapping[str, int], longest: int):
        self.model, self.tokenizer, self.sizes = model, tokenizer, dict(sizes)
        self.longest, size = longest, sizes["size"]
        is_theirs = isinstance(tokenizer, PreTrainedTokenizerBase)
        known = len(tokenizer) if is_theirs else tokenizer.vocab_size
        # Some models round the size of their table up, to a multiple of 128 at most.
        check(
            0 <= size - known < 128,
            f"the tokenizer knows {known:,} tokens and the model {size:,}: it is another model's. "
            "Give the two that belong together, such as those that pretrained.load returns.",
        )

    def encode(self, text: str) -> dict[str, list]:
        """Return the ids of a text and the text of each; no text is the token that begins one.

        Raises:
            ValueError: the tokenizer cannot write the text, or nothing, in tokens.
        """
        ids = list(self.tokenizer.encode(text)) or self._beginning()
        return {"ids": ids, "tokens": [self.decode([id_]) for id_ in ids]}

    def _beginning(self) -> list[int]:
        special = list(getattr(self.tokenizer, "special_tokens", {}).values())  # the course's BPE
        for name in ("bos_token_id", "eos_token_id"):
            special.append(getattr(self.tokenizer, name, None))
        found = [id_ for id_ in special if id_ is not None]
        check(found, "There is no text. Write a character at least: no token stands for nothing.")
        return found[:1]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return self.tokenizer.decode(ids)

    def read(self, ids: Sequence[int]) -> Tensor:
        """Return ids as a batch of one text, ``(1, T)``.

        Raises:
            ValueError: the model cannot read so many.
        """
        check(
            len(ids) <= self.longest,
            f"The text has {len(ids)} tokens; this model reads {self.longest}. Shorten it.",
        )
        return torch.tensor([list(ids)], device=next(self.model.parameters()).device)


class GPTDesk(Desk):
    """A model that writes."""

    def __init__(self, model: GPT, tokenizer: Any):
        c = model.config
        sizes = {"n_layer": c.n_layer, "n_head": c.n_head, "n_embd": c.n_embd, "size": c.vocab_size}
        super().__init__(model, tokenizer, sizes, c.block_size)

    @torch.no_grad()
    def next(self, ids: Sequence[int], options: Mapping[str, bool] | None = None) -> dict[str, Any]:
        """Return the ten likeliest tokens after ``ids``, and the logits ``(V,)`` if asked for.

        When the window is full, its first quarter is forgotten at once, as in the page.
        """
        stride = max(1, self.longest // 4)
        forgotten = stride * math.ceil(max(len(ids) - self.longest, 0) / stride)
        with eval_mode(self.model):
            logits = self.model(self.read(ids[forgotten:]))[0][0, -1].float()
        wanted = {"logits": logits} if (options or {}).get("logits") else {}
        return {"top": self.likeliest(logits, 10)} | wanted

    def likeliest(self, logits: Tensor, k: int) -> list[list]:
        """Return the ``k`` likeliest tokens of logits ``(V,)``: text, probability, id."""
        best = logits.softmax(-1).topk(min(k, len(logits)))
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [[self.decode([id_]), p, id_] for p, id_ in pairs]

    @torch.no_grad()
    def trace(
        self, ids: Sequence[int], edits: Mapping | None = None, wanted: Mapping | None = None
    ) -> dict[str, Any]:
        """Return the intermediates on the way of ``ids``, and what each part would predict.

        Args:
            ids: at most ``longest``.
            edits: what is switched off: ``heads`` as ``[[layer, head]]``, ``mlps`` as ``[layer]``,
                and the mask with ``causal`` False.
            wanted: the ``names`` of the tensors to send, and their ``layer`` or None for all; of
                the stream's others comes the last row then, ``(1, C)``. By default all is sent.

        Returns:
            steps; the ten likeliest tokens; and as ``lens`` the three likeliest if the model ended
            after each part of each block, from the stream's start on.
        """
        with eval_mode(self.model):
            with listening(self.model, edits or {}) as steps:
                hidden = self.model.hidden_states(self.read(ids))
            logits = self.model.lm_head(hidden[0, -1]).float()
            blocks = [steps[layer] for layer in range(self.sizes["n_layer"])]
            streams = [steps["stream at the start"]]
            streams += [block[name] for block in blocks for name in STREAM[1::2]]
            early = self.model.lm_head(self.model.norm(torch.stack([x[-1] for x in streams])))
        lens = [[top[:2] for top in self.likeliest(row.float(), 3)] for row in early]
        sent = steps if wanted is None else _sent(steps, wanted)
        return {
            "steps": sent | {"logits": logits},
            "top": self.likeliest(logits, 10),
            "lens": lens,
        }


def _sent(steps: Steps, wanted: Mapping[str, Any]) -> Steps:
    """Return the tensors that are wanted whole, and the last row of the stream's others."""
    sent: Steps = {}
    for name, value in steps.items():
        if isinstance(value, dict):
            here = wanted.get("layer") in (None, name)
            sent[name] = _sent(value, wanted if here else {"names": ()})
        elif name in wanted["names"]:
            sent[name] = value
        elif name in (*STREAM, "stream at the start"):
            sent[name] = value[-1:]
    return sent


@contextmanager
def listening(model: GPT, edits: Mapping[str, Any]) -> Iterator[Steps]:
    """Keep every intermediate while a GPT reads one text; some parts may be switched off.

    Names and shapes are chapter 6's, without the batch: "norm 1" ``(T, C)``, "scores" and "weights"
    ``(H, T, T)``. Queries, keys and values come before rotary positions turn them.
    """
    steps: Steps = {layer: {} for layer in range(model.config.n_layer)}
    hooks, blocks = [], list[Any](model.blocks)

    def note(into: Steps, name: str, module: nn.Module, entering: bool = False) -> None:
        def left(module: nn.Module, args: tuple, out: Tensor) -> None:
            x = args[0] if entering else out
            into[name] = x[0]

        hooks.append(module.register_forward_hook(left))

    note(steps, "token rows", model.token_embedding)
    note(steps, "stream at the start", model.dropout)
    note(steps, "final norm", model.norm)
    for layer, block in enumerate(blocks):
        into, attention = steps[layer], block.attention
        if layer in edits.get("mlps", ()):
            off = block.mlp.register_forward_hook(lambda module, args, out: torch.zeros_like(out))
            hooks.append(off)
        for name in ("query", "key", "value"):
            note(into, name, getattr(attention, name))
        outputs = {"norm 1": block.norm1, "attention": attention, "norm 2": block.norm2}
        outputs |= {"widened": block.mlp.fc, "MLP": block.mlp, "block out": block}
        for name, module in outputs.items():
            note(into, name, module)
        note(into, "context", attention.proj, entering=True)
        note(into, "after attention", block.norm2, entering=True)
        note(into, "hidden", block.mlp.proj, entering=True)
        silent = [head for number, head in edits.get("heads", ()) if number == layer]
        attention.attend = _attend(attention, into, silent, edits.get("causal", True))
    try:
        yield steps
    finally:
        for hook in hooks:
            hook.remove()
        for block in blocks:
            del block.attention.attend  # the class's own is there again
    for block in (steps[layer] for layer in range(model.config.n_layer)):
        block["q, k and v"] = torch.cat([block.pop(n) for n in ("query", "key", "value")], dim=-1)


def _attend(attention: MultiHeadAttention, into: Steps, silent: list[int], causal: bool) -> Any:
    """Return an ``attend`` that keeps its scores and weights and lets no silent head speak."""

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        k, v = (t.repeat_interleave(attention.group, dim=1) for t in (k, v))  # (1, H, T, d_k)
        if causal:
            mask = restrict(mask, causal_mask(q.shape[2], device=q.device))
        scores = q @ k.mT / math.sqrt(attention.d_k)  # (1, H, T, T)
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -math.inf)
        elif mask is not None:
            scores = scores + mask  # ALiBi
        weights = scores.softmax(-1)
        into["scores"], into["weights"] = scores[0], weights[0]
        context = weights @ v  # (1, H, T, d_k)
        context[:, silent] = 0
        return context

    return attend


class EncoderDesk(Desk):
    """A model that reads, such as BERT: its attention has no mask, and no token is next."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any):
        c = model.config
        sizes = {
            "n_layer": c.num_hidden_layers,
            "n_head": c.num_attention_heads,
            "n_embd": c.hidden_size,
            "size": c.vocab_size,
        }
        super().__init__(model, tokenizer, sizes, c.max_position_embeddings)

    @torch.no_grad()
    def trace(self, ids: Sequence[int], *_: Mapping | None) -> dict[str, Any]:
        """Return the scores ``(H, T, T)`` of each block."""
        heard: dict[nn.Module, Tensor] = {}  # queries and keys, (H, T, d_k)

        def left(module: nn.Module, args: tuple, out: Tensor) -> None:
            heard[module] = out[0].unflatten(-1, (self.sizes["n_head"], -1)).transpose(0, 1)

        pairs = [(a.query, a.key) for a in (b.attention.self for b in self.model.encoder.layer)]
        hooks = [part.register_forward_hook(left) for pair in pairs for part in pair]
        try:
            with eval_mode(self.model):
                self.model(self.read(ids))
        finally:
            for hook in hooks:
                hook.remove()
        width = self.sizes["n_embd"] // self.sizes["n_head"]
        scores = [heard[query] @ heard[key].mT / math.sqrt(width) for query, key in pairs]
        return {"steps": {layer: {"scores": each} for layer, each in enumerate(scores)}}


def in_buffers(value: Any, buffers: list[bytes]) -> Any:
    """Return an answer as JSON has it; tensors go to ``buffers`` as float32, and leave their place.

    A tensor becomes ``{"floats": n, "shape": [...]}``, where ``n`` is its place in ``buffers``.
    """
    if isinstance(value, Tensor):
        buffers.append(value.detach().float().cpu().contiguous().numpy().tobytes())
        return {"floats": len(buffers) - 1, "shape": list(value.shape)}
    if isinstance(value, dict):
        return {str(key): in_buffers(part, buffers) for key, part in value.items()}
    return value
