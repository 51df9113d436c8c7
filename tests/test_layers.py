"""The layers, held against torch's own: shapes and seeds drawn by Hypothesis."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from course_utils import layers

sizes = st.integers(1, 6)
seeds = st.integers(0, 2**16)
quick = settings(max_examples=40, deadline=None)


def close(found, expected, atol=1e-5):
    torch.testing.assert_close(found, expected, atol=atol, rtol=1e-4)


@quick
@given(sizes, st.integers(0, 5))
def test_causal_mask_lets_each_query_see_itself_and_what_came_before(n_query, extra):
    n_key = n_query + extra
    mask = layers.causal_mask(n_query, n_key)
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
    weights = layers.attention_weights(query, key, mask)
    close(weights.sum(-1), torch.ones(n_batch, 2, n_query))
    assert (weights[..., ~mask] == 0).all()
    close(
        layers.scaled_dot_product_attention(query, key, value, mask),
        F.scaled_dot_product_attention(query, key, value, attn_mask=mask),
    )


def test_a_row_without_any_key_gives_nan_as_documented():
    mask = torch.tensor([[True, True], [False, False]])
    weights = layers.attention_weights(torch.randn(2, 3), torch.randn(2, 3), mask)
    assert not weights[0].isnan().any()
    assert weights[1].isnan().all()


def torch_twin(module: layers.MultiHeadAttention, n_embd: int) -> nn.MultiheadAttention:
    """Return torch's layer with the same weights."""
    twin = nn.MultiheadAttention(n_embd, module.n_head, batch_first=True)
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
    module = layers.MultiHeadAttention(n_embd, n_head, causal=causal)
    module.fused = fused
    x = torch.randn(n_batch, n_token, n_embd)
    hidden = ~layers.causal_mask(n_token) if causal else None  # torch: True means "may not look"
    expected, _ = torch_twin(module, n_embd)(x, x, x, attn_mask=hidden)
    close(module(x), expected)


@quick
@given(seeds, sizes, sizes, st.sampled_from([1, 2]), sizes, st.booleans())
def test_cross_attention_and_padding_equal_torch(seed, n_query, n_key, n_head, d_k, fused):
    torch.manual_seed(seed)
    n_embd = n_head * d_k
    module = layers.MultiHeadAttention(n_embd, n_head)
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
    module = layers.MultiHeadAttention(8, 2, causal=True)
    module.fused = fused
    x = torch.randn(2, n_old + n_new, 8)
    mask = torch.ones(2, 1, 1, n_old + n_new, dtype=torch.bool) if with_mask else None
    close(module(x[:, n_old:], x, mask), module(x)[:, n_old:])


@pytest.mark.parametrize("fused", [True, False])
def test_causal_attention_and_padding_combine(fused):
    torch.manual_seed(0)
    module = layers.MultiHeadAttention(8, 2, causal=True)
    module.fused = fused
    x = torch.randn(1, 6, 8)
    real = torch.tensor([[[[True] * 4 + [False] * 2]]])  # (B, 1, 1, T)
    close(module(x, mask=real)[:, :4], module(x[:, :4]))


@quick
@given(seeds, st.integers(2, 8))
def test_the_future_changes_nothing_in_a_block(seed, n_token):
    torch.manual_seed(seed)
    block = layers.Block(8, 2).eval()
    x = torch.randn(1, n_token, 8)
    changed = x.clone()
    changed[:, -1] += 1
    close(block(x)[:, :-1], block(changed)[:, :-1])
    assert (block(x)[:, -1] - block(changed)[:, -1]).abs().max() > 0.01


def test_without_the_mask_order_does_not_matter():
    torch.manual_seed(0)
    module = layers.MultiHeadAttention(8, 2)
    x, order = torch.randn(1, 7, 8), torch.randperm(7)
    close(module(x)[:, order], module(x[:, order]))


def test_split_heads_gives_each_head_neighbouring_channels():
    x = torch.arange(2 * 3 * 8).view(2, 3, 8).float()
    heads = layers.MultiHeadAttention(8, 4).split_heads(x)
    assert heads.shape == (2, 4, 3, 2)
    for head in range(4):
        assert torch.equal(heads[:, head], x[..., 2 * head : 2 * head + 2])


@pytest.mark.parametrize("fused", [True, False])
def test_dropout_acts_in_training_only(fused):
    torch.manual_seed(0)
    module = layers.MultiHeadAttention(8, 2, dropout=0.5)
    module.fused = fused
    x = torch.randn(2, 6, 8)
    assert not torch.allclose(module(x), module(x))
    module.eval()
    close(module(x), module(x))


def test_the_number_of_heads_costs_no_parameters():
    counts = {
        sum(p.numel() for p in layers.MultiHeadAttention(24, n_head).parameters())
        for n_head in (1, 2, 3, 4, 6)
    }
    assert counts == {4 * (24 * 24 + 24)}


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="n_embd=10 is not divisible by n_head=3"):
        layers.MultiHeadAttention(10, 3)


@pytest.mark.parametrize("gelu", ["tanh", "none"])
def test_mlp_works_position_by_position(gelu):
    torch.manual_seed(0)
    mlp = layers.MLP(6, gelu=gelu)
    x = torch.randn(2, 5, 6)
    close(mlp(x)[:, 3], mlp(x[:, 3]))
    hidden = x @ mlp.fc.weight.T + mlp.fc.bias
    if gelu == "none":
        bent = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    else:
        bent = (
            hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3))) / 2
        )
    close(mlp(x), bent @ mlp.proj.weight.T + mlp.proj.bias)


def test_block_equals_a_gpt2_block():
    from transformers import GPT2Config
    from transformers.models.gpt2.modeling_gpt2 import GPT2Block

    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=16, n_head=4, n_layer=1, attn_pdrop=0, resid_pdrop=0, attn_implementation="eager"
    )
    theirs, ours = GPT2Block(config, layer_idx=0).eval(), layers.Block(16, 4).eval()
    with torch.no_grad():
        weights, biases = theirs.attn.c_attn.weight.T.chunk(3), theirs.attn.c_attn.bias.chunk(3)
        parts = (ours.attention.query, ours.attention.key, ours.attention.value)
        for part, weight, bias in zip(parts, weights, biases, strict=True):
            part.weight.copy_(weight)  # GPT-2 stores its matrices as (in, out)
            part.bias.copy_(bias)
        for mine, other in (
            (ours.attention.proj, theirs.attn.c_proj),
            (ours.mlp.fc, theirs.mlp.c_fc),
            (ours.mlp.proj, theirs.mlp.c_proj),
        ):
            mine.weight.copy_(other.weight.T)
            mine.bias.copy_(other.bias)
        x = torch.randn(2, 5, 16)
        hidden = torch.full((5, 5), torch.finfo(torch.float32).min).triu(1)[None, None]
        expected = theirs(x, attention_mask=hidden)
        expected = expected[0] if isinstance(expected, tuple) else expected
        close(ours(x), expected)
