"""Our GPT with the weights of transformers' GPT-2 and Llama: the same logits, and back."""

import json

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
        (
            lambda: llama(
                rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}
            ),
            "rope_type='linear'",
        ),
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


def test_scaled_rotary_frequencies_of_older_files_are_refused(tmp_path):
    theirs = llama()
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    config |= {"rope_theta": 10_000.0, "rope_scaling": {"type": "linear", "factor": 8.0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="rope_type='linear'"):
        from_transformers(tmp_path)


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
