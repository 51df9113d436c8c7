"""``python -m course_utils train``, alone and on two processes: the same curve, also after a kill."""

import json
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from course_utils.__main__ import main

ROOT = Path(__file__).parents[1]
SHORT = ["--steps", "12", "--eval-every", "4", "--batch-size", "4", "--dtype", "float32"]
SHORT += ["--n-layer", "2", "--n-embd", "32", "--n-head", "2", "--block-size", "32"]
ONE_MACHINE = ["--standalone", "--local-addr", "127.0.0.1"]
TORCHRUN = ["-m", "torch.distributed.run", *ONE_MACHINE, "--nproc-per-node", "2"]
ENVIRONMENT = os.environ | {"COURSE_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
RESTARTS = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def command(out: Path, *more: str, torchrun: tuple[str, ...] | None = None) -> list[str]:
    start = [] if torchrun is None else [*TORCHRUN, *torchrun]
    return [sys.executable, *start, "-m", "course_utils", "train", *SHORT, "--out", str(out), *more]


def run(*arguments, torchrun=None, env=None, **options) -> subprocess.CompletedProcess:
    options |= {"cwd": ROOT, "env": ENVIRONMENT | (env or {}), "text": True, "timeout": 120}
    return subprocess.run(command(*arguments, torchrun=torchrun), capture_output=True, **options)


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


@pytest.mark.parametrize("more", [(), ("--accumulation-steps", "3"), ("--recipe", "classic")])
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
    port = free_port()
    nodes = [node(number, port, tmp_path) for number in ("0", "1")]
    assert [one.wait(timeout=120) for one in nodes] == [0, 0]
    assert curve(tmp_path) == pytest.approx(alone, abs=1e-4)


def test_restarts_that_could_hang_are_refused(tmp_path):
    done = run(tmp_path, torchrun=("--max-restarts", "1"))
    assert done.returncode and "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in done.stderr


# --- where this machine's name leads nowhere -----------------------------------------------------

NAMES = ["laptop-of-mine", "ws-17.example.invalid", "x" * 60]


def renamed(name: str) -> list[str]:
    """Return words that run a command on a machine of another name, which has no address."""
    words = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name]
    try:
        subprocess.run([*words, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only the administrator of a Linux machine can give it another name")
    return words


def torchrun_lines(file: str) -> list[list[str]]:
    """Return the words of each line with torchrun and no other machine that a reader may copy."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if file.endswith(".ipynb"):
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL))
    lines = blocks.replace("\\\n", " ").splitlines()
    words = [shlex.split(line.partition("torchrun ")[2]) for line in lines if "torchrun " in line]
    return [line for line in words if "--nnodes" not in line]


def test_the_lines_of_the_book_need_no_name(tmp_path):
    different = set()
    for file in ("README.md", "clusters.md", "notebooks/11_scaling_out.ipynb"):
        lines = torchrun_lines(file)
        assert lines, file
        for line in lines:
            line[line.index("--nproc-per-node") + 1] = "2"
            assert line[line.index("--out") + 2 :] in ([], ["--resume"])
            different.add(tuple(line[: line.index("--out")]))
    for number, line in enumerate(different):
        words = [sys.executable, "-m", "torch.distributed.run", *line, *SHORT]
        done = subprocess.run(
            [*renamed(NAMES[0]), *words, "--out", str(tmp_path / str(number))],
            cwd=ROOT,
            env=ENVIRONMENT | RESTARTS,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0 and "step 12 of 12" in done.stdout, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_processes_on_one_machine_find_each_other(tmp_path, name):
    """Even if torchrun told them to meet at the machine's name."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*renamed(name), sys.executable, *words, *command(tmp_path)[1:]]
    done = subprocess.run(
        words, cwd=ROOT, env=ENVIRONMENT | RESTARTS, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "step 12 of 12" in done.stdout, done.stderr


def node(number: str, port: str, out: Path, *, address="127.0.0.1", env=None, **options):
    start = ["-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", number]
    start += ["--master-addr", address, "--master-port", port, "--nproc-per-node", "1"]
    words = [*options.pop("before", []), sys.executable, *start]
    words += command(out, "--resume")[1:]
    return subprocess.Popen(words, cwd=ROOT, env=ENVIRONMENT | (env or {}), **options)


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.mark.parametrize("card", [None, "lo"])
def test_two_machines_that_do_not_know_their_own_names(tmp_path, card):
    """Without the name of a network card they would wait for each other."""
    options = {"before": renamed(NAMES[1]), "stderr": subprocess.PIPE, "text": True}
    options["env"] = {"GLOO_SOCKET_IFNAME": card} if card else {}
    port = free_port()
    nodes = [node(number, port, tmp_path, **options) for number in ("0", "1")]
    said = [one.communicate(timeout=120)[1] for one in nodes]
    assert [one.returncode for one in nodes] == ([0, 0] if card else [1, 1]), said
    if not card:
        message = f"cannot resolve the name {NAMES[1]}: start torchrun with an address that all"
        assert all(message in words for words in said)


def test_chapter_11_waits_no_longer_than_it_says(tmp_path):
    """What the workers said until then reaches the reader, and none of them lives on."""
    cells = json.loads((ROOT / "notebooks/11_scaling_out.ipynb").read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in cells["cells"]]
    [source] = [one for one in sources if one.startswith("def torchrun(")]
    names = {"folder": tmp_path} | dict(
        os=os, psutil=psutil, subprocess=subprocess, sys=sys, threading=threading
    )
    exec(source, names)
    programs = {
        "print('ready', flush=True)": None,
        "raise SystemExit('I have seen enough')": "I have seen enough",
        "import time; print('I wait', file=sys.stderr, flush=True); time.sleep(99)": "I wait",
    }
    for number, (program, message) in enumerate(programs.items()):
        (tmp_path / "program.py").write_text(f"import os, sys\n{program}\n")
        started = time.monotonic()
        words = names["torchrun"](2, str(tmp_path / "program.py"), seconds=20)
        if message is None:
            assert list(words) == ["ready\n"] * 2
            continue
        with pytest.raises(RuntimeError, match=message) as caught:
            list(words)
        assert ("20 seconds had passed" in str(caught.value)) == (number == 2)
        assert time.monotonic() - started < 40
    here = {"cmdline": lambda one: str(tmp_path / "program.py") in (one.info["cmdline"] or [])}
    assert not any(map(here["cmdline"], psutil.process_iter(["cmdline"])))


# --- one's own text, folder and terminal ---------------------------------------------------------


@pytest.fixture
def train_here(capsys, monkeypatch):
    """Run the command in this process; return its status and what it printed."""
    monkeypatch.chdir(ROOT)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)

    def train(*arguments):
        status = main(command(*arguments)[3:])
        return status, *capsys.readouterr()

    yield train
    # not into a stream that is closed by now
    logging.basicConfig(force=True, level=logging.WARNING)


OWN_TEXTS = {
    "DNA": ("ACGT" * 300, ()),
    "Thai and emoji": ("สวัสดี🙂" * 100, ()),
    "one letter": ("a" * 700, ()),
    "Windows": ("one\r\ntwo\r\n" * 90, ()),
    "a megabyte without a line end": ("to be or not " * 80_000, ("--steps", "1")),
}


@pytest.mark.parametrize("kind", OWN_TEXTS)
def test_a_sample_begins_with_what_the_text_has(tmp_path, train_here, kind):
    text, more = OWN_TEXTS[kind]
    (tmp_path / "own.txt").write_bytes(text.encode("utf-8"))
    status, printed, _ = train_here(tmp_path, "--data", str(tmp_path / "own.txt"), *more)
    assert status == 0
    sample = re.split(r"step \d+ of \d+: .* s\n", printed)[-1].removesuffix("\n")
    assert set(sample) <= set(text) and len(sample) == 201
    assert sample[0] == ("\n" if "\n" in text else text[0])


@pytest.mark.parametrize("torchrun", [None, ()])
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_that_cannot_show_the_letters(tmp_path, encoding, torchrun):
    (tmp_path / "own.txt").write_text("สวัสดี🙂é" * 100, encoding="utf-8")
    terminal = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    words = (tmp_path, "--data", str(tmp_path / "own.txt"))
    done = run(*words, torchrun=torchrun, env=terminal, encoding=encoding)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert done.stdout.endswith("\n") and done.stdout[:-1].rpartition("\n")[2].count("?") > 100


OTHER_OPTIONS = [
    ("--batch-size", "0", "batch_size=0 must be a whole number above 0"),
    ("--steps", "0", "steps=0"),
    ("--seed", str(2**70), "seed=1180591620717411303424 must be a whole number below"),
    ("--seed", "-1", "seed=-1 must be a whole number of at least 0"),
    ("--batch-size", "10000000", "GB, for 10000000 windows"),
    ("--n-embd", "1000000", "Take a smaller --n-embd or --n-layer."),
    ("--block-size", "1000000", "The text has 1127572 characters; --block-size 1000000 needs"),
    ("--n-layer", "0", "n_layer"),
    ("--n-head", "3", "n_head"),
    ("--data", "nowhere.txt", "nowhere.txt cannot be read as a text file: No such file"),
    ("--data", "tests", "tests cannot be read as a text file: Is a directory"),
    ("--data", "pyproject.toml/x", "pyproject.toml/x cannot be read as a text file"),
    (
        "--out",
        "pyproject.toml",
        "--out pyproject.toml is not a folder: it is a file or lies below one",
    ),
    (
        "--out",
        "pyproject.toml/x",
        "--out pyproject.toml/x is not a folder: it is a file or lies below one",
    ),
    ("--out", "/dev/full", "--out /dev/full is not a folder"),
    ("--out", "/proc/here", "--out /proc/here cannot be used: "),
]


@pytest.mark.parametrize(("option", "value", "message"), OTHER_OPTIONS)
def test_wrong_options_are_named(tmp_path, train_here, option, value, message):
    status, printed, said = train_here(tmp_path / "out", option, value)
    assert status == 1 and message in said
    assert said.count("\n") == 1 and "parameters on" not in printed


@pytest.mark.parametrize("name", ["checkpoint.pt", "history.json"])
def test_what_stands_in_the_way_of_a_file_is_named_first(tmp_path, train_here, name):
    (tmp_path / name).mkdir()
    status, _, said = train_here(tmp_path, "--data", "nowhere.txt", "--resume")
    assert (
        status == 1
        and said == f"{tmp_path / name} is not a file, so {name} cannot be written. Rename it.\n"
    )


@pytest.mark.parametrize("option", ["--out", "--data"])
def test_an_empty_path_is_refused(tmp_path, train_here, capsys, option):
    with pytest.raises(SystemExit):
        main(["train", "--out", str(tmp_path), option, ""])
    assert f"argument {option}: expected a path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RANK", "abc"),
        ("RANK", ""),
        ("LOCAL_RANK", "-1"),
        ("MASTER_PORT", "x"),
        ("MASTER_ADDR", ""),
    ],
)
def test_places_that_no_torchrun_gave_are_named(tmp_path, train_here, monkeypatch, name, value):
    whole = dict.fromkeys(("RANK", "LOCAL_RANK"), "0") | {"MASTER_ADDR": "127.0.0.1"}
    whole |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "2") | {"MASTER_PORT": "29500"}
    for key, text in (whole | {name: value}).items():
        monkeypatch.setenv(key, text)
    status, _, said = train_here(tmp_path / "out")
    assert status == 1 and f"{name} is {value!r}. Start with torchrun" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["rank-0.invalid", "two..dots", "x" * 70])
def test_a_rank_0_that_has_no_address_is_named(tmp_path, train_here, monkeypatch, name):
    """The two machines would otherwise wait for each other."""
    whole = dict.fromkeys(("RANK", "WORLD_SIZE", "MASTER_PORT"), "2")
    whole |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": name}
    for key, text in whole.items():
        monkeypatch.setenv(key, text)
    status, _, said = train_here(tmp_path / "out")
    assert status == 1 and f"cannot resolve the name {name}: start torchrun with an addr" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(("n", "block_size"), [(1, 32), (320, 32), (160, 16)])
def test_a_short_text_is_refused_with_the_number_it_needs(tmp_path, train_here, n, block_size):
    own, more = tmp_path / "own.txt", ("--block-size", str(block_size), "--data")
    own.write_text("x" * n)
    status, _, said = train_here(tmp_path / "out", *more, str(own))
    needed = 10 * block_size + 1
    assert status == 1 and f"own.txt has {n} characters; " in said
    assert f"needs at least {needed}" in said
    own.write_text("x" * needed)
    assert train_here(tmp_path / "out", *more, str(own))[0] == 0


def test_the_command_goes_on_with_the_same_text_only(tmp_path, train_here):
    own, out = tmp_path / "own.txt", tmp_path / "out"
    own.write_text("abcd" * 100)
    words = (out, "--data", str(own), "--resume")
    assert train_here(*words)[0] == 0
    for other in ("bcde" * 100, "abcd" * 99 + "abdc", "abcd" * 101):
        own.write_text(other)
        status, _, said = train_here(*words)
        assert status == 1 and "belongs to another run: it was trained on another text" in said
    own.write_text("abcd" * 100)
    assert train_here(*words)[0] == 0
    status, _, said = train_here(*words, "--seed", "5")
    assert status == 1 and "its seed is 0, and here seed is 5" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_was_learned_outlives_the_command(tmp_path, alone, number):
    """Ctrl-C after the step in hand; the others go back to the last evaluation."""
    with subprocess.Popen(
        command(tmp_path), cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if line.startswith("step 4 of"):
                process.send_signal(number)
            if line.startswith("stopped after step"):
                assert "--resume continues the run" in line
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    done = run(tmp_path, "--resume")
    assert done.returncode == 0 and "step 0 of" not in done.stdout, done.stderr
    assert curve(tmp_path) == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2])
def test_one_progress_bar_is_drawn(tmp_path, n):
    words = ("--nproc-per-node", str(n)) if n > 1 else None
    batch = ("--batch-size", str(2 * n), "--steps", "3")
    done = run(tmp_path, *batch, torchrun=words, env={"TQDM_DISABLE": ""})
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("| 0/3 [00:00<?, ?step/s]") == 1


def test_errors_say_what_to_do(tmp_path):
    done = run(tmp_path, "--batch-size", "3", torchrun=())
    assert done.returncode and "cannot be divided equally among 2 processes" in done.stderr
