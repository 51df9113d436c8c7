"""``python -m course_utils train``, alone and on two processes: the same curve, also after a kill."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHORT = ["--steps", "12", "--eval-every", "4", "--batch-size", "4", "--dtype", "float32"]
SHORT += ["--n-layer", "2", "--n-embd", "32", "--n-head", "2", "--block-size", "32"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = os.environ | {"COURSE_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
RESTARTS = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def command(out: Path, *more: str, torchrun: tuple[str, ...] | None = None) -> list[str]:
    start = [] if torchrun is None else [*TORCHRUN, *torchrun]
    return [sys.executable, *start, "-m", "course_utils", "train", *SHORT, "--out", str(out), *more]


def run(*arguments, **options) -> subprocess.CompletedProcess:
    words = command(*arguments, **options)
    return subprocess.run(
        words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )


def curve(out: Path) -> list[float]:
    history = json.loads((out / "history.json").read_text())
    assert len(history["batch_loss"]) == 12 and history["steps"] == [0, 4, 8, 12]
    return history["batch_loss"] + history["val_loss"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> list[float]:
    out = tmp_path_factory.mktemp("alone")
    done = run(out)
    assert done.returncode == 0, done.stderr
    assert re.search(r"step 12 of 12: training loss 3\.\d+, validation loss 3\.\d+", done.stdout)
    assert len(done.stdout.split("step 12")[1]) > 200  # a sample closes the run
    return curve(out)


@pytest.mark.parametrize("more", [(), ("--accumulate", "3"), ("--recipe", "classic")])
def test_two_processes_learn_what_one_learns(tmp_path, alone, more):
    """The losses of every step agree: gradients are averaged, windows neither lost nor doubled."""
    if more:
        assert run(tmp_path / "one", *more).returncode == 0
        alone, plain = curve(tmp_path / "one"), alone
        assert alone != pytest.approx(plain, abs=1e-4)  # the option does something
    done = run(tmp_path / "two", *more, torchrun=())
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout and done.stdout.count("step 12 of 12") == 1
    assert curve(tmp_path / "two") == pytest.approx(alone, abs=1e-4)


def test_after_a_worker_was_killed_the_curve_is_the_same(tmp_path, alone):
    words = command(tmp_path, "--resume", torchrun=("--max-restarts", "1"))
    with subprocess.Popen(
        words, cwd=ROOT, env=ENVIRONMENT | RESTARTS, stdout=subprocess.PIPE, text=True
    ) as process:
        workers, seen = [], []
        for line in process.stdout:
            seen.append(line)
            if found := re.search(r"pid (\d+)", line):
                workers.append(int(found[1]))
            if line.startswith("step 8 of") and len(workers) == 1:
                os.kill(workers[0], signal.SIGKILL)
    assert process.returncode == 0, seen
    assert len(workers) == 2 and not any("step 0" in line for line in seen[4:]), seen
    assert curve(tmp_path) == pytest.approx(alone, abs=1e-4)


def test_a_finished_run_is_not_overwritten(tmp_path):
    assert run(tmp_path).returncode == 0
    done = run(tmp_path)
    assert done.returncode == 1 and "resume" in done.stderr and "Traceback" not in done.stderr


def test_two_machines_learn_what_one_learns(tmp_path, alone):
    """As on clusters.md, with both "machines" here: each has its own torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    nodes = []
    for number in ("0", "1"):
        start = ["-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", number]
        start += ["--master-addr", "127.0.0.1", "--master-port", port, "--nproc-per-node", "1"]
        words = [sys.executable, *start, *command(tmp_path, "--resume")[1:]]
        nodes.append(subprocess.Popen(words, cwd=ROOT, env=ENVIRONMENT))
    assert [node.wait(timeout=120) for node in nodes] == [0, 0]
    assert curve(tmp_path) == pytest.approx(alone, abs=1e-4)


def test_restarts_that_could_hang_are_refused(tmp_path):
    done = run(tmp_path, torchrun=("--max-restarts", "1"))
    assert done.returncode and "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in done.stderr


def test_errors_say_what_to_do(tmp_path):
    done = run(tmp_path, "--batch-size", "3", torchrun=())
    assert done.returncode and "cannot be shared equally by 2 processes" in done.stderr
    done = run(tmp_path, "--data", "nowhere.txt")
    assert done.returncode == 1 and "nowhere.txt" in done.stderr and "Traceback" not in done.stderr
