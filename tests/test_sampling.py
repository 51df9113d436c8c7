"""Generation: strategies against transformers' processors, texts against its `generate`, the cache
against reading everything again, beam search against trying every text."""

import gc
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from course_utils.gpt import GPT, GPTConfig, eval_mode
from course_utils.sampling import (
    beam_search,
    generate,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    next_token,
    penalize_repetition,
    scale_temperature,
    stream,
)
from course_utils.variants import POSITIONS
from course_utils.weights import to_transformers


def tiny(seed=0, V=7, block_size=8, n_layer=2, **changes) -> GPT:
    """A small model whose next token is far from uniform, and hangs on the whole context."""
    torch.manual_seed(seed)
    config = GPTConfig(V, block_size, n_layer, n_head=2, n_embd=8, **changes)
    gpt = GPT(config).eval()
    for name, parameter in gpt.named_parameters():
        parameter.data.add_(torch.randn(parameter.shape), alpha=2.0 if "head" in name else 0.3)
    return gpt


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(seed, *shape, scale=3.0):
    return scale * torch.randn(*shape, generator=seeded(seed))


# --- strategies ----------------------------------------------------------------------------------

sizes = st.tuples(st.integers(1, 3), st.integers(1, 40))  # (B, V)
seeds = st.integers(0, 10_000)
NO_IDS = torch.zeros(0, dtype=torch.long)


@settings(deadline=None, max_examples=60)
@given(sizes, seeds, st.floats(0.05, 20))
def test_temperature_agrees_with_transformers(size, seed, temperature):
    logits = drawn(seed, *size)
    theirs = TemperatureLogitsWarper(temperature)(NO_IDS, logits)
    assert torch.equal(scale_temperature(logits, temperature), theirs)


@settings(deadline=None, max_examples=60)
@given(sizes, seeds, st.integers(1, 50), st.booleans())
def test_top_k_agrees_with_transformers_with_ties_too(size, seed, k, ties):
    logits = drawn(seed, *size).round() if ties else drawn(seed, *size)
    ours = keep_top_k(logits, k)
    assert torch.equal(ours, TopKLogitsWarper(k)(NO_IDS, logits))
    if not ties:
        assert (ours.isfinite().sum(-1) == min(k, size[1])).all()


@settings(deadline=None, max_examples=100)
@given(sizes, seeds, st.floats(0.001, 1), st.booleans())
def test_top_p_agrees_with_transformers(size, seed, top_p, double):
    logits = drawn(seed, *size).double() if double else drawn(seed, *size)
    sums = logits.double().softmax(-1).sort().values.cumsum(-1)
    assume((sums - (1 - top_p)).abs().min() > 1e-12)  # on the threshold, rounding decides
    assert torch.equal(keep_top_p(logits, top_p), TopPLogitsWarper(top_p)(NO_IDS, logits))


@pytest.mark.parametrize(
    ("probabilities", "top_p", "kept"),
    [
        ([0.3, 0.1, 0.1, 0.5], 0.8, [0.3, 0.5]),  # the two rows of transformers' own test
        ([0.15, 0.3, 0.3, 0.25], 0.8, [0.3, 0.3, 0.25]),
        ([0.5, 0.3, 0.1, 0.1], 0.8, [0.5, 0.3]),
        ([0.5, 0.3, 0.1, 0.1], 0.5, [0.5]),
        ([0.6, 0.2, 0.15, 0.05], 0.95, [0.6, 0.2, 0.15]),
        ([0.5, 0.3, 0.1, 0.1], 1e-12, [0.5]),
        ([0.5, 0.3, 0.1, 0.1], 0.85, [0.5, 0.3, 0.1, 0.1]),  # ties stay together
        ([0.5, 0.5, 0.0, 0.0], 0.999999, [0.5, 0.5]),  # logits of -inf
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_top_p_of_probabilities_that_one_can_add(probabilities, top_p, kept, dtype):
    p = torch.tensor([probabilities], dtype=dtype)
    stays = keep_top_p(p.log(), top_p).isfinite()
    assert p[stays].tolist() == torch.tensor(kept, dtype=dtype).tolist()


@pytest.mark.parametrize("scale", [1.0, 4.0, 16.0])  # 4: N(0, 16), what a model's logits look like
@pytest.mark.parametrize("top_p", [0.5, 0.9, 0.99, 0.9999, 0.999999])
def test_top_p_agrees_with_transformers_on_a_whole_vocabulary(top_p, scale):
    logits = drawn(round(scale), 2, 50_257, scale=scale)
    for exact in (logits, logits.double()):
        assert torch.equal(keep_top_p(exact, top_p), TopPLogitsWarper(top_p)(NO_IDS, exact))
    p = logits.double().softmax(-1)
    stays = keep_top_p(logits, top_p).isfinite()
    mass, least = (p * stays).sum(-1), p.where(stays, 2.0).amin(-1)
    assert (mass >= top_p - 1e-9).all() and (mass - least < top_p + 1e-9).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2000,), (2, 3, 50), (1, 0, 7)])
def test_strategies_take_half_precision_and_any_shape(dtype, shape):
    logits = drawn(3, *shape).to(dtype)
    exact = keep_top_p(logits.float(), 0.9).isfinite()
    assert torch.equal(keep_top_p(logits, 0.9).isfinite(), exact)
    for strategy in STRATEGIES.values():
        assert strategy(logits).dtype == dtype
        assert strategy(logits).shape == shape


@settings(deadline=None, max_examples=60)
@given(sizes, seeds, st.floats(0.001, 0.999))
def test_top_p_by_definition_and_ties_together(size, seed, top_p):
    """transformers keeps some of the equally likely tokens, by the order of its sort; we keep all."""
    logits = drawn(seed, *size).double().round()
    probabilities = logits.softmax(-1)
    for row, kept in zip(probabilities, keep_top_p(logits, top_p).isfinite(), strict=True):
        for p, stays in zip(row, kept, strict=True):
            before = row[row > p].sum()  # what the likelier tokens sum to
            assume((before - top_p).abs() > 1e-9)
            assert stays == (before < top_p)


def test_the_token_that_crosses_the_threshold_stays():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for top_p, n_kept in [(0.01, 1), (0.45, 1), (0.55, 2), (0.79, 2), (0.81, 3), (0.97, 4)]:
        assert keep_top_p(logits, top_p).isfinite().sum() == n_kept


@settings(deadline=None)
@given(sizes, seeds)
def test_top_p_of_one_and_min_p_of_zero_keep_everything(size, seed):
    logits = drawn(seed, *size, scale=30.0)
    assert torch.equal(keep_top_p(logits, 1.0), logits)
    assert torch.equal(keep_min_p(logits, 0.0), logits)


@settings(deadline=None, max_examples=100)
@given(sizes, seeds, st.sampled_from([0.0, 1.0]) | st.floats(0, 1), st.booleans())
def test_min_p_agrees_with_transformers_with_ties_too(size, seed, min_p, ties):
    logits = drawn(seed, *size).double()
    logits = logits.round() if ties else logits
    theirs = MinPLogitsWarper(min_p)(NO_IDS, logits)
    assert torch.equal(keep_min_p(logits, min_p), theirs)


@settings(deadline=None, max_examples=60)
@given(sizes, seeds, st.integers(0, 9), st.floats(0.2, 5))
def test_repetition_penalty_agrees_with_transformers(size, seed, T, penalty):
    logits = drawn(seed, *size)
    previous = torch.randint(size[1], (size[0], T), generator=seeded(seed))
    ours = penalize_repetition(logits, previous, penalty)
    # theirs takes no empty text; an empty one changes nothing
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(previous, logits) if T else logits
    assert torch.equal(ours, theirs)


STRATEGIES = {
    "temperature": lambda logits: scale_temperature(logits, 0.7),
    "top_k": lambda logits: keep_top_k(logits, 3),
    "top_p": lambda logits: keep_top_p(logits, 0.8),
    "min_p": lambda logits: keep_min_p(logits, 0.2),
    "penalty": lambda logits: penalize_repetition(logits, logits.argsort()[..., :4], 1.3),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_leaves_its_input_alone_and_takes_any_shape(name):
    logits = drawn(1, 2, 3, 11)
    before = logits.clone()
    out = STRATEGIES[name](logits)
    assert torch.equal(logits, before)
    for row, expected in zip(out.flatten(0, 1), logits.flatten(0, 1), strict=True):
        assert torch.equal(row, STRATEGIES[name](expected[None])[0])
    assert not torch.equal(out, logits)


@settings(deadline=None, max_examples=60)
@given(
    seed=seeds,
    temperature=st.floats(0.3, 3),
    k=st.integers(1, 12),
    top_p=st.floats(0.1, 0.99),
    min_p=st.floats(0.01, 0.5),
    penalty=st.floats(1.1, 2),
)
def test_strategies_apply_in_the_order_of_transformers(seed, temperature, k, top_p, min_p, penalty):
    logits, previous = drawn(seed, 2, 12), torch.randint(12, (2, 5), generator=seeded(seed))
    theirs = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(penalty),
            TemperatureLogitsWarper(temperature),
            TopKLogitsWarper(k),
            TopPLogitsWarper(top_p),
            MinPLogitsWarper(min_p),
        ]
    )(previous, logits).softmax(-1)
    expected = torch.multinomial(theirs, 1, generator=seeded(seed))[:, 0]
    got = next_token(
        logits,
        previous=previous,
        temperature=temperature,
        top_k=k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=penalty,
        generator=seeded(seed),
    )
    assert torch.equal(got, expected)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_probabilities(temperature):
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0])
    tokens = next_token(logits.expand(20_000, 4), temperature=temperature, generator=seeded())
    share = tokens.bincount(minlength=4) / 20_000
    assert torch.allclose(share, (logits / temperature).softmax(-1), atol=0.015)


def test_greedy_is_the_largest_logit_after_the_penalty():
    logits, previous = (
        torch.tensor([[3.0, 2.9, -1.0], [-0.1, -0.2, -9.0]]),
        torch.tensor([[0], [0]]),
    )
    assert next_token(logits, greedy=True).tolist() == [0, 0]
    penalized = next_token(logits, greedy=True, previous=previous, repetition_penalty=3.0)
    assert penalized.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ({"temperature": 0}, r"temperature=0 must be above 0.*use greedy=True"),
        ({"temperature": -0.5}, r"temperature=-0\.5"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, r"top_p=0\.0"),
        ({"top_p": 1.1}, r"top_p=1\.1"),
        ({"min_p": -0.1}, r"min_p=-0\.1"),
        ({"min_p": 1.1}, r"min_p=1\.1"),
        ({"temperature": "0.7"}, "temperature='0.7' must be"),
        ({"temperature": None}, "temperature=None must be"),
        ({"top_k": 2.5}, r"top_k=2\.5 must be a whole number"),
        ({"top_k": math.nan}, "top_k=nan must be a whole number"),
        ({"top_k": True}, "top_k=True must be a whole number"),
        ({"top_p": math.nan}, "top_p=nan"),
        ({"top_p": "0.9"}, "top_p='0.9'"),
        ({"min_p": math.nan}, "min_p=nan"),
        ({"repetition_penalty": math.nan}, "repetition_penalty=nan"),
        ({"repetition_penalty": math.inf}, "repetition_penalty=inf must be above 0 and finite"),
        ({"repetition_penalty": 0}, "repetition_penalty=0 must be above 0"),
        ({"repetition_penalty": -1.0}, r"repetition_penalty=-1\.0"),
    ],
)
def test_impossible_strategies_are_refused_at_the_call(strategy, message):
    with pytest.raises(ValueError, match=message):
        next_token(torch.zeros(1, 5), previous=torch.tensor([[0]]), **strategy)
    with pytest.raises(ValueError, match=message):
        stream(tiny(), [[1]], 0, **strategy)  # no step is taken


def test_a_penalty_needs_the_text():
    with pytest.raises(ValueError, match="needs previous="):
        next_token(torch.zeros(1, 5), repetition_penalty=1.2)


@pytest.mark.parametrize(
    ("logits", "previous", "message"),
    [
        (torch.zeros(5), [[0]], r"logits has shape \(5,\); expected \(B, V\).*logits\[None\]"),
        (torch.zeros(1, 3, 5), [[0]], r"logits has shape \(1, 3, 5\).*logits\[:, -1\]"),
        (torch.zeros(1, 5), [[5]], "ids range from 5 to 5; the vocabulary has 5 tokens"),
        (torch.zeros(1, 5), [[-1]], "ids range from -1"),
        (torch.zeros(1, 5), [[1.0]], "previous is torch.float32"),
        (torch.zeros(2, 5), [[1]], r"previous is torch.int64 of shape \(1, 1\)"),
        (torch.zeros(1, 5), [1], r"previous is torch.int64 of shape \(1,\)"),
    ],
)
def test_logits_and_texts_of_another_shape_are_refused(logits, previous, message):
    with pytest.raises(ValueError, match=message):
        next_token(logits, previous=torch.tensor(previous), repetition_penalty=1.2)


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_distribution_are_refused(bad, greedy):
    logits = torch.zeros(3, 4)
    logits[1] = bad
    with pytest.raises(ValueError, match="logits of row 1 hold nan or inf"):
        next_token(logits, greedy=greedy)
    logits[1, 1:] = 0  # one that is only ruled out does no harm
    if bad == -math.inf:
        assert next_token(logits, greedy=greedy)[1] > 0


# --- the loop ------------------------------------------------------------------------------------

prompts_of_any_length = st.lists(
    st.lists(st.integers(0, 6), min_size=1, max_size=8), min_size=1, max_size=3
)


def by_hand(gpt, prompt, n_tokens, stride=1):
    """Greedy decoding, one text, no cache: move the window when it is full, read it, append."""
    ids, begin = list(prompt), 0
    for _ in range(n_tokens):
        while len(ids) - begin > gpt.config.block_size:
            begin += stride
        with torch.no_grad():
            ids.append(gpt(torch.tensor([ids[begin:]]))[0][0, -1].argmax().item())
    return ids


@settings(deadline=None, max_examples=80)
@given(
    prompts_of_any_length,
    st.integers(0, 20),
    st.integers(1, 8),
    st.booleans(),
    st.sampled_from(POSITIONS),
    seeds,
)
def test_every_row_gets_the_text_it_gets_alone(prompts, n_tokens, stride, cache, positions, seed):
    gpt = tiny(seed, positions=positions)
    texts = generate(gpt, prompts, n_tokens, greedy=True, stride=stride, cache=cache)
    assert texts == [by_hand(gpt, prompt, n_tokens, stride) for prompt in prompts]


@settings(deadline=None, max_examples=80)
@given(
    prompts=prompts_of_any_length,
    n_tokens=st.integers(1, 20),
    stride=st.integers(1, 8),
    positions=st.sampled_from(POSITIONS),
    n_kv_head=st.sampled_from([1, 2]),
    strategy=st.sampled_from([{"greedy": True}, {"top_p": 0.9}, {"repetition_penalty": 1.5}]),
    seed=seeds,
)
def test_the_cache_changes_nothing(prompts, n_tokens, stride, positions, n_kv_head, strategy, seed):
    gpt = tiny(seed, positions=positions, n_kv_head=n_kv_head)
    cached, uncached = (
        generate(gpt, prompts, n_tokens, cache=c, stride=stride, generator=seeded(seed), **strategy)
        for c in (True, False)
    )
    assert cached == uncached


@settings(deadline=None, max_examples=25)
@given(prompts_of_any_length, st.floats(1.1, 3), seeds)
def test_the_penalty_does_not_count_padding(prompts, penalty, seed):
    options = {"greedy": True, "repetition_penalty": penalty}
    gpt = tiny(seed)
    alone = [generate(gpt, [prompt], 9, **options)[0] for prompt in prompts]
    assert generate(gpt, prompts, 9, **options) == alone


def test_the_cache_reads_every_token_once():
    """What the model is given: the prompt, then one token a step; a moved window as a whole."""
    gpt, read = tiny(block_size=8), []
    gpt.token_embedding.register_forward_pre_hook(lambda _, args: read.append(args[0].shape[1]))
    generate(gpt, [[1, 2, 3]], 12, stride=4)
    assert read == [3, 1, 1, 1, 1, 1, 5, 1, 1, 1, 5, 1]
    read.clear()
    generate(gpt, [[1, 2, 3]], 12, cache=False, stride=4)
    assert read == [3, 4, 5, 6, 7, 8, 5, 6, 7, 8, 5, 6]
    read.clear()
    generate(gpt, [[1, 2, 3]], 8)
    assert read == [3, 1, 1, 1, 1, 1, 8, 8]


def test_only_the_last_position_goes_through_the_head():
    gpt, shapes = tiny(), []
    gpt.lm_head.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    generate(gpt, [[1, 2, 3], [4]], 3, cache=False)
    beam_search(gpt, [1, 2, 3], 2, 2)
    assert shapes == [(2, 8)] * 3 + [(1, 8), (2, 8)]


def test_one_seed_one_text():
    gpt = tiny()
    texts = [generate(gpt, [[1, 2]], 30, generator=seeded(seed)) for seed in (3, 3, 4)]
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0][0]) == 32


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=4), min_size=2, max_size=3),
    st.sets(st.integers(0, 6), min_size=1, max_size=2),
    st.booleans(),
    seeds,
)
def test_texts_end_with_their_first_stop_token(prompts, stop, cache, seed):
    gpt = tiny(seed)
    options = {"cache": cache, "temperature": 1.5}
    whole = generate(gpt, prompts, 15, generator=seeded(seed), **options)
    ended = generate(gpt, prompts, 15, stop=list(stop), generator=seeded(seed), **options)
    for prompt, text, long in zip(prompts, ended, whole, strict=True):
        assert text == cut(long, len(prompt), stop)
    steps = list(stream(gpt, prompts, 15, stop=list(stop), generator=seeded(seed), **options))
    assert len(steps) == max(len(t) - len(p) for p, t in zip(prompts, ended, strict=True))


def test_stream_yields_the_tokens_of_generate_as_they_come():
    gpt, prompts = tiny(), torch.tensor([[1, 2], [3, 4]])
    steps = list(stream(gpt, prompts, 9, generator=seeded()))
    assert [step.shape for step in steps] == [(2,)] * 9
    texts = torch.cat([prompts, torch.stack(steps, 1)], dim=1).tolist()
    assert generate(gpt, prompts, 9, generator=seeded()) == texts
    rows = [torch.tensor([1, 2]), np.array([3, 4])]
    for same in (prompts.numpy(), rows, [(1, 2), range(3, 5)], tuple(rows)):
        assert generate(gpt, same, 9, generator=seeded()) == texts


def shut(tokens, other, gpt):
    tokens.close()


def run_out(tokens, other, gpt):
    list(tokens)


def collected(tokens, other, gpt):
    del tokens
    gc.collect()


def thrown_at(tokens, other, gpt):
    with pytest.raises(KeyboardInterrupt):
        tokens.throw(KeyboardInterrupt)


def fail(tokens, other, gpt):
    hook = gpt.token_embedding.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(tokens)
    hook.remove()


def evaluated(tokens, other, gpt):
    with eval_mode(gpt):
        next(other)
    next(tokens)


def other_first(tokens, other, gpt):
    other.close()
    next(tokens)


@pytest.mark.parametrize(
    "end",
    [shut, run_out, collected, thrown_at, fail, evaluated, other_first],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("frozen", [[], ["blocks.0"], ["blocks.1.mlp", "dropout"]])
def test_streams_on_one_model_do_not_disturb_each_other(end, frozen):
    gpt = tiny(dropout=0.5, block_size=30).train()
    for name in frozen:
        gpt.get_submodule(name).eval()
    modes = {name: module.training for name, module in gpt.named_modules()}
    expected = generate(gpt, [[2, 1]], 20, greedy=True)[0][2:]
    streams = [stream(gpt, [[2, 1]], 20, greedy=True) for _ in range(3)]
    seen = []
    for step in range(20):
        if step == 3:
            end(streams[0], streams[1], gpt)
            streams[0] = None
        seen += [next(streams[2]).item()]
        for tokens in streams[:2]:
            next(tokens, None) if tokens else None
        assert modes == {name: module.training for name, module in gpt.named_modules()}
        gpt(torch.tensor([[1]]))  # with dropout, as in a training step
    assert seen == expected


@pytest.mark.parametrize("training", [True, False])
def test_the_model_and_the_mode_are_left_as_they_were(training):
    gpt = tiny(dropout=0.5).train(training)
    texts = generate(gpt, [[0]], 5, greedy=True)
    beam_search(gpt, [0], 2, 2)
    assert gpt.training is training
    assert texts == generate(gpt, [[0]], 5, greedy=True)  # no dropout meanwhile
    tokens = stream(gpt, [[0]], 5)
    next(tokens)
    assert torch.is_grad_enabled()  # between two steps
    tokens.close()  # by a reader who has enough
    assert gpt.training is training
    gpt.lm_head.weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match="nan"):
        generate(gpt, [[0]], 5)
    assert gpt.training is training


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([[1]], -1), {}, "max_new_tokens=-1"),
        (([], 3), {}, "prompts is empty"),
        (([[1], []], 3), {}, "prompt 1 is empty"),
        ((torch.zeros(2, 0, dtype=torch.long), 3), {}, "prompt 0 is empty"),
        (([[1], [0] * 9], 3), {}, r"prompt 1 has 9 tokens.*block_size=8.*prompt\[-8:\]"),
        (([1, 2], 3), {}, r"write \[prompt\]"),
        ((torch.tensor([1, 2]), 3), {}, r"write \[prompt\]"),
        (("ab", 3), {}, r"write \[prompt\]"),
        (([[1, 7]], 3), {}, "prompt 0 holds 7; the vocabulary has 7 tokens, 0 to 6"),
        (([[1], [-1]], 3), {}, "prompt 1 holds -1"),
        (([[1.5]], 3), {}, "prompt 0 holds 1.5"),
        ((torch.tensor([[1.0]]), 3), {}, "prompt 0 holds 1.0"),
        ((torch.tensor([[True]]), 3), {}, "prompt 0 holds True"),
        ((np.array([[1, 7]]), 3), {}, "prompt 0 holds 7"),
        ((np.array([1, 2]), 3), {}, r"write \[prompt\]"),
        ((["ab"], 3), {}, "prompts holds text, but a model reads ids: encode it"),
        ((None, 3), {}, r"write \[prompt\]"),
        (({"input_ids": [[1]]}, 3), {}, "must hold one sequence of ids for each text"),
        ((torch.zeros(1, 1, 2, dtype=torch.long), 3), {}, "three dimensions"),
        (([[[1, 2]]], 3), {}, "three dimensions"),
        ((np.zeros((1, 1, 2), dtype=int), 3), {}, "three dimensions"),
        (([[1]], 2.5), {}, "max_new_tokens=2.5 must be a whole number"),
        (([[1]], "3"), {}, "max_new_tokens='3' must be a whole number"),
        (([[1]], None), {}, "max_new_tokens=None"),
        (([[1]], 3), {"stop": [7]}, "stop holds 7"),
        (([[1]], 3), {"stop": 6}, r"stop=6 must be a list of ids; for one id, write \[id\]"),
        (([[1]], 3), {"stop": "."}, "stop='.' must be a list of ids"),
        (([[1]], 3), {"stop": None}, "stop=None"),
        (([[1]], 3), {"stride": 1.5}, "stride=1.5"),
        (([[1]], 3), {"stride": 0}, "stride=0"),
        (([[1]], 3), {"stride": 9}, "stride=9 must be from 1 to block_size=8"),
    ],
)
def test_errors_come_before_anything_runs(arguments, options, message):
    gpt = tiny()
    gpt.register_forward_pre_hook(lambda *_: pytest.fail("the model was run"))
    gpt.token_embedding.register_forward_pre_hook(lambda *_: pytest.fail("the model was run"))
    for function in (stream, generate):
        with pytest.raises(ValueError, match=message):
            function(gpt, *arguments, **options)


def test_an_unknown_strategy_is_refused_at_the_call():
    with pytest.raises(TypeError, match="top_z"):
        stream(tiny(), [[1]], 3, top_z=1)


def test_checking_a_strategy_draws_nothing_from_the_global_generator():
    torch.manual_seed(1)
    expected = torch.rand(1)
    gpt = tiny()
    torch.manual_seed(1)
    stream(gpt, [[1]], 3)
    assert torch.equal(torch.rand(1), expected)


# --- against transformers ------------------------------------------------------------------------


KINDS = [
    {},  # GPT-2
    dict(positions="rotary", norm="rms", mlp="swiglu", bias=False, n_kv_head=1),  # Llama
]


def in_transformers(gpt: GPT) -> PreTrainedModel:
    theirs = to_transformers(gpt)
    theirs.generation_config.eos_token_id = theirs.generation_config.bos_token_id = None
    return theirs


def cut(text, n_prompt, stop):
    """The prompt and what follows, up to and including its first stop token."""
    n = next((n + 1 for n, id_ in enumerate(text) if n >= n_prompt and id_ in stop), len(text))
    return text[:n]


def their_texts(theirs, prompts, n_tokens, **options):
    """transformers' `generate` of left-padded prompts, without the padding."""
    T = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (T - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (T - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    out = theirs.generate(
        ids, attention_mask=mask, max_new_tokens=n_tokens, pad_token_id=0, **options
    )
    return [row[T - len(prompt) :] for row, prompt in zip(out.tolist(), prompts, strict=True)]


@settings(deadline=None, max_examples=12)
@given(
    st.sampled_from(KINDS),
    prompts_of_any_length,
    st.sampled_from([1, 1.4]),
    st.integers(1, 12),
    seeds,
)
def test_greedy_texts_are_those_of_transformers(kind, prompts, penalty, n_tokens, seed):
    gpt = tiny(seed, block_size=20, **kind)
    # Theirs penalises the padding's id as well, so with a penalty the prompts are of one length.
    if penalty != 1:
        prompts = [prompt[: min(map(len, prompts))] for prompt in prompts]
    theirs = their_texts(
        in_transformers(gpt), prompts, n_tokens, do_sample=False, repetition_penalty=float(penalty)
    )
    ours = generate(gpt, prompts, n_tokens, greedy=True, repetition_penalty=penalty)
    assert ours == theirs


# --- beam search ---------------------------------------------------------------------------------


def log_probability(gpt, text, n_prompt):
    with torch.no_grad():
        table = gpt(torch.tensor([text[:-1]]))[0][0].double().log_softmax(-1)
    return sum(table[t - 1, text[t]].item() for t in range(n_prompt, len(text)))


def every_text(prompt, V, n_tokens, stop):
    """All texts that end with their only stop token or have ``n_tokens`` new ones."""
    for n in range(1, n_tokens + 1):
        for new in itertools.product(range(V), repeat=n):
            inside_is_free = not stop & set(new[:-1])
            if inside_is_free and (n == n_tokens or new[-1] in stop):
                yield [*prompt, *new]


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=3),
    st.integers(1, 3),
    st.sampled_from([set(), {0}, {1, 2}, {0, 1, 2}]),
    st.sampled_from([0.0, 0.7, 1.0, 2.0]),
    seeds,
)
def test_enough_beams_find_the_best_of_all_texts(prompt, n_tokens, stop, length_penalty, seed):
    gpt = tiny(seed, V=3)
    scores = {
        tuple(text): log_probability(gpt, text, len(prompt))
        / (len(text) - len(prompt)) ** length_penalty
        for text in every_text(prompt, 3, n_tokens, stop)
    }
    found = beam_search(
        gpt, prompt, n_tokens, 3**n_tokens, stop=list(stop), length_penalty=length_penalty
    )
    assert {tuple(text) for text, _ in found} == set(scores)
    for text, score in found:
        assert score == pytest.approx(scores[tuple(text)], abs=1e-4)
    assert [score for _, score in found] == sorted((s for _, s in found), reverse=True)


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
    st.integers(0, 8),
    st.sets(st.integers(0, 6), max_size=3),
    st.sampled_from(POSITIONS),
    seeds,
)
def test_one_beam_is_greedy_decoding(prompt, n_tokens, stop, positions, seed):
    gpt = tiny(seed, block_size=12, positions=positions)
    [(text, score)] = beam_search(gpt, prompt, n_tokens, 1, stop=list(stop), length_penalty=0.0)
    assert [text] == generate(gpt, [prompt], n_tokens, stop=list(stop), greedy=True)
    assert score == pytest.approx(
        log_probability(gpt, text, len(prompt)) if n_tokens else 0.0, abs=1e-4
    )


@settings(deadline=None, max_examples=20)
@given(
    kind=st.sampled_from(KINDS),
    prompt=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    n_tokens=st.integers(1, 8),
    n_beams=st.integers(2, 5),
    stop=st.sampled_from([[], [3], [3, 5]]),
    length_penalty=st.sampled_from([0.0, 1.0, 1.5]),
    seed=seeds,
)
def test_beams_are_those_of_transformers(
    kind, prompt, n_tokens, n_beams, stop, length_penalty, seed
):
    """Its `early_stopping=True` is our end of the search: as many finished texts as beams."""
    gpt = tiny(seed, block_size=12, **kind)
    theirs = in_transformers(gpt).generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=n_tokens,
        num_beams=n_beams,
        num_return_sequences=n_beams,
        do_sample=False,
        early_stopping=True,
        length_penalty=length_penalty,
        eos_token_id=stop or None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    ours = beam_search(gpt, prompt, n_tokens, n_beams, stop=stop, length_penalty=length_penalty)
    scores = torch.tensor([score for _, score in ours])
    assert torch.allclose(scores, theirs.sequences_scores[: len(ours)], atol=1e-4)
    for (text, _), expected in zip(ours, theirs.sequences.tolist(), strict=False):
        assert text == cut(expected, len(prompt), stop)  # what follows is their padding


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 3, 2), "prompt 0 is empty"),
        (([1], 3, 0), "n_beams=0"),
        (([1, 2], 7, 2), "2 tokens and max_new_tokens=7 are more than block_size=8"),
        (([9], 3, 2), "holds 9"),
        (([1], -1, 2), "max_new_tokens=-1"),
        (([1], 3, 1.5), "n_beams=1.5 must be a whole number"),
        (([1], 3, None), "n_beams=None"),
        (([[1]], 3, 2), "three dimensions"),
    ],
)
def test_beam_search_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        beam_search(tiny(), *arguments)
