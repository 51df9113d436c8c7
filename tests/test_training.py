"""The training loop: it learns, repeats itself, resumes bit for bit, and stops with a reason."""

import contextlib
import copy
import inspect
import io
import math
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from course_utils import checkpoints, corpora, device, plots, run, training
from course_utils.gpt import GPT, GPTConfig
from course_utils.optimizers import Muon
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


THEIRS = {"cosine": get_cosine_schedule_with_warmup, "linear": get_linear_schedule_with_warmup}


@settings(deadline=None)
@given(st.integers(2, 300), st.integers(0, 100), st.sampled_from(["cosine", "linear"]))
def test_schedule_agrees_with_transformers(steps, warmup, schedule):
    warmup = min(warmup, steps - 1)
    config = TrainConfig(steps=steps, warmup_steps=warmup, learning_rate=3.0, schedule=schedule)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = THEIRS[schedule](optimizer, warmup, steps).lr_lambdas[0]
    for step in range(steps):
        if step < warmup:  # theirs starts at 0 and is one step behind
            assert training.learning_rate(step, config) == pytest.approx(3 * theirs(step + 1))
        else:
            assert training.learning_rate(step, config) == pytest.approx(
                3 * theirs(step), abs=1e-12
            )
    assert training.learning_rate(steps, config) == pytest.approx(0, abs=1e-12)


def names_of(model, group):
    mine = {id(p) for p in group["params"]}
    return {name for name, p in model.named_parameters() if id(p) in mine}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_has_one_optimizer_and_only_matrices_decay(optimizer, tied):
    model, config = fresh(tied=tied), replace(CONFIG, optimizer=optimizer)
    optimizers = training.make_optimizers(model, config)
    groups = [group for one in optimizers for group in one.param_groups]
    names = [names_of(model, group) for group in groups]
    assert sorted(name for part in names for name in part) == sorted(dict(model.named_parameters()))
    for group in groups:
        decays = all(p.dim() == 2 for p in group["params"])
        assert decays or all(p.dim() == 1 for p in group["params"])
        assert group["weight_decay"] == (CONFIG.weight_decay if decays else 0)
    assert isinstance(optimizers[0], torch.optim.AdamW)
    if optimizer == "adamw":
        assert len(optimizers) == 1
    else:
        assert isinstance(optimizers[1], Muon) and len(optimizers) == 2
        matrices = {n for n, p in model.named_parameters() if "blocks" in n and p.dim() == 2}
        assert names[2] == matrices and len(matrices) == 6
        assert "token_embedding.weight" in names[0]


def test_all_learning_rates_have_one_shape():
    model = fresh()
    config = replace(
        CONFIG, optimizer="muon", learning_rate=0.5, muon_learning_rate=4.0, schedule="linear"
    )
    optimizers = training.make_optimizers(model, config)
    for step, share in ((0, 1 / 5), (4, 1.0), (5, 1.0), (10, 0.8), (29, 1 / 25)):
        training.set_learning_rate(optimizers, training.schedule(step, config))
        rates = [group["lr"] for one in optimizers for group in one.param_groups]
        assert rates == pytest.approx([0.5 * share, 0.5 * share, 4.0 * share])


def test_muon_s_products_are_in_the_dtype_of_the_training():
    for dtype in ("float32", "bfloat16"):
        config = replace(CONFIG, optimizer="muon", dtype=dtype)
        group = training.make_optimizers(fresh(), config)[1].param_groups[0]
        assert group["dtype"] == getattr(torch, dtype)


def test_accumulation_in_a_whole_run_is_a_larger_batch():
    """Also where every gradient is clipped, which comes after the averaging."""
    for clip_norm in (0.01, 1e9):
        runs = []
        for accumulation_steps, batch_size in ((3, 2), (2, 3), (1, 6)):
            model = fresh(dropout=0.0)
            sizes = {"accumulation_steps": accumulation_steps, "batch_size": batch_size}
            config = replace(CONFIG, **sizes, clip_norm=clip_norm)
            runs.append(train(model, TRAIN, VALIDATION, config))
        for history in runs[:2]:
            assert history.batch_loss == pytest.approx(runs[2].batch_loss, rel=1e-4)
            assert history.grad_norm == pytest.approx(runs[2].grad_norm, rel=1e-3)
            assert history.val_loss == pytest.approx(runs[2].val_loss, rel=1e-4)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**31), st.sampled_from([0.01, 1e9]))
def test_a_step_is_that_of_the_mean_gradient_clipped(k, batch_size, seed, clip_norm):
    """Written out in plain torch, on the same windows."""
    start = fresh(dropout=0.0)
    sizes = {"accumulation_steps": k, "batch_size": batch_size, "clip_norm": clip_norm}
    config = TrainConfig(2, seed=seed, eval_windows=1, dtype="float32", **sizes)
    model = copy.deepcopy(start)
    history = train(model, TRAIN, VALIDATION, config)
    generator = torch.Generator().manual_seed(seed)
    matrices = [p for p in start.parameters() if p.dim() >= 2]
    rest = [p for p in start.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
    for step, rate in enumerate((0.003, 0.0015)):  # half a cosine: cos 0 and cos pi/2
        for group in optimizer.param_groups:
            group["lr"] = rate
        batches = [corpora.get_batch(TRAIN, batch_size, 8, generator) for _ in range(k)]
        x, y = (torch.cat(part) for part in zip(*batches, strict=True))
        loss = start(x, y)[1]
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(start.parameters(), clip_norm)
        optimizer.step()
        assert history.learning_rate[step] == pytest.approx(rate)
        assert history.batch_loss[step] == pytest.approx(loss.item(), rel=1e-4)
        assert history.grad_norm[step] == pytest.approx(norm.item(), rel=1e-3)
    # AdamW makes long steps of gradients near zero, where only rounding decides the sign.
    apart = torch.cat(
        [(a - b).flatten() for a, b in zip(weights(model), weights(start), strict=True)]
    )
    assert apart.abs().mean() <= (0 if k == 1 else 1e-5)


def test_the_loop_goes_through_a_step_in_the_order_of_chapter_8():
    """Learning rate, batch, loss, backward, clip, step, evaluation; on one screen."""
    lines = inspect.getsource(train).split('"""')[-1].strip().splitlines()
    assert len(lines) <= 50
    [start] = [number for number, line in enumerate(lines) if "for step in steps" in line]
    calls = "set_learning_rate get_batch loss_of .backward clip_grad_norm_ .step estimate_losses"
    loop = "\n".join(lines[start:])
    places = [loop.index(f"{name}(") for name in calls.split()]
    assert places == sorted(places)


def test_training_does_not_load_matplotlib():
    program = "import sys, course_utils.training; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize("n", [2, 5, 8, 9, 10, 17, 60])
def test_evaluation_predicts_every_token_once(n):
    model, ids = fresh().eval(), IDS[:n]
    total = 0.0
    with torch.no_grad():
        for start in range(0, n - 1, 8):
            x, y = ids[start : start + 8][: n - 1 - start], ids[start + 1 : start + 9]
            total += model(x[None], y[None])[1].item() * len(y)
    assert training.evaluate(model, ids) == pytest.approx(total / (n - 1), rel=1e-5)


@pytest.mark.parametrize("n", [64 * 8, 64 * 8 + 1, 64 * 8 + 2, 1300, 2 * 64 * 8 + 5])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_evaluation_in_several_pieces_is_the_mean_over_all_windows(n, dtype):
    model, ids = fresh().eval(), IDS.repeat(4)[:n]
    whole = (n - 1) // 8 * 8  # tokens in full windows
    x, y = ids[:whole].view(-1, 8), ids[1 : whole + 1].view(-1, 8)
    with torch.no_grad():
        total = model(x, y)[1].item() * whole
        if rest := n - 1 - whole:
            total += model(ids[None, whole:-1], ids[None, whole + 1 :])[1].item() * rest
    assert training.evaluate(model, ids.to(dtype)) == pytest.approx(total / (n - 1), rel=1e-5)


def test_evaluation_leaves_the_mode_and_refuses_one_token():
    model = fresh().train()
    training.evaluate(model, IDS[:20])
    assert model.training
    with pytest.raises(ValueError, match="no next token"):
        training.evaluate(model, IDS[:1])


def test_dtypes_agree_roughly():
    model, x = fresh().eval(), IDS[:40].view(5, 8)
    with torch.no_grad():
        exact = training.loss_of(model, x, x, torch.float32).item()
        rough = training.loss_of(model, x, x, torch.bfloat16).item()
    assert rough == pytest.approx(exact, rel=0.02)
    assert rough != exact
    assert device.fast_dtype(torch.device("cpu")) in (torch.float32, torch.bfloat16)


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


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_muon_learns_too(schedule):
    config = replace(CONFIG, optimizer="muon", schedule=schedule)
    model = fresh(dropout=0.0)
    before = weights(model)
    history = train(model, TRAIN, VALIDATION, config)
    assert history.val_loss[-1] < history.val_loss[0] - 0.3
    assert not any(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))


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
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(("stop", "k"), [(10, 1), (20, 2)])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, stop, k, optimizer, dtype):
    config = replace(CONFIG, optimizer=optimizer, accumulation_steps=k, dtype=dtype)
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


@contextlib.contextmanager
def at_step(step, do):
    """Call ``do(optimizer)`` right after the update of one step of a run from the start."""
    calls = []

    def after(optimizer, *_):
        if len(calls) == step:
            do(optimizer)
        calls.append(1)

    hook = register_optimizer_step_post_hook(after)
    try:
        yield
    finally:
        hook.remove()
    assert len(calls) > step


def test_ctrl_c_between_two_evaluations(tmp_path):
    """The step in hand is finished, and the history is that of an uninterrupted run."""
    whole = fresh()
    expected = train(whole, TRAIN, VALIDATION, CONFIG)
    path, before = tmp_path / "c.pt", signal.getsignal(signal.SIGINT)
    with at_step(13, lambda _: signal.raise_signal(signal.SIGINT)):
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


def poison(monkeypatch, step, what):
    """Make the loss, its gradient or both ``what`` at one step of a run from the start."""
    loss_of, (kind, value), calls = training.loss_of, what, []

    def poisoned(*arguments):
        loss = loss_of(*arguments)
        if not torch.is_grad_enabled():  # an evaluation
            return loss
        if len(calls) == step:
            if "gradient" in kind:
                loss.register_hook(lambda grad: grad * value)
            if "loss" in kind:
                loss = loss + value
        calls.append(1)
        return loss

    monkeypatch.setattr(training, "loss_of", poisoned)


POISONS = [
    ("loss and gradient", math.nan),
    ("loss and gradient", math.inf),
    ("loss", math.nan),
    ("gradient", math.nan),
    ("gradient", math.inf),
]


@pytest.mark.parametrize("each_step", [True, False])  # a CPU looks at each, a GPU seldom
@pytest.mark.parametrize("what", POISONS)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_what_is_not_finite_stops_and_is_never_saved(
    tmp_path, monkeypatch, each_step, what, optimizer
):
    path, config = tmp_path / "c.pt", replace(CONFIG, optimizer=optimizer)
    clean = fresh()
    expected = train(clean, TRAIN, VALIDATION, config)
    model = fresh()
    with monkeypatch.context() as patch:
        patch.setattr(run, "_reading_is_free", lambda device: each_step)
        poison(patch, 14, what)
        kind, value = what
        message = f"the loss is {value}" if "loss" in kind else "with a gradient of norm (nan|inf)"
        with pytest.raises(FloatingPointError, match=rf"{message}.* at step 14 of 30\."):
            train(model, TRAIN, VALIDATION, config, checkpoint=path)
    # On a CPU the update was not made; elsewhere the weights are broken, but not the checkpoint.
    whole = each_step or kind == "loss"
    assert all(p.isfinite().all() for p in model.parameters()) == whole
    state = checkpoints.load_checkpoint(path)
    assert state["step"] == 10
    assert all(value.isfinite().all() for value in state["model"].values())
    resumed = fresh(seed=5)
    history = train(resumed, TRAIN, VALIDATION, config, checkpoint=path, resume=True)
    assert without_seconds(history) == without_seconds(expected)
    assert same(weights(resumed), weights(clean))


def test_ctrl_c_does_not_save_what_is_not_finite(tmp_path, monkeypatch):
    """Read seldom, the NaN of step 12 is still unread when Ctrl-C comes at step 13."""
    monkeypatch.setattr(run, "_reading_is_free", lambda device: False)
    poison(monkeypatch, 12, ("loss and gradient", math.nan))
    with (
        at_step(13, lambda _: signal.raise_signal(signal.SIGINT)),
        pytest.raises(FloatingPointError, match="at step 12 of 30"),
    ):
        train(fresh(), TRAIN, VALIDATION, CONFIG, checkpoint=tmp_path / "c.pt")
    assert checkpoints.load_checkpoint(tmp_path / "c.pt")["step"] == 10


def test_a_real_explosion_stops_too(tmp_path):
    config = replace(CONFIG, learning_rate=1e38, warmup_steps=0)
    with pytest.raises(FloatingPointError, match=r"at step \d+ of 30.*try a tenth"):
        train(fresh(), TRAIN, VALIDATION, config, checkpoint=tmp_path / "c.pt")
    assert checkpoints.load_checkpoint(tmp_path / "c.pt")["step"] == 0


def test_weights_that_break_in_the_last_step_before_an_evaluation_are_not_saved(tmp_path):
    def break_weights(optimizer):
        optimizer.param_groups[0]["params"][0].data.fill_(math.nan)

    with (
        at_step(19, break_weights),
        pytest.raises(FloatingPointError, match="evaluation after 20 steps"),
    ):
        train(fresh(), TRAIN, VALIDATION, CONFIG, checkpoint=tmp_path / "c.pt")
    assert checkpoints.load_checkpoint(tmp_path / "c.pt")["step"] == 10


def test_reading_seldom_changes_nothing(monkeypatch):
    runs = []
    for each_step in (True, False):
        monkeypatch.setattr(run, "_reading_is_free", lambda device, free=each_step: free)
        model = fresh()
        runs.append((without_seconds(train(model, TRAIN, VALIDATION, CONFIG)), weights(model)))
    assert runs[0][0] == runs[1][0]
    assert same(runs[0][1], runs[1][1])


# --- checkpoints ---------------------------------------------------------------------------------


OTHER_RUNS = [
    ({"n_layer": 2}, {}, "its n_layer is 1, and here n_layer is 2"),
    ({"block_size": 7}, {}, "its block_size is 8, and here block_size is 7"),
    ({"dropout": 0.0}, {}, "its dropout is 0.1, and here dropout is 0.0"),
    ({"positions": "rotary"}, {}, "its positions is learned, and here positions is rotary"),
    ({}, {"steps": 40}, "its steps is 30, and here steps is 40"),
    ({}, {"seed": 1}, "its seed is 0, and here seed is 1"),
    ({}, {"optimizer": "muon"}, "its optimizer is adamw, and here optimizer is muon"),
    ({}, {"dtype": "bfloat16"}, "its dtype is float32, and here dtype is bfloat16"),
    ({}, {"warmup_steps": None}, "its warmup_steps is 5, and here warmup_steps is None"),
]


@pytest.mark.parametrize(("size", "plan", "message"), OTHER_RUNS)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, size, plan, message):
    path, model = tmp_path / "c.pt", fresh(**size)
    train(fresh(), TRAIN, VALIDATION, replace(CONFIG, steps=10), checkpoint=path)
    state = torch.load(path)
    state["settings"]["training"]["steps"] = 30
    torch.save(state, path)
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        train(model, TRAIN, VALIDATION, replace(CONFIG, **plan), checkpoint=path, resume=True)
    assert same(weights(model), before)


CHANGED = TRAIN.clone()
CHANGED[-1] = (CHANGED[-1] + 1) % 5
OTHER_TEXTS = [
    (CHANGED, VALIDATION, "abcde"),  # one character
    (TRAIN[:-1], VALIDATION, "abcde"),
    (TRAIN, VALIDATION[1:], "abcde"),
    (torch.cat([TRAIN, VALIDATION[:1]]), VALIDATION[1:], "abcde"),  # cut in another place
    (TRAIN, VALIDATION, "abcdz"),  # the same ids stand for other characters
    (TRAIN, VALIDATION, ""),
]


@pytest.mark.parametrize(("train_ids", "val_ids", "vocabulary"), OTHER_TEXTS)
def test_another_text_is_not_gone_on_with(tmp_path, train_ids, val_ids, vocabulary):
    path, config = tmp_path / "c.pt", replace(CONFIG, steps=6)
    first = train(fresh(), TRAIN, VALIDATION, config, checkpoint=path, vocabulary="abcde")
    options = {"checkpoint": path, "resume": True}
    with pytest.raises(ValueError, match="belongs to another run: it was trained on another text"):
        train(fresh(), train_ids, val_ids, config, vocabulary=vocabulary, **options)
    again = train(fresh(), TRAIN, VALIDATION, config, vocabulary="abcde", **options)
    assert without_seconds(again) == without_seconds(first)


def test_a_finished_run_resumes_to_itself(tmp_path):
    path, model, again = tmp_path / "c.pt", fresh(), fresh(seed=4)
    expected = train(model, TRAIN, VALIDATION, CONFIG, checkpoint=path)
    resumed = train(again, TRAIN, VALIDATION, CONFIG, checkpoint=path, resume=True)
    assert without_seconds(resumed) == without_seconds(expected)
    assert same(weights(model), weights(again))


def test_an_earlier_run_is_not_overwritten(tmp_path):
    path = tmp_path / "c.pt"
    train(fresh(), TRAIN, VALIDATION, CONFIG, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"holds an earlier run.*resume=True"):
        train(fresh(), TRAIN, VALIDATION, CONFIG, checkpoint=path)
    assert path.read_bytes() == before


def test_auto_resumes_in_the_format_it_began_with(tmp_path, monkeypatch):
    path, config = tmp_path / "c.pt", replace(CONFIG, dtype="auto")
    for format_, expected in ((torch.bfloat16, False), (torch.float32, False)):
        # The second session measures another format, and keeps the first one's.
        monkeypatch.setattr(device, "fast_dtype", lambda _, format_=format_: format_)
        model = fresh()
        train(model, TRAIN, VALIDATION, config, checkpoint=path, resume=path.exists())
        assert model.blocks[0].attention.fused is expected


def cut(content, share):
    return content[: int(share * len(content))]


def flipped(content, member):
    """Flip a bit in the middle of one of the file's parts; between them are bytes without use."""
    with zipfile.ZipFile(io.BytesIO(content)) as parts:
        part = parts.infolist()[member]
        inside = parts.read(part)
    place = content.index(inside) + len(inside) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGE = {
    "something else": lambda content: b"not a checkpoint",
    "empty": lambda content: b"",
    "cut early": lambda content: cut(content, 0.1),
    "cut late": lambda content: cut(content, 0.99),
    "one bit in the first part": lambda content: flipped(content, 0),
    "one bit in a tensor": lambda content: flipped(content, 10),
    "one bit in another tensor": lambda content: flipped(content, 20),
    "zeros at the end": lambda content: cut(content, 0.8) + bytes(len(content) // 5),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_checkpoints_are_named(tmp_path, kind):
    path, config = tmp_path / "c.pt", replace(CONFIG, steps=2, warmup_steps=0)
    train(fresh(), TRAIN, VALIDATION, config, checkpoint=path)
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    with pytest.raises(ValueError, match=r"c\.pt is not a checkpoint of .*damaged\. Delete it"):
        train(fresh(), TRAIN, VALIDATION, config, checkpoint=path, resume=True)


def test_other_files_are_no_checkpoints(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pt cannot be read: No such file"):
        checkpoints.load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="needs the checkpoint"):
        train(fresh(), TRAIN, VALIDATION, CONFIG, resume=True)
    with pytest.raises(IsADirectoryError, match=r"cannot be read: Is a directory\."):
        checkpoints.load_checkpoint(tmp_path)
    path = tmp_path / "other.pt"
    for other in ({"something": 1}, [1, 2], torch.zeros(3)):
        torch.save(other, path)
        with pytest.raises(ValueError, match="not a checkpoint of this version"):
            checkpoints.load_checkpoint(path)


def test_a_checkpoint_of_an_earlier_version_is_named(tmp_path):
    path = tmp_path / "c.pt"
    train(fresh(), TRAIN, VALIDATION, CONFIG, checkpoint=path)
    state = torch.load(path)
    del state["settings"]  # it was called otherwise, and knew no text
    torch.save(state, path)
    with pytest.raises(
        ValueError,
        match=r"c\.pt is not a checkpoint of this version of the course.*name another file",
    ):
        train(fresh(), TRAIN, VALIDATION, CONFIG, checkpoint=path, resume=True)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm-was-done",)


def test_a_checkpoint_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Harmful(), "step": 1}, tmp_path / "c.pt", pickle_module=pickle)
    with pytest.raises(ValueError, match="not a checkpoint"):
        checkpoints.load_checkpoint(tmp_path / "c.pt")
    assert not (tmp_path / "harm-was-done").exists()


@contextlib.contextmanager
def files_no_larger_than(n_bytes):
    """Let the system refuse longer files, as it does when a disk is full."""
    resource = pytest.importorskip("resource")  # not on Windows
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("n_bytes", [0, 1, 4096, 20_000])
def test_writing_that_fails_leaves_the_old_checkpoint(tmp_path, n_bytes):
    path = tmp_path / "c.pt"

    def press_ctrl_c(step, _):
        if step == 10:
            signal.raise_signal(signal.SIGINT)

    train(fresh(), TRAIN, VALIDATION, CONFIG, checkpoint=path, on_eval=press_ctrl_c)
    before = path.read_bytes()
    assert len(before) > n_bytes
    with (
        files_no_larger_than(n_bytes),
        pytest.raises(
            OSError, match=r"c\.pt could not be written: files may not grow so large here"
        ),
    ):
        train(fresh(seed=1), TRAIN, VALIDATION, CONFIG, checkpoint=path, resume=True)
    assert path.read_bytes() == before
    assert checkpoints.load_checkpoint(path)["step"] == 10
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_called_that(tmp_path):
    """A real one of 256 kB, on Linux where this user may make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only the administrator of a Linux machine can make a small disk")
    try:
        path = disk / "c.pt"
        train(fresh(), TRAIN, VALIDATION, replace(CONFIG, steps=2, warmup_steps=0), checkpoint=path)
        (disk / "rest").write_bytes(bytes(256 * 1024 - path.stat().st_size - 30_000))
        before = path.read_bytes()
        with pytest.raises(OSError, match=r"c\.pt could not be written: the disk is full\."):
            checkpoints.save_checkpoint(path, {"larger": torch.zeros(20_000)})
        assert path.read_bytes() == before and len(list(disk.iterdir())) == 2
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# --- history and configuration -------------------------------------------------------------------


def test_a_history_is_drawn():
    history = train(fresh(), TRAIN, VALIDATION, CONFIG)
    left, right = plots.training_curves(history, {"uniform": math.log(5)}).axes
    assert list(left.lines[1].get_ydata()) == history.val_loss
    assert list(right.lines[1].get_ydata()) == [math.exp(v) for v in history.val_loss]
    assert right.lines[2].get_ydata()[0] == pytest.approx(5)
    assert "nats" in left.get_ylabel()


WRONG_SETTINGS = [
    ({"steps": 0}, "steps=0 must be a whole number above 0"),
    ({"steps": -5}, "steps=-5"),
    ({"steps": 10.0}, r"steps=10\.0 must be a whole number"),
    ({"steps": True}, "steps=True must be a whole number"),
    ({"steps": "100"}, "steps='100' must be a whole number"),
    ({"steps": None}, "steps=None"),
    ({"batch_size": 0}, "batch_size=0"),
    ({"batch_size": math.nan}, "batch_size=nan must be a whole number"),
    ({"batch_size": 2**63}, "batch_size=9223372036854775808"),
    ({"accumulation_steps": 0}, "accumulation_steps=0"),
    ({"accumulation_steps": False}, "accumulation_steps=False"),
    ({"eval_every": 0}, "eval_every=0"),
    ({"eval_windows": 1.5}, "eval_windows=1.5"),
    ({"seed": -1}, "seed=-1 must be a whole number of at least 0"),
    ({"seed": 0.5}, "seed=0.5"),
    ({"seed": 2**64}, "seed=18446744073709551616 must be a whole number below"),
    ({"warmup_steps": 30}, "warmup_steps=30 must be below steps=30"),
    ({"warmup_steps": 31}, "warmup_steps=31 must be below steps=30"),
    ({"warmup_steps": -1}, "warmup_steps=-1"),
    ({"warmup_steps": 2.5}, "warmup_steps=2.5 must be a whole number"),
    ({"learning_rate": 0.0}, r"learning_rate=0\.0 must be a number above 0"),
    ({"learning_rate": -1e-3}, "learning_rate=-0.001"),
    ({"learning_rate": math.nan}, "learning_rate=nan"),
    ({"learning_rate": math.inf}, "learning_rate=inf must be a number below inf"),
    ({"learning_rate": "fast"}, "learning_rate='fast' must be a number"),
    ({"learning_rate": True}, "learning_rate=True"),
    ({"muon_learning_rate": -1.0}, "muon_learning_rate=-1.0"),
    ({"clip_norm": 0}, "clip_norm=0 must be a number above 0"),
    ({"clip_norm": math.nan}, "clip_norm=nan"),
    ({"weight_decay": -0.1}, "weight_decay=-0.1 must be a number of at least 0"),
    ({"weight_decay": math.nan}, "weight_decay=nan"),
    ({"dtype": "float16"}, "dtype='float16' is not one of auto, float32, bfloat16"),
    ({"dtype": torch.float32}, r"dtype=torch\.float32 is not one of"),
    ({"dtype": None}, "dtype=None is not one of"),
    ({"optimizer": "sgd"}, "'sgd' is not one of adamw, muon"),
    ({"optimizer": ["adamw"]}, "is not one of adamw, muon"),
    ({"schedule": "constant"}, "'constant' is not one of cosine, linear"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_SETTINGS)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (9, 0), (50, 5), (1000, 100), (9999, 100)])
def test_the_default_warm_up_fits_any_number_of_steps(steps, warmup):
    for config in (TrainConfig(steps), replace(TrainConfig(1000), steps=steps)):
        rates = [training.learning_rate(step, config) for step in range(steps)]
        assert rates.index(max(rates)) == max(warmup - 1, 0)
        assert max(rates) == config.learning_rate
    history = train(fresh(), TRAIN, VALIDATION, TrainConfig(min(steps, 9), eval_windows=2))
    assert len(history.batch_loss) == min(steps, 9)


def test_numbers_of_numpy_become_python_s(tmp_path):
    config = TrainConfig(np.int64(2), learning_rate=np.float32(0.5), seed=np.uint8(3))
    assert [type(v) for v in (config.steps, config.learning_rate, config.seed)] == [int, float, int]
    train(fresh(), TRAIN, VALIDATION, config, checkpoint=tmp_path / "c.pt")
    assert (
        checkpoints.load_checkpoint(tmp_path / "c.pt")["settings"]["training"]["learning_rate"]
        == 0.5
    )


WRONG_SPLITS = [
    (TRAIN[:5], VALIDATION, r"training ids have the shape \(5,\).*at least 9"),
    (TRAIN, VALIDATION[:8], r"validation ids have the shape \(8,\).*at least 9.*block_size=8"),
    (TRAIN[:0], VALIDATION, r"training ids have the shape \(0,\)"),
    (TRAIN.view(2, -1), VALIDATION, r"training ids have the shape \(2, 175\)"),
    (TRAIN + 1, VALIDATION, "ids range from 1 to 5; the vocabulary has 5 tokens"),
    (TRAIN - 1, VALIDATION, "ids range from -1 to 3"),
    (TRAIN, torch.cat([VALIDATION, torch.tensor([70_000])]), "to 70000; the vocabulary has 5"),
]


@pytest.mark.parametrize(("train_ids", "val_ids", "message"), WRONG_SPLITS)
def test_splits_that_cannot_be_learned_from_are_refused(tmp_path, train_ids, val_ids, message):
    with pytest.raises(ValueError, match=message):
        train(fresh(), train_ids, val_ids, CONFIG, checkpoint=tmp_path / "c.pt")
    assert list(tmp_path.iterdir()) == []
