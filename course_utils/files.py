"""Writing files so that each is complete or not there at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

#: What the system's errors mean when there is no room for a file.
FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your share of the disk is full",
    errno.EFBIG: "files may not grow so large here",
}


@contextmanager
def write_whole(path: Path | str) -> Iterator[BinaryIO]:
    """Yield a stream to write ``path`` with; the file appears once all of it is on the disk.

    Until then it has another name in the same folder. The rename at the end cannot be interrupted,
    so that a crash, a full disk or an error in the block leaves the old file as it was.

    Raises:
        OSError: the file cannot be written; the message says so if the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with temporary.open("w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in FULL:
            raise OSError(f"{path} could not be written: {FULL[error.errno]}.") from error
        raise
