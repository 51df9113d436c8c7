"""What is wrong with the settings in the environment, the course's own and others'."""

import os
import re
import tempfile
from difflib import get_close_matches
from urllib.parse import urlsplit

from course_utils import settings
from course_utils.settings import SettingError, get

COURSE = ("COURSE_ASSETS", "COURSE_CACHE", "COURSE_DEVICE", "COURSE_BOOK")
NO = ("", "0", "OFF", "NO", "FALSE")
WEB = ("http", "https")
PROXY = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
ADDRESSES = {  # what each may begin with
    "HF_ENDPOINT": WEB,
    "PIP_INDEX_URL": (*WEB, "file"),
    "PIP_EXTRA_INDEX_URL": (*WEB, "file"),
    **{name: PROXY for upper in PROXIES for name in (upper, upper.lower())},
    "PIP_PROXY": PROXY,
}
CERTIFICATES = ("PIP_CERT", "PIP_CLIENT_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


def refused() -> list[str]:
    """Return a sentence for each setting of the course that cannot be used."""
    sentences = []
    for read in (settings.assets_folder, settings.cache_folder, settings.device):
        try:
            read()
        except (SettingError, OSError) as error:
            sentences.append(str(error))
    return sentences


def odd() -> list[str]:
    """Return a sentence for each setting that is misspelt or that other programs will trip over."""
    return [*_unknown(), *_folders(), *_switches(), *_addresses(), *_files(), *_token()]


def _unknown() -> list[str]:
    sentences = []
    for name in sorted(os.environ):
        if name.upper().startswith("COURSE_") and name not in COURSE:
            near = get_close_matches(name.upper(), COURSE, 1, 0.75)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COURSE)}."
            sentences.append(f"{name} is not a setting of the course: {hint}")
    return sentences


def _folders() -> list[str]:
    sentences = []
    for name in ("COURSE_ASSETS", "COURSE_CACHE"):
        try:
            folder = settings.named_folder(name)
        except SettingError:
            continue  # refused already
        if folder is None or (name == "COURSE_CACHE" and not os.path.lexists(folder)):
            continue
        if not os.path.lexists(folder):
            sentences.append(f"{name}: there is no folder {folder}; it is ignored.")
        elif not os.path.isdir(folder):
            sentences.append(f"{name}: {folder} is a file (or a broken link), not a folder.")
        elif not os.access(folder, os.R_OK | os.X_OK):
            sentences.append(f"{name}: you may not enter {folder}; its owner can let you in.")
        elif name == "COURSE_CACHE" and not settings.can_write(folder):
            sentences.append(f"{name}: {folder} can be read but not written.")
    return sentences + [
        f"{name}: there is no folder {get(name)}; {tempfile.gettempdir()} is used instead."
        for name in ("TMPDIR", "TEMP", "TMP")
        if get(name) and not os.path.isdir(get(name))
    ]


def _switches() -> list[str]:
    allowed = {"HF_HUB_OFFLINE": (*settings.YES, *NO), "COURSE_BOOK": ("", "1")}
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
            if (several and os.path.isdir(text)) or _is_address(text, schemes):
                continue
            kinds = ", ".join(f"{scheme}://" for scheme in schemes[:3])
            sentences.append(
                f"{name} is not an address: {_hidden(text)!r}. Write the scheme, the host "
                f"and, if needed, a port from 1 to 65535, such as {schemes[0]}://name.example:8080 "
                f"(allowed: {kinds}…)."
            )
    return sentences


def _is_address(text: str, schemes: tuple[str, ...]) -> bool:
    """Return whether ``text`` is an address that begins with one of ``schemes``."""
    try:
        parts = urlsplit(text)
        leads = parts.scheme == "file" or (parts.hostname and parts.port != 0)
    except ValueError:
        return False
    strange = re.search(r"[\s\x00-\x1f\"'<>]", text)
    return bool(leads) and parts.scheme in schemes and not strange


def _hidden(text: str) -> str:
    """Return an address without the name and password that it may contain."""
    return re.sub(r"[^/@\s]*@", "…@", text)


def _files() -> list[str]:
    return [
        f"{name}: there is no file {get(name)}, which should hold the certificates to trust."
        for name in CERTIFICATES
        if get(name) and not os.path.exists(get(name))
    ]


def _token() -> list[str]:
    wrong = [n for n in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if get(n).strip()]
    return [
        f"{name} is not a token: it holds a space, a quotation mark or a character beyond ASCII."
        for name in wrong
        if not re.fullmatch(r"[!#-&(-~]+", get(name).strip())
    ]
