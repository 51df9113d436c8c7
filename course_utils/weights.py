"""Weights of GPT-2 and Llama-type models: from transformers into our GPT, and back.

The two store the same numbers under other names. GPT-2 keeps its matrices as (in, out), with
query, key and value side by side in one; Llama's differ from ours only in their names.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from course_utils.gpt import GPT, GPTConfig
from course_utils.positions import ROPE_SCALING, check_rope_scaling

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

#: Their activations that we have, under our names.
_MLPS = {
    "gpt2": {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"},
    "llama": {"silu": "swiglu", "swish": "swiglu"},
}
_DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")


def from_transformers(source: PreTrainedModel | str | Path) -> GPT:
    """Return our GPT with the weights of a GPT-2 or a Llama-type model, in eval mode.

    The weights are copied, in the number format they have. A head that differs from the embedding
    is kept, whatever the config says about tying. Llama's ``attention_dropout`` becomes our
    ``dropout``, which in training also acts on what each part of a block adds.

    Args:
        source: a model of transformers, or a folder with ``config.json`` and
            ``model.safetensors``, in one file or in several with their index.

    Raises:
        TypeError: ``source`` is neither a model nor a path.
        FileNotFoundError: there is no such folder, or it lacks one of the files.
        ValueError: a file cannot be read, the architecture is neither of the two, or it has a
            part that our GPT has not (for instance biases in a Llama); the message names it.
        RuntimeError: a weight is missing, is one too many, or has another shape.
    """
    if isinstance(source, PreTrainedModel):
        config = _our_config(source.config)
        state = source.state_dict()
    elif isinstance(source, str | Path):
        theirs = _config_in(Path(source))
        config = _our_config(theirs)  # refuses before any weight is read
        state = _weights_in(Path(source), theirs)
    else:
        raise TypeError(
            f"source is a {type(source).__name__}; expected a model of transformers or a folder, "
            "for instance from_transformers(pretrained.load('gpt2').model)."
        )
    names = _GPT2 if config.positions == "learned" else _LLAMA
    ours = _read(state, config, names)
    if config.tied and not torch.equal(ours["head.weight"], ours["token_embedding.weight"]):
        config = replace(config, tied=False)
    with torch.device("meta"):  # shapes only: the weights are about to come
        model = GPT(config)
    model.load_state_dict(ours, assign=True)
    if config.tied:
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
            **{name: c.dropout for name in _DROPOUTS},
            **{name: None for name in ("bos_token_id", "eos_token_id")},
        )
    elif mine == ("rotary", "rms", True, False, False) and c.mlp == "swiglu":
        names, kind = _LLAMA, LlamaForCausalLM
        rope, block_size = dict(c.rope_scaling or {"rope_type": "default"}), c.block_size
        if rope["rope_type"] in _STRETCHED:
            block_size = rope.pop("original_max_position_embeddings", block_size)
        config = LlamaConfig(
            vocab_size=c.vocab_size,
            max_position_embeddings=block_size,
            hidden_size=c.n_embd,
            intermediate_size=model.blocks[0].mlp.proj.in_features,
            num_hidden_layers=c.n_layer,
            num_attention_heads=c.n_head,
            num_key_value_heads=c.n_kv_head or c.n_head,
            rms_norm_eps=c.norm_eps,
            rope_parameters=rope | {"rope_theta": c.rope_base},
            tie_word_embeddings=c.tied,
            attention_dropout=c.dropout,
            **{name: None for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
        )
    else:
        raise ValueError(
            "neither GPT-2 (learned positions, layer norm first, biases, GELU) nor Llama (rotary "
            f"positions, RMS norm first, no biases, SwiGLU) has this combination of parts: {c}."
        )
    theirs = kind(config)
    theirs.load_state_dict(_written(model, names), assign=True)
    theirs.tie_weights()
    return theirs.requires_grad_(True).eval()


def _config_in(folder: Path) -> PreTrainedConfig:
    """Return the config of a model in ``folder``; transformers fills in what it leaves out."""
    path = folder / "config.json"
    if not path.is_file():
        problem = f"{path} is missing" if folder.is_dir() else f"{folder} is not a folder"
        raise FileNotFoundError(
            f"{problem}; expected a folder with config.json and model.safetensors. For a model by "
            "name, pass the model itself: from_transformers(pretrained.load('gpt2').model)."
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); fetch the file again.") from None
    kind = fields.get("model_type") if isinstance(fields, dict) else None
    _check_model_type(kind)
    try:
        return (GPT2Config if kind == "gpt2" else LlamaConfig).from_dict(fields)
    except Exception as error:  # transformers and its libraries have many kinds
        reason = " ".join(str(error).split())
        raise ValueError(f"transformers cannot read {path}: {reason}") from error


def _weights_in(folder: Path, config: PreTrainedConfig) -> dict[str, Tensor]:
    """Return the weights in ``folder`` under the names of a whole model with a head."""
    files = [folder / name for name in ("model.safetensors", "model.safetensors.index.json")]
    if not any(path.is_file() for path in files):
        others = ", ".join(sorted(path.name for path in folder.glob("*.bin")))
        raise FileNotFoundError(
            f"{files[0]} is missing; expected a folder with config.json and model.safetensors."
            + (
                f" {others}: an older format, which can hide programs; convert it."
                if others
                else ""
            )
        )
    kind = GPT2LMHeadModel if config.model_type == "gpt2" else LlamaForCausalLM
    try:
        model, report = kind.from_pretrained(
            folder,
            config=config,
            dtype="auto",
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are named below
            output_loading_info=True,
        )
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the weights in {folder} cannot be read ({reason}); fetch the files again."
        ) from error
    if wrong := sorted(report["mismatched_keys"]):
        name, found, expected = wrong[0]
        raise RuntimeError(
            f"the weights have {name} as {tuple(found)}; a model of this config has it as "
            f"{tuple(expected)}."
        )
    if missing := sorted(report["missing_keys"]):
        raise RuntimeError(f"the weights lack {missing[0]}; is the file of another model?")
    if extra := sorted(report["unexpected_keys"]):
        raise RuntimeError(f"the weights hold {extra[0]}, which a model of this config has not.")
    return model.state_dict()


#: Scalings whose files give the length before the stretch as ``max_position_embeddings``.
_STRETCHED = ("linear", "dynamic")


def _our_config(config: PreTrainedConfig) -> GPTConfig:
    _check_model_type(config.model_type)
    _refuse_unless(config, quantization_config=None)
    return _gpt2_config(config) if config.model_type == "gpt2" else _llama_config(config)


def _gpt2_config(config: GPT2Config) -> GPTConfig:
    _refuse_unless(
        config,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
    )
    dropouts = {name: getattr(config, name) for name in _DROPOUTS}
    if len(set(dropouts.values())) > 1:
        values = ", ".join(f"{name}={value}" for name, value in dropouts.items())
        raise ValueError(
            f"the model's config has {values}; our GPT has one dropout for all three. Give them "
            "the same value first, 0 if the model is only to be read."
        )
    return GPTConfig(
        vocab_size=config.vocab_size,
        block_size=config.n_positions,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_embd=config.n_embd,
        n_hidden=config.n_inner,
        dropout=config.resid_pdrop,
        tied=config.tie_word_embeddings,
        mlp=_our_mlp("activation_function", config),
        norm_eps=config.layer_norm_epsilon,
    )


def _llama_config(config: LlamaConfig) -> GPTConfig:
    n_embd, n_head = config.hidden_size, config.num_attention_heads
    _refuse_unless(config, attention_bias=False, mlp_bias=False, head_dim=n_embd // n_head)
    base, block_size, scaling = _our_rope(config)
    return GPTConfig(
        vocab_size=config.vocab_size,
        block_size=block_size,
        n_layer=config.num_hidden_layers,
        n_head=n_head,
        n_embd=n_embd,
        n_kv_head=config.num_key_value_heads,
        n_hidden=config.intermediate_size,
        dropout=config.attention_dropout or 0.0,
        bias=False,
        tied=config.tie_word_embeddings,
        positions="rotary",
        norm="rms",
        mlp=_our_mlp("hidden_act", config),
        norm_eps=config.rms_norm_eps,
        rope_base=base,
        rope_scaling=scaling,
    )


def _our_rope(config: LlamaConfig) -> tuple[float, int, dict[str, Any] | None]:
    """Return the base of the rotary frequencies, the longest text in tokens, and the scaling."""
    given = {k: v for k, v in config.rope_parameters.items() if v is not None}
    kind, length = given["rope_type"], config.max_position_embeddings
    # What transformers obeys and we do not; further keys are without effect there too.
    neutral = {"partial_rotary_factor": 1.0, "mscale": 0, "mscale_all_dim": 0, "truncate": True}
    for name, value in neutral.items():
        _refuse(name, given.get(name), given.get(name, value) != value)
    if kind == "default":
        return given["rope_theta"], length, None
    _refuse("rope_type", kind, kind not in ROPE_SCALING)
    needed, possible = ROPE_SCALING[kind]
    scaling = {key: given[key] for key in ("rope_type", *sorted(needed | possible)) if key in given}
    if kind in _STRETCHED:
        scaling["original_max_position_embeddings"] = length
    check_rope_scaling(scaling, config.head_dim)
    if kind in _STRETCHED:
        length = max(length, int(scaling["factor"] * length))
    return given["rope_theta"], length, scaling


def _our_mlp(name: str, config: PreTrainedConfig) -> str:
    known, activation = _MLPS[config.model_type], getattr(config, name)
    _refuse(name, activation, activation not in known)
    return known[activation]


def _check_model_type(kind: Any) -> None:
    if kind not in ("gpt2", "llama"):
        raise ValueError(f"model_type is {kind!r}; expected 'gpt2' or 'llama'.")


def _refuse_unless(config: PreTrainedConfig, **expected: Any) -> None:
    for name, value in expected.items():
        found = getattr(config, name, value)
        _refuse(name, found, found != value)


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


def _read(
    state: Mapping[str, Tensor], config: GPTConfig, names: Mapping[str, str]
) -> dict[str, Tensor]:
    """Return the state dict of a GPT of ``config`` with copies of the weights in ``state``."""
    prefix = "transformer." if names is _GPT2 else "model."
    if not any(name.startswith(prefix) for name in state):  # a model without a head
        state = {prefix + name: value for name, value in state.items()}
    if config.tied:
        state = {"lm_head.weight": state[f"{names['token_embedding']}.weight"]} | dict(state)
    state = _one_by_one(state)
    with torch.device("meta"):
        wanted = {_their_name(name, names): name for name in GPT(config).state_dict()}
    for name in wanted:
        if name not in state:
            raise RuntimeError(f"the weights lack {name}; is the file of another model?")
    for name in state:
        if name not in wanted:
            raise RuntimeError(f"the weights hold {name}, which a model of this config has not.")
    return {
        ours: state[name].detach().clone(memory_format=torch.contiguous_format)
        for name, ours in wanted.items()
    }


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
    state = {k: value.T if k.endswith(_IN_OUT) else value for k, value in state.items()}
    return {
        k: value.detach().clone(memory_format=torch.contiguous_format) for k, value in state.items()
    }
