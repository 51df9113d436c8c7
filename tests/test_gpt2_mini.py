"""GPT-2 mini: the weights in data/ are what their card says, and the tool that made them works."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from course_utils import pretrained
from course_utils.weights import from_transformers
from tools.gpt2_mini import train
from tools.gpt2_mini.publish import trigram_probabilities
from tools.gpt2_mini.teacher import END, Teacher

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data" / "gpt2-mini"


@pytest.fixture(scope="module")
def mini():
    model = AutoModelForCausalLM.from_pretrained(DATA, dtype=torch.float32)
    return model.eval(), pretrained.load_tokenizer("gpt2")


def test_it_is_a_gpt2_and_ours_gives_its_logits(mini):
    model, tokenizer = mini
    ids = torch.tensor([tokenizer.encode("The weather is nice today, and we go for a walk. " * 10)])
    with torch.no_grad():
        difference = from_transformers(model)(ids)[0] - model(ids).logits
    assert difference.abs().max() < 1e-4
    assert sum(file.stat().st_size for file in DATA.iterdir()) < 40e6


@pytest.mark.parametrize("text", ["The weather is", "The cat sat on the", "The meaning of life is"])
def test_greedy_text_is_made_of_words_and_does_not_stand_still(mini, text):
    model, tokenizer = mini
    ids = torch.tensor([tokenizer.encode(text)])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=20,
        do_sample=False,
        pad_token_id=END,
    )
    more = out[0, ids.shape[1] :].tolist()
    assert len(set(more)) >= len(more) // 2, tokenizer.decode(more)
    assert tokenizer.decode(more).isascii()


def test_it_beats_the_trigram_model_as_its_card_says():
    with (DATA / "curve.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert float(rows[-1]["texts"]) < float(rows[0]["texts"])
    report = json.loads((DATA / "report.json").read_text())
    for name in ("texts", "addresses"):
        assert report[name]["smollm2"] < report[name]["gpt2-mini"] < report[name]["trigram"]


# --- how it was made -------------------------------------------------------------------------


def test_the_tool_writes_trains_and_publishes(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "tools.gpt2_mini", *arguments, "--folder", str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for _ in range(2):  # one batch each; the first is held out
        run("write", "--minutes", "0", "--batch-size", "6", "--longest", "70")
    run("train", "--steps", "2", "--decay", "1", "--eval-every", "1")
    again = run("train", "--steps", "3", "--decay", "1", "--eval-every", "1")
    assert "step 1" in again.splitlines()[0]  # it went on before the way down
    target = tmp_path / "gpt2-mini"
    assert "Bits per byte" in run("publish", "--target", str(target))
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    assert model.config.n_layer == train.CONFIG.n_layer


@pytest.fixture(scope="module")
def teacher():
    return Teacher()


def test_a_lesson_is_the_text_with_what_the_teacher_expected(teacher):
    prompts = [teacher.tokenizer.encode("The history of the summarization of 1984 is")] * 8
    generator = torch.Generator().manual_seed(0)
    hits, told = [], []
    for written in teacher.write(prompts, True, 100, generator):
        assert written.ids[: len(prompts[0])] == prompts[0]
        if (lesson := teacher.lesson(written)) is None:
            continue  # without a whole sentence, or no plain prose
        text = teacher.gpt2.decode(lesson.ids[1:])
        assert lesson.ids[0] == END
        assert teacher.tokenizer.decode(written.ids).startswith(text)
        np.testing.assert_allclose(lesson.share.astype(float).sum(-1), 1, atol=5e-3)
        hits += (lesson.expected == lesson.ids[:, None]).any(-1).tolist()
        told += (lesson.share.max(-1) > 1.5 / 12).tolist()
    # What the teacher drew is mostly among what it expected, and it did expect something.
    assert len(hits) > 100
    assert np.mean(hits) > 0.6
    assert np.mean(told) > 0.6


def test_reading_a_text_tells_what_writing_it_told(teacher):
    prompts = [teacher.tokenizer.encode("The old house at the end of the street")] * 3
    generator = torch.Generator().manual_seed(0)
    written = teacher.write(prompts, True, 40, generator)
    texts = [teacher.tokenizer.decode(text.ids) for text in written]
    again = list(teacher.read([*texts, "One more."], batch_size=2))  # rows of unequal length
    assert len(again) == 4
    for wrote, read in zip(written, again, strict=False):
        assert read.ids == wrote.ids
        likeliest = wrote.likely[len(prompts[0]) :, 0] == read.likely[len(prompts[0]) :, 0]
        assert likeliest.mean() > 0.9  # bfloat16 decides ties by chance
        np.testing.assert_allclose(
            read.log_share[len(prompts[0]) :, 0], wrote.log_share[len(prompts[0]) :, 0], atol=0.2
        )


def test_soft_cross_entropy_and_its_gradient_are_torchs():
    torch.manual_seed(0)
    x, weight = torch.randn(10, 6, requires_grad=True), torch.randn(9, 6, requires_grad=True)
    tokens, shares = torch.randint(9, (10, 3)), torch.rand(10, 3).softmax(-1)
    target = torch.zeros(10, 9).scatter_add_(1, tokens, shares)
    expected = F.cross_entropy(x @ weight.T, target)
    wanted = torch.autograd.grad(expected, (x, weight))
    loss = train.SoftCrossEntropy.apply(x, weight, tokens, shares)
    found = torch.autograd.grad(loss, (x, weight))
    for a, b in zip((loss, *found), (expected, *wanted), strict=True):
        torch.testing.assert_close(a, b, atol=2e-2, rtol=2e-2)  # matrix products in bfloat16


def test_trigram_probabilities_by_counting():
    ids = np.array([END, 1, 2, 3, END, 1, 2, 4])
    found = trigram_probabilities(ids, [[1, 2, 3]], strength=1.0)
    V = END + 1
    p2 = (2 + 1 / V) / (8 + 1)  # token 2: twice among eight
    p2 = (2 + p2) / (2 + 1)  # after 1: always
    p2 = (2 + p2) / (2 + 1)  # after END, 1: always
    p3 = (1 + 1 / V) / 9
    p3 = (1 + p3) / 3  # after 2: once of two
    p3 = (1 + p3) / 3
    np.testing.assert_allclose(found, [p2, p3])
