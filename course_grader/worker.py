"""The process that holds one student's code. Nobody trusts what it says.

``sandbox`` starts one process of this module, which imports what the notebooks import and then
makes a copy of itself for each submission: a supervisor, which ends it on request, and its child,
which puts up the fence and only then reads what the student wrote. Cells run in IPython's own
shell.

A request is a dictionary with the key "do": "read" takes the cells and says what they answer,
"cell" runs one, "call" calls an answer with plain data and gives back the result and the arguments
as they are afterwards, "names" says what an answer mentions, "probe" tries the fence.
"""

import contextlib
import importlib.abc
import importlib.util
import json
import linecache
import os
import shutil
import signal
import socket
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from course_checks import Verdict, assignments, homework, shortcuts  # noqa: F401 (notebooks do)
from course_grader import confine, protocol, reading

_NOT_HERE = {"matplotlib", "pip", "conda", "mamba", "uv", "sx", "system", "cd"}  # magics
_NOT_HERE |= {"bash", "sh", "script", "!", "perl", "ruby", "html", "javascript"}
_NONE = object()
_GRACE = 1.0  # seconds after which a cell that was stopped and goes on is stopped again


class Shell(InteractiveShell):
    """IPython's shell, quiet: no commands of the system, and no magic fails a cell."""

    error: BaseException | None = None

    def system_piped(self, _command: str) -> None:
        """Do nothing, where IPython would run a command of the system, such as pip."""

    system = system_raw = system_piped

    def getoutput(self, *_: Any, **__: Any) -> list:
        """Return no lines, the output of a command that was not run."""
        return []

    def run_line_magic(self, name: str, line: str, _stack_depth: int = 1) -> Any:
        """Run ``%name line`` if it exists and works."""
        with contextlib.suppress(Exception):
            if name not in _NOT_HERE:
                return super().run_line_magic(name, line, _stack_depth + 1)

    def run_cell_magic(self, name: str, line: str, cell: str) -> Any:
        """Run ``%%name line`` if it exists and works."""
        with contextlib.suppress(Exception):
            if name not in _NOT_HERE:
                return super().run_cell_magic(name, line, cell)

    def showtraceback(self, *_: Any, **__: Any) -> None:
        """Keep the error, where IPython would print it."""
        self.error = sys.exc_info()[1]

    showsyntaxerror = showindentationerror = showtraceback


class Session:
    """The student's namespace and the answers in it."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.cells: list[str] = []
        self.functions: dict[str, str] = {}  # by the name of their check
        self.answers: dict[str, Any] = {}
        self.passed: dict[str, Any] = {}  # to a check, in the cell that runs
        self.stopped = False

    def read(self, cells: list, functions: dict[str, str]) -> dict[str, Any]:
        """Take the notebook: for each cell its source and whether the student wrote it."""
        sys.meta_path.insert(0, _Checks(self, list(functions)))
        for check in functions:
            self.shell.user_ns.setdefault(check, self.stand_in(check))
        self.functions = functions
        names = list(functions.values())
        sources = [source for source, _ in cells]
        try:
            self.cells = reading.needed([tuple(cell) for cell in cells], names)
            written = reading.statements(sources, names)
        except (RecursionError, ValueError, MemoryError):
            self.cells, written = sources, {}
        return {"written": written}

    def stand_in(self, check: str) -> Callable:
        """Return a stand-in for a check: it notes the answer and accepts it."""

        def stand_in(answer: Any = None, *_: Any, **__: Any) -> Verdict:
            self.passed[check] = answer
            return Verdict(True, "The grader runs this check itself.")

        stand_in.__name__ = check
        return stand_in

    def cell(self, number: int, seconds: float, definitions: bool = False) -> dict[str, Any]:
        """Run a cell, or what it defines; return its error and the functions that are new."""
        shell, before = self.shell, self._functions()
        source = self.cells[number]
        self.passed, shell.error = {}, None
        with self._at_most(seconds):
            result = shell.run_cell(reading.definitions(source) if definitions else source)
        error = result.error_before_exec or result.error_in_exec or shell.error
        answer: dict[str, Any] = {"stopped": self.stopped}
        if error:
            line = _line_of(error)
            answer["error"] = _describe(error)
            if line and not definitions:  # what follows it may be an answer
                with self._at_most(seconds):
                    shell.run_cell(reading.definitions(source, after=line))
        now = self._functions()
        new = {name: value for name, value in now.items() if before.get(name) is not value}
        new |= {self.functions[check]: f for check, f in self.passed.items() if callable(f)}
        self.answers |= new
        return answer | {"new": list(new)}

    def call(
        self, function: str, at_end: bool, seconds: float, args: list, kwargs: dict
    ) -> dict[str, Any]:
        """Call an answer."""
        answer = self._answer(function, at_end)
        if answer is _NONE:
            return {"missing": True}
        with self._at_most(seconds):
            result = answer(*args, **kwargs)
        return {"result": result, "args": args, "stopped": self.stopped}

    def names(self, function: str, at_end: bool) -> dict[str, Any]:
        """Return all names that an answer and what it calls mention."""
        return {"names": sorted(shortcuts.names_used(self._answer(function, at_end)))}

    def _answer(self, function: str, at_end: bool) -> Any:
        """Return the answer as it was when its cell had run, or what the name means in the end."""
        now = self._functions() if at_end else {}
        return (self.answers | now).get(function, _NONE)

    def _functions(self) -> dict[str, Any]:
        names, space = self.functions.values(), self.shell.user_ns
        return {name: space[name] for name in names if name in space}

    @contextlib.contextmanager
    def _at_most(self, seconds: float) -> Iterator[None]:
        """Stop the block as the notebook's stop button does, and again until it gives in."""
        self.stopped = False

        def stop(*_: Any) -> None:
            self.stopped = True
            raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, seconds, _GRACE)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


class _Checks(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of ``course_checks``, of which there is none here: only stand-ins."""

    def __init__(self, session: Session, checks: list[str]) -> None:
        self.session, self.checks = session, checks

    def find_spec(self, name: str, *_: Any) -> Any:
        """Return the specification of an empty module for any check's."""
        if name.startswith("course_checks."):
            return importlib.util.spec_from_loader(name, self)
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        """Let every name that a check may have lead to its stand-in."""

        def attribute(name: str) -> Callable:
            if name.startswith("check_"):
                return self.session.stand_in(name)
            raise AttributeError(name)

        module.__getattr__ = attribute  # type: ignore[method-assign]
        vars(module)["__all__"] = self.checks


def _students_frames(error: BaseException) -> list[traceback.FrameSummary]:
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if "<ipython-input" in frame.filename]


def _line_of(error: BaseException) -> int:
    """Return the line of the cell at which it ended, 0 where that is not known."""
    frames = [frame for frame in _students_frames(error) if frame.name == "<module>"]
    return frames[0].lineno or 0 if frames and not isinstance(error, SyntaxError) else 0


def _describe(error: BaseException) -> list:
    """Return [type, message, place], of what the student's code raised."""
    try:
        message = str(error.reason if isinstance(error, UnicodeDecodeError) else error)[:2000]
    except BaseException:
        message = "(its message cannot be read)"
    kind = next((k for k in type(error).__mro__ if k.__module__ == "builtins"), Exception)
    name = kind.__name__ if kind is not Exception else type(error).__name__[:60]
    if isinstance(error, SyntaxError):
        return [name, str(error.msg)[:200], f"line {error.lineno}"]
    frames = _students_frames(error)
    line = frames[-1].line or "" if frames else ""
    place = f"line {frames[-1].lineno}: {line}".rstrip(": ")[:200] if frames else ""
    return [name, message, place]


# --- processes ---------------------------------------------------------------------------------


def serve(channel: socket.socket, shell: Shell, missing: confine.Missing) -> None:
    """Do what the grader asks for until it hangs up."""
    session = Session(shell)
    methods = {"probe": lambda **given: {"found": confine.probe(**given)}}
    methods |= {name: getattr(session, name) for name in ("read", "cell", "names", "call")}
    protocol.send(channel, protocol.pack({"missing": missing}))
    while True:
        try:
            request = protocol.receive(channel)
        except EOFError:
            os._exit(0)
        try:
            frame = protocol.pack(methods[request.pop("do")](**request))
        except protocol.Unsendable as reason:
            frame = protocol.pack({"unsendable": str(reason)})
        except BaseException as error:  # SystemExit and KeyboardInterrupt too
            stopped = session.stopped and isinstance(error, KeyboardInterrupt)
            frame = protocol.pack({"error": _describe(error), "stopped": stopped})
        protocol.send(channel, frame)


def supervise(channel: socket.socket, control: socket.socket, options: dict, shell: Shell) -> None:
    """Start the worker proper, and end it when the grader hangs up; never returns."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    home = options["home"] = f"{options['home']}/{os.getpid()}"
    os.mkdir(home)
    os.chmod(home, 0o777)
    missing = confine.separate(options["slot"])
    child = os.fork()
    if child == 0:
        control.close()
        missing = confine.confine(missing, **options)
        os.environ["HOME"] = os.environ["TMPDIR"] = os.getcwd()
        sys.path.insert(0, "")  # modules that a cell writes
        keep = channel.fileno()
        os.closerange(3, keep)
        os.closerange(keep + 1, 1024)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        serve(channel, shell, missing)
    channel.close()
    control.recv(1)  # until the grader closes it
    with contextlib.suppress(OSError):
        os.kill(child, signal.SIGKILL)  # and with it all in its table of processes
        os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        os.rmdir(home)
    os.killpg(0, signal.SIGKILL)  # this process too


def main(number: str, settings: str) -> None:
    """Serve requests for workers, each with two sockets, until the grader is gone."""
    requests = socket.socket(fileno=int(number))
    options = json.loads(settings)
    imports = options.pop("imports")
    config = Config()
    config.HistoryManager.enabled = False
    config.DisplayFormatter.active_types = ["text/plain"]
    shell = Shell.instance(config=config, ipython_dir=options["home"])
    shell.user_ns["__name__"] = "__main__"
    for line in imports:  # what the notebooks import, ahead
        with contextlib.suppress(Exception):
            exec(line, {})
    assignments.assignments()
    linecache.checkcache()
    confine.adopt_orphans()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # none stays as a zombie
    silent = os.open(os.devnull, os.O_RDWR)
    requests.sendall(b"ready")
    for stream in (0, 1, 2):  # whatever the code prints goes nowhere
        os.dup2(silent, stream)
    while True:
        request, files, *_ = socket.recv_fds(requests, 1 << 10, 2)
        if not request:  # the grader may have been killed
            shutil.rmtree(options["home"], ignore_errors=True)
            os._exit(0)
        if os.fork() == 0:
            requests.close()
            channel, control = (socket.socket(fileno=file) for file in files)
            supervise(channel, control, options | json.loads(request), shell)
        for file in files:
            os.close(file)


if __name__ == "__main__":
    main(*sys.argv[1:])
