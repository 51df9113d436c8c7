"""What was tried and what was right: one small file on the reader's own machine.

It is a help and never in the way: when it cannot be read or written, checks work without it.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from course_utils.assets import cache_folder
from course_utils.files import write_whole

LOCK_TIMEOUT_S = 2.0
#: Called without arguments after each new entry: what shows the record in a notebook.
listeners: list[Callable[[], None]] = []


def wanted() -> bool:
    """Return True in a reader's notebook; False in scripts, tests, graders and the built book."""
    if os.environ.get("COURSE_BOOK") == "1" or "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def path() -> Path:
    """Return the file; it is in the course's own folder, see ``COURSE_CACHE``."""
    return cache_folder() / "progress.json"


def read() -> dict[str, dict]:
    """Return an entry for each check that was run, by its name.

    An entry has ``passed`` (the last verdict), ``attempts``, ``first`` and ``last`` (when it was
    run), and ``right`` (when it was right for the first time, or None). A file that cannot be
    read counts as empty.
    """
    try:
        entries = json.loads(path().read_text(encoding="utf-8"))["checks"]
        return {name: entry for name, entry in entries.items() if _is_entry(entry)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("passed"), bool)
        and isinstance(entry.get("attempts"), int)
        and all(isinstance(entry.get(key), str) for key in ("first", "last"))
        and isinstance(entry.get("right"), str | None)
    )


def note(name: str, passed: bool | None) -> None:
    """Write down a verdict on the check ``name``; a stub (``passed`` is None) is not an attempt."""
    if passed is not None:
        try:
            _write(name, passed)
        except OSError:  # no place to write, a full disk, a lock that is never released
            return
    for listener in listeners:
        with contextlib.suppress(Exception):  # a display that is gone
            listener()


def _write(name: str, passed: bool) -> None:
    path().parent.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with FileLock(path().with_suffix(".lock"), timeout=LOCK_TIMEOUT_S):  # of other notebooks
        entries = read()
        entry = entries.get(name, {"attempts": 0, "first": now, "right": None})
        entry["passed"], entry["last"] = passed, now
        entry["attempts"] += 1
        if passed and not entry["right"]:
            entry["right"] = now
        entries[name] = entry
        text = json.dumps({"version": 1, "checks": entries}, indent=1, sort_keys=True)
        with write_whole(path()) as stream:
            stream.write(text.encode())
