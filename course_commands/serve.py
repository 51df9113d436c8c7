"""``python -m course_utils serve``: check the address, load a model, answer until told to stop."""

import argparse
import errno
import logging
import os
import socket
import sys
import threading
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

from course_utils import assets

if TYPE_CHECKING:
    from course_commands.server import Server

PACKAGES = {"fastapi": "fastapi", "prometheus_client": "prometheus-client", "uvicorn": "uvicorn"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--model", default="gpt2", choices=("gpt2", "distilgpt2", "smollm2"))
    parser.add_argument("--port", default="8000", help="0 takes any free one")
    parser.add_argument(
        "--host", default="127.0.0.1", help="default: this machine only. 0.0.0.0 lets others in"
    )
    parser.add_argument(
        "--until-eof", action="store_true", help="also stop when standard input ends"
    )


def run(options: argparse.Namespace) -> int:
    """Serve as the options say until Ctrl-C or SIGTERM, then finish the answers in progress.

    Returns:
        0 after Ctrl-C, 1 if there is no model, 2 if a package or the address cannot be used; then
        a sentence on stderr says why. All but the model is checked before torch is imported.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        _check_packages()
        with listen(options.host, options.port) as listener:
            _serve(options, listener)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except assets.AssetError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while the model loads, or after the server has stopped
        pass
    return 0


def _check_packages() -> None:
    missing = [package for name, package in PACKAGES.items() if find_spec(name) is None]
    if missing:
        pip = f"{sys.executable} -m pip install {' '.join(missing)}"
        raise ValueError(f"serve needs packages that are not installed; run {pip}")


def listen(host: str, port: str) -> socket.socket:
    """Return a socket that listens; ``::`` takes IPv4 as well where the system can.

    Raises:
        ValueError: a sentence that says what is wrong with host or port.
    """
    if not (port.isascii() and port.isdigit() and len(port) < 10 and int(port) < 65_536):
        raise ValueError(
            f"--port {port!r} is not a port: it must be a whole number from 1 to 65535, "
            "or 0 for any free one."
        )
    if not host.strip():
        raise ValueError(f"--host {host!r} is empty; use 127.0.0.1 for this machine only.")
    try:
        bare = host.removeprefix("[").removesuffix("]")
        # A name may have several addresses: IPv4 comes first.
        family, *_, address = min(socket.getaddrinfo(bare, int(port), type=socket.SOCK_STREAM))
        both = address[0] == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server(address, family=family, backlog=1024, dualstack_ipv6=both)
    except (OSError, UnicodeError) as error:
        raise ValueError(_why_not(host, port, error)) from None
    try:  # an address of many machines can be listened on but not connected to
        socket.create_connection((_host(listener), listener.getsockname()[1]), timeout=5).close()
    except OSError as error:
        listener.close()
        raise ValueError(_why_not(host, port, error)) from None
    return listener


def _why_not(host: str, port: str, error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return f"Port {port} of {host} is taken by another program; --port 0 finds a free one."
    if number == errno.EACCES:
        return f"Port {port} is for administrators only; take one from 1024, or 0 for any free one."
    return (
        f"--host {host!r} is not an address of this machine; use 127.0.0.1 for this machine only, "
        "or 0.0.0.0 to let others in."
    )


def _host(listener: socket.socket) -> str:
    """Return the host by which this machine reaches ``listener``."""
    host, _, *more = listener.getsockname()
    if any(more):  # an IPv6 address of one network card
        return f"{host}%{more[-1]}"
    if host == "::" and not socket.has_dualstack_ipv6():
        return "::1"
    return {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(host, host)


def url_of(listener: socket.socket) -> str:
    """Return an address that a browser on this machine can open."""
    host, port = _host(listener), listener.getsockname()[1]
    host = "[" + host.replace("%", "%25") + "]" if ":" in host else host
    return f"http://{host}:{port}"


def _serve(options: argparse.Namespace, listener: socket.socket) -> None:
    import torch

    from course_commands.server import Server
    from course_commands.serving import make_app
    from course_utils import pretrained, weights
    from course_utils.device import pick_device

    device = pick_device()
    theirs, tokenizer, card = pretrained.load(options.model)
    model = weights.from_transformers(theirs).to(device)
    tokenizer.model_max_length = 10**9  # it would warn about what the server refuses anyway
    stop = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    _allow_connections()
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))  # one core is for the app
    title = card.title.encode("ascii", "backslashreplace").decode()  # any terminal can show it
    greeting = f"{title} answers on {url_of(listener)} (POST /generate). Ctrl-C stops it."
    server = Server(make_app(model, tokenizer, stop=stop), greeting)
    if options.until_eof:
        threading.Thread(target=_stop_at_eof, args=[server], daemon=True).start()
    server.run(sockets=[listener])


def _allow_connections(n: int = 10_000) -> None:
    """Let this process have ``n`` connections at once, or as many as the system allows.

    Each counts as an open file, and a process may have only a few at first: 256 on macOS.
    """
    with suppress(ImportError):  # Windows has no such limit
        import resource

        few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        allowed = n if most == resource.RLIM_INFINITY else min(n, most)
        if few != resource.RLIM_INFINITY and few < allowed:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))


def _stop_at_eof(server: "Server") -> None:
    """Stop ``server`` as Ctrl-C does once standard input ends.

    Where another program holds the other end of it, this is when that program ends, even if it
    is killed, on every system.
    """
    with suppress(OSError):  # it was closed from the start
        while os.read(0, 1024):
            pass
    server.should_exit = True
