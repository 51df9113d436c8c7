"""Our GPT with the weights of transformers' GPT-2 and Llama: the same logits, and back."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from course_utils import assets, pretrained
from course_utils.gpt import GPT, GPTConfig
from course_utils.weights import from_transformers, to_transformers

quick = settings(deadline=None, max_examples=15)
seeds, sizes = st.integers(0, 2**16), st.integers(1, 3)


def rough(model):
    """Move every weight: fresh norms and biases are ones and zeros, which hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def gpt2(seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {"vocab_size": 13, "n_positions": 9, "n_embd": 12, "n_layer": 2, "n_head": 2}
    return rough(GPT2LMHeadModel(GPT2Config(**sizes | changes, bos_token_id=0, eos_token_id=0)))


def llama(seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": 13,
        "max_position_embeddings": 9,
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return rough(LlamaForCausalLM(LlamaConfig(**sizes | changes)))


def agree(theirs, ours, ids, atol=1e-5):
    with torch.no_grad():
        expected = theirs(ids).logits
        torch.testing.assert_close(ours(ids)[0], expected, atol=atol, rtol=1e-4)
        ours.use_fused_attention(False)
        torch.testing.assert_close(ours(ids)[0], expected, atol=atol, rtol=1e-4)


def there_and_back(theirs, kind, T):
    ours, ids = from_transformers(theirs), torch.randint(13, (2, T))
    agree(theirs, ours, ids)
    back = to_transformers(ours)
    assert isinstance(back, kind)
    for name, value in back.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
    with torch.no_grad():
        assert torch.equal(back(ids).logits, theirs(ids).logits)


@quick
@given(
    seed=seeds,
    n_layer=sizes,
    n_head=sizes,
    T=st.integers(1, 9),
    tied=st.booleans(),
    n_inner=st.sampled_from([None, 20]),
    activation=st.sampled_from(["gelu_new", "gelu"]),
)
def test_gpt2_there_and_back(seed, n_layer, n_head, T, tied, n_inner, activation):
    theirs = gpt2(
        seed,
        n_layer=n_layer,
        n_head=n_head,
        tie_word_embeddings=tied,
        n_inner=n_inner,
        activation_function=activation,
    )
    there_and_back(theirs, GPT2LMHeadModel, T)


@quick
@given(
    seed=seeds,
    n_layer=sizes,
    n_kv_head=st.sampled_from([1, 2, 4]),
    T=st.integers(1, 9),
    tied=st.booleans(),
    base=st.sampled_from([10_000.0, 100_000.0]),
    eps=st.sampled_from([1e-6, 1e-2]),
)
def test_llama_there_and_back(seed, n_layer, n_kv_head, T, tied, base, eps):
    theirs = llama(
        seed,
        num_hidden_layers=n_layer,
        num_key_value_heads=n_kv_head,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": base},
        rms_norm_eps=eps,
    )
    there_and_back(theirs, LlamaForCausalLM, T)


@pytest.mark.parametrize("name", ["smollm2", "gpt2"])
def test_real_weights(name):
    """Logits that reach into the tens and hundreds, after 30, 12 or 6 layers, equal to 1e-4."""
    try:
        found, _ = pretrained.resolve(name)
    except assets.AssetError as error:
        pytest.skip(f"{name} cannot be had here: {error}")
    theirs, tokenizer, _ = pretrained.load(name)
    ours = from_transformers(pretrained.folder_of(found) if name == "smollm2" else theirs)
    assert ours.num_parameters() == theirs.num_parameters()
    ids = tokenizer("The weather is nice today, and " * 60, return_tensors="pt").input_ids
    ids = ids[:, : tokenizer.model_max_length]  # GPT-2 mini has room for 256
    assert ids.shape[1] > 250
    with torch.no_grad():
        expected, found = theirs(ids).logits, ours(ids)[0]
    assert expected.abs().max() > 10
    assert (found - expected).abs().max() < 1e-4


def test_files_as_transformers_writes_them_and_as_the_hub_has_gpt2(tmp_path):
    theirs, ids = gpt2(), torch.randint(13, (1, 5))
    theirs.save_pretrained(tmp_path / "new")
    agree(theirs, from_transformers(tmp_path / "new"), ids)
    # The file of 2019 has no "transformer." in its names, no head, and masks among the weights.
    old = {k.removeprefix("transformer."): v for k, v in theirs.state_dict().items()}
    del old["lm_head.weight"]
    old |= {f"h.{n}.attn.bias": torch.ones(1, 1, 9, 9).tril() for n in range(2)}
    (tmp_path / "old").mkdir()
    save_file({k: v.contiguous() for k, v in old.items()}, tmp_path / "old/model.safetensors")
    config = theirs.config.to_dict()
    (tmp_path / "old/config.json").write_text(json.dumps(config))
    agree(theirs, from_transformers(str(tmp_path / "old")), ids)


def test_the_copy_is_a_copy_that_can_be_trained():
    theirs, ids = gpt2(), torch.randint(13, (1, 5))
    before, ours = theirs(ids).logits.detach(), from_transformers(theirs)
    ours(ids, ids)[1].backward()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.sub_(parameter.grad)
    assert ours.head.weight is ours.token_embedding.weight
    assert torch.equal(theirs(ids).logits, before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: llama(hidden_act="gelu"), "hidden_act='gelu'"),
        (lambda: llama(attention_bias=True), "attention_bias=True"),
        (lambda: llama(head_dim=8), "head_dim=8"),
        (lambda: gpt2(scale_attn_weights=False), "scale_attn_weights=False"),
        (lambda: gpt2(activation_function="relu"), "activation_function='relu'"),
        (lambda: gpt2(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx"),
        (lambda: BertModel(BertConfig(num_hidden_layers=1)), "model_type is 'bert'"),
    ],
)
def test_what_our_gpt_has_not_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        from_transformers(make())


def test_missing_weights_and_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing.*pass the model itself"):
        from_transformers(tmp_path)
    theirs = gpt2()
    state = {k: v.clone() for k, v in theirs.state_dict().items()}
    del state["transformer.h.1.mlp.c_fc.weight"], state["lm_head.weight"]
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(theirs.config.to_dict()))
    with pytest.raises(RuntimeError, match=r"lack transformer\.h\.1\.mlp\.c_fc\.weight"):
        from_transformers(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(theirs.config.to_dict() | {"n_layer": 1}))
    with pytest.raises(RuntimeError, match=r"hold transformer\.h\.1\."):
        from_transformers(tmp_path)


# --- a head of its own ---------------------------------------------------------------------------

MAKERS = {"gpt2": gpt2, "llama": llama}


def saved(model, folder, **fields):
    """Save ``model``, change fields of its config file (None: take out), return the folder."""
    model.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, value in fields.items():
        config.pop(name, None)
        if value is not None:
            config[name] = value
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("says", [None, True, False])
def test_a_stored_head_that_differs_is_used(tmp_path, make, says):
    folder = saved(make(tie_word_embeddings=False), tmp_path, tie_word_embeddings=says)
    theirs = type(make()).from_pretrained(folder)
    assert not torch.equal(theirs.lm_head.weight, theirs.get_input_embeddings().weight)
    for source in (folder, theirs):
        ours = from_transformers(source)
        agree(theirs, ours, torch.randint(13, (2, 5)))
        assert not ours.config.tied
        assert torch.equal(to_transformers(ours).lm_head.weight, theirs.lm_head.weight)


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("stored", ["both", "embedding", "head"])
def test_a_head_that_agrees_is_tied_if_the_config_says_so(tmp_path, make, says, stored):
    theirs = make(tie_word_embeddings=True)
    saved(theirs, tmp_path, tie_word_embeddings=says)
    state = {k: v.clone() for k, v in theirs.state_dict().items()}
    embedding = next(name for name in state if "wte" in name or "embed_tokens" in name)
    if stored != "both":
        del state[embedding if stored == "head" else "lm_head.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    if stored != "both" and not says:
        with pytest.raises(RuntimeError, match="the weights lack"):
            from_transformers(tmp_path)
        return
    ours = from_transformers(tmp_path)
    agree(theirs, ours, torch.randint(13, (2, 5)))
    assert ours.config.tied == says
    assert (ours.head.weight is ours.token_embedding.weight) == says


def test_a_head_that_was_replaced_in_memory_is_used():
    for make in (gpt2, llama):
        theirs = make(tie_word_embeddings=True)
        theirs.lm_head = torch.nn.Linear(*reversed(theirs.lm_head.weight.shape), bias=False)
        assert theirs.config.tie_word_embeddings
        agree(theirs, from_transformers(theirs), torch.randint(13, (2, 5)))


# --- scaled rotary positions ---------------------------------------------------------------------

LENGTH = 16  # max_position_embeddings of these models
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALINGS = [
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "linear", "factor": 4, "rope_theta": 500.0},
    {"rope_type": "linear", "factor": 2.5, "finetuned": True},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 3.5, "rope_theta": 500_000.0},
    {"rope_type": "dynamic", "factor": 8},
    LLAMA3 | {"original_max_position_embeddings": 4},
    LLAMA3 | {"original_max_position_embeddings": 8, "rope_theta": 500_000.0},
    LLAMA3 | {"original_max_position_embeddings": 6, "factor": 32.0, "low_freq_factor": 0.5},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4},
    {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8, "beta_fast": 2},
    {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5, "beta_slow": 0.5, "beta_fast": 1},
    {"rope_type": "yarn", "factor": 0.5, "original_max_position_embeddings": 512},
]


def scaled(scaling, seed=0):
    rope = {"rope_theta": 10_000.0} | scaling
    return llama(seed, hidden_size=64, max_position_embeddings=LENGTH, rope_parameters=rope)


@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
def test_scaled_rotary_positions_equal_transformers(scaling):
    theirs = scaled(scaling)
    ours = from_transformers(theirs)
    longest = ours.config.block_size
    assert longest == LENGTH * (
        scaling["factor"] if scaling["rope_type"] in ("linear", "dynamic") else 1
    )
    for T in (3, LENGTH, int(longest)):
        agree(theirs, ours, torch.randint(13, (2, T)), atol=1e-4)
    back = to_transformers(ours)
    assert back.config.max_position_embeddings == LENGTH
    found = back.config.rope_parameters
    assert found == {k: v for k, v in theirs.config.rope_parameters.items() if k in found}
    assert from_transformers(back).config == ours.config
    ids = torch.randint(13, (2, int(longest)))
    with torch.no_grad():
        torch.testing.assert_close(back(ids).logits, scaled(scaling)(ids).logits)


@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
def test_scaled_rotary_positions_with_a_cache_and_with_padding(scaling):
    theirs, ours = scaled(scaling), from_transformers(scaled(scaling))
    T = ours.config.block_size
    ids, cache, past = torch.randint(13, (2, T)), ours.new_cache(), None
    with torch.no_grad():
        for part in ids.split([LENGTH - 2, *[1] * (T - LENGTH + 2)], dim=1):
            expected = theirs(part, past_key_values=past, use_cache=True)
            past = expected.past_key_values
            torch.testing.assert_close(
                ours(part, cache=cache)[0], expected.logits, atol=1e-4, rtol=1e-4
            )
        n_pad = torch.tensor([3, 1])
        real = (torch.arange(T) >= n_pad[:, None]).long()
        where = (real.cumsum(-1) - 1).clamp(min=0)
        expected = scaled(scaling)(ids, attention_mask=real, position_ids=where).logits
        found = ours(ids, n_pad=n_pad)[0]
    torch.testing.assert_close(found[real.bool()], expected[real.bool()], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_scaling": {"type": "linear", "factor": 8.0}, "rope_parameters": None},
        {
            "rope_scaling": {"type": "dynamic", "factor": 2.0},
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        {
            "rope_scaling": {"type": "yarn", "factor": 2.0, "finetuned": True},
            "rope_parameters": {"rope_theta": 500.0},
            "rope_theta": 700.0,
        },
        {
            "rope_scaling": LLAMA3 | {"original_max_position_embeddings": 4},
            "rope_parameters": None,
            "rope_theta": 500_000.0,
        },
        {"rope_scaling": None, "rope_parameters": None, "rope_theta": 700.0},
    ],
    ids=str,
)
def test_scalings_of_older_files_are_obeyed(tmp_path, fields):
    folder = saved(scaled({"rope_type": "default"}), tmp_path, **fields)
    theirs = LlamaForCausalLM.from_pretrained(folder)
    ours = from_transformers(folder)
    agree(theirs, ours, torch.randint(13, (2, ours.config.block_size)), atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope_scaling": {"type": "longrope", "factor": 2.0, "short_factor": [1.0] * 8,
                           "long_factor": [2.0] * 8}}, "rope_type='longrope'"),
        ({"rope_scaling": {"type": "su", "factor": 2.0}}, "rope_type='su'"),
        ({"rope_scaling": {"rope_type": "proportional"}}, "rope_type='proportional'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "partial_rotary_factor": 0.25}},
         "partial_rotary_factor=0.25"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "mscale": 1.0, "mscale_all_dim": 0.8}},
         "mscale=1.0"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "truncate": False}}, "truncate=False"),
        ({"rope_scaling": {"type": "linear"}}, "rope_type'='linear': {'factor'}"),
        ({"rope_scaling": {"type": "llama3", "factor": 8.0}}, "rope_type'='llama3'.*freq_factor"),
        ({"rope_scaling": {"type": "yarn", "factor": -2.0}}, "factor=-2.0 in rope_scaling must"),
        ({"rope_scaling": {"type": "dynamic", "factor": True}}, "factor=True in rope_scaling must"),
        ({"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}}, "low_freq_factor=4.0.*be below"),
        ({"rope_scaling": "linear"}, "rope_parameters"),
    ],
    ids=str,
)  # fmt: skip
def test_what_we_cannot_scale_is_named(tmp_path, fields, message):
    folder = saved(scaled({"rope_type": "default"}), tmp_path, rope_parameters=None, **fields)
    with pytest.raises(ValueError, match=message):
        from_transformers(folder)


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "ntk", "factor": 2.0}, "rope_type='ntk' is not one of linear, dynamic"),
        ({"factor": 2.0}, "rope_type=None"),
        ({"rope_type": "linear", "factor": 2.0}, "lacks original_max_position_embeddings"),
        ({"rope_type": "yarn", "original_max_position_embeddings": 4}, "lacks factor"),
        (LLAMA3 | {"original_max_position_embeddings": 4, "beta_fast": 1}, "not know beta_fast"),
    ],
    ids=str,
)
def test_wrong_scalings_of_our_own_are_named(scaling, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(13, positions="rotary", rope_scaling=scaling)
    with pytest.raises(ValueError, match="rope_scaling is for rotary positions, not 'alibi'"):
        GPTConfig(13, positions="alibi", rope_scaling=SCALINGS[0])


# --- configs that leave fields out ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("gpt2", {"n_positions": None}),
        ("gpt2", {"n_inner": None, "activation_function": None}),
        ("gpt2", {"layer_norm_epsilon": None, "resid_pdrop": None, "embd_pdrop": None}),
        ("gpt2", {"activation_function": "gelu"}),
        ("llama", {"max_position_embeddings": None, "rms_norm_eps": None}),
        ("llama", {"num_key_value_heads": None, "head_dim": None}),
        ("llama", {"rope_parameters": None, "hidden_act": None, "attention_bias": None}),
        ("llama", {"hidden_act": "swish"}),
        ("llama", {"attention_dropout": 0.25}),
    ],
    ids=str,
)
def test_a_field_that_is_missing_is_transformers_default(tmp_path, kind, fields):
    whole = {
        "gpt2": lambda: gpt2(n_positions=1024, layer_norm_epsilon=1e-5),
        "llama": lambda: llama(num_key_value_heads=4, rms_norm_eps=1e-6),
    }[kind]()
    folder = saved(whole, tmp_path, **fields)
    theirs = type(whole).from_pretrained(folder)
    ours = from_transformers(folder)
    agree(theirs, ours, torch.randint(13, (2, 7)))
    back = to_transformers(ours).config.to_dict()
    for name, value in theirs.config.to_dict().items():
        if name.endswith(("_pdrop", "_dropout", "_embeddings", "_eps", "_size", "_positions")):
            assert back[name] == value, name


@pytest.mark.parametrize(
    ("dropouts", "kept"),
    [
        ({"resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.2}, 0.2),
        ({"resid_pdrop": 0, "embd_pdrop": 0.0, "attn_pdrop": 0}, 0.0),
        ({}, 0.1),
        ({"resid_pdrop": 0.0}, "resid_pdrop=0.0, embd_pdrop=0.1, attn_pdrop=0.1; our GPT has one"),
        ({"attn_pdrop": 0.3}, "attn_pdrop=0.3; our GPT has one dropout"),
        ({"resid_pdrop": 1.0, "embd_pdrop": 1.0, "attn_pdrop": 1.0}, "dropout=1.0 must be"),
    ],
    ids=str,
)
def test_dropout_is_kept_or_refused(dropouts, kept):
    theirs = gpt2(**dropouts)
    if isinstance(kept, str):
        with pytest.raises(ValueError, match=kept):
            from_transformers(theirs)
        return
    ours = from_transformers(theirs)
    assert ours.config.dropout == kept
    back = to_transformers(ours).config
    assert (back.resid_pdrop, back.embd_pdrop, back.attn_pdrop) == (kept,) * 3


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_model_in_several_files_and_its_number_format(tmp_path, make, dtype):
    theirs = make(tie_word_embeddings=False).to(dtype)
    theirs.save_pretrained(tmp_path, max_shard_size="2KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    ours = from_transformers(tmp_path)
    back = to_transformers(ours)
    assert {v.dtype for v in ours.state_dict().values()} == {dtype} == {back.dtype}
    for name, value in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name


def broken(change):
    """Return a function that saves a good model in a folder, then damages it by ``change``."""

    def make(folder):
        gpt2(tie_word_embeddings=False).save_pretrained(folder, max_shard_size="2KB")
        gpt2().save_pretrained(folder / "one")
        other = change(folder, folder / "one")
        return other if isinstance(other, Path) else folder / "one"

    return make


def only_bin(_, one):
    (one / "model.safetensors").rename(one / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda _: {"weights": 1}, TypeError, "source is a dict; expected a model"),
        (lambda _: torch.nn.Linear(2, 2), TypeError, "source is a Linear"),
        (lambda _: None, TypeError, "source is a NoneType"),
        (lambda _: GPT(GPTConfig(13)), TypeError, "source is a GPT;"),
        (lambda _: "gpt2", FileNotFoundError, "gpt2 is not a folder.*pass the model itself"),
        (lambda folder: folder / "no such", FileNotFoundError, "no such is not a folder"),
        (lambda folder: folder, FileNotFoundError, r"config\.json is missing"),
        (broken(lambda _, one: (one / "config.json").write_text("{")), ValueError, "is not JSON"),
        (broken(lambda _, one: (one / "config.json").write_text("[]")), ValueError, "model_type is None"),
        (broken(lambda _, one: (one / "config.json").write_bytes(b"\xff\xfe{")), ValueError, "not JSON"),
        (broken(lambda _, one: saved(gpt2(), one, n_layer="two")), ValueError, "cannot read.*n_layer"),
        (broken(lambda _, one: saved(gpt2(), one, model_type="gpt_neo")), ValueError, "'gpt_neo'"),
        (broken(lambda _, one: saved(gpt2(), one, n_embd=24)), RuntimeError, r"c_attn.bias as \(36,\).*as \(72,\)"),
        (
            broken(lambda _, one: (one / "model.safetensors").write_bytes(
                (one / "model.safetensors").read_bytes()[:-100])),
            ValueError, "cannot be read",
        ),
        (broken(lambda _, one: (one / "model.safetensors").write_bytes(b"")), ValueError, "cannot be read"),
        (broken(lambda _, one: (one / "model.safetensors").unlink()), FileNotFoundError, "is missing"),
        (broken(only_bin), FileNotFoundError, r"pytorch_model\.bin: an older format"),
        (
            broken(lambda folder, _: next(folder.glob("model-*")).unlink() or folder),
            ValueError, "cannot be read",
        ),
        (
            broken(lambda folder, _: (folder / "model.safetensors.index.json").write_text("{") and folder),
            ValueError, "cannot be read",
        ),
        (broken(lambda _, one: saved(gpt2(), one, quantization_config={"quant_method": "gptq"})),
         ValueError, "quantization_config"),
    ],
)  # fmt: skip
def test_what_is_no_model_is_named_in_a_sentence(tmp_path, make, error, message):
    with pytest.raises(error, match=message) as caught:
        from_transformers(make(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"positions": "alibi"},
        {"mlp": "relu2"},
        {"qk_norm": True},
        {"norm_first": False},
        {"bias": False},
        {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": True},
        {"n_kv_head": 1},
    ],
)
def test_what_neither_has_cannot_be_exported(changes):
    with pytest.raises(ValueError, match="neither GPT-2"):
        to_transformers(GPT(GPTConfig(11, 8, 1, 2, 8, **changes)))
