"""The grader's side of the workers: start them, ask them, never wait longer than allowed."""

import ast
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import course_checks
import course_utils
from course_checks import exercises
from course_grader import confine, protocol, reading
from course_utils import assets

#: What a homework notebook imports of ``course_checks``, and what that imports in turn. The checks
#: themselves and this package, with the extra checks, are not in the worker's world.
_NO_SECRETS = ("__init__", "guard", "record", "assignments", "homework", "shortcuts")
MEMORY = 4 << 30  # bytes of address space for a worker; torch and the rest take 1 GB
START_SECONDS = 120  # for Python, torch and what else the notebooks import, on a busy machine
GRACE_SECONDS = 5  # for a cell or a call that was told to stop


class WorkerLost(Exception):
    """The worker is gone; ``status`` is "crashed", "timed out", … and the message says how."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


class StudentError(Exception):
    """The student's code raised an exception: its type, message and place."""

    def __init__(self, kind: str, message: str, place: str, stopped: bool = False) -> None:
        super().__init__(f"{kind}: {message}" + (f" ({place})" if place else ""))
        self.kind, self.message, self.place, self.stopped = kind, message, place, stopped


class NoFence(Exception):
    """A part of the fence does not hold; the message says which, why and what to do."""


@dataclass
class Workshop:
    """One process with everything imported, of which each worker is a copy; a context manager.

    ``seconds`` is for all cells of a submission; half of it for one, a quarter for all calls of one
    check. ``hidden`` are folders that no worker may see. ``unsafe`` lets workers run without a part
    of the fence. After entering, ``missing`` says what is missing, by part.
    """

    seconds: float
    hidden: tuple[Path, ...]
    notebooks: tuple[Path, ...] = ()
    unsafe: bool = False
    missing: confine.Missing = field(default_factory=dict)

    def __enter__(self) -> "Workshop":
        self._home = tempfile.mkdtemp(prefix="grading-")
        os.chmod(self._home, 0o711)
        kind = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_STREAM
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, kind)
        settings = {
            "home": self._home,
            "visible": _visible(),
            "hidden": _hidden(self.hidden),
            "memory": MEMORY,
            "seconds": int(4 * self.seconds) + 60,
            "imports": list(_imports(self.notebooks)),
        }
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-c", _START, str(_COURSE.parent)),
                    *(str(theirs.fileno()), json.dumps(settings)),
                ],
                cwd=self._home,
                env=_environment(self._home),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        exercises.everything()  # imports what checks need while the other process starts
        try:
            self._requests.settimeout(START_SECONDS)
            if self._requests.recv(16) != b"ready":
                raise RuntimeError("The workers' process did not start; the reason is above.")
            self._try_fence()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2)
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._home, ignore_errors=True)

    def worker(self, slot: int = 0) -> "Worker":
        """Return a new worker; no two at a time have the same ``slot``."""
        channel, theirs = socket.socketpair()
        control, supervisors = socket.socketpair()
        with theirs, supervisors:
            request = json.dumps({"slot": slot}).encode()
            socket.send_fds(self._requests, [request], [theirs.fileno(), supervisors.fileno()])
        return Worker(channel, control)

    def _try_fence(self) -> None:
        """Try every part, from inside a worker, and refuse to go on without one."""
        server = socket.create_server(("127.0.0.1", 0))
        secret = Path(self._home, "secret")
        secret.write_text("only for the grader")
        hidden = [str(path) for path in self.hidden if path.exists()]
        tried = {
            "read": [str(secret), *hidden, str(_PACKAGE / "scoring.py")],
            "write": [str(_COURSE), *hidden],
            "port": server.getsockname()[1],
            "pid": os.getpid(),
            "memory": MEMORY,
        }
        with server, self.worker() as worker:
            try:
                found = worker.ask({"do": "probe", **tried}, START_SECONDS)["found"]
            except (StudentError, WorkerLost) as error:
                found = dict.fromkeys(confine.PARTS, f"could not be tried: {error}")
            self.missing = {**found, **worker.missing}
        if self.missing and not self.unsafe:
            parts = "; ".join(f"{part}: {why}" for part, why in self.missing.items())
            raise NoFence(
                f"Nothing was run, since a student's code could not be fenced in here ({parts}). "
                'See "Where the fence does not hold" in grading.md; --unsafe runs it all the same.'
            )


class Worker:
    """One process with one student's code; a context manager that leaves no process behind."""

    def __init__(self, channel: socket.socket, control: socket.socket) -> None:
        self._channel, self._control = channel, control
        try:
            self.missing: confine.Missing = protocol.receive(
                channel, time.monotonic() + START_SECONDS
            )["missing"]
        except (EOFError, OSError, TimeoutError, protocol.ProtocolError):
            self.close()
            raise WorkerLost("crashed", "could not be given a process of its own") from None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Have the worker killed, and all that it started."""
        self._channel.close()
        self._control.close()

    def call(self, name: str, args: tuple, kwargs: dict, seconds: float, at_end: bool) -> Any:
        """Return what the student's answer ``name`` returns, and change ``args`` as it did.

        The answer is what the name means ``at_end``, or when its cell had run.

        Raises:
            StudentError: the function raised, or was stopped.
            LookupError: there is no function of that name.
            protocol.Unsendable: it returned no plain data.
            WorkerLost: it ended or hung the process.
        """
        request = {"do": "call", "function": name, "at_end": at_end, "seconds": seconds}
        answer = self.ask(request | {"args": list(args), "kwargs": kwargs}, seconds)
        if "missing" in answer:
            raise LookupError(name)
        after = answer.get("args")
        if isinstance(after, list) and len(after) == len(args):
            for mine, theirs in zip(args, after, strict=True):
                restore(mine, theirs)
        return answer.get("result")

    def ask(self, request: dict, seconds: float) -> dict[str, Any]:
        """Return the answer to a request, which the worker should have within ``seconds``."""
        deadline = time.monotonic() + seconds + GRACE_SECONDS
        frame = protocol.pack(request)
        try:
            protocol.send(self._channel, frame, deadline)
            answer = protocol.receive(self._channel, deadline)
        except TimeoutError:
            raise WorkerLost("timed out", f"did not end within {seconds:.3g} s") from None
        except protocol.ProtocolError as error:
            raise WorkerLost("crashed", f"wrote into the grader's channel: {error}") from None
        except (EOFError, OSError):
            raise WorkerLost("crashed", "ended its process, as a crash or exit does") from None
        if "unsendable" in answer:
            raise protocol.Unsendable(str(answer["unsendable"])[:300])
        if "error" in answer and "new" not in answer:
            raise StudentError(*three_texts(answer["error"]), answer.get("stopped") is True)
        return answer


def three_texts(parts: Any) -> tuple[str, str, str]:
    """Return the type, message and place of an error, whatever the worker said."""
    texts = [str(part)[:2000] for part in parts] if isinstance(parts, list) else []
    kind, message, place = (*texts, "", "", "")[:3]
    return kind or "Exception", message, place


def restore(mine: Any, theirs: Any) -> None:
    """Make my mutable value equal to what the worker made of its copy."""
    if isinstance(mine, Tensor) and isinstance(theirs, Tensor):
        with torch.no_grad(), contextlib.suppress(RuntimeError):  # of another shape
            if not torch.equal(mine.cpu(), theirs):
                mine.copy_(theirs)
    elif isinstance(mine, np.ndarray) and isinstance(theirs, np.ndarray):
        with contextlib.suppress(ValueError):
            mine[...] = theirs
    elif isinstance(mine, list) and isinstance(theirs, list):
        mine[:] = theirs
    elif isinstance(mine, dict | set) and isinstance(theirs, type(mine)):
        mine.clear()
        mine.update(theirs)


# --- what a worker sees ------------------------------------------------------------------------

_PACKAGE = Path(__file__).resolve().parent
_CHECKS = Path(course_checks.__file__).resolve().parent
_COURSE = Path(course_utils.__file__).resolve().parent
#: Starts the workers' process from this very course, though another copy may be installed.
_START = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module('course_grader.worker', run_name='__main__')"
)


def _visible() -> list[str]:
    """Return what the worker must read: Python, its packages, the course, what was fetched."""
    paths = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1]}
    paths |= {Path(entry) for entry in sys.path if entry.endswith("-packages")}
    paths |= {_COURSE, assets.data_folder()}
    paths |= {folder for folder, _ in assets.local_folders()}
    paths |= {_CHECKS / f"{name}.py" for name in _NO_SECRETS} | {_CHECKS / "homework.toml"}
    paths |= {path.resolve() for path in paths}
    return sorted({os.path.abspath(path) for path in paths if path.exists()} - {"/"})


def _hidden(more: Iterable[Path]) -> list[str]:
    """Return what no worker may see, though it may lie in a folder that is visible."""
    paths = {_CHECKS, _PACKAGE, *(path.resolve() for path in more)}
    if (_COURSE.parent / "pyproject.toml").exists():  # a checkout, with the solved homework
        paths.add(_COURSE.parent)
    return sorted(map(str, paths))


def _imports(notebooks: Iterable[Path]) -> list[str]:
    """Return the lines with which these notebooks import packages, but for the checks."""
    files = (json.loads(path.read_text(encoding="utf-8")) for path in notebooks)
    sources = ("".join(cell["source"]) for file in files for cell in file["cells"])
    parts = [part for source in sources for part in reading.parse(source)]
    lines = dict.fromkeys(
        ast.unparse(p) for p in parts if isinstance(p, ast.Import | ast.ImportFrom)
    )
    return [line for line in lines if "course_checks" not in line]


def _environment(home: str) -> dict[str, str]:
    """Return the worker's environment: nothing of the grader's but where the assets are."""
    shared = {name: os.environ[name] for name in ("COURSE_ASSETS",) if name in os.environ}
    return shared | {
        "HOME": home,
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "COURSE_CACHE": str(assets.cache_folder()),
        "COURSE_DEVICE": "cpu",
        "CUDA_VISIBLE_DEVICES": "",  # a graphics driver needs more address space than is allowed
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "MPLBACKEND": "Agg",
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES",  # macOS would end every copy of a process
    }
