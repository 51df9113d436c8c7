"""The training loop: it learns, repeats itself, resumes bit for bit, and stops with a reason."""

import math
import os
import pickle
import signal
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup

from course_utils import training
from course_utils.gpt import GPT, GPTConfig
from course_utils.training import TrainConfig, train

CONFIG = TrainConfig(
    steps=30, batch_size=4, warmup_steps=5, eval_every=10, eval_windows=8, dtype="float32"
)
GPT_CONFIG = GPTConfig(vocab_size=5, block_size=8, n_layer=1, n_head=2, n_embd=16, dropout=0.1)
IDS = torch.randint(5, (400,), generator=torch.Generator().manual_seed(0)).sort().values % 5
TRAIN, VALIDATION = IDS[:350], IDS[300:]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")


def fresh(seed=0, **changes):
    torch.manual_seed(seed)
    return GPT(replace(GPT_CONFIG, **changes))


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def without_seconds(history):
    return {k: v for k, v in asdict(history).items() if k != "seconds"}


# --- the parts -----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(2, 300), st.integers(0, 100))
def test_schedule_agrees_with_transformers(steps, warmup):
    warmup = min(warmup, steps - 1)
    config = TrainConfig(steps=steps, warmup_steps=warmup, learning_rate=1.0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, warmup, steps).lr_lambdas[0]
    for step in range(steps):
        if step < warmup:  # theirs starts at 0 and is one step behind
            assert training.learning_rate(step, config) == pytest.approx(theirs(step + 1))
        else:
            assert training.learning_rate(step, config) == pytest.approx(theirs(step), abs=1e-12)
    assert training.learning_rate(steps, config) == pytest.approx(0, abs=1e-12)


def test_only_matrices_decay():
    model = fresh()
    decayed, kept = training.make_optimizer(model, CONFIG).param_groups
    assert decayed["weight_decay"] == CONFIG.weight_decay
    assert kept["weight_decay"] == 0
    assert all(p.dim() == 2 for p in decayed["params"])
    assert all(p.dim() == 1 for p in kept["params"])
    assert len(decayed["params"]) + len(kept["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("n", [2, 5, 8, 9, 10, 17, 60])
def test_evaluation_predicts_every_token_once(n):
    model, ids = fresh().eval(), IDS[:n]
    total = 0.0
    with torch.no_grad():
        for start in range(0, n - 1, 8):
            x, y = ids[start : start + 8][: n - 1 - start], ids[start + 1 : start + 9]
            total += model(x[None], y[None])[1].item() * len(y)
    assert training.evaluate(model, ids, batch_size=3) == pytest.approx(total / (n - 1), rel=1e-5)


def test_evaluation_leaves_the_mode_and_refuses_one_token():
    model = fresh().train()
    training.evaluate(model, IDS[:20])
    assert model.training
    with pytest.raises(ValueError, match="no next token"):
        training.evaluate(model, IDS[:1])


def test_number_formats_agree_roughly():
    model, x = fresh().eval(), IDS[:40].view(5, 8)
    with torch.no_grad():
        exact = training.loss_of(model, x, x, torch.float32).item()
        rough = training.loss_of(model, x, x, torch.bfloat16).item()
    assert rough == pytest.approx(exact, rel=0.02)
    assert rough != exact
    assert training.fast_dtype(torch.device("cpu")) in (torch.float32, torch.bfloat16)


def test_prepare_chooses_the_kernel():
    model = fresh()
    assert training.prepare(model, "bfloat16") == torch.bfloat16
    assert model.blocks[0].attention.fused is False
    assert training.prepare(model, "float32") == torch.float32
    assert model.blocks[0].attention.fused is True


# --- the loop ------------------------------------------------------------------------------------


def test_it_learns_and_writes_down_what_happened():
    model, seen = fresh(dropout=0.0), []
    history = train(
        model, TRAIN, VALIDATION, CONFIG, on_eval=lambda step, m: seen.append((step, m.training))
    )
    assert history.steps == [0, 10, 20, 30]
    assert seen == [(step, False) for step in history.steps]
    assert len(history.train_loss) == len(history.val_loss) == 4
    assert len(history.batch_loss) == len(history.grad_norm) == CONFIG.steps
    assert history.learning_rate == [training.learning_rate(s, CONFIG) for s in range(30)]
    assert history.val_loss[0] == pytest.approx(math.log(5), abs=0.15)
    assert history.val_loss[-1] < history.val_loss[0] - 0.3
    assert history.seconds > 0
    assert not history.interrupted
    assert not model.training


def test_one_seed_one_run():
    runs = []
    for seed in (0, 0, 1):
        model = fresh()
        history = train(model, TRAIN, VALIDATION, replace(CONFIG, seed=seed))
        runs.append((without_seconds(history), weights(model)))
    assert runs[0][0] == runs[1][0]
    assert same(runs[0][1], runs[1][1])
    assert runs[0][0]["batch_loss"] != runs[2][0]["batch_loss"]


def test_watching_does_not_change_the_run():
    """More evaluations, and a callback that draws random numbers of its own."""
    from course_utils.sampling import generate

    ids, generator = torch.tensor([[0]]), torch.Generator().manual_seed(9)
    runs = []
    for every, watch in ((30, None), (3, lambda s, m: generate(m, ids, 3, generator=generator))):
        model = fresh()
        train(model, TRAIN, VALIDATION, replace(CONFIG, eval_every=every), on_eval=watch)
        runs.append(weights(model))
    assert same(*runs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stop", [10, 20])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, stop, dtype):
    config = replace(CONFIG, dtype=dtype)
    whole = fresh()
    expected = train(whole, TRAIN, VALIDATION, config)

    def press_ctrl_c(step, _):
        if step == stop:
            os.kill(os.getpid(), signal.SIGINT)

    path = tmp_path / "run" / "checkpoint.pt"
    first = fresh()
    half = train(first, TRAIN, VALIDATION, config, checkpoint=path, on_eval=press_ctrl_c)
    assert half.interrupted
    assert len(half.batch_loss) == stop
    assert not same(weights(first), weights(whole))

    torch.manual_seed(99)  # another session: its own seed, its own weights
    second = fresh(seed=5)
    resumed = train(second, TRAIN, VALIDATION, config, checkpoint=path, resume=True)
    assert without_seconds(resumed) == without_seconds(expected)
    assert same(weights(second), weights(whole))
    assert resumed.seconds > half.seconds
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no leftovers


def test_ctrl_c_between_two_evaluations(tmp_path, monkeypatch):
    """The step in hand is finished, and the history is that of an uninterrupted run."""
    whole = fresh()
    expected = train(whole, TRAIN, VALIDATION, CONFIG)
    step, pressed = training._step, []

    def step_with_ctrl_c(*arguments):
        if len(pressed) == 13:
            signal.raise_signal(signal.SIGINT)
        pressed.append(1)
        step(*arguments)

    path, before = tmp_path / "c.pt", signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(training, "_step", step_with_ctrl_c)
        half = train(fresh(), TRAIN, VALIDATION, CONFIG, checkpoint=path)
    assert signal.getsignal(signal.SIGINT) is before
    assert half.interrupted
    assert half.steps == [0, 10]
    assert len(half.batch_loss) == 14
    model = fresh(seed=5)
    resumed = train(model, TRAIN, VALIDATION, CONFIG, checkpoint=path, resume=True)
    assert without_seconds(resumed) == without_seconds(expected)
    assert same(weights(model), weights(whole))


def test_a_second_ctrl_c_stops_at_once():
    def press_twice(step, _):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), TRAIN, VALIDATION, CONFIG, on_eval=press_twice)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_loss_that_is_not_a_number_stops_with_the_step(monkeypatch):
    model = fresh()
    loss_of, calls = training.loss_of, []

    def poisoned(*arguments):
        calls.append(1)
        return loss_of(*arguments) * (math.nan if len(calls) == 7 else 1)  # 2 calls at step 0

    monkeypatch.setattr(training, "loss_of", poisoned)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 4 of 30"):
        train(model, TRAIN, VALIDATION, CONFIG)
    assert all(p.isfinite().all() for p in model.parameters())


# --- checkpoints ---------------------------------------------------------------------------------


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "c.pt"
    train(fresh(), TRAIN, VALIDATION, CONFIG, checkpoint=path)
    with pytest.raises(ValueError, match="its n_layer is 1, here n_layer is 2"):
        train(fresh(n_layer=2), TRAIN, VALIDATION, CONFIG, checkpoint=path, resume=True)
    other = replace(CONFIG, steps=40)
    with pytest.raises(ValueError, match="its steps is 30, here steps is 40"):
        train(fresh(), TRAIN, VALIDATION, other, checkpoint=path, resume=True)


def test_a_finished_run_resumes_to_itself(tmp_path):
    path, model, again = tmp_path / "c.pt", fresh(), fresh(seed=4)
    expected = train(model, TRAIN, VALIDATION, CONFIG, checkpoint=path)
    resumed = train(again, TRAIN, VALIDATION, CONFIG, checkpoint=path, resume=True)
    assert without_seconds(resumed) == without_seconds(expected)
    assert same(weights(model), weights(again))


def test_bad_checkpoints_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        training.load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="needs the checkpoint"):
        train(fresh(), TRAIN, VALIDATION, CONFIG, resume=True)
    path = tmp_path / "bad.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="damaged"):
        training.load_checkpoint(path)
    torch.save({"something": 1}, path)
    with pytest.raises(ValueError, match="of this training loop"):
        training.load_checkpoint(path)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm-was-done",)


def test_a_checkpoint_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Harmful(), "step": 1}, tmp_path / "c.pt", pickle_module=pickle)
    with pytest.raises(ValueError, match="not a checkpoint"):
        training.load_checkpoint(tmp_path / "c.pt")
    assert not (tmp_path / "harm-was-done").exists()


def test_writing_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    training.save_checkpoint(path, {"model": {}, "step": 1})

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(training.torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        training.save_checkpoint(path, {"model": {}, "step": 2})
    monkeypatch.undo()
    assert training.load_checkpoint(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


# --- history and configuration -------------------------------------------------------------------


def test_history_draws_itself():
    history = train(fresh(), TRAIN, VALIDATION, CONFIG)
    left, right = history.plot({"uniform": math.log(5)}).axes
    assert list(left.lines[1].get_ydata()) == history.val_loss
    assert list(right.lines[1].get_ydata()) == [math.exp(v) for v in history.val_loss]
    assert right.lines[2].get_ydata()[0] == pytest.approx(5)
    assert "nats" in left.get_ylabel()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0, "warmup_steps": 0}, "steps=0"),
        ({"warmup_steps": 30}, "below steps=30"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
        ({"dtype": "float16"}, "float16"),
        ({"eval_every": 0}, "eval_every=0"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


def test_a_corpus_shorter_than_a_window_is_refused():
    with pytest.raises(ValueError, match="has 5 tokens"):
        train(fresh(), TRAIN, VALIDATION[:5], CONFIG)
