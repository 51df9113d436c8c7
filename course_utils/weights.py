"""Weights of GPT-2 and Llama-type models: from transformers into our GPT, and back.

transformers stores the same numbers under other names. GPT-2 keeps its matrices as (in, out), with
query, key and value side by side in one; Llama keeps the two halves of ``mlp.fc`` apart.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import GPT2LMHeadModel, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel

from course_utils.gpt import GPT, GPTConfig
from course_utils.positions import ROPE_SCALING, check_rope_scaling

#: What our config must say to be the one or the other: our setting, GPT-2's value, Llama's.
PARTS = (
    ("positions", "learned", "rotary"),
    ("norm", "layer", "rms"),
    ("norm_first", True, True),
    ("bias", True, False),
    ("qk_norm", False, False),
)
#: Our name of a setting, GPT-2's and Llama's.
SETTINGS = (
    ("vocab_size", "vocab_size", "vocab_size"),
    ("block_size", "n_positions", "max_position_embeddings"),
    ("n_layer", "n_layer", "num_hidden_layers"),
    ("n_head", "n_head", "num_attention_heads"),
    ("n_kv_head", "", "num_key_value_heads"),
    ("n_embd", "n_embd", "hidden_size"),
    ("n_hidden", "n_inner", "intermediate_size"),
    ("dropout", "resid_pdrop", "attention_dropout"),
    ("tied", "tie_word_embeddings", "tie_word_embeddings"),
    ("norm_eps", "layer_norm_epsilon", "rms_norm_eps"),
)
#: Our name of a layer, GPT-2's and Llama's: "/1" is the second third of theirs, "+" joins two.
LAYERS = (
    ("token_embedding", "transformer.wte", "model.embed_tokens"),
    ("position_embedding", "transformer.wpe", ""),
    ("norm", "transformer.ln_f", "model.norm"),
    ("lm_head", "lm_head", "lm_head"),
    ("blocks", "transformer.h", "model.layers"),
    ("norm1", "ln_1", "input_layernorm"),
    ("attention.query", "attn.c_attn/0", "self_attn.q_proj"),
    ("attention.key", "attn.c_attn/1", "self_attn.k_proj"),
    ("attention.value", "attn.c_attn/2", "self_attn.v_proj"),
    ("attention.proj", "attn.c_proj", "self_attn.o_proj"),
    ("norm2", "ln_2", "post_attention_layernorm"),
    ("mlp.fc", "mlp.c_fc", "mlp.gate_proj+mlp.up_proj"),
    ("mlp.proj", "mlp.c_proj", "mlp.down_proj"),
)
#: Weights that GPT-2 keeps as (in, out), and its three probabilities of dropping a channel.
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
#: Settings of theirs that we do not have, and the values at which they change nothing.
NEUTRAL = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "attention_bias": False,
    "mlp_bias": False,
    "quantization_config": None,
}


class Family(NamedTuple):
    """A kind of model in transformers."""

    column: int  # its place in the tables above
    model: type[PreTrainedModel]
    activation: str  # its name of the setting
    mlps: Mapping[str, str]  # its name of an activation: our name of the MLP

    def words(self, table: tuple) -> dict[str, Any]:
        """Return a table for this family: our word, theirs."""
        return {row[0]: row[self.column] for row in table if row[self.column] != ""}


GELUS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
GPT2 = Family(1, GPT2LMHeadModel, "activation_function", GELUS)
LLAMA = Family(2, LlamaForCausalLM, "hidden_act", {"silu": "swiglu", "swish": "swiglu"})
#: Rotary scalings whose files give the length before the stretch as ``max_position_embeddings``.
STRETCHED = ("linear", "dynamic")


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
            part that our GPT does not have (for instance biases in a Llama); the message names it.
        RuntimeError: a weight is missing, is one too many, or has another shape.
    """
    if isinstance(source, str | Path):
        source = _model_in(Path(source))
    if not isinstance(source, PreTrainedModel):
        raise TypeError(
            f"source is a {type(source).__name__}; expected a model of transformers or a folder, "
            "for instance from_transformers(pretrained.load('gpt2').model)."
        )
    config = our_config(source.config)
    ours = _our_weights(source.state_dict(), config)
    if config.tied and not torch.equal(ours["lm_head.weight"], ours["token_embedding.weight"]):
        config = replace(config, tied=False)
    with torch.device("meta"):  # shapes only: the weights are about to come
        model = GPT(config)
    model.load_state_dict(ours, assign=True)
    if config.tied:
        model.lm_head.weight = model.token_embedding.weight
    return model.requires_grad_(True).eval()


def to_transformers(model: GPT) -> PreTrainedModel:
    """Return a model of transformers, in eval mode, with a copy of the weights of ``model``.

    What GPT-2 can express becomes a ``GPT2LMHeadModel``, what Llama can a ``LlamaForCausalLM``.

    Raises:
        ValueError: the model has parts that neither of the two has.
    """
    c, family = model.config, _family_of(model.config)
    activation = next((theirs for theirs, mlp in family.mlps.items() if mlp == c.mlp), None)
    wrong = any(getattr(c, name) != value for name, value in family.words(PARTS).items())
    grouped = c.n_kv_head not in (None, c.n_head)
    if wrong or activation is None or (grouped and family is GPT2):
        raise ValueError(
            "neither GPT-2 (learned positions, layer norm first, biases, GELU) nor Llama (rotary "
            f"positions, RMS norm first, no biases, SwiGLU) has this combination of parts: {c}."
        )
    settings = {theirs: getattr(c, ours) for ours, theirs in family.words(SETTINGS).items()}
    settings |= {family.activation: activation, "bos_token_id": None, "eos_token_id": None}
    if family is GPT2:
        settings |= dict.fromkeys(DROPOUTS, c.dropout)
    else:
        rope = {"rope_type": "default"} | (c.rope_scaling or {}) | {"rope_theta": c.rope_base}
        if rope["rope_type"] in STRETCHED:
            settings["max_position_embeddings"] = rope.pop("original_max_position_embeddings")
        settings["rope_parameters"] = rope
        settings["intermediate_size"] = model.state_dict()["blocks.0.mlp.proj.weight"].shape[1]
    theirs = family.model(family.model.config_class(**settings))
    theirs.load_state_dict(_their_weights(model), assign=True)
    theirs.tie_weights()
    return theirs.requires_grad_(True).eval()


# --- settings ------------------------------------------------------------------------------------


def our_config(config: PreTrainedConfig) -> GPTConfig:
    """Return the config of our GPT that computes the same as a model with theirs."""
    family = _family_named(config.model_type)
    activation = getattr(config, family.activation)
    for name, value in NEUTRAL.items():
        _refuse(name, getattr(config, name, value), value)
    if activation not in family.mlps:
        _refuse(family.activation, activation)
    settings = {ours: getattr(config, theirs) for ours, theirs in family.words(SETTINGS).items()}
    settings |= {"mlp": family.mlps[activation]} | family.words(PARTS)
    if family is LLAMA:
        _refuse("head_dim", config.head_dim, config.hidden_size // config.num_attention_heads)
        return GPTConfig(**settings | _our_rope(config))
    dropouts = {name: getattr(config, name) for name in DROPOUTS}
    if len(set(dropouts.values())) > 1:
        values = ", ".join(f"{name}={value}" for name, value in dropouts.items())
        raise ValueError(
            f"the model's config has {values}; our GPT has one dropout for all three. Give them "
            "the same value first, 0 if the model is only to be read."
        )
    return GPTConfig(**settings)


def _our_rope(config: PreTrainedConfig) -> dict[str, Any]:
    given = {name: value for name, value in config.rope_parameters.items() if value is not None}
    # What transformers obeys and we do not; further keys have no effect there either.
    neutral = {"partial_rotary_factor": 1.0, "mscale": 0, "mscale_all_dim": 0, "truncate": True}
    for name, value in neutral.items():
        _refuse(name, given.get(name, value), value)
    kind, length = given["rope_type"], config.max_position_embeddings
    if kind == "default":
        return {"rope_base": given["rope_theta"]}
    if kind not in ROPE_SCALING:
        _refuse("rope_type", kind)
    if kind in STRETCHED:
        given["original_max_position_embeddings"] = length
    scaling = {name: given[name] for name in ("rope_type", *ROPE_SCALING[kind]) if name in given}
    check_rope_scaling(scaling, config.head_dim)
    if kind in STRETCHED:
        length = max(length, int(given["factor"] * length))
    return {"rope_base": given["rope_theta"], "rope_scaling": scaling, "block_size": length}


def _family_of(config: GPTConfig) -> Family:
    return GPT2 if config.positions == "learned" else LLAMA


def _family_named(model_type: Any) -> Family:
    if model_type not in ("gpt2", "llama"):
        raise ValueError(f"model_type is {model_type!r}; expected 'gpt2' or 'llama'.")
    return GPT2 if model_type == "gpt2" else LLAMA


def _refuse(name: str, value: Any, unless: Any = None) -> None:
    if value != unless:
        raise ValueError(f"{name}={value!r} in the model's config is a part our GPT does not have.")


# --- weights -------------------------------------------------------------------------------------


def _our_weights(state: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Return the state dict of a GPT of ``config`` with copies of the weights in ``state``."""
    family = _family_of(config)
    layers = family.words(LAYERS)
    prefix = layers["norm"].split(".")[0] + "."
    if not any(name.startswith(prefix) for name in state):  # a model without a head
        state = {prefix + name: value for name, value in state.items()}
    if config.tied:
        state = {"lm_head.weight": state[f"{layers['token_embedding']}.weight"], **state}
    with torch.device("meta"):
        names = {name: _their_names(name, family) for name in GPT(config).state_dict()}
    needed = {part for parts, _ in names.values() for part in parts}
    _refuse_weights(needed - set(state), set(state) - needed)
    ours = {}
    for name, (parts, third) in names.items():
        value = torch.cat([_turned(part, state[part], family) for part in parts])  # (out, in)
        value = value if third is None else value.chunk(3)[third]
        ours[name] = value.detach().clone(memory_format=torch.contiguous_format)
    return ours


def _refuse_weights(missing: Iterable[str], extra: Iterable[str]) -> None:
    for name in sorted(missing):
        raise RuntimeError(f"the weights lack {name}; is the file of another model?")
    for name in sorted(extra):
        raise RuntimeError(f"the weights hold {name}, which a model of this config does not have.")


def _their_weights(model: GPT) -> dict[str, Tensor]:
    """Return copies of the weights of ``model`` as they store them."""
    family, pieces = _family_of(model.config), defaultdict(list)
    for name, value in model.state_dict().items():
        parts, _ = _their_names(name, family)  # the thirds come in order
        for part, piece in zip(parts, value.chunk(len(parts)), strict=True):
            pieces[part].append(piece)
    return {
        name: _turned(name, torch.cat(parts), family).clone(memory_format=torch.contiguous_format)
        for name, parts in pieces.items()
    }


def _their_names(name: str, family: Family) -> tuple[list[str], int | None]:
    """Return their names of what makes up our weight ``name``, and which third of it ours is."""
    layers, prefix = family.words(LAYERS), ""
    path, kind = name.rsplit(".", 1)  # kind: "weight" or "bias"
    if path.startswith("blocks."):
        blocks, number, path = path.split(".", 2)
        prefix = f"{layers[blocks]}.{number}."
    theirs, _, third = layers[path].partition("/")
    return [f"{prefix}{part}.{kind}" for part in theirs.split("+")], int(third) if third else None


def _turned(name: str, value: Tensor, family: Family) -> Tensor:
    return value.T if family is GPT2 and name.endswith(TRANSPOSED) else value


# --- files ---------------------------------------------------------------------------------------


def _model_in(folder: Path) -> PreTrainedModel:
    """Return the model in ``folder``, with a head; transformers fills in what its config omits."""
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
    kind = _family_named(fields.get("model_type") if isinstance(fields, dict) else None).model
    try:
        config = kind.config_class.from_dict(fields)
    except Exception as error:  # transformers and its libraries have many kinds
        raise ValueError(f"transformers cannot read {path}: {_in_a_line(error)}") from error
    our_config(config)  # what we do not support is refused before weights are read
    return _read(kind, folder, config)


def _read(kind: type[PreTrainedModel], folder: Path, config: PreTrainedConfig) -> PreTrainedModel:
    path = folder / "model.safetensors"
    if not path.is_file() and not path.with_suffix(".safetensors.index.json").is_file():
        others = ", ".join(sorted(other.name for other in folder.glob("*.bin")))
        others = others and f" {others}: an older format, which can hide programs; convert it."
        raise FileNotFoundError(
            f"{path} is missing; expected a folder with config.json and model.safetensors.{others}"
        )
    try:
        model, report = kind.from_pretrained(
            folder,
            config=config,
            dtype="auto",
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # we report them below
            output_loading_info=True,
        )
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"the weights in {folder} cannot be read ({_in_a_line(error)}); fetch the files again."
        ) from error
    for name, found, expected in sorted(report["mismatched_keys"]):
        raise RuntimeError(
            f"the weights have {name} as {tuple(found)}; a model of this config has it as "
            f"{tuple(expected)}."
        )
    _refuse_weights(report["missing_keys"], report["unexpected_keys"])
    return model


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())
