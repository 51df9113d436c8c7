"""The layers, held against torch's own and transformers': shapes and seeds drawn by Hypothesis."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from course_utils import layers

sizes = st.integers(1, 6)
seeds = st.integers(0, 2**16)
dtypes = st.sampled_from([torch.float32, torch.float64])
scales = st.sampled_from([0.01, 1.0, 30.0, 1e4])
quick = settings(max_examples=40, deadline=None)


def close(found, expected, atol=1e-5):
    torch.testing.assert_close(found, expected, atol=atol, rtol=1e-4)


def drawn(seed, dtype, scale, *shape):
    torch.manual_seed(seed)
    return torch.randn(shape, dtype=dtype) * scale


# --- functions -----------------------------------------------------------------------------------


@quick
@given(seeds, dtypes, scales, st.lists(sizes, min_size=1, max_size=4), st.data())
def test_softmax_equals_torch_and_does_not_overflow(seed, dtype, scale, shape, data):
    x, dim = drawn(seed, dtype, scale, *shape), data.draw(st.integers(-len(shape), len(shape) - 1))
    found = layers.softmax(x, dim)
    assert found.isfinite().all()
    close(found, x.softmax(dim))
    close(layers.softmax(x + 1000, dim), found, atol=1e-2 if dtype == torch.float32 else 1e-9)


@quick
@given(
    seeds,
    dtypes,
    scales,
    st.lists(sizes, max_size=3),
    st.integers(1, 8),
    st.sampled_from([-100, 0]),
)
def test_cross_entropy_equals_torch(seed, dtype, scale, leading, V, ignored):
    logits = drawn(seed, dtype, scale, *leading, V).requires_grad_()
    targets = torch.randint(V, leading)
    targets[torch.rand(leading) < 0.3] = ignored
    assume((targets != ignored).any())
    found = layers.cross_entropy(logits, targets, ignored)
    expected = F.cross_entropy(
        logits.reshape(-1, V), targets.reshape(-1), ignore_index=ignored, reduction="mean"
    )
    close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits), strict=True
    ):
        close(ours, theirs)


def test_cross_entropy_of_nothing_is_nan_and_targets_must_fit():
    with pytest.raises(ValueError, match="targets range from 0 to 3; logits of 3 tokens"):
        layers.cross_entropy(torch.randn(2, 3), torch.tensor([0, 3]))
    assert layers.cross_entropy(torch.randn(2, 3), torch.tensor([-100, -100])).isnan()
    with pytest.raises(ValueError, match=r"logits \(2, 4, 3\) and targets \(2, 3\)"):
        layers.cross_entropy(torch.randn(2, 4, 3), torch.zeros(2, 3, dtype=torch.long))


@quick
@given(seeds, dtypes, scales, st.lists(sizes, max_size=3), sizes, st.sampled_from([1e-5, 1e-2]))
def test_norms_equal_torch(seed, dtype, scale, leading, C, eps):
    x = drawn(seed, dtype, scale, *leading, C) + scale
    weight, bias = torch.randn(C, dtype=dtype), torch.randn(C, dtype=dtype)
    close(layers.layer_norm(x, eps=eps), F.layer_norm(x, (C,), eps=eps), atol=2e-3)
    close(
        layers.layer_norm(x, weight, bias, eps), F.layer_norm(x, (C,), weight, bias, eps), atol=5e-3
    )
    close(layers.rms_norm(x, eps=eps), F.rms_norm(x, (C,), eps=eps))
    close(layers.rms_norm(x, weight, eps), F.rms_norm(x, (C,), weight, eps))


@quick
@given(seeds, dtypes, st.sampled_from([0.01, 1.0, 30.0]), st.lists(sizes, max_size=3))
def test_activations_equal_torch(seed, dtype, scale, shape):
    x, gate = drawn(seed, dtype, scale, *shape), drawn(seed + 1, dtype, scale, *shape)
    close(layers.gelu(x), F.gelu(x))
    close(layers.gelu(x, "tanh"), F.gelu(x, approximate="tanh"))
    close(layers.silu(x), F.silu(x))
    close(layers.swiglu(gate, x), F.silu(gate) * x)


def test_activations_far_out_have_torchs_gradients():
    x = torch.tensor([-200.0, -100.0, -1.0, 0.0, 1.0, 100.0, 200.0], requires_grad=True)
    for ours, theirs in ((layers.silu, F.silu), (layers.gelu, F.gelu)):
        [found], [expected] = (torch.autograd.grad(f(x).sum(), x) for f in (ours, theirs))
        close(found, expected)


def test_the_two_forms_of_gelu_differ_by_as_little_as_said():
    x = torch.linspace(-10, 10, 100_001, dtype=torch.float64)
    assert 1e-4 < (layers.gelu(x) - layers.gelu(x, "tanh")).abs().max() < 5e-4
    with pytest.raises(ValueError, match="approximate='exact'"):
        layers.gelu(x, "exact")


# --- modules -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", layers.MLPS)
@pytest.mark.parametrize("bias", [True, False])
def test_mlp_is_its_formula_position_by_position(kind, bias):
    torch.manual_seed(0)
    mlp = layers.MLP(6, 10, kind=kind, bias=bias)
    for parameter in mlp.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 5, 6)
    hidden = F.linear(x, mlp.fc.weight, mlp.fc.bias)
    bent = {
        "gelu_tanh": lambda: layers.gelu(hidden, "tanh"),
        "gelu": lambda: layers.gelu(hidden),
        "relu2": lambda: hidden.clamp(min=0) ** 2,
        "swiglu": lambda: layers.swiglu(*hidden.chunk(2, dim=-1)),
    }[kind]()
    close(mlp(x), F.linear(bent, mlp.proj.weight, mlp.proj.bias))
    close(mlp(x)[:, 3], mlp(x[:, 3]))


def test_mlp_sizes_and_names():
    size = {kind: sum(p.numel() for p in layers.MLP(48, kind=kind).parameters()) for kind in
            layers.MLPS}  # fmt: skip
    assert size["gelu"] == 2 * 4 * 48 * 48 + 5 * 48
    assert abs(size["swiglu"] / size["gelu"] - 1) < 0.02
    with pytest.raises(ValueError, match="mlp='relu' is not one of gelu_tanh"):
        layers.MLP(4, kind="relu")
    with pytest.raises(ValueError, match="norm='batch' is not one of layer, rms"):
        layers.make_norm("batch", 4)


@quick
@given(seeds, st.lists(sizes, max_size=3), sizes, sizes, st.booleans())
def test_linear_equals_torch_for_one_token_and_many(seed, leading, n_in, n_out, bias):
    torch.manual_seed(seed)
    linear = layers.Linear(n_in, n_out, bias=bias).bfloat16()
    for shape in ((*leading, n_in), (1, 1, n_in), (n_in,)):
        x = torch.randn(shape).bfloat16()
        expected = F.linear(x, linear.weight, linear.bias)
        with torch.no_grad():
            torch.testing.assert_close(linear(x), expected, atol=0.03, rtol=0.02)
        assert linear(x).requires_grad


def test_one_token_under_autocast():
    torch.manual_seed(0)
    mlp, x = layers.MLP(6), torch.randn(1, 1, 6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(mlp(x)[0, 0], mlp(x.expand(1, 2, 6))[0, 1], atol=0.02, rtol=0.02)


@quick
@given(seeds, st.sampled_from([torch.float32, torch.bfloat16]), st.lists(sizes, max_size=3), sizes)
def test_rms_norm_equals_llamas(seed, dtype, leading, C):
    torch.manual_seed(seed)
    ours, theirs = layers.RMSNorm(C, eps=1e-3).to(dtype), LlamaRMSNorm(C, eps=1e-3).to(dtype)
    torch.nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(*leading, C).to(dtype)
    torch.testing.assert_close(ours(x), theirs(x))
