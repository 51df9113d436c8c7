"""How a command begins and ends: nothing that it prints can stop it."""

import codecs
import io
import os
import sys
from collections.abc import Callable

#: What replaces a character that the terminal lacks; for any other it is a question mark.
PLAIN = {"✓": "ok", "✗": "no", "…": "...", "–": "-", "×": "x", "→": "->", "µ": "u", "·": "-"}


class _Patient(io.FileIO):
    """A file that accepts everything: what can no longer be written is dropped."""

    def write(self, data):
        try:
            return super().write(data)
        except OSError:  # the reader has gone (`| head`), or the disk is full
            return len(data)


def run(main: Callable[[], int | None]) -> int:
    """Return the exit status of ``main``, which may print any text to any terminal, or to none."""
    codecs.register_error("plain", _plain)
    for name, number in (("stdout", 1), ("stderr", 2)):
        setattr(sys, name, _stream(getattr(sys, name), number))
    try:
        return main() or 0
    except KeyboardInterrupt:
        return 130
    finally:
        sys.stdout.flush()


def _plain(error: Exception) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(PLAIN.get(letter, "?") for letter in text), error.end


def _stream(stream: io.TextIOWrapper | None, number: int) -> io.TextIOWrapper:
    if stream is None:  # closed, or a program without a console
        return open(os.devnull, "w", encoding="utf-8")
    if os.name == "nt":  # Windows' console takes text, not bytes
        stream.reconfigure(errors="plain")
        return stream
    raw = io.BufferedWriter(_Patient(number, "wb", closefd=False))
    return io.TextIOWrapper(
        raw,
        encoding=stream.encoding,
        errors="plain",
        line_buffering=number == 2 or stream.line_buffering or stream.write_through,
    )
