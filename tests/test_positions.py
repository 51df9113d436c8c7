"""Positions, held against transformers and against what they promise."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from course_utils import positions

seeds = st.integers(0, 2**16)
quick = settings(max_examples=30, deadline=None)


@quick
@given(st.integers(1, 40), st.integers(1, 12), st.sampled_from([100.0, 10_000.0]))
def test_sinusoidal_is_its_formula(n_position, half, base):
    found = positions.sinusoidal(torch.arange(n_position), 2 * half, base)
    assert found.shape == (n_position, 2 * half)
    for t in (0, n_position // 2, n_position - 1):
        for i in range(half):
            angle = t / base ** (2 * i / (2 * half))
            assert found[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert found[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


@quick
@given(seeds, st.integers(1, 9), st.integers(1, 8), st.sampled_from([10_000.0, 100_000.0]))
def test_rotary_equals_llama(seed, T, half, base):
    torch.manual_seed(seed)
    d_k = 2 * half
    config = LlamaConfig(
        hidden_size=2 * d_k,
        num_attention_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": base},
    )
    where = torch.randint(500, (3, T))
    query, key = torch.randn(3, 2, T, d_k), torch.randn(3, 1, T, d_k)
    cos, sin = LlamaRotaryEmbedding(config)(query, where)
    expected = apply_rotary_pos_emb(query, key, cos, sin)
    table = positions.rotary_table(where[:, None], d_k, base)
    for found, wanted in zip(
        (positions.rotate(query, *table), positions.rotate(key, *table)), expected, strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@quick
@given(seeds, st.integers(0, 300), st.integers(-50, 50), st.integers(1, 16))
def test_rotary_scores_depend_only_on_the_distance(seed, position, distance, half):
    torch.manual_seed(seed)
    query, key = torch.randn(2, 2 * half, dtype=torch.float64)

    def score(at, other):
        tables = [positions.rotary_table(torch.tensor(float(p)), 2 * half) for p in (at, other)]
        a, b = (positions.rotate(x, *t) for x, t in zip((query, key), tables, strict=True))
        return (a @ b).item()

    assert score(position, position + distance) == pytest.approx(score(0, distance), abs=1e-3)


@quick
@given(seeds, st.integers(1, 20), st.integers(1, 8))
def test_rotation_keeps_lengths_and_the_number_format(seed, T, half):
    torch.manual_seed(seed)
    x, table = torch.randn(T, 2 * half), positions.rotary_table(torch.arange(T), 2 * half)
    turned = positions.rotate(x, *table)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[0], x[0])
    assert positions.rotate(x.bfloat16(), *table).dtype == torch.bfloat16


@pytest.mark.parametrize("n_head", [*range(1, 21), 25, 32])
def test_alibi_equals_bloom(n_head):
    theirs = build_alibi_tensor(torch.ones(1, 7), n_head, torch.float32).view(n_head, 7)
    # Bloom adds slope * key position, which differs from ours by a constant for each query.
    ours = positions.alibi_bias(n_head, 7, 7)[:, -1]
    torch.testing.assert_close(ours - ours[:, :1], theirs)


@quick
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 5))
def test_alibi_is_minus_slope_times_distance(n_head, n_query, extra):
    bias = positions.alibi_bias(n_head, n_query, n_query + extra)
    slopes = positions.alibi_slopes(n_head)
    for head in range(n_head):
        for query in range(n_query):
            for key in range(n_query + extra):
                wanted = -slopes[head].item() * abs(query + extra - key)
                assert bias[head, query, key].item() == pytest.approx(wanted)


@pytest.mark.parametrize("d", [2, 6, 20])
def test_float64_positions_give_float64_tables(d):
    where = torch.tensor([0.0, 1.0, 777.0], dtype=torch.float64)
    cos, sin = positions.rotary_table(where, d)
    waves = positions.sinusoidal(where, d)
    for row, t in enumerate(where.tolist()):
        for i in range(d // 2):
            angle = t / 10_000 ** (2 * i / d)
            wanted = pytest.approx([math.cos(angle), math.sin(angle)], abs=1e-12)
            assert [cos[row, i].item(), sin[row, d // 2 + i].item()] == wanted
            assert waves[row, 2 * i : 2 * i + 2].flip(0).tolist() == wanted
    bias = positions.alibi_bias(3, 2, 4, dtype=torch.float64)
    assert bias.dtype == torch.float64
    assert bias[2, 0, 0].item() == -2 * 2**-2  # the third of three heads, two tokens away


@pytest.mark.parametrize("d", [0, 1, 7, -2])
def test_odd_widths_are_refused(d):
    with pytest.raises(ValueError, match=f"{d} channels cannot be paired"):
        positions.frequencies(d)


def test_no_heads_are_refused():
    with pytest.raises(ValueError, match="n_head=0"):
        positions.alibi_slopes(0)
