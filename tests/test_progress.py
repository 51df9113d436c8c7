"""The progress bar where the terminal's encoding lacks its characters, and while the book is built."""

import os
import subprocess
import sys

import pytest

COUNT = """
from course_utils.progress import progress_bar
for _ in progress_bar(range(3), desc="\\u00dcbung \\u2713", unit="W\\u00f6rter"):
    pass
print("done")
"""


def run(**environment):
    # In a folder with an umlaut, Python itself cannot start in such a locale.
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0"} if __file__.isascii() else {}
    environment = {**os.environ, **plain, **environment}
    return subprocess.run([sys.executable, "-c", COUNT], env=environment, capture_output=True)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_a_bar_is_drawn_in_any_encoding(encoding):
    ended = run(PYTHONIOENCODING=encoding, TQDM_DISABLE="")
    assert (ended.returncode, ended.stdout.strip()) == (0, b"done")
    assert b"3/3" in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_a_bar_is_silent_while_the_book_is_built():
    assert run(TQDM_DISABLE="1").stderr == b""
