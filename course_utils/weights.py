"""Weights of GPT-2 and Llama-type models: from transformers into our GPT, and back.

The two store the same numbers under other names. GPT-2 keeps its matrices as (in, out), with
query, key and value side by side in one; Llama's differ from ours only in their names.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from course_utils.gpt import GPT, GPTConfig

#: Llama's name of each of our parameters, without the number of the block.
_LLAMA = {
    "token_embedding": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "norm1": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.proj": "self_attn.o_proj",
    "norm2": "post_attention_layernorm",
    "mlp.fc": "mlp.gate_up",  # made of the two below
    "mlp.proj": "mlp.down_proj",
}
_GATE_UP = ("mlp.gate_proj", "mlp.up_proj")
#: GPT-2's name of each of our parameters.
_GPT2 = {
    "token_embedding": "transformer.wte",
    "position_embedding": "transformer.wpe",
    "norm": "transformer.ln_f",
    "head": "lm_head",
    "norm1": "ln_1",
    "attention.query": "attn.c_attn.0",  # the first third of c_attn
    "attention.key": "attn.c_attn.1",
    "attention.value": "attn.c_attn.2",
    "attention.proj": "attn.c_proj",
    "norm2": "ln_2",
    "mlp.fc": "mlp.c_fc",
    "mlp.proj": "mlp.c_proj",
}
_IN_OUT = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")

#: Masks and frequencies that older files keep among the weights.
_NOT_WEIGHTS = (".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")


def from_transformers(source: PreTrainedModel | str | Path) -> GPT:
    """Return our GPT with the weights of a GPT-2 or a Llama-type model, in eval mode.

    Args:
        source: a model of transformers, or a folder with ``config.json`` and
            ``model.safetensors``. The weights are copied, in the number format they have.

    Raises:
        FileNotFoundError: the folder lacks one of the two files.
        ValueError: the architecture is neither, or has a part that our GPT has not (for instance
            scaled rotary frequencies); the message names it.
        RuntimeError: a weight is missing, is one too many, or has another shape.
    """
    if isinstance(source, PreTrainedModel):
        config, state = source.config.to_dict(), source.state_dict()
    else:
        for name in ("config.json", "model.safetensors"):
            if not (Path(source) / name).is_file():
                raise FileNotFoundError(
                    f"{Path(source) / name} is missing; expected a folder with config.json and "
                    "model.safetensors. For a model by name, pass the model itself: "
                    "from_transformers(pretrained.load('gpt2').model)."
                )
        config = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
        state = load_file(Path(source) / "model.safetensors")
    kind = config.get("model_type")
    if kind not in ("gpt2", "llama"):
        raise ValueError(f"model_type is {kind!r}; expected 'gpt2' or 'llama'.")
    with torch.device("meta"):  # shapes only: the weights are about to come
        model = GPT(_gpt2_config(config) if kind == "gpt2" else _llama_config(config))
    ours = _read(state, model, _GPT2 if kind == "gpt2" else _LLAMA)
    model.load_state_dict(ours, assign=True)
    if model.config.tied:
        model.head.weight = model.token_embedding.weight
    return model.requires_grad_(True).eval()


def to_transformers(model: GPT) -> PreTrainedModel:
    """Return a model of transformers, in eval mode, with a copy of the weights of ``model``.

    What GPT-2 can express becomes a ``GPT2LMHeadModel``, what Llama can a ``LlamaForCausalLM``.

    Raises:
        ValueError: the model has parts that neither of the two has.
    """
    c = model.config
    mine = (c.positions, c.norm, c.norm_first, c.bias, c.qk_norm)
    gpt2_mlps = {"gelu_tanh": "gelu_new", "gelu": "gelu"}
    if (
        mine == ("learned", "layer", True, True, False)
        and c.mlp in gpt2_mlps
        and c.n_kv_head in (None, c.n_head)
    ):
        names, kind = _GPT2, GPT2LMHeadModel
        config = GPT2Config(
            vocab_size=c.vocab_size,
            n_positions=c.block_size,
            n_embd=c.n_embd,
            n_layer=c.n_layer,
            n_head=c.n_head,
            n_inner=c.n_hidden,
            activation_function=gpt2_mlps[c.mlp],
            layer_norm_epsilon=c.norm_eps,
            tie_word_embeddings=c.tied,
            **{name: c.dropout for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")},
            **{name: None for name in ("bos_token_id", "eos_token_id")},
        )
    elif mine == ("rotary", "rms", True, False, False) and c.mlp == "swiglu":
        names, kind = _LLAMA, LlamaForCausalLM
        config = LlamaConfig(
            vocab_size=c.vocab_size,
            max_position_embeddings=c.block_size,
            hidden_size=c.n_embd,
            intermediate_size=model.blocks[0].mlp.proj.in_features,
            num_hidden_layers=c.n_layer,
            num_attention_heads=c.n_head,
            num_key_value_heads=c.n_kv_head or c.n_head,
            rms_norm_eps=c.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": c.rope_base},
            tie_word_embeddings=c.tied,
            **{name: None for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
        )
    else:
        raise ValueError(
            "neither GPT-2 (learned positions, layer norm first, biases, GELU) nor Llama (rotary "
            f"positions, RMS norm first, no biases, SwiGLU) has this combination of parts: {c}."
        )
    theirs = kind(config).eval()
    theirs.load_state_dict(_written(model, names), strict=not c.tied)
    return theirs


def _gpt2_config(config: Mapping[str, Any]) -> GPTConfig:
    mlps = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
    activation = config.get("activation_function", "gelu_new")
    _refuse("activation_function", activation, activation not in mlps)
    for name in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        _refuse(name, config.get(name), bool(config.get(name)))
    _refuse("scale_attn_weights", False, not config.get("scale_attn_weights", True))
    return GPTConfig(
        vocab_size=config["vocab_size"],
        block_size=config["n_positions"],
        n_layer=config["n_layer"],
        n_head=config["n_head"],
        n_embd=config["n_embd"],
        n_hidden=config.get("n_inner"),
        tied=config.get("tie_word_embeddings", True),
        mlp=mlps[activation],
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
    )


def _llama_config(config: Mapping[str, Any]) -> GPTConfig:
    # transformers 5 keeps both in rope_parameters, older files in two fields of their own
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = rope.get("rope_theta") or config.get("rope_theta") or 10_000.0
    n_embd, n_head = config["hidden_size"], config["num_attention_heads"]
    head_size, activation = config.get("head_dim"), config.get("hidden_act", "silu")
    _refuse("hidden_act", activation, activation != "silu")
    rope_type = rope.get("rope_type", rope.get("type", "default"))  # "type" in files before 2024
    _refuse("rope_type", rope_type, rope_type != "default")
    _refuse("head_dim", head_size, head_size not in (None, n_embd // n_head))
    for name in ("attention_bias", "mlp_bias"):
        _refuse(name, config.get(name), bool(config.get(name)))
    return GPTConfig(
        vocab_size=config["vocab_size"],
        block_size=config["max_position_embeddings"],
        n_layer=config["num_hidden_layers"],
        n_head=n_head,
        n_embd=n_embd,
        n_kv_head=config.get("num_key_value_heads"),
        n_hidden=config["intermediate_size"],
        bias=False,
        tied=config.get("tie_word_embeddings", False),
        positions="rotary",
        norm="rms",
        mlp="swiglu",
        norm_eps=config["rms_norm_eps"],
        rope_base=base,
    )


def _refuse(name: str, value: Any, wrong: bool) -> None:
    if wrong:
        raise ValueError(f"{name}={value!r} in the model's config is a part our GPT does not have.")


def _their_name(name: str, names: Mapping[str, str]) -> str:
    """Return their name of our parameter ``name``, such as ``blocks.3.mlp.proj.weight``."""
    path, kind = name.rsplit(".", 1)  # kind: "weight" or "bias"
    if not path.startswith("blocks."):
        return f"{names[path]}.{kind}"
    _, number, part = path.split(".", 2)
    prefix = "transformer.h" if names is _GPT2 else "model.layers"
    return f"{prefix}.{number}.{names[part]}.{kind}"


def _read(state: Mapping[str, Tensor], model: GPT, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the state dict of ``model`` with copies of the weights in their ``state``."""
    prefix = "transformer." if names is _GPT2 else "model."
    if not any(name.startswith(prefix) for name in state):  # saved without the head's wrapper
        state = {prefix + name: value for name, value in state.items()}
    state = _one_by_one(state)
    ours, used = {}, {"lm_head.weight"}
    for name in model.state_dict():
        theirs = _their_name(name, names)
        if theirs == "lm_head.weight" and model.config.tied:  # often not in the file
            theirs = f"{names['token_embedding']}.weight"
        if theirs not in state:
            raise RuntimeError(f"the weights lack {theirs}; is the file of another model?")
        used.add(theirs)
        ours[name] = state[theirs].detach().clone(memory_format=torch.contiguous_format)
    for name in state:
        if name not in used and not name.endswith(_NOT_WEIGHTS):
            raise RuntimeError(f"the weights hold {name}, which a model of this config has not.")
    return ours


def _one_by_one(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return their ``state`` with one entry for each of our parameters, as (out, in)."""
    found = {}
    for name, value in state.items():
        value = value.T if name.endswith(_IN_OUT) else value
        if ".attn.c_attn." in name:
            for number, third in enumerate(value.chunk(3)):
                found[name.replace("c_attn", f"c_attn.{number}")] = third
        elif _GATE_UP[1] in name:
            continue  # joined to its gate
        elif _GATE_UP[0] in name:
            up = state[name.replace(*_GATE_UP)]
            found[name.replace(_GATE_UP[0], _LLAMA["mlp.fc"])] = torch.cat([value, up])
        else:
            found[name] = value
    return found


def _written(model: GPT, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the weights of ``model`` as they store them, the inverse of :func:`_read`."""
    state = {_their_name(name, names): value for name, value in model.state_dict().items()}
    for name in list(state):
        if ".c_attn.0." in name:
            thirds = [state.pop(name.replace("c_attn.0", f"c_attn.{n}")) for n in range(3)]
            state[name.replace("c_attn.0", "c_attn")] = torch.cat(thirds)
        elif _LLAMA["mlp.fc"] in name:
            for part, half in zip(_GATE_UP, state.pop(name).chunk(2), strict=True):
                state[name.replace(_LLAMA["mlp.fc"], part)] = half
    return {k: value.T if k.endswith(_IN_OUT) else value for k, value in state.items()}
