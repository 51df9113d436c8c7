"""The suggested models: sizes counted from their configurations, and what to do without them."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    Qwen2Config,
)

from course_checks import suggested
from course_utils import assets

LLAMA = {"tie_word_embeddings": True}
CONFIGS = {
    "distilgpt2": GPT2Config(n_layer=6),
    "gpt2": GPT2Config(),
    "gpt2-medium": GPT2Config(n_layer=24, n_head=16, n_embd=1024),
    "smollm2": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        **LLAMA,
    ),
    "smollm2-360m": LlamaConfig(
        vocab_size=49152,
        hidden_size=960,
        intermediate_size=2560,
        num_hidden_layers=32,
        num_attention_heads=15,
        num_key_value_heads=5,
        **LLAMA,
    ),
    "qwen2.5-0.5b": Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        **LLAMA,
    ),
    "llama-3.2-1b": LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        **LLAMA,
    ),
    "gemma-2b": GemmaConfig(
        vocab_size=256000,
        hidden_size=2048,
        intermediate_size=16384,
        num_hidden_layers=18,
        num_attention_heads=8,
        num_key_value_heads=1,
        head_dim=256,
    ),
}


@pytest.mark.parametrize("suggestion", suggested.SUGGESTIONS, ids=lambda each: each.name)
def test_the_parameters_are_those_of_the_architecture(suggestion):
    with torch.device("meta"):  # shapes only
        model = AutoModelForCausalLM.from_config(CONFIGS[suggestion.name])
    model.tie_weights()
    assert sum(p.numel() for p in model.parameters()) == suggestion.n_parameters


def test_they_are_in_order_and_only_those_that_fit_are_proposed():
    sizes = [each.n_parameters for each in suggested.SUGGESTIONS]
    assert sizes == sorted(sizes)
    assert suggested.fitting(0.1) == []
    assert [each.name for each in suggested.fitting(1.0)] == ["distilgpt2", "gpt2", "smollm2"]
    assert suggested.fitting(100) == list(suggested.SUGGESTIONS)
    fits = [row["fits here"] for row in suggested.rows(1.0)]
    assert fits == ["yes"] * 3 + ["no"] * 5


def test_the_memory_of_this_machine_is_a_number_of_gb():
    assert 0.1 < suggested.free_memory_gb(torch.device("cpu")) < 10_000


def test_what_the_course_has_is_loaded_with_its_card():
    model, tokenizer, card = suggested.load("gpt2", attn_implementation="eager")
    inputs = tokenizer("The cat", return_tensors="pt")
    attentions = model(**inputs, output_attentions=True).attentions
    assert len(attentions) == model.config.n_layer
    assert card.n_parameters == sum(p.numel() for p in model.parameters())


def test_unknown_and_unreachable_models_are_explained(monkeypatch):
    with pytest.raises(KeyError, match="smollm2-360m"):
        suggested.load("gpt5")

    def no_hub(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(suggested.AutoTokenizer, "from_pretrained", no_hub)
    with pytest.raises(assets.AssetError, match="accept its licence"):
        suggested.load("llama-3.2-1b")
    with pytest.raises(assets.AssetError, match='take "gpt2" or "smollm2"'):
        suggested.load("smollm2-360m")
