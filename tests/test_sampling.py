"""Generation: against a loop by hand, against the probabilities, and its errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils import sampling
from course_utils.gpt import GPT, GPTConfig
from course_utils.sampling import generate, next_token, show_snapshots


def model(seed=0):
    torch.manual_seed(seed)
    gpt = GPT(GPTConfig(vocab_size=7, block_size=5, n_layer=1, n_head=2, n_embd=8)).eval()
    torch.nn.init.normal_(gpt.head.weight)  # far from uniform
    return gpt


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 3), st.integers(1, 8), st.integers(0, 9), st.integers(0, 1000))
def test_greedy_is_the_argmax_of_the_last_window(B, T, n_tokens, seed):
    gpt = model(seed)
    ids = torch.randint(7, (B, T), generator=torch.Generator().manual_seed(seed))
    expected = ids
    for _ in range(n_tokens):
        with torch.no_grad():
            logits = gpt(expected[:, -5:])[0]
        expected = torch.cat([expected, logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(generate(gpt, ids, n_tokens, temperature=0), expected)


def test_one_seed_one_text():
    gpt, ids = model(), torch.tensor([[1, 2]])
    texts = [
        generate(gpt, ids, 30, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    ]
    assert texts[0].shape == (1, 32)
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])
    assert torch.equal(texts[0][:, :2], ids)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_probabilities(temperature):
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0])
    drawn = next_token(logits.expand(20_000, 4), temperature, torch.Generator().manual_seed(0))
    share = drawn.flatten().bincount(minlength=4) / 20_000
    assert torch.allclose(share, (logits / temperature).softmax(-1), atol=0.015)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    gpt = model().train(training)
    generate(gpt, torch.tensor([[0]]), 2)
    assert gpt.training is training


@pytest.mark.parametrize(
    ("ids", "n_tokens", "temperature", "message"),
    [
        (torch.tensor([[0]]), 3, -0.1, "temperature=-0.1"),
        (torch.tensor([[0]]), -1, 1.0, "n_tokens=-1"),
        (torch.tensor([0, 1]), 3, 1.0, r"write ids\[None\]"),
        (torch.zeros(1, 0, dtype=torch.long), 3, 1.0, "at least one token"),
    ],
)
def test_errors_say_what_to_do(ids, n_tokens, temperature, message):
    with pytest.raises(ValueError, match=message):
        generate(model(), ids, n_tokens, temperature=temperature)


def test_snapshots_are_escaped_and_the_last_is_shown(monkeypatch):
    pages = []
    monkeypatch.setattr(sampling, "display", lambda page: pages.append(page.data))
    show_snapshots([("step 0", '<script>alert("x")</script>'), ('step "1" & 2', "a <b>")], "step")
    [page] = pages
    assert "<script" not in page
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in page
    assert "step &quot;1&quot; &amp; 2" in page
    assert page.count('class="course-snapshot" hidden') == 1
    assert page.index("hidden>") < page.index("a &lt;b&gt;")
    assert 'max="1"' in page
    assert "http" not in page
    with pytest.raises(ValueError, match="is empty"):
        show_snapshots([], "step")
