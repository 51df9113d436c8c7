"""Every setting that the course reads from the environment, in one place.

A setting of the course that cannot be obeyed is refused, with what is allowed. Settings of others
(the model hub, pip, a proxy) are obeyed by them; what looks wrong about one is said as well.
"""

import os
import re
import tempfile
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit

COURSE = ("COURSE_ASSETS", "COURSE_CACHE", "COURSE_DEVICE", "COURSE_BOOK")
#: pip's settings that say how the index is reached. Others, such as PIP_USER, say where to install
#: and would break an environment: the Makefile and downloads leave them out.
PIP_KEPT = (
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_PROXY"),
    *("PIP_TRUSTED_HOST", "PIP_CERT", "PIP_CLIENT_CERT", "PIP_CONFIG_FILE", "PIP_CACHE_DIR"),
    *("PIP_NO_CACHE_DIR", "PIP_TIMEOUT", "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES"),
    *("PIP_KEYRING_PROVIDER", "PIP_DISABLE_PIP_VERSION_CHECK"),
)
YES, NO = ("1", "ON", "YES", "TRUE"), ("", "0", "OFF", "NO", "FALSE")
WEB, PROXY = ("http", "https"), ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
ADDRESSES = {  # what each may begin with
    "HF_ENDPOINT": WEB,
    "PIP_INDEX_URL": (*WEB, "file"),
    "PIP_EXTRA_INDEX_URL": (*WEB, "file"),
    **{name: PROXY for upper in PROXIES for name in (upper, upper.lower())},
    "PIP_PROXY": PROXY,
}
CERTIFICATES = ("PIP_CERT", "PIP_CLIENT_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


class SettingError(ValueError):
    """A setting of the course cannot be obeyed; the message says what is allowed."""


def get(name: str) -> str:
    """Return a setting, or "" if it is not set."""
    return os.environ.get(name, "")


def is_on(name: str) -> bool:
    """Return whether a setting such as ``HF_HUB_OFFLINE`` is switched on."""
    return get(name).upper() in YES


def assets_folder() -> Path | None:
    """Return the folder named by ``COURSE_ASSETS``, or None; raise SettingError, see there."""
    return _folder("COURSE_ASSETS")


def cache_folder() -> Path:
    """Return the folder for downloads: ``COURSE_CACHE``, else the user's own cache.

    Where the user's folder cannot be written (a container, a locked-down laboratory), it is a
    folder of theirs among the temporary ones.

    Raises:
        SettingError: ``COURSE_CACHE`` is a relative path, or none of these folders can be used.
    """
    if chosen := _folder("COURSE_CACHE"):
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
    """Return whether files can be put into ``folder``, after making it if need be."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def temporary_folder() -> Path:
    """Return a folder of this user's own below the system's temporary one."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"course_utils-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.lstat().st_uid != user:  # somebody was there first
        raise SettingError(f"{folder} is another user's: set COURSE_CACHE to a folder of yours.")
    return folder


def keep_caches_writable() -> None:
    """Where the user's home cannot be written, let libraries keep their caches elsewhere.

    numba, which chapter 3 brings in, ends in an error where it finds no place for its own.
    """
    usual = user_cache()
    if usual and can_write(usual):
        return
    try:
        folder = temporary_folder()
    except (SettingError, OSError):
        return  # there is no place at all; the doctor names it
    for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR"):
        os.environ.setdefault(name, str(folder / name.split("_")[0].lower()))


def device() -> str | None:
    """Return the device named by ``COURSE_DEVICE``, or None; raise SettingError for another."""
    name = get("COURSE_DEVICE").strip().lower()
    if name and not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise SettingError(
            f"COURSE_DEVICE is {get('COURSE_DEVICE')!r}; it can be cpu, cuda, cuda:1 (the second "
            "card) or mps. Without it, the fastest one is taken."
        )
    return name or None


def _folder(name: str) -> Path | None:
    text = get(name)
    if not text:
        return None
    path = Path(os.path.expanduser(text))
    if not path.is_absolute():
        raise SettingError(
            f"{name} is {text!r}, which would be another folder for every notebook. Give the "
            f"whole path, such as {Path.cwd() / text.lstrip('~')}."
        )
    return path


# --- what looks wrong ------------------------------------------------------------------------


def refused() -> list[str]:
    """Return a sentence for each setting of the course that cannot be obeyed."""
    sentences = []
    for read in (assets_folder, cache_folder, device):
        try:
            read()
        except (SettingError, OSError) as error:
            sentences.append(str(error))
    return sentences


def odd() -> list[str]:
    """Return a sentence for each setting that is misspelt or that others will stumble over."""
    return [*_unknown(), *_folders(), *_switches(), *_addresses(), *_files(), *_token()]


def _unknown() -> list[str]:
    sentences = []
    for name in sorted(os.environ):
        if name.upper().startswith("COURSE_") and name not in COURSE:
            near = get_close_matches(name.upper(), COURSE, 1, 0.75)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COURSE)}."
            sentences.append(f"{name} is no setting of the course: {hint}")
    return sentences


def _folders() -> list[str]:
    sentences = []
    for name in ("COURSE_ASSETS", "COURSE_CACHE"):
        try:
            folder = _folder(name)
        except SettingError:
            continue  # refused already
        if folder is None or (name == "COURSE_CACHE" and not os.path.lexists(folder)):
            continue
        if not os.path.lexists(folder):
            sentences.append(f"{name}: there is no folder {folder}; it is passed over.")
        elif not os.path.isdir(folder):
            sentences.append(f"{name}: {folder} is a file (or leads nowhere), not a folder.")
        elif not os.access(folder, os.R_OK | os.X_OK):
            sentences.append(f"{name}: you may not enter {folder}; its owner can let you in.")
        elif name == "COURSE_CACHE" and not can_write(folder):
            sentences.append(f"{name}: {folder} can be read and not written.")
    return sentences + [
        f"{name}: there is no folder {get(name)}; {tempfile.gettempdir()} takes its place."
        for name in ("TMPDIR", "TEMP", "TMP")
        if get(name) and not os.path.isdir(get(name))
    ]


def _switches() -> list[str]:
    allowed = {"HF_HUB_OFFLINE": (*YES, *NO), "COURSE_BOOK": ("", "1")}
    return [
        f"{name} is {get(name)!r}; it can be {values[0] or values[1]}, or not be set."
        for name, values in allowed.items()
        if get(name).upper() not in values
    ]


def _addresses() -> list[str]:
    sentences = []
    for name, schemes in ADDRESSES.items():
        several = name.startswith("PIP") and name.endswith("INDEX_URL")
        for text in get(name).split() if several else filter(None, [get(name)]):
            if (several and os.path.isdir(text)) or is_address(text, schemes):
                continue
            kinds = ", ".join(f"{scheme}://" for scheme in schemes[:3])
            sentences.append(
                f"{name} is no address: {_hidden(text)!r}. Write the kind, the name and, if need "
                f"be, a port from 1 to 65535, for example {schemes[0]}://name.example:8080 "
                f"(allowed: {kinds}…)."
            )
    return sentences


def is_address(text: str, schemes: tuple[str, ...] = WEB) -> bool:
    """Return whether ``text`` is an address that begins with one of ``schemes``."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    if re.search(r"[\s\x00-\x1f\"'<>]", text) or parts.scheme not in schemes or port == 0:
        return False
    return parts.scheme == "file" or bool(parts.hostname)


def _hidden(text: str) -> str:
    """Return an address without the name and password that may stand in it."""
    return re.sub(r"[^/@\s]*@", "…@", text)


def _files() -> list[str]:
    return [
        f"{name}: there is no file {get(name)}; it holds the certificates to trust."
        for name in CERTIFICATES
        if get(name) and not os.path.exists(get(name))
    ]


def _token() -> list[str]:
    wrong = [n for n in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if get(n).strip()]
    return [
        f"{name} is no token: it holds a blank, a quotation mark or a letter beyond ASCII."
        for name in wrong
        if not re.fullmatch(r"[!#-&(-~]+", get(name).strip())
    ]
