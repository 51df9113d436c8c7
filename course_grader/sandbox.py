"""The grader's side of a worker: start it, ask it, never wait for it longer than allowed."""

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import course_checks
import course_utils
from course_grader import protocol
from course_utils import assets

_WORKER = (sys.executable, "-I", "-m", "course_grader.worker")
#: What a homework notebook imports of ``course_checks``, and what that imports in turn. The checks
#: themselves and this package, with the extra checks, are not in the worker's world.
_NO_SECRETS = (
    "__init__.py",
    "guard.py",
    "record.py",
    "assignments.py",
    "homework.py",
    "homework.toml",
)
START_SECONDS = 60  # for Python and torch, on a busy machine


class WorkerLost(Exception):
    """The worker is gone; ``status`` is "crashed", "timed out", … and the message says how."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


class StudentError(Exception):
    """The student's code raised an exception: its type, message and place."""

    def __init__(self, kind: str, message: str, place: str) -> None:
        super().__init__(f"{kind}: {message}" + (f" ({place})" if place else ""))
        self.kind, self.message, self.place = kind, message, place


@dataclass(frozen=True)
class Limits:
    """What one submission may use."""

    call_seconds: float = 20  # for a cell or one call of a function
    seconds: float = 120  # for all of it, restarts included
    memory: int = 4 << 30  # bytes of address space; torch alone takes 0.7 GB


class Worker:
    """One process with one student's code; a context manager that leaves no process behind."""

    def __init__(self, limits: Limits, launcher: tuple[str, ...] | None = None) -> None:
        self.limits = limits
        launcher = best_launcher() if launcher is None else launcher
        self._home = Path(tempfile.mkdtemp(prefix="grading-"))
        self._channel, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        settings = {
            "home": str(self._home),
            "visible": [str(path) for path in _visible()],
            "memory": limits.memory,
            "seconds": int(limits.seconds) + START_SECONDS,
        }
        with theirs:
            self._process = subprocess.Popen(
                [*launcher, *_WORKER, str(theirs.fileno()), json.dumps(settings)],
                cwd=self._home,
                env=_environment(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,
            )
        try:
            hello = protocol.receive(self._channel, time.monotonic() + START_SECONDS)
            self.isolation: dict[str, str] = hello["isolation"]
            self._children = _children(self._process.pid)
        except BaseException as error:
            self._errors.seek(0)
            last = self._errors.read()[-2000:].decode(errors="replace").strip().splitlines()
            self.close()
            reason = last[-1] if last else type(error).__name__
            raise RuntimeError(f"the grader's worker did not start: {reason}") from error

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the worker and all that it started, and remove its folder."""
        for child in getattr(self, "_children", []):  # the first process in the namespace
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._channel.close()
        self._errors.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def run(self, source: str, title: str, deadline: float, definitions_only: bool = False) -> None:
        """Run a cell. Raises StudentError, or WorkerLost."""
        request = {"run": source, "title": title, "definitions_only": definitions_only}
        self._ask(request, [], deadline)

    def call(self, name: str, args: tuple, kwargs: dict, deadline: float) -> Any:
        """Return what the student's function ``name`` returns, and change ``args`` as it did.

        Raises:
            StudentError: the function raised.
            LookupError: there is no function of that name.
            protocol.Unsendable: it returned no plain data.
            WorkerLost: it ended or hung the process.
        """
        functions: list[Callable] = []
        request = {"call": name, "args": list(args), "kwargs": kwargs}
        answer = self._ask(request, functions, deadline)
        if "missing" in answer:
            raise LookupError(name)
        after = answer.get("args")
        if isinstance(after, list) and len(after) == len(args):
            for mine, theirs in zip(args, after, strict=True):
                restore(mine, theirs)
        return answer.get("result")

    def _ask(self, request: dict, functions: list[Callable], deadline: float) -> dict[str, Any]:
        start = time.monotonic()
        deadline = min(deadline, start + self.limits.call_seconds)
        try:
            protocol.send(self._channel, protocol.pack(request, functions), deadline)
            while "callback" in (answer := protocol.receive(self._channel, deadline)):
                protocol.send(self._channel, _serve(answer, functions), deadline)
        except TimeoutError:
            elapsed = time.monotonic() - start
            raise WorkerLost("timed out", f"did not end in {elapsed:.1f} seconds") from None
        except protocol.Unsendable:
            raise
        except protocol.ProtocolError as error:
            raise WorkerLost("crashed", f"wrote into the grader's channel: {error}") from None
        except (EOFError, OSError):
            raise WorkerLost("crashed", f"ended the process ({self._how_it_ended()})") from None
        if "unsendable" in answer:
            raise protocol.Unsendable(str(answer["unsendable"])[:300])
        if "error" in answer:
            raise StudentError(*_three_texts(answer["error"]))
        return answer

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "it closed its channel"
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _serve(answer: dict[str, Any], functions: list[Callable]) -> bytes:
    """Call one of the check's own functions for the worker, with plain data."""
    number, args, kwargs = answer["callback"], answer.get("args"), answer.get("kwargs")
    if type(number) is not int or not 0 <= number < len(functions):
        raise protocol.ProtocolError("a call of a function that was not given")
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise protocol.ProtocolError("a call without arguments")
    try:
        return protocol.pack({"result": functions[number](*args, **kwargs)})
    except Exception as error:
        return protocol.pack({"error": [type(error).__name__, str(error)[:2000], ""]})


def _three_texts(parts: Any) -> tuple[str, str, str]:
    texts = [str(part)[:2000] for part in parts] if isinstance(parts, list) else []
    kind, message, place = (*texts, "", "", "")[:3]
    return kind or "Exception", message, place


def restore(mine: Any, theirs: Any) -> Any:
    """Make my mutable value equal to what the worker made of its copy; return it (or theirs)."""
    import numpy as np
    import torch

    with torch.no_grad():
        if isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor):
            if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
                return theirs
            if not torch.equal(mine.cpu(), theirs):
                mine.copy_(theirs)
        elif isinstance(mine, np.ndarray) and isinstance(theirs, np.ndarray):
            if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
                return theirs
            if mine.tobytes() != theirs.tobytes():
                mine[...] = theirs
        elif isinstance(mine, torch.Generator) and isinstance(theirs, torch.Generator):
            mine.set_state(theirs.get_state())
        elif isinstance(mine, np.random.Generator) and isinstance(theirs, np.random.Generator):
            mine.bit_generator.state = theirs.bit_generator.state
        elif isinstance(mine, list) and isinstance(theirs, list):
            pairs = zip(mine[: len(theirs)], theirs, strict=False)
            mine[:] = [restore(a, b) for a, b in pairs] + theirs[len(mine) :]
        elif isinstance(mine, dict) and isinstance(theirs, dict):
            new = {k: restore(mine[k], v) if k in mine else v for k, v in theirs.items()}
            mine.clear()
            mine.update(new)
        elif isinstance(mine, set) and isinstance(theirs, set):
            mine.clear()
            mine.update(theirs)
        elif callable(mine):
            return mine
        else:
            return theirs
    return mine


# --- how a worker is started -------------------------------------------------------------------


_NAMESPACES = ("--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child")


@functools.cache
def best_launcher() -> tuple[str, ...]:
    """Return what to put in front of the worker's command to cut it off most, on this machine."""
    unshare = shutil.which("unshare")
    if unshare and sys.platform == "linux":
        for who in ((), ("--user", "--map-root-user")):
            launcher = (unshare, *who, *_NAMESPACES)
            try:
                with Worker(Limits(), launcher) as worker:
                    if not worker.isolation["files"].startswith("NOT"):
                        return launcher
            except RuntimeError:
                continue
    return ()


def _visible() -> list[Path]:
    """Return what the worker must read: Python, its packages, the course, what was fetched."""
    course = Path(course_utils.__file__).resolve().parent
    checks = Path(course_checks.__file__).resolve().parent
    paths = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1]}
    paths |= {course, assets.data_folder(), *(folder for folder, _ in assets.local_folders())}
    paths |= {checks / name for name in _NO_SECRETS}
    return sorted(paths | {path.resolve() for path in paths})


def _environment() -> dict[str, str]:
    """Return the worker's environment: nothing of the grader's but where the assets are."""
    shared = {name: os.environ[name] for name in ("COURSE_ASSETS",) if name in os.environ}
    return shared | {
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
    }


def _children(pid: int) -> list[int]:
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
