"""Every setting that the course reads from the environment, in one place.

A setting of the course that cannot be used is refused, and the message says what is allowed.
:mod:`course_commands.environment` looks for whatever else is wrong in the environment.
"""

import os
import re
import tempfile
from pathlib import Path

#: pip's settings that say how the index is reached. Others, such as PIP_USER, say where to install
#: and would break an environment: the Makefile and downloads leave them out.
PIP_KEPT = (
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_PROXY"),
    *("PIP_TRUSTED_HOST", "PIP_CERT", "PIP_CLIENT_CERT", "PIP_CONFIG_FILE", "PIP_CACHE_DIR"),
    *("PIP_NO_CACHE_DIR", "PIP_TIMEOUT", "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES"),
    *("PIP_KEYRING_PROVIDER", "PIP_DISABLE_PIP_VERSION_CHECK"),
)
YES = ("1", "ON", "YES", "TRUE")


class SettingError(ValueError):
    """A setting of the course cannot be used; the message says what is allowed."""


def get(name: str) -> str:
    """Return a setting, or "" if it is not set."""
    return os.environ.get(name, "")


def is_on(name: str) -> bool:
    """Return whether a setting such as ``HF_HUB_OFFLINE`` is switched on."""
    return get(name).upper() in YES


def assets_folder() -> Path | None:
    """Return the folder named by ``COURSE_ASSETS``, or None; see :func:`named_folder`."""
    return named_folder("COURSE_ASSETS")


def cache_folder() -> Path:
    """Return the folder for downloads: ``COURSE_CACHE``, else the user's own cache.

    Where the user's folder cannot be written (a container, a locked-down laboratory), it is a
    folder of their own below the system's temporary one.

    Raises:
        SettingError: ``COURSE_CACHE`` is a relative path, or none of these folders can be used.
    """
    if chosen := named_folder("COURSE_CACHE"):
        return chosen
    usual = user_cache()
    return usual if usual and can_write(usual) else temporary_folder()


def user_cache() -> Path | None:
    """Return the course's folder in the user's cache, or None for a user without a home."""
    base = get("XDG_CACHE_HOME")
    try:
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "course_utils"
    except RuntimeError:
        return None


def can_write(folder: Path) -> bool:
    """Return whether files can be put into ``folder``, after making it if necessary."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def temporary_folder() -> Path:
    """Return a folder of this user's own below the system's temporary one."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"course_utils-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.lstat().st_uid != user:  # somebody was there first
        raise SettingError(f"{folder} belongs to another user: set COURSE_CACHE to your own.")
    return folder


def keep_caches_writable() -> None:
    """Where the user's home cannot be written, let libraries keep their caches elsewhere.

    numba, which chapter 3 loads, raises an error where it finds no place for its own.
    """
    usual = user_cache()
    if usual and can_write(usual):
        return
    try:
        folder = temporary_folder()
    except (SettingError, OSError):
        return  # there is no place at all; the doctor says so
    for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR"):
        os.environ.setdefault(name, str(folder / name.split("_")[0].lower()))


def device() -> str | None:
    """Return the device named by ``COURSE_DEVICE``, or None; raise SettingError for another."""
    name = get("COURSE_DEVICE").strip().lower()
    if name and not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise SettingError(
            f"COURSE_DEVICE is {get('COURSE_DEVICE')!r}; it can be cpu, cuda, cuda:1 (the second "
            "card) or mps. Leave it unset to use the fastest one."
        )
    return name or None


def named_folder(name: str) -> Path | None:
    """Return the folder named by a setting, or None; raise SettingError for a relative path."""
    text = get(name)
    if not text:
        return None
    path = Path(os.path.expanduser(text))
    if not path.is_absolute():
        raise SettingError(
            f"{name} is {text!r}, which would mean another folder for every notebook. Give "
            f"the full path, such as {Path.cwd() / text.lstrip('~')}."
        )
    return path
