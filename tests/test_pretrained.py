"""Real models by short name: the right weights, and a card that says what stands in."""

import pytest
import torch
from transformers import BertConfig, BertForPreTraining, GPT2LMHeadModel

from course_utils import assets, pretrained


@pytest.fixture(scope="module")
def smollm2():
    return pretrained.load("smollm2", attn_implementation="eager")


@pytest.fixture(scope="module")
def bert():
    return pretrained.load("bert", attn_implementation="eager")


def test_gpt2_tokenizer_is_the_exact_one():
    tokenizer = pretrained.load_tokenizer("gpt2")
    assert len(tokenizer) == 50_257
    assert tokenizer("The quick brown fox")["input_ids"] == [464, 2068, 7586, 21831]
    assert tokenizer("cat sat on the")["input_ids"] == [9246, 3332, 319, 262]
    assert tokenizer("The weather is")["input_ids"] == [464, 6193, 318]


def test_bert_tokenizer_is_the_exact_one():
    tokenizer = pretrained.load_tokenizer("bert")
    assert len(tokenizer) == 30_522
    assert tokenizer("The animal")["input_ids"] == [101, 1996, 4111, 102]


def test_smollm2_continues_english(smollm2):
    model, tokenizer, _ = smollm2
    assert model.dtype == torch.float32
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        best = model(**inputs).logits[0, -1].topk(5).indices
    assert " Paris" in [tokenizer.decode(i) for i in best]
    config = model.config
    assert (config.num_hidden_layers, config.num_attention_heads) == (30, 9)
    assert config.num_key_value_heads == 3


def test_smollm2_tokenizer_round_trip(smollm2):
    text = "Grüße aus 東京, 12345 times!\n\tThe end."
    assert smollm2.tokenizer.decode(smollm2.tokenizer(text)["input_ids"]) == text


def test_bert_gives_attentions(bert):
    inputs = bert.tokenizer("The animal was tired.", return_tensors="pt")
    with torch.no_grad():
        attentions = bert.model(**inputs, output_attentions=True).attentions
    tokens = inputs["input_ids"].shape[1]
    assert attentions[0].shape == (1, bert.model.config.num_attention_heads, tokens, tokens)
    assert torch.allclose(attentions[0].sum(-1), torch.ones(1), atol=1e-5)


def test_card_says_what_was_loaded(bert):
    card = bert.card
    rows = card.rows()
    assert card.title == assets.manifest()[card.name].title
    assert f"{sum(p.numel() for p in bert.model.parameters()):,} parameters" in rows["Size"]
    assert rows["Licence"] == "Apache-2.0"
    if card.name != "bert":
        assert rows["Stands in for"].startswith("BERT base, uncased, which could not be fetched")
        assert "6 layers of width 384" in rows["What differs"]
    assert "Loaded" in repr(card)


def test_card_escapes_what_it_shows(bert):
    card = pretrained.Card(
        name="x",
        title="<b>x</b>",
        source="s",
        licence="l",
        homepage='https://example.org/"',
        n_parameters=1,
        n_bytes=1,
        stands_in_for="y",
        differs="</table><script>",
        reason="r",
    )
    assert "<script>" not in card._repr_html_()
    assert "<b>" not in card._repr_html_()


def test_unknown_model():
    with pytest.raises(KeyError, match="there are: gpt2, distilgpt2, bert, smollm2"):
        pretrained.load("gpt5")


def test_gpt2_is_real_or_says_what_stands_in():
    model, tokenizer, card = pretrained.load("gpt2")
    assert type(model) is GPT2LMHeadModel
    assert len(tokenizer) == model.config.vocab_size == 50_257
    assert tokenizer.model_max_length == model.config.n_positions
    assert model.lm_head.weight is model.transformer.wte.weight
    if assets.find("gpt2"):
        assert model.num_parameters() == 124_439_808
        assert card.stands_in_for is None
    else:
        assert card.name == "gpt2-mini"
        assert card.stands_in_for == "GPT-2 small"
        assert card.n_bytes < 40e6


def test_distilgpt2_is_real_or_a_clear_error():
    if assets.find("distilgpt2"):
        assert pretrained.load("distilgpt2").card.stands_in_for is None
    else:
        with pytest.raises(assets.AssetError, match=r"DistilGPT2(?s:.*)hub(?s:.*)doctor"):
            pretrained.load("distilgpt2")


def test_glove():
    pytest.importorskip("gensim", reason="gensim has no wheel for this Python")
    vectors = pretrained.load_glove()
    assert vectors.vectors.shape == (400_000, 50)
    assert vectors.similarity("king", "queen") == pytest.approx(0.784, abs=5e-4)
    mixed = vectors["king"] - vectors["man"] + vectors["woman"]
    (first, a), (second, b) = vectors.similar_by_vector(mixed, topn=2)
    assert (first, second) == ("king", "queen")
    assert (a, b) == pytest.approx((0.886, 0.861), abs=5e-4)


def test_masked_words_are_filled_in():
    """A right word is among the first guesses, from both sides of the gap."""
    model, tokenizer, card = pretrained.load_masked_lm()
    right = {
        "She opened the [MASK] and read the first chapter.": {"book", "page", "pages", "story"},
        "He poured the hot [MASK] into a cup.": {"water", "coffee", "tea", "milk", "liquid"},
        "The doctor works in a [MASK].": {"hospital", "clinic", "room", "city", "town"},
    }
    for text, words in right.items():
        inputs = tokenizer(text, return_tensors="pt")
        at = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero().item()
        with torch.no_grad():
            best = model(**inputs).logits[0, at].topk(10).indices.tolist()
        assert words & set(tokenizer.convert_ids_to_tokens(best)), tokenizer.decode(best)
    if card.stands_in_for:
        assert "head" in card.differs and card.stands_in_for == "BERT base, uncased"


def test_a_new_head_is_tied_to_the_embeddings():
    encoder, _, _ = pretrained.load("bert")
    model = pretrained.with_new_head(encoder)
    head = model.cls.predictions
    assert head.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert head.decoder.bias is head.bias
    ids = torch.tensor([[101, 2000, 102]])
    with torch.no_grad():
        ours = model.bert(ids).last_hidden_state
        assert torch.equal(ours, encoder(ids).last_hidden_state)


def test_bert_brings_its_own_head(tmp_path, monkeypatch):
    """Where the hub is reached, the head is the one in BERT's file (here a small file like it)."""
    small = BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    saved = BertForPreTraining(small)
    saved.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()  # the asset is the weights alone
    get = assets.get
    monkeypatch.setattr(assets, "get", lambda name: tmp_path if name == "bert" else get(name))
    monkeypatch.setattr(assets, "origin", lambda name: "a test")
    monkeypatch.setattr(pretrained.transformers, "BertConfig", lambda: small)
    model, tokenizer, card = pretrained.load_masked_lm()
    assert card.stands_in_for is None and card.name == "bert"
    ids = tokenizer("A [MASK] is here.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        theirs = saved.eval()(ids).prediction_logits
        torch.testing.assert_close(model(ids).logits, theirs)
