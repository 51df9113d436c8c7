"""What the kernel answers a living figure: the numbers of transformers' own models, in words or not."""

import numpy as np
import pytest
import torch

from course_utils import corpora, plots, pretrained
from course_utils.bpe import BPETokenizer
from course_utils.gpt import GPT, GPTConfig
from course_widgets import kernel, live

TEXT = "The cat sat on the mat"


@pytest.fixture(scope="module", params=["gpt2", "smollm2"])
def theirs(request):
    """A model of transformers that gives its attention weights, and its tokenizer."""
    return pretrained.load(request.param, attn_implementation="eager")[:2]


@pytest.fixture(scope="module")
def encoder():
    return pretrained.load("bert", attn_implementation="eager")[:2]


@pytest.fixture
def small():
    """A small GPT with characters as tokens."""
    tokenizer = corpora.CharTokenizer.from_text("abcdefgh ")
    torch.manual_seed(0)
    config = GPTConfig(9, 16, n_layer=2, n_head=2, n_embd=8, mlp="gelu", positions="alibi")
    return GPT(config), tokenizer


def near(ours, expected, atol=1e-4):
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=atol)


def read(model, tokenizer, **options):
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        return ids[0].tolist(), model(ids, output_attentions=True, **options)


# --- numbers -------------------------------------------------------------------------------------


def test_next_and_trace_are_the_models_own(theirs):
    model, tokenizer = theirs
    desk = kernel.desk_for(model, tokenizer)
    ids, out = read(model, tokenizer, output_hidden_states=True)
    assert desk.encode(TEXT)["ids"] == ids and desk.decode(ids) == TEXT
    logits = out.logits[0, -1]
    answer = desk.next(ids, {"logits": True})
    near(answer["logits"], logits, atol=1e-3)
    assert [id_ for _, _, id_ in answer["top"]] == logits.topk(10).indices.tolist()
    assert "logits" not in desk.next(ids)

    trace = desk.trace(ids)
    near(trace["steps"]["logits"], logits, atol=1e-3)
    near(trace["steps"]["stream at the start"], out.hidden_states[0][0])
    near(trace["steps"]["final norm"], out.hidden_states[-1][0], atol=1e-3)
    for layer, weights in enumerate(out.attentions):
        near(trace["steps"][layer]["weights"], weights[0])
        near(trace["steps"][layer]["scores"].softmax(-1), weights[0])
        if layer:
            near(trace["steps"][layer - 1]["block out"], out.hidden_states[layer][0], atol=1e-2)
    assert len(trace["lens"]) == 2 * len(out.attentions) + 1
    assert [token for token, _ in trace["lens"][-1]] == [token for token, *_ in answer["top"][:3]]


def test_the_parts_of_a_block_add_up_under_the_names_of_chapter_6(theirs):
    desk = kernel.desk_for(*theirs)
    steps = desk.trace(desk.encode(TEXT)["ids"])["steps"]
    block, before = steps[1], steps[0]["block out"]
    near(before + block["attention"], block["after attention"])
    near(block["after attention"] + block["MLP"], block["block out"], atol=1e-3)
    (C, T), c = block["norm 1"].T.shape, desk.model.config
    d_k = C // c.n_head
    assert block["q, k and v"].shape == (T, C + 2 * (c.n_kv_head or c.n_head) * d_k)
    value = block["q, k and v"].split([C, *2 * [(block["q, k and v"].shape[1] - C) // 2]], -1)[2]
    value = value.unflatten(-1, (-1, d_k)).repeat_interleave(
        desk.model.blocks[1].attention.group, 1
    )
    near((block["weights"] @ value.transpose(0, 1)).transpose(0, 1).flatten(1), block["context"])
    near(desk.model.blocks[1].mlp.proj(block["hidden"]), block["MLP"])
    assert set(block) == {
        *("norm 1", "q, k and v", "scores", "weights", "context", "attention"),
        *("after attention", "norm 2", "widened", "hidden", "MLP", "block out"),
    }


def test_what_is_switched_off_is_off_and_then_on_again(theirs):
    model, tokenizer = theirs
    desk = kernel.desk_for(model, tokenizer)
    ids, out = read(model, tokenizer)
    steps = desk.trace(ids, {"heads": [[1, 2]], "mlps": [0]})["steps"]
    d_k = desk.sizes["n_embd"] // desk.sizes["n_head"]
    assert steps[1]["context"].unflatten(-1, (-1, d_k))[:, 2].abs().max() == 0
    assert steps[1]["context"].unflatten(-1, (-1, d_k))[:, 1].abs().max() > 0
    assert torch.equal(steps[0]["block out"], steps[0]["after attention"])
    assert (steps["logits"] - out.logits[0, -1]).abs().max() > 0.1

    open_mask = torch.zeros(1, 1, len(ids), len(ids))
    with torch.no_grad():
        seen = model(torch.tensor([ids]), attention_mask=open_mask, output_attentions=True)
    unmasked = desk.trace(ids, {"causal": False})["steps"]
    near(unmasked[0]["weights"], seen.attentions[0][0])
    near(unmasked["logits"], seen.logits[0, -1], atol=1e-3)
    near(desk.next(ids, {"logits": True})["logits"], out.logits[0, -1], atol=1e-3)


def test_only_what_is_wanted_is_sent_whole(small):
    desk = kernel.desk_for(*small)
    whole = desk.trace([0, 1, 2])["steps"]
    some = desk.trace([0, 1, 2], {}, {"names": ["scores"], "layer": 1})["steps"]
    assert set(some) == {0, 1, "stream at the start", "logits"}
    assert set(some[1]) == {"scores", *kernel.STREAM} and set(some[0]) == set(kernel.STREAM)
    assert torch.equal(some[1]["scores"], whole[1]["scores"])
    assert torch.equal(some[0]["MLP"], whole[0]["MLP"][-1:])
    stream = desk.trace([0, 1, 2], {}, {"names": ["stream at the start"], "layer": None})["steps"]
    assert torch.equal(stream["stream at the start"], whole["stream at the start"])
    assert "scores" in desk.trace([0, 1], {}, {"names": ["scores"]})["steps"][0]


def test_an_encoder_shows_its_attention(encoder):
    model, tokenizer = encoder
    desk = kernel.desk_for(model, tokenizer)
    ids, out = read(model, tokenizer)
    assert desk.encode(TEXT)["tokens"] == tokenizer.convert_ids_to_tokens(ids)
    steps = desk.trace(ids, {"causal": True}, {"names": ["scores"]})["steps"]
    for layer, weights in enumerate(out.attentions):
        near(steps[layer]["scores"].softmax(-1), weights[0])


def test_a_gpt_in_training_is_asked_as_it_is(small):
    model, tokenizer = small
    model.train()
    desk = kernel.desk_for(model, tokenizer)
    before = desk.next([1, 2], {"logits": True})["logits"]
    with torch.no_grad():
        model.lm_head.weight *= 2
        expected = model(torch.tensor([[1, 2]]))[0][0, -1]
    after = desk.next([1, 2], {"logits": True})["logits"]
    near(after, expected)
    assert model.training and (after - before).abs().max() > 0.01
    steps = desk.trace([1, 2, 3])["steps"]
    with torch.no_grad():
        near(steps["logits"], model(torch.tensor([[1, 2, 3]]))[0][0, -1])
    assert all("attend" not in vars(block.attention) for block in model.blocks)


def test_a_full_window_forgets_its_first_quarter(small):
    model, tokenizer = small
    desk = kernel.desk_for(model, tokenizer)
    ids = [n % 9 for n in range(17)]
    assert desk.next(ids) == desk.next(ids[4:])
    assert desk.next(ids[:16]) != desk.next(ids[4:16])


# --- what is refused -----------------------------------------------------------------------------


def test_bad_input_is_refused_in_sentences(small, encoder):
    model, tokenizer = small
    with pytest.raises(ValueError, match="it is another model's"):
        live.writer(model, pretrained.load_tokenizer("gpt2"), "abc")
    with pytest.raises(ValueError, match="it is another model's"):
        live.attention(encoder[0], tokenizer, "abc")
    with pytest.raises(ValueError, match=r"17 tokens; this model reads 16. Shorten it"):
        live.sampling(model, tokenizer, 17 * "a")
    with pytest.raises(ValueError, match=r"'z' .* is not in the vocabulary"):
        live.machine(model, tokenizer, "abz")
    with pytest.raises(ValueError, match="Write a character at least"):
        live.writer(model, tokenizer, "")
    with pytest.raises(ValueError, match=r"is an encoder: .* predicts no next token"):
        live.writer(*encoder, "abc")
    with pytest.raises(TypeError, match="model is a Linear; expected the course's GPT"):
        live.writer(torch.nn.Linear(2, 2), tokenizer, "abc")
    with pytest.raises(TypeError, match="expected one with encode"):
        live.writer(model, str.split, "abc")
    first = GPT(GPTConfig(9, 16, n_layer=1, n_head=1, n_embd=8, norm_first=False))
    with pytest.raises(ValueError, match="norm_first=False"):
        live.machine(first, tokenizer, "abc")


def test_no_text_is_the_token_that_begins_one():
    bpe = BPETokenizer.train("low lower lowest", 260, ["<|endoftext|>"])
    model = GPT(GPTConfig(bpe.vocab_size, 8, n_layer=1, n_head=1, n_embd=8))
    assert kernel.desk_for(model, bpe).encode("")["tokens"] == ["<|endoftext|>"]
    gpt2 = pretrained.load("gpt2")
    assert kernel.desk_for(gpt2.model, gpt2.tokenizer).encode("")["tokens"] == ["<|endoftext|>"]


# --- messages ------------------------------------------------------------------------------------


def asked(figure, name, *args):
    """Ask a figure as its script does; return the answer and its buffers."""
    sent = []
    figure.send = lambda *message: sent.append(message)
    figure._handle_custom_msg({"id": 7, "name": name, "args": args}, [])
    (answer,) = sent
    return answer


def test_numbers_travel_as_float32_beside_the_message(small):
    figure = live.machine(*small, "abc")
    answer, buffers = asked(figure, "trace", [0, 1, 2], {}, {"names": ["weights"], "layer": 1})
    place = answer["result"]["steps"]["1"]["weights"]
    sent = np.frombuffer(buffers[place["floats"]], np.float32).reshape(place["shape"])
    expected = figure.desk.trace([0, 1, 2])["steps"][1]["weights"]
    np.testing.assert_array_equal(sent, expected.numpy())
    assert answer["id"] == 7


def test_a_fault_is_a_sentence_and_nothing_else_can_be_called(small):
    figure = live.attention(*small, "abc")
    assert "this model reads 16" in asked(figure, "trace", [0] * 17)[0]["error"]
    assert "is not in the vocabulary" in asked(figure, "encode", "Z")[0]["error"]
    assert "no answer to '__init__'" in asked(figure, "__init__")[0]["error"]


def test_the_book_has_a_sentence_in_the_figures_place(small, monkeypatch):
    monkeypatch.setenv("COURSE_BOOK", "1")
    assert plots.in_book()
    shown = live.sampling(*small, "abc")
    assert "a living figure stands here" in shown.data and "GPT" in shown.data


def test_the_machine_says_what_other_designs_do(theirs, small):
    for model, tokenizer in (theirs, small):
        meanings = live.machine(model, tokenizer, "abc").stored["meanings"]
        is_llama = getattr(model.config, "model_type", "") == "llama"
        assert ("SiLU" in meanings.get("hidden", "")) == is_llama
        assert ("its mean stays" in meanings.get("norm 2", "")) == is_llama
    assert "a bias on the scores" in meanings["stream at the start"]
