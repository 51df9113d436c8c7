"""The GPT and its parts but attention: cache, padding, sizes, its start, its errors."""

import json
import math
import textwrap
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from course_utils.gpt import GPT, MLP, Block, GPTConfig, MultiHeadAttention, make_norm
from course_utils.sampling import generate
from course_utils.variants import MLPS, NORMS, POSITIONS

quick = settings(deadline=None, max_examples=40)
SMALL = GPTConfig(vocab_size=11, block_size=9, n_layer=2, n_head=2, n_embd=12)


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    return GPT(replace(SMALL, **changes)).eval()


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


# --- MLP and norm --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MLPS)
@pytest.mark.parametrize("bias", [True, False])
def test_mlp_is_its_formula_position_by_position(kind, bias):
    torch.manual_seed(0)
    mlp = MLP(6, 10, kind=kind, bias=bias)
    for parameter in mlp.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 5, 6)
    h = F.linear(x, mlp.fc.weight, mlp.fc.bias)
    inner = {
        "gelu_tanh": lambda: h * (1 + torch.tanh((2 / math.pi) ** 0.5 * (h + 0.044715 * h**3))) / 2,
        "gelu": lambda: h * (1 + torch.erf(h / 2**0.5)) / 2,
        "relu2": lambda: h.clamp(min=0) ** 2,
        "swiglu": lambda: h[..., :10] * torch.sigmoid(h[..., :10]) * h[..., 10:],
    }[kind]()
    close(mlp(x), F.linear(inner, mlp.proj.weight, mlp.proj.bias))
    close(mlp(x)[:, 3], mlp(x[:, 3]))


def test_mlp_sizes_and_names():
    sizes = {kind: sum(p.numel() for p in MLP(48, kind=kind).parameters()) for kind in MLPS}
    assert sizes["gelu"] == 2 * 4 * 48 * 48 + 5 * 48
    assert abs(sizes["swiglu"] / sizes["gelu"] - 1) < 0.02
    with pytest.raises(ValueError, match="mlp='relu' is not one of gelu_tanh"):
        MLP(4, kind="relu")


def test_one_token_under_autocast():
    torch.manual_seed(0)
    mlp, x = MLP(6), torch.randn(1, 1, 6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(mlp(x)[0, 0], mlp(x.expand(1, 2, 6))[0, 1], atol=0.02, rtol=0.02)


@quick
@given(
    st.integers(0, 2**16),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.lists(st.integers(1, 6), max_size=3),
    st.integers(1, 6),
    st.sampled_from([1e-5, 1e-3]),
)
def test_rms_norm_equals_llamas(seed, dtype, leading, C, eps):
    torch.manual_seed(seed)
    config = GPTConfig(1, n_head=1, n_embd=C, norm="rms", norm_eps=eps, positions="none")
    ours, theirs = make_norm(config).to(dtype), LlamaRMSNorm(C, eps).to(dtype)
    nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(*leading, C, dtype=dtype)
    # Llama rounds to 16 bits before the weight too, so the two may be one step apart there.
    step = {"atol": 1e-2, "rtol": 2**-7} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(ours(x), theirs(x), **step)


@pytest.mark.parametrize("layer", [MLP(6), MultiHeadAttention(6, 2)])
@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 7), (6, 1)])
def test_a_layer_names_the_width_it_expects(layer, shape):
    with pytest.raises(ValueError, match=rf"x has shape .*{shape[-1]}\); .*n_embd=6 channels"):
        layer(torch.randn(shape))


# --- the model -----------------------------------------------------------------------------------


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


#: Configs drawn over every kind of part.
kinds = st.fixed_dictionaries(
    {
        "positions": st.sampled_from(POSITIONS),
        "norm": st.sampled_from(NORMS),
        "mlp": st.sampled_from(MLPS),
        "norm_first": st.booleans(),
        "qk_norm": st.booleans(),
        "bias": st.booleans(),
        "tied": st.booleans(),
        "n_kv_head": st.sampled_from([None, 1]),
    }
)


@quick
@given(kinds, st.integers(0, 1000), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_with_a_cache_as_without(changes, seed, pieces):
    model = tiny(seed, **changes)
    pieces = pieces[: max(n for n in range(1, 5) if sum(pieces[:n]) <= 9)]
    ids, cache = torch.randint(11, (2, sum(pieces))), model.new_cache()
    with torch.no_grad():
        parts = [model(part, cache=cache)[0] for part in ids.split(pieces, dim=1)]
        close(torch.cat(parts, dim=1), model(ids)[0])
        model.use_fused_attention(False)
        close(torch.cat(parts, dim=1), model(ids)[0])


@quick
@given(kinds, st.integers(0, 1000), st.integers(1, 8), st.booleans())
def test_padding_at_the_left_changes_nothing(changes, seed, T, with_cache):
    model = tiny(seed, **changes)
    n_pad = torch.tensor([0, 1, T - 1, T // 2]).clamp(max=T - 1)
    ids = torch.randint(11, (4, T + 1))
    with torch.no_grad():
        if with_cache:
            cache = model.new_cache()
            parts = [model(part, cache=cache, n_pad=n_pad)[0] for part in ids.split([T, 1], 1)]
            logits = torch.cat(parts, dim=1)
        else:
            logits = model(ids, n_pad=n_pad)[0]
        for row, n in enumerate(n_pad.tolist()):
            close(logits[row, n:], model(ids[row : row + 1, n:])[0][0])


@quick
@given(st.integers(0, 1000), st.integers(2, 8), st.booleans(), st.sampled_from(NORMS))
def test_the_future_changes_nothing_in_a_block(seed, n_token, norm_first, norm):
    torch.manual_seed(seed)
    config = GPTConfig(1, n_layer=1, n_head=2, n_embd=8, norm_first=norm_first, norm=norm)
    block = Block(config).eval()
    x = torch.randn(1, n_token, 8)
    changed = x.clone()
    changed[:, -1, 0] += 1
    close(block(x)[:, :-1], block(changed)[:, :-1])
    assert (block(x)[:, -1] - block(changed)[:, -1]).abs().max() > 0.01


@quick
@given(
    st.integers(0, 1000),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([1, 2, 4]),
    st.booleans(),
    st.booleans(),
)
def test_block_equals_torchs_encoder_layer(seed, B, T, n_head, norm_first, fused):
    """torch's layer with a causal mask is the same block, pre-norm and post-norm."""
    torch.manual_seed(seed)
    config = GPTConfig(
        1, n_layer=1, n_head=n_head, n_embd=8, norm_first=norm_first, mlp="gelu", n_hidden=12
    )
    ours = Block(config).eval()
    ours.attention.fused = fused
    theirs = nn.TransformerEncoderLayer(
        8, n_head, 12, dropout=0, activation=F.gelu, batch_first=True, norm_first=norm_first
    )
    qkv = (ours.attention.query, ours.attention.key, ours.attention.value)
    pairs = {"self_attn.out_proj": ours.attention.proj, "linear1": ours.mlp.fc}
    pairs |= {"linear2": ours.mlp.proj, "norm1": ours.norm1, "norm2": ours.norm2}
    state = {
        f"self_attn.in_proj_{kind}": torch.cat([getattr(part, kind) for part in qkv])
        for kind in ("weight", "bias")
    }
    for name, module in pairs.items():
        state |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    theirs.load_state_dict(state)
    x, hidden = torch.randn(B, T, 8), torch.ones(T, T, dtype=torch.bool).triu(1)
    close(ours(x), theirs(x, src_mask=hidden))


def test_a_full_cache_takes_no_more():
    model = tiny()
    cache = model.new_cache()
    model(torch.zeros(1, 8, dtype=torch.long), cache=cache)
    with pytest.raises(ValueError, match=r"2 positions after 8 in the cache.*new cache"):
        model(torch.zeros(1, 2, dtype=torch.long), cache=cache)


@pytest.mark.parametrize("positions", POSITIONS)
def test_order_matters_to_every_kind_of_position(positions):
    model, ids = tiny(positions=positions), torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        one, other = model(ids)[0][0, -1], model(ids[:, [2, 1, 0, 3]])[0][0, -1]
    # Without positions, the causal mask alone tells deeper layers about order, but not the first.
    assert not torch.allclose(one, other, atol=1e-4) or positions == "none"
    single = tiny(positions=positions, n_layer=1)
    with torch.no_grad():
        one, other = single(ids)[0][0, -1], single(ids[:, [2, 1, 0, 3]])[0][0, -1]
    assert torch.allclose(one, other, atol=1e-5) == (positions == "none")


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


@quick
@given(kinds, st.integers(1, 3), st.integers(1, 3))
def test_the_parts_sum_to_all_parameters(changes, n_layer, n_head):
    model = tiny(**changes, n_layer=n_layer, n_head=n_head, n_embd=4 * n_head)
    parts = model.parameters_by_part()
    assert sum(parts.values()) == model.num_parameters()
    assert parts["head"] == (0 if changes["tied"] else 11 * 4 * n_head)
    assert min(parts.values()) >= 0


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_model_in_bfloat16(positions):
    model = tiny(positions=positions).bfloat16()
    with torch.no_grad():
        assert model(torch.tensor([[1, 2, 3]]))[0].dtype == torch.bfloat16


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
        ({"vocab_size": 0}, "vocab_size=0 must be a whole number above 0"),
        ({"n_layer": -1}, "n_layer=-1"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"mlp": "relu"}, "mlp='relu' is not one of gelu_tanh"),
        ({"norm": "batch"}, "norm='batch' is not one of layer, rms"),
        ({"positions": "rope"}, "positions='rope' is not one of learned"),
        ({"n_head": 2, "n_kv_head": 3}, "n_head=2 is not divisible by n_kv_head=3"),
        ({"n_hidden": 0}, "n_hidden=0 must be a whole number above 0"),
        ({"n_kv_head": 0}, "n_kv_head=0 must be a whole number above 0"),
        ({"positions": "rotary", "n_embd": 6}, "even number of channels, not 3"),
        ({"positions": "sinusoidal", "n_embd": 7, "n_head": 1}, "not 7"),
        ({"n_layer": 1.5}, "n_layer=1.5 must be a whole number"),
        ({"n_embd": "12"}, "n_embd='12' must be a whole number"),
        ({"n_head": True}, "n_head=True must be a whole number"),
        ({"vocab_size": None}, "vocab_size=None must be a whole number"),
        ({"n_hidden": 8.0}, "n_hidden=8.0 must be a whole number"),
        ({"block_size": math.inf}, "block_size=inf must be a whole number"),
        ({"dropout": math.nan}, "dropout=nan must be a number of at least 0"),
        ({"dropout": "0.1"}, "dropout='0.1' must be a number"),
        ({"dropout": False}, "dropout=False must be a number"),
        ({"norm_eps": -1e-5}, "norm_eps=-1e-05 must be a number of at least 0"),
        ({"rope_base": 0.0}, "rope_base=0.0 must be a number above 0"),
        ({"rope_base": math.inf}, "rope_base=inf must be a number below inf"),
        ({"bias": "no"}, "bias='no' must be True or False"),
        ({"tied": 1}, "tied=1 must be True or False"),
        ({"norm": ["rms"]}, r"norm=\['rms'\] is not one of"),
    ],
)
def test_impossible_configs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


def test_numpys_numbers_are_numbers():
    config = GPTConfig(np.int64(11), n_layer=np.int32(2), n_head=2, dropout=np.float32(0.5))
    assert json.loads(json.dumps(asdict(config)))["vocab_size"] == 11
    assert config == GPTConfig(11, n_layer=2, n_head=2, dropout=0.5)


LONG = torch.zeros(2, 3, dtype=torch.long)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(1, 10, dtype=torch.long), "10 positions; the model reads 1 to block_size=9"),
        (torch.zeros(1, 0, dtype=torch.long), "0 positions.*at least one token"),
        (torch.zeros(4, dtype=torch.long), r"write ids\[None\]"),
        (torch.zeros(1, 2, 3, dtype=torch.long), r"shape \(1, 2, 3\); expected \(batch, time\)"),
        (torch.tensor([[0, 11]]), "range from 0 to 11; the vocabulary has 11"),
        (torch.tensor([[-1, 3]]), "range from -1 to 3"),
        (torch.zeros(2, 3), r"ids holds torch.float32; expected whole.*ids\.long\(\)"),
        (torch.zeros(2, 3, dtype=torch.bool), "ids holds torch.bool"),
        (torch.zeros(2, 3, dtype=torch.uint8), "ids holds torch.uint8"),
        (LONG.to("meta"), r"ids is on meta, the model on cpu. Write ids.to\('cpu'\)"),
        ([[0, 1]], r"ids is a list; .*torch.tensor\(ids\)"),
        (np.array([[0, 1]]), "ids is a ndarray"),
    ],
)
@pytest.mark.parametrize("targets", [None, LONG])
def test_wrong_inputs_are_named(ids, targets, message):
    if targets is not None and torch.is_tensor(ids):
        targets = torch.zeros_like(ids, dtype=torch.long)
    with pytest.raises(ValueError, match=message):
        tiny()(ids, targets)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (LONG[:, :2], r"targets has shape \(2, 2\) and ids \(2, 3\); expected the same"),
        (LONG.T, r"targets has shape \(3, 2\)"),
        (LONG.flatten(), r"targets has shape \(6,\)"),
        (LONG + 11, "targets range from 11 to 11; the vocabulary has 11 tokens, 0 to 10"),
        (LONG - 1, "targets range from -1 to -1"),
        (torch.tensor([[0, 1, -100], [2, -99, 3]]), "targets range from -99 to 3"),
        (LONG.float(), r"targets holds torch.float32.*targets\.long\(\)"),
        (LONG.bool(), "targets holds torch.bool"),
        (F.one_hot(LONG, 11).float(), "targets holds torch.float32"),
        (LONG.to("meta"), "targets is on meta, the model on cpu"),
        ([[0, 1, 2], [0, 1, 2]], "targets is a list"),
    ],
)
def test_wrong_targets_are_named(targets, message):
    with pytest.raises(ValueError, match=message):
        tiny()(LONG, targets)


def test_small_whole_numbers_are_ids_and_targets_too():
    model, ids = tiny(), torch.tensor([[1, 2, 3]], dtype=torch.int32)
    expected = model(ids.long(), ids.long())
    for found, wanted in zip(model(ids, ids), expected, strict=True):
        assert torch.equal(found, wanted)
    assert model(ids, torch.full_like(ids, -100))[1].isnan()


@pytest.mark.parametrize(
    ("n_pad", "message"),
    [
        (torch.tensor([0]), r"n_pad has shape \(1,\); expected one number for each row.*\(2,\)"),
        (torch.tensor([[0], [1]]), r"n_pad has shape \(2, 1\)"),
        (torch.tensor([0.0, 1.0]), "n_pad holds torch.float32"),
        ([0, 1], "n_pad is a list"),
    ],
)
def test_wrong_paddings_are_named(n_pad, message):
    with pytest.raises(ValueError, match=message):
        tiny()(LONG, n_pad=n_pad)


# --- number formats, torch.compile and torch.export ----------------------------------------------

LINEAR = {"rope_type": "linear", "factor": 2.0, "original_max_position_embeddings": 9}
EVERY_KIND = [
    {"positions": "learned"},
    {"positions": "sinusoidal", "norm": "rms", "mlp": "relu2"},
    {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "n_kv_head": 1},
    {"positions": "rotary", "rope_scaling": LINEAR, "qk_norm": True},
    {"positions": "rotary", "rope_scaling": LINEAR | {"rope_type": "dynamic"}, "n_embd": 16},
    {"positions": "rotary", "rope_scaling": LINEAR | {"rope_type": "yarn"}},
    {"positions": "alibi", "norm_first": False, "mlp": "gelu", "n_head": 12},
    {"positions": "none", "tied": True},
]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("changes", EVERY_KIND, ids=str)
def test_a_model_in_float64_is_float64_throughout(changes, fused):
    model, ids, targets = (
        tiny(**changes).double(),
        torch.randint(11, (2, 5)),
        torch.randint(11, (2, 5)),
    )
    model.use_fused_attention(fused)
    logits, loss = model(ids, targets)
    assert logits.dtype == loss.dtype == torch.float64
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    names, values = zip(*model.named_parameters(), strict=True)

    def loss_of(*values):
        return torch.func.functional_call(
            model, dict(zip(names, values, strict=True)), (ids, targets)
        )[1]

    # Steps of 1e-6 show a gradient to nine digits only if nothing is rounded to float32 on the way.
    assert torch.autograd.gradcheck(loss_of, values, fast_mode=True)
    seen = []
    model.blocks[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.extend([*args, *kwargs.values()]), with_kwargs=True
    )
    model(ids)
    tensors = [t for part in seen for t in (part if isinstance(part, tuple) else [part])]
    tensors = [t for t in tensors if isinstance(t, torch.Tensor) and t.is_floating_point()]
    assert tensors and {t.dtype for t in tensors} == {torch.float64}
    for t in tensors:  # none was rounded to float32 on its way
        assert (t != t.float().double()).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("changes", EVERY_KIND, ids=str)
def test_in_16_bits_the_loss_is_float32_and_near(changes, dtype):
    exact, ids = tiny(**changes), torch.randint(11, (2, 5))
    model = tiny(**changes).to(dtype)
    with torch.no_grad():
        logits, loss = model(ids, ids)
        assert (logits.dtype, loss.dtype) == (dtype, torch.float32)
        torch.testing.assert_close(logits.float(), exact(ids)[0], atol=0.1, rtol=0.1)


@pytest.mark.parametrize("changes", EVERY_KIND, ids=str)
def test_an_exported_model_gives_the_same_numbers(changes):
    model = tiny(**changes)
    B, T = torch.export.Dim("B", min=1, max=64), torch.export.Dim("T", min=2, max=9)
    program = torch.export.export(
        model, (torch.randint(11, (2, 5)),), dynamic_shapes=({0: B, 1: T}, None, None, None)[:1]
    )
    for shape in ((1, 2), (2, 5), (7, 9)):
        ids = torch.randint(11, shape)
        with torch.no_grad():
            close(program.module()(ids)[0], model(ids)[0])
    with pytest.raises(ValueError, match="range from 0 to 11"):
        model(torch.tensor([[0, 11]]))


@pytest.mark.parametrize("changes", EVERY_KIND[:4:3], ids=str)
def test_a_compiled_model_gives_the_same_numbers(changes):
    model, ids = tiny(**changes), torch.randint(11, (2, 5))
    with torch.no_grad():
        close(torch.compile(model, backend="aot_eager", fullgraph=True)(ids, ids)[0], model(ids)[0])


def test_the_loop_in_the_docstring_writes():
    """At a temperature near zero the likeliest token comes, as from the course's own sampler."""
    model = GPT(GPTConfig(vocab_size=30, block_size=8, n_layer=1, n_embd=16, n_head=2)).eval()
    torch.nn.init.normal_(model.lm_head.weight)  # no two logits alike
    block = GPT.__doc__.partition("again::\n")[2].partition("\n\n    :func:")[0]
    names = {"torch": torch, "model": model, "ids": torch.tensor([[1, 2, 3]]), "n_new": 12}
    exec(textwrap.dedent(block), names | {"temperature": 1e-6}, names)
    (expected,) = generate(model, [[1, 2, 3]], 12, greedy=True)
    assert names["ids"].tolist() == [expected]
