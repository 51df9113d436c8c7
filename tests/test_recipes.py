"""The two recipes: what they build, and that they learn."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from course_utils import corpora, training
from course_utils.gpt import GPT, GPTConfig
from course_utils.recipes import RECIPES, recipe
from course_utils.training import TrainConfig

CHAPTER = Path(__file__).resolve().parents[1] / "notebooks/08_train_a_mini_llm.ipynb"


@pytest.mark.parametrize("name", RECIPES)
def test_each_has_about_0_8_million_parameters(name):
    gpt, train = recipe(name, vocab_size=65, steps=1000)
    assert GPT(gpt).num_parameters() == pytest.approx(0.81e6, rel=0.03)
    assert train.steps == 1000


def test_classic_is_what_chapter_8_teaches():
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names = {"GPTConfig": GPTConfig, "TrainConfig": TrainConfig, "V": 65}
    for start in ("config = GPTConfig(", "run = TrainConfig("):
        [line] = [s.splitlines()[0] for s in sources if s.startswith(start)]
        exec(line, names)
    gpt, train = recipe("classic", 65, names["run"].steps)
    assert gpt == names["config"]
    assert replace(train, eval_every=names["run"].eval_every) == names["run"]


def test_fast_learns_more_than_classic_in_as_many_characters(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    text = corpora.load_text()
    ids = torch.tensor(corpora.CharTokenizer.from_text(text).encode(text))
    train_ids, val_ids = corpora.split(ids)
    losses = {}
    for name, steps in (("classic", 120), ("fast", 60)):
        gpt, config = recipe(name, 65, steps)
        assert steps * gpt.block_size * config.batch_size == 120 * 64 * 16
        torch.manual_seed(0)
        model = GPT(gpt)
        training.train(model, train_ids, val_ids, replace(config, eval_every=steps))
        losses[name] = training.evaluate(model, val_ids[:20_000])
    assert losses["fast"] < losses["classic"] - 0.1


def test_unknown_recipes_are_refused():
    with pytest.raises(ValueError, match="name='slow' is not one of classic, fast"):
        recipe("slow", 65, 100)
