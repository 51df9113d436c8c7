"""What the README promises: make's targets, the doctor, fetching ahead."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def course_utils(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "course_utils", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_doctor_says_what_there_is():
    done = course_utils("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("Python", "torch", "chapters run on", "memory", "model hub", "package index"):
        assert part in done.stdout
    assert re.search(r"gpt2-tokenizer .* at hand", done.stdout)
    assert "Nothing: everything is in place." in done.stdout or "  1." in done.stdout


def test_doctor_says_what_to_do(tmp_path):
    nowhere = {"HF_HUB_OFFLINE": "1", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    nowhere |= {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    done = course_utils("doctor", COURSE_CACHE=str(tmp_path / "empty"), **nowhere)
    assert done.returncode == 1
    assert "python -m course_utils fetch --chapters" in done.stdout
    assert "HF_HUB_OFFLINE is set" in done.stdout
    assert "COURSE_ASSETS" in done.stdout


def test_fetch_for_the_chapters():
    done = course_utils("fetch", "--chapters")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✓ gpt2-tokenizer" in done.stdout


def test_fetch_of_something_unknown():
    done = course_utils("fetch", "gpt9")
    assert done.returncode == 2
    assert "no asset is called gpt9; there are: gpt2-tokenizer" in done.stderr


@pytest.fixture
def makefile(tmp_path):
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def make(folder, *arguments):
    return subprocess.run(
        ["make", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_make_says_when_python_is_missing(makefile):
    done = make(makefile, "book", "PYTHON=python-that-is-not-there")
    assert done.returncode != 0
    assert "python-that-is-not-there was not found: install Python 3.11" in done.stdout


def test_make_says_when_python_is_too_old(makefile):
    old = makefile / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    done = make(makefile, "book", f"PYTHON={old}")
    assert done.returncode != 0
    assert "is Python 3.9.2; the course needs Python 3.11 or newer" in done.stdout


def test_make_clean(makefile):
    for name in (".venv", "_build", "notebooks"):
        (makefile / name).mkdir()
    assert make(makefile, "clean").returncode == 0
    assert not (makefile / ".venv").exists()
    assert not (makefile / "_build").exists()
    assert (makefile / "notebooks").exists()


def test_make_help_lists_every_target(makefile):
    listed = re.findall(r"^  make (\w+) +\S", make(makefile, "help").stdout, flags=re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)[1]
    assert sorted(listed) == sorted(phony.split())


@pytest.mark.parametrize("number", ["N=", "N=six", "N=-1"])
def test_make_chapter_says_what_it_wants(makefile, number):
    done = make(makefile, "chapter", number)
    assert done.returncode == 2
    assert "Say which chapter: make chapter N=6" in done.stderr
    assert not (makefile / ".venv").exists()


@pytest.mark.parametrize(("number", "name"), [("6", "06_"), ("08", "08_"), ("11", "11_")])
def test_make_chapter_executes_one(makefile, number, name):
    done = make(makefile, "--dry-run", "chapter", f"N={number}")
    assert f"tools.book --chapter {number}" in done.stdout
    (pattern,) = re.findall(r'-k (".*")', done.stdout)
    shell = subprocess.run(["bash", "-c", f"echo {pattern}"], capture_output=True, text=True)
    assert shell.stdout.strip() == name
    assert list((ROOT / "notebooks").glob(f"{name}*.ipynb"))


def test_a_chapter_that_is_not_there_is_named():
    command = [sys.executable, "-m", "tools.book", "--chapter", "77"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no chapter 77" in done.stderr


def test_what_contributing_names_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(text.splitlines()) < 70  # one page
    names = set(re.findall(r"`((?:[\w.]+/)+[\w.]*|\w+\.(?:md|txt|toml|yml|py))`", text))
    assert len(names) > 12
    for name in names - {"attention_views.py", "notebooks/NN_name.ipynb", "live/elements/NAME.js"}:
        assert (ROOT / name).exists(), name


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def running(*command):
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def first_answer(address, process):
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(address, timeout=5).read().decode()
        time.sleep(0.5)
    pytest.fail(f"{address} did not answer; the command ended with {process.poll()}")


# None of these commands may make the environment anew: the tests themselves are running from it.
KEEP = "--old-file=.venv/ready"
needs_environment = pytest.mark.skipif(
    not (ROOT / ".venv" / "ready").exists(), reason="the environment was not made by make"
)


@pytest.mark.site
@needs_environment
def test_make_serve():
    port = free_port()
    with running("make", KEEP, "serve", f"PORT={port}") as process:
        assert "Language models from the inside" in first_answer(
            f"http://127.0.0.1:{port}/index.html", process
        )


@needs_environment
def test_make_lab():
    port = free_port()
    options = f"--no-browser --allow-root --port={port} --port-retries=0 --IdentityProvider.token=t"
    with running("make", KEEP, "lab", f"LAB_OPTIONS={options}") as process:
        listing = first_answer(f"http://127.0.0.1:{port}/api/contents?token=t", process)
        assert "02_tokenization.ipynb" in listing


@needs_environment
@pytest.mark.parametrize("only", ["", "ONLY=bpe"])
def test_make_bench(only):
    done = make(ROOT, KEEP, "bench", "BENCH_OPTIONS=--quick", *filter(None, [only]))
    assert done.returncode == 0, done.stdout + done.stderr
    for title in ("BPE training", "BPE encoding", "BPE round trip"):
        assert re.search(rf"^{title}", done.stdout, flags=re.MULTILINE)
    for title in ("Mini-LLM", "What each ingredient buys", "Generation", "Attention"):
        assert bool(re.search(rf"^{title}", done.stdout, flags=re.MULTILINE)) == (not only)
    numbers = re.findall(r"\d+\.\d+", done.stdout)
    assert len(numbers) > (10 if only else 60)
    assert not re.search(r"\bnan\b|\binf\b", done.stdout)


def test_readme_names_only_commands_that_are_tested():
    text = (ROOT / "README.md").read_text()
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL))
    commands = {line.split("#")[0].strip() for line in blocks.splitlines()} - {""}
    tested_here = {
        "make lab",
        "make serve",
        "make chapter N=6",
        "make links",
        "make help",
        "make clean",
        "make bench",
        "make bench ONLY=bpe",
        ".venv/bin/python -m course_utils doctor",
        ".venv/bin/python -m course_utils fetch --chapters",
        ".venv/bin/python -m course_utils fetch",
    }
    tested_here.add(".venv/bin/python -m course_utils serve")  # tests/test_serving.py
    tested_here.add(  # tests/test_grading.py
        ".venv/bin/python -m course_utils grade SUBMISSIONS --out grades.csv"
    )
    tested_here.add(".venv/bin/python -m course_utils train --out runs/one")  # test_distributed.py
    on_one_machine = "--standalone --local-addr 127.0.0.1 --nproc-per-node 2"
    tested_here.add(f".venv/bin/torchrun {on_one_machine} -m course_utils train --out runs/two")
    by_ci = {"make book", "make test"}  # .ci/run and the publish workflow
    assert commands == tested_here | by_ci
    assert "make test" in (ROOT / ".ci/run").read_text()
    assert "make book" in (ROOT / ".github/workflows/publish.yml").read_text()
