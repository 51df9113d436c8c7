"""A server that clients cannot hold up: uvicorn, with limits to the size and time of a request.

Each refusal has the same form: JSON with a code for programs and three sentences for people.
"""

import asyncio
import errno
import json
import logging
import socket
from contextlib import suppress
from email.message import Message
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger(__name__)

READ_SECONDS = 10.0  # from the first byte of a request to its last
GRACE_SECONDS = 5.0  # what an unfinished answer still gets when the server is told to stop


class Refusal(Exception):
    """Why a request gets no text: a status, a code for programs, three sentences for people."""

    def __init__(self, status: int, code: str, wrong: str, expected: str, what_to_do: str):
        super().__init__(wrong)
        self.status, self.code = status, code
        error = {"code": code, "wrong": wrong, "expected": expected, "what_to_do": what_to_do}
        self.body = {"error": error}


async def read_json(request: Request, most_bytes: int) -> bytes:
    """Return the body of a request, which says that it is JSON.

    Raises:
        Refusal: it is not JSON in UTF-8, or too large.
        ClientDisconnect: the client hung up before the end of it.
    """
    _check_media_type(request)
    too_large = Refusal(
        *(413, "body_too_large", "the body is too large", f"at most {most_bytes:,} bytes"),
        "Send a shorter one.",
    )
    if int(request.headers.get("content-length", 0)) > most_bytes:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():  # may be longer than announced, or not announced
        body += chunk
        if len(body) > most_bytes:
            raise too_large
    return bytes(body)


def _check_media_type(request: Request) -> None:
    """Refuse all but JSON in UTF-8; this also keeps out forms that a foreign web page posts."""
    given, packed = (request.headers.get(f"content-{name}", "") for name in ("type", "encoding"))
    header = Message()  # it knows upper case, parameters and quotes
    header["content-type"] = given
    advice = "Send the header Content-Type: application/json."
    if header.get_content_type() != "application/json":
        wrong = f"the content type is {given or 'missing'}"
        raise Refusal(415, "not_json", wrong, "application/json", advice)
    charset = header.get_content_charset("utf-8")
    if charset.replace("-", "") not in ("utf8", "usascii"):
        raise Refusal(415, "not_utf8", f"the charset is {charset}", "utf-8", advice)
    if packed.lower() not in ("", "identity"):
        wrong, advice = f"the content encoding is {packed}", "Send the body as it is."
        raise Refusal(415, "compressed", wrong, "no content encoding", advice)


class TimedHTTP(H11Protocol):
    """HTTP as uvicorn speaks it, with a limit in seconds for the arrival of a request.

    Without the limit, a client that sends a byte a second, or stops halfway, would hold its
    connection forever.
    """

    seconds = READ_SECONDS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.clock = self.loop.call_later(self.seconds, self.too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self.clock.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if not self.half_read():
            self.clock.cancel()
        elif self.clock.cancelled():
            self.clock = self.loop.call_later(self.seconds, self.too_slow)

    def half_read(self) -> bool:
        """Return whether a part of a request is here and the rest is not."""
        state = self.conn.their_state
        return state is h11.SEND_BODY or (state is h11.IDLE and bool(self.conn.trailing_data[0]))

    def too_slow(self) -> None:
        """Hang up; say why, unless nothing has come at all."""
        wrong, expected = "the request did not arrive in time", f"within {self.seconds:g} seconds"
        refusal = Refusal(408, "too_slow", wrong, expected, "Send it again without a pause.")
        self.hang_up(refusal if self.half_read() else None)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; uvicorn calls it."""
        advice = "Use an HTTP client."
        self.hang_up(Refusal(400, "not_http", msg, "a request in HTTP/1.1", advice))

    def hang_up(self, refusal: Refusal | None) -> None:
        """Close the connection, with a refusal as the last word unless an answer has begun."""
        if refusal and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(refusal.body).encode()
            headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
            headers += [("connection", "close")]
            reason = HTTPStatus(refusal.status).phrase.encode()
            head = h11.Response(status_code=refusal.status, headers=headers, reason=reason)
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle:
            self.cycle.disconnected = True  # the app has nothing to add
        self.transport.close()


class Server(uvicorn.Server):
    """Runs an app of `make_app`, and stops within seconds, whatever its clients do."""

    def __init__(self, app: Starlette, greeting: str):
        self.thread, self.greeting = app.state.thread, greeting
        self.noted: set[str] = set()
        how: dict[str, Any] = {
            "http": TimedHTTP,
            "ws": "none",
            "loop": "asyncio",
            "log_config": None,
        }
        # At lower levels uvicorn only logs clients' mistakes, without saying whose or which.
        super().__init__(uvicorn.Config(app, **how, access_log=False, log_level="error"))

    async def startup(self, sockets: Any = None) -> None:
        """Print the greeting once requests are answered and Ctrl-C is handled."""
        asyncio.get_running_loop().set_exception_handler(self._note)
        for listener in sockets or []:  # send at once: else an answer may wait for 40 ms
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await super().startup(sockets)
        with suppress(OSError):  # nobody reads it
            print(self.greeting, flush=True)

    async def shutdown(self, sockets: Any = None) -> None:
        """Let answers go on for ``GRACE_SECONDS``, then hang up on whoever is still there."""
        self.thread.stop(GRACE_SECONDS)
        asyncio.get_running_loop().call_later(GRACE_SECONDS + 1, self._hang_up)
        await super().shutdown(sockets)

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what the loop reports, once: too many connections would be thousands of lines."""
        error = context.get("exception")
        if context["message"] in self.noted or (self.should_exit and isinstance(error, ValueError)):
            return  # at the end, the loop may still try to listen on what is closed
        self.noted.add(context["message"])
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            log.warning("there are more clients than this process may have open files; some wait")
        else:
            loop.default_exception_handler(context)

    def _hang_up(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
