"""Attention, held against torch's own: shapes and seeds drawn by Hypothesis."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from course_utils import gpt
from course_utils.kv_cache import KVCache

sizes = st.integers(1, 6)
seeds = st.integers(0, 2**16)
quick = settings(max_examples=40, deadline=None)


def close(found, expected, atol=1e-5):
    torch.testing.assert_close(found, expected, atol=atol, rtol=1e-4)


@quick
@given(sizes, st.integers(0, 5))
def test_causal_mask_lets_each_query_see_itself_and_what_came_before(n_query, extra):
    n_key = n_query + extra
    mask = gpt.causal_mask(n_query, n_key)
    assert mask.shape == (n_query, n_key)
    assert mask.dtype == torch.bool
    for query in range(n_query):
        visible = mask[query].nonzero().flatten().tolist()
        assert visible == list(range(query + extra + 1))


@quick
@given(seeds, sizes, sizes, sizes, sizes, sizes)
def test_attention_equals_torch(seed, n_batch, n_query, n_key, d_k, d_v):
    torch.manual_seed(seed)
    query, key = torch.randn(n_batch, 2, n_query, d_k), torch.randn(n_batch, 2, n_key, d_k)
    value = torch.randn(n_batch, 2, n_key, d_v)
    mask = torch.rand(n_query, n_key) > 0.4
    mask[:, 0] = True
    weights = gpt.attention_weights(query, key, mask)
    close(weights.sum(-1), torch.ones(n_batch, 2, n_query))
    assert (weights[..., ~mask] == 0).all()
    close(
        gpt.scaled_dot_product_attention(query, key, value, mask),
        F.scaled_dot_product_attention(query, key, value, attn_mask=mask),
    )


def test_a_row_without_any_key_gives_nan_as_documented():
    mask = torch.tensor([[True, True], [False, False]])
    weights = gpt.attention_weights(torch.randn(2, 3), torch.randn(2, 3), mask)
    assert not weights[0].isnan().any()
    assert weights[1].isnan().all()


def torch_twin(module: gpt.MultiHeadAttention, n_embd: int) -> nn.MultiheadAttention:
    """Return torch's layer with the same weights."""
    twin = nn.MultiheadAttention(n_embd, n_embd // module.d_k, batch_first=True)
    parts = (module.query, module.key, module.value)
    with torch.no_grad():
        twin.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        twin.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        twin.out_proj.weight.copy_(module.proj.weight)
        twin.out_proj.bias.copy_(module.proj.bias)
    return twin.eval()


@quick
@given(seeds, sizes, sizes, st.sampled_from([1, 2, 3]), sizes, st.booleans(), st.booleans())
def test_multi_head_attention_equals_torch(seed, n_batch, n_token, n_head, d_k, causal, fused):
    torch.manual_seed(seed)
    n_embd = n_head * d_k
    module = gpt.MultiHeadAttention(n_embd, n_head, causal=causal)
    module.fused = fused
    x = torch.randn(n_batch, n_token, n_embd)
    hidden = ~gpt.causal_mask(n_token) if causal else None  # torch: True means "may not look"
    expected, _ = torch_twin(module, n_embd)(x, x, x, attn_mask=hidden)
    close(module(x), expected)


@quick
@given(seeds, sizes, sizes, st.sampled_from([1, 2]), sizes, st.booleans())
def test_cross_attention_and_padding_equal_torch(seed, n_query, n_key, n_head, d_k, fused):
    torch.manual_seed(seed)
    n_embd = n_head * d_k
    module = gpt.MultiHeadAttention(n_embd, n_head)
    module.fused = fused
    x, memory = torch.randn(3, n_query, n_embd), torch.randn(3, n_key, n_embd)
    real = torch.arange(n_key) < torch.tensor([1, n_key, max(1, n_key - 1)])[:, None]  # (B, T_k)
    expected, _ = torch_twin(module, n_embd)(x, memory, memory, key_padding_mask=~real)
    close(module(x, memory, real[:, None, None, :]), expected)


@quick
@given(seeds, sizes, st.integers(1, 4), st.booleans(), st.booleans())
def test_causal_with_fewer_queries_than_keys_gives_the_last_rows(
    seed, n_new, n_old, fused, with_mask
):
    # As in generation with a cache: the queries are the last ones of the sequence.
    torch.manual_seed(seed)
    module = gpt.MultiHeadAttention(8, 2, causal=True)
    module.fused = fused
    x = torch.randn(2, n_old + n_new, 8)
    mask = torch.ones(2, 1, 1, n_old + n_new, dtype=torch.bool) if with_mask else None
    close(module(x[:, n_old:], x, mask), module(x)[:, n_old:])


@pytest.mark.parametrize("fused", [True, False])
def test_causal_attention_and_padding_combine(fused):
    torch.manual_seed(0)
    module = gpt.MultiHeadAttention(8, 2, causal=True)
    module.fused = fused
    x = torch.randn(1, 6, 8)
    real = torch.tensor([[[[True] * 4 + [False] * 2]]])  # (B, 1, 1, T)
    close(module(x, mask=real)[:, :4], module(x[:, :4]))


def test_without_the_mask_order_does_not_matter():
    torch.manual_seed(0)
    module = gpt.MultiHeadAttention(8, 2)
    x, order = torch.randn(1, 7, 8), torch.randperm(7)
    close(module(x)[:, order], module(x[:, order]))


def test_split_heads_gives_each_head_neighbouring_channels():
    x = torch.arange(2 * 3 * 8).view(2, 3, 8).float()
    heads = gpt.MultiHeadAttention(8, 4).split_heads(x)
    assert heads.shape == (2, 4, 3, 2)
    for head in range(4):
        assert torch.equal(heads[:, head], x[..., 2 * head : 2 * head + 2])


@pytest.mark.parametrize("fused", [True, False])
def test_dropout_acts_in_training_only(fused):
    torch.manual_seed(0)
    module = gpt.MultiHeadAttention(8, 2, dropout=0.5)
    module.fused = fused
    x = torch.randn(2, 6, 8)
    assert not torch.allclose(module(x), module(x))
    module.eval()
    close(module(x), module(x))


def test_the_number_of_heads_costs_no_parameters():
    counts = {
        sum(p.numel() for p in gpt.MultiHeadAttention(24, n_head).parameters())
        for n_head in (1, 2, 3, 4, 6)
    }
    assert counts == {4 * (24 * 24 + 24)}


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="n_embd=10 is not divisible by n_head=3"):
        gpt.MultiHeadAttention(10, 3)


@quick
@given(
    seeds,
    sizes,
    sizes,
    st.sampled_from([(1, 1), (2, 1), (4, 2), (6, 2), (6, 6)]),
    st.booleans(),
    st.booleans(),
)
def test_grouped_queries_equal_heads_that_are_copied(seed, B, T, heads, fused, causal):
    """Grouped-query attention is multi-head attention in which neighbours share a key head."""
    torch.manual_seed(seed)
    n_head, n_kv_head = heads
    group, d_k = n_head // n_kv_head, 4
    few = gpt.MultiHeadAttention(n_head * d_k, n_head, n_kv_head=n_kv_head, causal=causal)
    all_ = gpt.MultiHeadAttention(n_head * d_k, n_head, causal=causal)
    few.fused = fused
    state = few.state_dict()
    for name in ("key.weight", "key.bias", "value.weight", "value.bias"):
        by_head = state[name].unflatten(0, (n_kv_head, d_k))
        state[name] = by_head.repeat_interleave(group, 0).flatten(0, 1)
    all_.load_state_dict(state)
    x = torch.randn(B, T, n_head * d_k)
    close(few(x), all_(x))


@quick
@given(seeds, sizes, sizes)
def test_a_mask_of_numbers_is_added_to_the_scores(seed, T_q, T_k):
    torch.manual_seed(seed)
    query, key, value = torch.randn(2, T_q, 4), torch.randn(2, T_k, 4), torch.randn(2, T_k, 3)
    closed = torch.rand(T_q, T_k) > 0.5
    closed[:, -1] = False
    bias = torch.randn(T_q, T_k).masked_fill(closed, -torch.inf)
    close(
        gpt.scaled_dot_product_attention(query, key, value, bias),
        F.scaled_dot_product_attention(query, key, value, attn_mask=bias),
    )


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", ["none", "boolean", "numbers"])
def test_mask_and_causality_combine_in_the_module(fused, kind):
    torch.manual_seed(0)
    module = gpt.MultiHeadAttention(8, 2, causal=True)
    module.fused = fused
    x, bias = torch.randn(2, 5, 8), torch.randn(2, 5, 5)
    allowed = torch.tensor([True, False, True, True, True]).expand(5, 5)
    mask = {"none": None, "boolean": allowed, "numbers": bias.masked_fill(~allowed, -torch.inf)}
    found = module(x, mask=mask[kind])
    scores = bias if kind == "numbers" else torch.zeros(5, 5)
    seen = gpt.causal_mask(5) if kind == "none" else gpt.causal_mask(5) & allowed
    query, key, value = (
        module.split_heads(part(x)) for part in (module.query, module.key, module.value)
    )
    out = F.scaled_dot_product_attention(query, key, value, scores.masked_fill(~seen, -torch.inf))
    close(found, module.proj(out.transpose(1, 2).flatten(2)))


@quick
@given(seeds, st.integers(1, 3), st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_a_cache_gives_what_one_reading_gives(seed, B, pieces):
    torch.manual_seed(seed)
    module = gpt.MultiHeadAttention(8, 4, n_kv_head=2, causal=True)
    x, cache = torch.randn(B, sum(pieces), 8), KVCache()
    found = torch.cat([module(part, cache=cache) for part in x.split(pieces, dim=1)], dim=1)
    assert cache.length == sum(pieces)
    close(found, module(x))


def test_a_cache_keeps_the_rows_it_is_told_to():
    torch.manual_seed(0)
    module = gpt.MultiHeadAttention(8, 2, causal=True)
    x, rows, cache = torch.randn(3, 6, 8), torch.tensor([2, 0, 2, 1]), KVCache()
    module(x[:, :5], cache=cache)
    cache.select(rows)
    close(module(x[rows, 5:], cache=cache), module(x[rows])[:, 5:])
    KVCache().select(rows)  # nothing held yet, nothing to select


@quick
@given(seeds, sizes, sizes)
def test_qk_norm_bounds_the_scores(seed, T, d_k):
    torch.manual_seed(seed)
    module = gpt.MultiHeadAttention(2 * d_k, 2, qk_norm=True).double()
    x = torch.randn(2, T, 2 * d_k).double()

    def scaled(factor):
        with torch.no_grad():
            for part in (module.query, module.key):
                part.weight.mul_(factor)
                part.bias.mul_(factor)
        return module(x)

    # Longer queries and keys change nothing: only their direction counts.
    close(scaled(1e6), scaled(1e3))


def test_cache_and_rotary_are_for_self_attention():
    module, x = gpt.MultiHeadAttention(8, 2), torch.randn(1, 3, 8)
    for options in ({"cache": KVCache()}, {"rotary": (x, x)}):
        with pytest.raises(ValueError, match="for self-attention"):
            module(x, x, **options)


def test_key_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="n_head=4 is not divisible by n_kv_head=3"):
        gpt.MultiHeadAttention(8, 4, n_kv_head=3)
    with pytest.raises(ValueError, match="n_kv_head=0"):
        gpt.MultiHeadAttention(8, 4, n_kv_head=0)
