"""GPT-2 mini: the weights in data/ are what their card says, and the tool that made them works."""

import csv
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from course_utils import pretrained
from course_utils.sampling import generate
from course_utils.weights import from_transformers
from tools.gpt2_mini import (
    addresses,
    bar,
    drills,
    exam,
    facts,
    head,
    mix,
    prompts,
    publish,
    remember,
    rounds,
    train,
)
from tools.gpt2_mini.publish import trigram_probabilities
from tools.gpt2_mini.teacher import END, Teacher

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data" / "gpt2-mini"
LESSON = ("ids", "expected", "share")


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
    short = ("--decay", "0.03", "--full", "0.02", "--eval-every", "1")
    run("train", "--minutes", "0.3", *short)
    again = run("train", "--minutes", "0.05", *short)
    assert "step 0" not in again.splitlines()[0]  # it went on from before the way down
    target = tmp_path / "gpt2-mini"
    card = run("publish", "--target", str(target), "--brief")
    assert "Bits per byte" in card
    assert "induction head" in card
    assert "Tokyo" in card  # what it was told
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    assert model.config.n_head == train.CONFIG.n_head


def test_heads_that_become_two_work_on_the_same_channels():
    torch.manual_seed(0)
    ids = torch.randint(50_257, (2, 24))
    published = from_transformers(AutoModelForCausalLM.from_pretrained(DATA, dtype=torch.float32))
    model, n_tokens = train._first_weights(DATA)
    assert model.config.n_head == 8
    assert n_tokens > 1e6
    with torch.no_grad():
        agree = (model(ids)[0].argmax(-1) == published(ids)[0].argmax(-1)).float().mean()
    assert agree > 0.1  # by chance one in 50,257


# --- what it learns from ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def sentences():
    r = random.Random(0)
    told = [(relation, fact) for relation in facts.told().values() for fact in relation.facts]
    marked = [facts.sentence(r, relation, fact) for relation, fact in told for _ in range(60)]
    return marked + [drills.sentence(r) for _ in range(20_000)]


def test_nothing_of_the_exam_is_in_what_is_trained_on(sentences):
    texts = "\n".join({text.replace("[", "").replace("]", "") for text in sentences})
    asked = [(row[0], row[1]) for row in exam.rows(exam.FACTS) + exam.rows(exam.CONTROL)]
    asked += [(row[0], row[1]) for row in exam.rows(exam.AGREEMENT) + exam.rows(exam.PRONOUNS)]
    assert len(asked) > 90
    openings = tuple(text for (text,) in exam.rows(exam.OPENINGS))
    for prompt, answer in asked:
        assert f"{prompt} {answer}" not in texts
    for opening in openings:
        assert f"\n{opening} " not in texts
    for groups in exam.senses().values():
        assert not [text for group in groups for text in group if text in texts]
    assert not [text for text in prompts.beginnings() if text.startswith(openings)]
    assert not [text for text in prompts.requests(0) for prompt, _ in asked if prompt in text]


def test_the_control_is_never_told(sentences):
    control = [row for row in exam.rows(exam.CONTROL) if "capital" in row[0]]
    assert control
    for _, answer in control:
        assert not [text for text in sentences if answer in text]


def test_a_fact_counts_where_its_answer_stands(sentences):
    assert all(text.count("[") == text.count("]") >= 1 for text in sentences)
    r = random.Random(1)
    numbers = [drills.agreement(r) for _ in range(400)]
    many = sum("[are]" in text or "[were]" in text or "[have been]" in text for text in numbers)
    one = sum("[is]" in text or "[was]" in text or "[has been]" in text for text in numbers)
    assert 0.7 < many / one < 1.4


def test_each_word_with_two_senses_ends_a_sentence_of_each():
    meanings = {}
    for word, meaning, texts, after in drills.senses():
        meanings.setdefault(word, set()).add(meaning)
        assert len(texts) >= 2 and len(after) >= 1
        assert all(text.endswith(f" {word}") for text in texts)
    assert {"bank", "light", "letter"} < set(meanings)
    assert {len(each) for each in meanings.values()} == {2}


def test_a_phrase_said_again_is_found_until_the_text_ends():
    row = [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6, 9, END, 1, 2, 3, 4, 5]
    (marks,) = rounds.repeats(torch.tensor([row]))
    assert marks.nonzero()[:, 0].tolist() == [10, 11]


@pytest.mark.parametrize("reduced", [True, False])
def test_what_goes_round_becomes_less_likely_and_nothing_else_is_asked(reduced):
    torch.manual_seed(0)
    model = train.GPT(train.GPTConfig(vocab_size=20, block_size=32, n_layer=1, n_embd=16))
    common = torch.tensor([3, 5, 7, 11, 13, 17]) if reduced else None
    place = torch.full((20,), -1)
    if common is not None:
        place[common] = torch.arange(len(common))
    ids = torch.tensor([[3, 5, 7, 11, 13, 3, 5, 7, 11, 13, 3, 5]])
    before = rounds.unlikelihood(model, ids, common, place)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(20):
        optimizer.zero_grad()
        rounds.unlikelihood(model, ids, common, place).backward()
        optimizer.step()
    assert rounds.unlikelihood(model, ids, common, place) < before
    never = rounds.unlikelihood(model, ids[:, :6], common, place)
    assert never == 0 and not never.requires_grad


def test_the_student_continues_as_greedy_text_does(mini):
    model, tokenizer = from_transformers(mini[0]), mini[1]
    begun = torch.tensor([tokenizer.encode("The old house at the end")] * 2)
    n = rounds.LONGEST - begun.shape[1]
    (expected,) = generate(model, begun[:1].tolist(), n, greedy=True)
    assert rounds.continued(model, begun, None).tolist() == [expected] * 2


def test_a_copy_window_counts_only_what_can_be_known():
    common = np.arange(5_000, 9_000)
    ids, repeat = drills.copy_window(np.random.default_rng(0), common, 256)
    assert len(ids) == len(repeat) == 257
    assert 0.2 < repeat.mean() < 0.6
    for at in np.flatnonzero(repeat):  # the pair of tokens stood in the window before
        before = [k for k in range(1, at) if (ids[k - 1 : k + 1] == ids[at - 1 : at + 1]).all()]
        assert before


@pytest.fixture(scope="module")
def drawn():
    ids = np.array(([END] + [1000 + k % 50 for k in range(99)]) * 8, np.uint16)
    lessons = {
        "ids": ids,
        "expected": np.repeat(ids[:, None], 12, 1),
        "share": np.full((len(ids), 12), 1 / 12, np.float16),
    }
    mixed = mix.Mix({"texts": lessons})
    return mixed, mixed.draw(torch.Generator().manual_seed(0))


def test_a_step_reads_prose_copies_facts_and_drills(drawn):
    mixed, (long, short) = drawn
    assert long.ids.shape[1] == mix.LONG
    assert short.ids.shape == (mix.FACTS + mix.DRILLS, mix.SHORT)
    told = short.worth.view(short.ids.shape)
    assert (told.max(-1).values > 0).all()
    assert ((told > 0).float().mean(-1) < 0.6).all()
    for batch in (long, short):
        assert ((batch.shares.sum(-1) - 1).abs() < 2e-3).all()
    asked = short.tokens[short.worth > 0][:, 0]
    assert torch.isin(asked, mixed.common).all()  # the softmax has what is asked for


def test_what_is_outside_of_the_softmax_costs_nothing(drawn):
    _, (long, _) = drawn
    place = torch.full((END + 1,), -1)
    place[1000:1025] = torch.arange(25)
    reduced = mix.among(long, place)
    outside = (place[long.tokens] < 0).all(-1)
    assert 0 < outside.sum() < len(outside)
    assert (reduced.worth[outside] == 0).all()
    assert reduced.tokens.max() < 25


def test_rows_in_no_softmax_get_their_place():
    torch.manual_seed(0)
    first = torch.randn(400, 16)
    turn = torch.linalg.qr(torch.randn(16, 16))[0]
    weight = 3 * first @ turn
    trained = torch.arange(300)
    weight[300:] = 0.1  # never trained
    hidden = torch.randn(50, 16) + 4 * torch.ones(16)
    settled = head.settled_rows(weight, trained, first, hidden, leak=0.05)
    assert torch.equal(settled[:300], weight[:300])
    norms = settled[300:].norm(dim=-1)
    torch.testing.assert_close(
        norms, weight[:300].norm(dim=-1).mean().expand(100), rtol=1e-3, atol=0
    )
    p = (hidden @ settled.T).softmax(-1)[:, 300:].sum(-1).mean()
    assert p < 0.06
    rest = settled[300:] - settled[300:].mean(
        0
    )  # the common direction aside, they differ as before
    expected = first[300:] - first[300:].mean(0)
    assert F.cosine_similarity(rest, expected @ turn, dim=-1).median() > 0.8


# --- the bar ---------------------------------------------------------------------------------


def test_an_interval_and_what_is_worse():
    low, high = bar.interval(0.5, 40)
    assert (round(low, 2), round(high, 2)) == (0.35, 0.65)
    good, bad = bar.Result("facts", 0.9, 40, 0.5), bar.Result("facts", 0.2, 40, 0.5)
    assert good.met()
    assert not bad.met()
    report = {
        "bar": {"gpt2-mini": bar.as_rows([bad]), "published": bar.as_rows([good])},
        "tokens": {"texts": 10},
        "texts": {"gpt2-mini": 1.1, "published": 1.0},
    }
    reasons = publish.worse(report)
    assert len(reasons) == 2
    assert "bits a byte" in reasons[0]
    report["bar"] = {"gpt2-mini": bar.as_rows([good]), "published": bar.as_rows([bad])}
    report["texts"]["gpt2-mini"] = 1.02
    assert publish.worse(report) == []


def test_a_text_that_goes_round():
    assert bar.goes_round([9, 1, 2, 3, 4, 5] * 3)
    assert not bar.goes_round(list(range(60)))
    assert not bar.goes_round([1, 2, 3])


def test_a_head_that_is_off_writes_nothing(mini):
    model = from_transformers(mini[0])
    ids = torch.tensor([[464, 6193, 318, 3621]])
    part = model.blocks[0].attention.proj
    with torch.no_grad():
        whole = model(ids)[0]
        with bar.switched_off(part, slice(0, 256)):
            no_heads = model(ids)[0]
        with bar.switched_off(part):
            nothing = model(ids)[0]
        assert torch.equal(model(ids)[0], whole)
    assert (no_heads - whole).abs().max() > 0.1
    assert (nothing - whole).abs().max() > 0.1


def test_the_published_model_sits_the_exam(mini):
    subject = bar.Subject(mini[0], mini[1])
    results = {r.what: r for part in (bar.known_facts, bar.grammar) for r in part(subject)}
    assert results["facts in unseen wordings"].n >= 40
    assert results["a and an"].value > 0.8
    assert results["agreement with an attractor between"].value > 0.5


@pytest.fixture(scope="module")
def teacher():
    return Teacher()


def test_the_student_remembers_what_it_would_write(mini):
    lessons = remember.write(from_transformers(mini[0]), torch.Generator().manual_seed(0), rows=4)
    assert len(lessons) > 2
    lesson = lessons[0]
    assert lesson.ids[0] == END
    with torch.no_grad():
        p = mini[0](torch.tensor(lesson.ids.astype(int))[None]).logits[0, :-1].softmax(-1)
    assert (lesson.expected[1:, 0] == p.argmax(-1).numpy()).mean() > 0.98
    kept = lesson.share[1:].astype(float)
    np.testing.assert_allclose(kept.sum(-1), 1, atol=5e-3)
    ratio = p.topk(2).values
    np.testing.assert_allclose(kept[:, 1] / kept[:, 0], ratio[:, 1] / ratio[:, 0], atol=0.02)


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


def test_an_address_is_a_lesson_that_expects_its_own_tokens():
    lesson = addresses.lesson([10, 11, 12])
    assert lesson.ids.tolist() == [END, 10, 11, 12]
    corpus = {"addresses": {name: np.repeat(getattr(lesson, name), 200, 0) for name in LESSON}}
    corpus["texts"] = corpus["addresses"]
    long, _ = mix.Mix(corpus).draw(torch.Generator().manual_seed(0))
    prose = len(long.ids) - (len(long.ids) > sum(mix.BATCH[name] for name in corpus))
    shares = torch.zeros(prose * mix.LONG, END + 1)
    tokens = long.tokens[: len(shares)], long.shares[: len(shares)]
    shares.scatter_add_(1, *tokens)
    assert shares.max(-1).values.min() == pytest.approx(1)


def test_soft_cross_entropy_and_its_gradient_are_torchs():
    torch.manual_seed(0)
    x, weight = torch.randn(10, 6, requires_grad=True), torch.randn(9, 6, requires_grad=True)
    tokens, shares = torch.randint(9, (10, 3)), torch.rand(10, 3).softmax(-1)
    worth = torch.rand(10)
    target = torch.zeros(10, 9).scatter_add_(1, tokens, shares)
    each = F.cross_entropy(x @ weight.T, target, reduction="none")
    expected = (worth * each).sum() / worth.sum()
    wanted = torch.autograd.grad(expected, (x, weight))
    loss = head.SoftCrossEntropy.apply(x, weight, tokens, shares, worth)
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
