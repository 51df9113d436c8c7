"""The GPT against transformers' GPT-2, its count of parameters, its start, its errors."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from course_utils.gpt import GPT, GPTConfig

SMALL = GPTConfig(vocab_size=11, block_size=9, n_layer=2, n_head=2, n_embd=12)


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    return GPT(replace(SMALL, **changes)).eval()


def copied_to_transformers(model: GPT) -> GPT2LMHeadModel:
    c = model.config
    config = GPT2Config(
        vocab_size=c.vocab_size,
        n_positions=c.block_size,
        n_embd=c.n_embd,
        n_layer=c.n_layer,
        n_head=c.n_head,
        tie_word_embeddings=c.tied,
        activation_function="gelu_new" if c.gelu == "tanh" else "gelu",
        bos_token_id=0,
        eos_token_id=0,
    )
    theirs = GPT2LMHeadModel(config).eval()
    state = {
        "transformer.wte.weight": model.token_embedding.weight,
        "transformer.wpe.weight": model.position_embedding.weight,
        "transformer.ln_f.weight": model.norm.weight,
        "transformer.ln_f.bias": model.norm.bias,
        "lm_head.weight": model.head.weight,
    }
    for number, block in enumerate(model.blocks):
        to = f"transformer.h.{number}."
        attention = block.attention
        qkv = (attention.query, attention.key, attention.value)
        state[to + "attn.c_attn.weight"] = torch.cat([layer.weight.T for layer in qkv], dim=1)
        state[to + "attn.c_attn.bias"] = torch.cat([layer.bias for layer in qkv])
        pairs = {"attn.c_proj": attention.proj, "mlp.c_fc": block.mlp.fc}
        for name, layer in (pairs | {"mlp.c_proj": block.mlp.proj}).items():
            state[to + name + ".weight"], state[to + name + ".bias"] = layer.weight.T, layer.bias
        for name, norm in {"ln_1": block.norm1, "ln_2": block.norm2}.items():
            state[to + name + ".weight"], state[to + name + ".bias"] = norm.weight, norm.bias
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith((".attn.bias", ".attn.masked_bias")) for name in missing)
    return theirs


@settings(deadline=None, max_examples=12)
@given(
    n_layer=st.integers(1, 3),
    n_head=st.sampled_from([1, 2, 3]),
    tied=st.booleans(),
    gelu=st.sampled_from(["tanh", "none"]),
    T=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_logits_agree_with_transformers(n_layer, n_head, tied, gelu, T, seed):
    model = tiny(seed, n_layer=n_layer, n_head=n_head, tied=tied, gelu=gelu)
    for parameter in model.parameters():  # biases too, which start at zero
        parameter.data.add_(0.1 * torch.randn(parameter.shape))
    ids = torch.randint(11, (3, T))
    with torch.no_grad():
        expected = copied_to_transformers(model)(ids).logits
        assert torch.allclose(model(ids)[0], expected, atol=1e-5)
        model.use_fused_attention(False)
        assert torch.allclose(model(ids)[0], expected, atol=1e-5)


def test_the_loss_is_the_mean_cross_entropy():
    model, ids, targets = tiny(), torch.randint(11, (2, 5)), torch.randint(11, (2, 5))
    logits, loss = model(ids, targets)
    assert logits.shape == (2, 5, 11)
    assert loss.item() == pytest.approx(F.cross_entropy(logits.mT, targets).item(), rel=1e-6)
    targets[0, 3:] = -100
    expected = F.cross_entropy(
        logits.reshape(-1, 11)[[0, 1, 2, 5, 6, 7, 8, 9]], targets[targets >= 0]
    )
    assert model(ids, targets)[1].item() == pytest.approx(expected.item(), rel=1e-6)
    assert model(ids)[1] is None


def test_no_position_sees_a_later_one():
    model, ids = tiny(), torch.randint(11, (1, 9))
    changed = ids.clone()
    changed[0, 5:] = (changed[0, 5:] + 1) % 11
    with torch.no_grad():
        before, after = model(ids)[0], model(changed)[0]
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("n_layer", [1, 4, 12])
def test_the_first_guess_is_almost_uniform(tied, n_layer):
    torch.manual_seed(0)
    model = GPT(GPTConfig(65, 32, n_layer, 4, 64, tied=tied))
    x = torch.randint(65, (16, 33))
    loss = model(x[:, :-1], x[:, 1:])[1].item()
    assert abs(loss - math.log(65)) < 0.1


def test_depth_does_not_blow_up_the_residual_stream():
    sizes = []
    for n_layer in (1, 16):
        torch.manual_seed(0)
        model, seen = GPT(GPTConfig(65, 32, n_layer, 4, 64)), []
        model.norm.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].std()))
        model(torch.randint(65, (4, 32)))
        sizes.append(seen[0].item())
    assert 0.8 < sizes[1] / sizes[0] < 1.25


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 20), st.booleans())
def test_parameter_count(n_layer, n_head, block_size, V, tied):
    C = 4 * n_head
    model = GPT(GPTConfig(V, block_size, n_layer, n_head, C, tied=tied))
    expected = V * C * (1 if tied else 2) + block_size * C + n_layer * (12 * C * C + 13 * C) + 2 * C
    assert model.num_parameters() == expected
    parts = model.parameters_by_part()
    assert sum(parts.values()) == expected
    assert parts["head"] == (0 if tied else V * C)


def test_without_biases_there_are_none():
    assert not any("bias" in name for name, _ in tiny(bias=False).named_parameters())


def test_gpt2_small_has_its_well_known_size():
    with torch.device("meta"):
        model = GPT(GPTConfig(50257, 1024, 12, 12, 768, tied=True))
    assert model.num_parameters() == 124_439_808


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_embd": 10, "n_head": 3}, "n_embd=10 is not divisible by n_head=3"),
        ({"vocab_size": 0}, "vocab_size=0 must be at least 1"),
        ({"n_layer": -1}, "n_layer=-1"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"gelu": "exact"}, "gelu='exact'"),
    ],
)
def test_impossible_configs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(1, 10, dtype=torch.long), "10 positions; the model reads 1 to block_size=9"),
        (torch.zeros(1, 0, dtype=torch.long), "0 positions"),
        (torch.zeros(4, dtype=torch.long), r"write ids\[None\]"),
        (torch.tensor([[0, 11]]), "range from 0 to 11; the vocabulary has 11"),
        (torch.tensor([[-1, 3]]), "range from -1 to 3"),
    ],
)
def test_wrong_inputs_are_named(ids, message):
    with pytest.raises(ValueError, match=message):
        tiny()(ids)
