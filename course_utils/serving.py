"""A language model behind an address: `python -m course_utils serve`.

A request passes through three hands. The web side reads it, refuses what cannot be answered and
says why. One thread runs the model: it holds a few texts at a time, each with its own cache and
its own random numbers, and gives each one token in turn, so that a short answer need not wait for
a long one and no two can mix. The web side then turns the tokens into characters and sends them.
"""

import asyncio
import itertools
import json
import logging
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import prometheus_client as prometheus
import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

from course_utils.gpt import GPT
from course_utils.sampling import stream

log = logging.getLogger(__name__)
END = -1  # stands behind the last token of a text
ROUTES = "POST /generate, GET /health or GET /metrics"


@dataclass(frozen=True)
class Limits:
    """What the server accepts; everything beyond is refused with a reason.

    Args:
        prompt_tokens: longest prompt; never more than the model's context.
        new_tokens: most tokens that one request may ask for.
        body_bytes: longest body of a request.
        active: texts that are written at the same time, each with its own cache.
        waiting: requests that may wait for a place; the next one is told to come back (429).
        seconds: from the arrival of a request to its last token.
    """

    prompt_tokens: int = 512
    new_tokens: int = 256
    body_bytes: int = 65_536
    active: int = 8
    waiting: int = 64
    seconds: float = 60.0


class Ask(BaseModel):
    """The body of POST /generate. A field that is not here is an error, not ignored."""

    model_config = ConfigDict(extra="forbid", strict=True)
    prompt: str = Field(min_length=1, description="a text to continue, not empty")
    max_new_tokens: int = Field(64, ge=1, description="a whole number, at least 1")
    temperature: float = Field(1.0, ge=0, le=100, description="from 0 (greedy) to 100")
    top_p: float = Field(1.0, gt=0, le=1, description="above 0 and at most 1")
    seed: int | None = Field(None, ge=0, lt=2**63, description="a whole number from 0, or null")
    stream: bool = Field(False, description="true or false")


class Refused(Exception):
    """A request that is not answered: the status, a code for programs, three texts for people."""

    def __init__(self, status: int, code: str, wrong: str, expected: str, advice: str):
        super().__init__(wrong)
        self.status, self.code = status, code
        self.body = {"code": code, "wrong": wrong, "expected": expected, "what_to_do": advice}


@dataclass(eq=False)
class Job:
    """One text in the making: the model's thread puts tokens into ``out``, the web side reads."""

    number: int
    tokens: Iterator[torch.Tensor]  # from course_utils.sampling.stream; each is (1,)
    n_prompt: int
    seed: int
    loop: asyncio.AbstractEventLoop
    began: float = field(default_factory=time.monotonic)
    out: "asyncio.Queue[int | Exception]" = field(default_factory=asyncio.Queue)
    cancelled: bool = False

    def put(self, item: "int | Exception") -> None:
        """Hand over a token, END or an error, from the model's thread."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.out.put_nowait, item)


class Worker(threading.Thread):
    """The one thread that runs the model: a token for each active text, round after round."""

    def __init__(self, limits: Limits):
        super().__init__(name="model", daemon=True)
        self.limits = limits
        self.waiting: deque[Job] = deque()
        self.active: list[Job] = []
        self.stopping = False
        self._changed = threading.Condition()

    def submit(self, job: Job) -> None:
        """Put a job into the queue, or refuse it when the queue is full or the server stops."""
        with self._changed:
            if self.stopping:
                wrong = "the server is stopping"
                raise Refused(503, "stopping", wrong, "a server that runs", "Try again later.")
            free = self.limits.active - len(self.active)
            if len(self.waiting) >= self.limits.waiting + max(0, free):
                raise Refused(
                    429,
                    "queue_full",
                    f"{len(self.waiting)} requests are waiting already",
                    f"at most {self.limits.waiting} waiting",
                    "Try again in a second, and wait longer after each refusal.",
                )
            self.waiting.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Forget a job: nobody waits for it any more."""
        with self._changed:
            job.cancelled = True
            if job in self.waiting:
                self.waiting.remove(job)

    def stop(self) -> None:
        """Take no new jobs, finish those at hand, and end."""
        with self._changed:
            self.stopping = True
            self._changed.notify()

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        while True:
            with self._changed:
                while not (self.active or self.waiting or self.stopping):
                    self._changed.wait()
                if not (self.active or self.waiting):
                    return
                while self.waiting and len(self.active) < self.limits.active:
                    self.active.append(self.waiting.popleft())
            for job in list(self.active):
                if not self._step(job):
                    self.active.remove(job)

    def _step(self, job: Job) -> bool:
        """Write one token of a job; return whether there is more to write."""
        try:
            token = END if job.cancelled else int(next(job.tokens, END))
        except Exception as error:  # one bad text must not end the thread for all
            log.exception("request %d failed", job.number)
            job.put(error)
            return False
        job.put(token)
        return token != END


class Metrics:
    """The numbers on GET /metrics, in a registry of their own for each app."""

    def __init__(self, worker: Worker):
        self.registry = prometheus.CollectorRegistry()

        def new(kind: type, name: str, text: str, *labels: str) -> Any:
            return kind(f"course_{name}", text, labels, registry=self.registry)

        self.requests = new(prometheus.Counter, "requests", "Requests by how they ended", "outcome")
        self.tokens = new(prometheus.Counter, "tokens", "Tokens written")
        self.seconds = new(prometheus.Histogram, "request_seconds", "Arrival to last token")
        self.first = new(prometheus.Histogram, "first_token_seconds", "Arrival to first token")
        for name, jobs in (("waiting", worker.waiting), ("active", worker.active)):
            gauge = new(prometheus.Gauge, name, f"Requests {name} now")
            gauge.set_function(lambda jobs=jobs: len(jobs))


def make_app(
    model: GPT, tokenizer: Any, limits: Limits | None = None, *, stop: Sequence[int] = ()
) -> FastAPI:
    """Return the web application that serves ``model``.

    Args:
        model: on the device to run on; nothing else may use it meanwhile.
        tokenizer: has ``encode(text)`` and ``decode(ids)``, by bytes or by characters.
        limits: what to accept.
        stop: ids that end a text, such as GPT-2's end-of-text; they are not part of the answer.
    """
    limits = limits or Limits()
    n_most = min(limits.prompt_tokens, model.config.block_size)
    worker, numbers = Worker(limits), itertools.count(1)
    metrics = Metrics(worker)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.stop()
        await asyncio.to_thread(worker.join, limits.seconds)

    # No /docs: that page would load scripts from a third party. /openapi.json describes it all.
    app = FastAPI(title="A language model", lifespan=lifespan, docs_url=None, redoc_url=None)

    def to_job(ask: Ask) -> Job:
        """Return the job for a request, or refuse it; nothing is computed yet."""
        try:
            ids = list(tokenizer.encode(ask.prompt))
        except ValueError as error:
            raise _bad("prompt", str(error), "text in the model's alphabet") from None
        if not 1 <= len(ids) <= n_most:
            wrong, advice = f"it has {len(ids)} tokens", "Shorten it: the end matters most."
            raise _bad("prompt", wrong, f"1 to {n_most} tokens", advice)
        if ask.max_new_tokens > limits.new_tokens:
            wrong = f"it is {ask.max_new_tokens}"
            raise _bad("max_new_tokens", wrong, f"at most {limits.new_tokens}")
        seed = secrets.randbelow(2**31) if ask.seed is None else ask.seed
        strategy = {"greedy": True}
        if ask.temperature >= 0.01:  # below, logits would overflow; it is greedy in effect
            generator = torch.Generator().manual_seed(seed)
            strategy = {"temperature": ask.temperature, "top_p": ask.top_p, "generator": generator}
        # A full window forgets a quarter of itself at once, so that the cache goes on helping.
        strategy["stride"] = max(1, model.config.block_size // 4)
        tokens = stream(model, [ids], ask.max_new_tokens, stop=stop, **strategy)
        return Job(next(numbers), tokens, len(ids), seed, asyncio.get_running_loop())

    async def pieces(job: Job, request: Request) -> AsyncIterator[dict[str, Any]]:
        """Yield ``{"text": …}`` as characters become whole, and last how the text ended."""
        ids: list[int] = []
        sent, reason = "", ""
        gone = asyncio.create_task(_when_gone(request, job))
        try:
            while not reason:
                left = job.began + limits.seconds - time.monotonic()
                item = await asyncio.wait_for(job.out.get(), left)
                if isinstance(item, Exception):
                    reason = "error"
                elif item == END:
                    reason = "disconnected" if job.cancelled else "length"
                elif item in stop:
                    reason = "stop"
                else:
                    ids.append(item)
                    if len(ids) == 1:
                        metrics.first.observe(time.monotonic() - job.began)
                text = tokenizer.decode(ids)
                # A character may be made of several tokens; until it is whole, it shows as U+FFFD.
                if len(text) > len(sent) and (reason or not text.endswith("\ufffd")):
                    yield {"text": text[len(sent) :]}
                    sent = text
        except TimeoutError:
            reason = "timeout"
        finally:
            gone.cancel()
            worker.cancel(job)
            note(job, len(ids), reason or "disconnected")
        yield {"finish_reason": reason, "seed": job.seed, "new_tokens": len(ids)}

    def note(job: Job, n_new: int, reason: str) -> None:
        """Count and log a request: sizes and times, never the text of people who trust us."""
        seconds = time.monotonic() - job.began
        metrics.requests.labels(reason).inc()
        metrics.tokens.inc(n_new)
        metrics.seconds.observe(seconds)
        log.info(
            "request %d: %d prompt tokens, %d new tokens, %.3f s, %s",
            *(job.number, job.n_prompt, n_new, seconds, reason),
        )

    schema = {"content": {"application/json": {"schema": Ask.model_json_schema()}}}

    @app.post("/generate", openapi_extra={"requestBody": schema})
    async def generate(request: Request) -> Response:
        ask = await _read(request, limits)
        job = to_job(ask)
        worker.submit(job)
        if ask.stream:
            lines = (json.dumps(piece) + "\n" async for piece in pieces(job, request))
            return StreamingResponse(lines, media_type="application/x-ndjson")
        *parts, end = [piece async for piece in pieces(job, request)]
        if refused := _unfinished(end["finish_reason"], limits):
            raise refused
        return JSONResponse({"text": "".join(part["text"] for part in parts), **end})

    @app.get("/health")
    async def health() -> Response:
        well = worker.is_alive() and not worker.stopping
        state = {"waiting": len(worker.waiting), "active": len(worker.active)}
        status = {"status": "ok" if well else "stopping", "parameters": model.num_parameters()}
        return JSONResponse(status | state, 200 if well else 503)

    @app.get("/metrics")
    async def numbers_so_far() -> Response:
        text = prometheus.generate_latest(metrics.registry)
        return Response(text, media_type=prometheus.CONTENT_TYPE_LATEST)

    @app.exception_handler(Refused)
    async def refuse(_: Request, refused: Refused) -> Response:
        metrics.requests.labels(refused.code).inc()
        log.info("refused: %s", refused.code)
        headers = {"Retry-After": "1"} if refused.status == 429 else None
        return JSONResponse({"error": refused.body}, refused.status, headers)

    @app.exception_handler(HTTPException)
    async def no_such_route(request: Request, error: HTTPException) -> Response:
        wrong = f"there is no {request.method} {request.url.path}"
        refused = Refused(error.status_code, "no_such_address", wrong, ROUTES, "Mend the address.")
        return await refuse(request, refused)

    return app


def _unfinished(reason: str, limits: Limits) -> Refused | None:
    """Return the refusal for a text that did not come to its end; None for all others."""
    if reason == "timeout":
        wrong = f"the answer was not ready within {limits.seconds:g} seconds"
        return Refused(504, "too_late", wrong, "a shorter text", "Ask for fewer tokens, or stream.")
    if reason == "error":
        wrong = "the model stopped with an error, which is in the server's log"
        return Refused(500, "model_failed", wrong, "a text", "Tell whoever runs the server.")
    return None


def _bad(name: str, wrong: str, expected: str, advice: str = "") -> Refused:
    advice = advice or f"Mend {name} and ask again."
    return Refused(422, "bad_field", f"{name}: {wrong}", expected, advice)


async def _read(request: Request, limits: Limits) -> Ask:
    """Return the body of a request, or refuse it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/json":  # also keeps out forms that a foreign web page posts
        raise Refused(
            *(415, "not_json", f"the content type is {kind or 'missing'}", "application/json"),
            "Send the header Content-Type: application/json.",
        )
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limits.body_bytes:
            raise Refused(
                *(413, "body_too_large", "the body is too large", f"{limits.body_bytes:,} bytes"),
                "Send a shorter prompt.",
            )
    try:
        return Ask.model_validate_json(bytes(body))
    except ValidationError as errors:
        error = errors.errors(include_url=False, include_input=False)[0]
        if error["type"] == "json_invalid":
            expected = '{"prompt": "…", "max_new_tokens": 64}'
            advice = "Write the body with a JSON library, not by hand."
            raise Refused(400, "malformed_json", error["msg"], expected, advice) from None
        name = ".".join(str(part) for part in error["loc"]) or "the body"
        if name in Ask.model_fields:
            raise _bad(name, error["msg"], Ask.model_fields[name].description) from None
        wrong, advice = "there is no such field", f"Remove {name}, or mend its spelling."
        if not error["loc"]:
            wrong, advice = error["msg"], "Send an object with these fields."
        raise _bad(name, wrong, f"the fields {', '.join(Ask.model_fields)}", advice) from None


async def _when_gone(request: Request, job: Job) -> None:
    """Cancel a job when its reader hangs up, even while it waits for its first token."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.cancelled = True
    job.out.put_nowait(END)


def run(app: FastAPI, host: str, port: int, title: str) -> None:
    """Serve ``app`` until Ctrl-C or SIGTERM, then finish the answers at hand. Port 0: any free one.

    Raises:
        OSError: the port is taken.
    """
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))  # one core is for the web side
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=1024) as listener:
        address = f"http://{host}:{listener.getsockname()[1]}"
        print(f"{title} answers on {address} (POST /generate). Ctrl-C stops it.", flush=True)
        config = uvicorn.Config(
            app, access_log=False, log_level="warning", timeout_graceful_shutdown=30
        )
        with suppress(KeyboardInterrupt):  # by then it has stopped in good order
            uvicorn.Server(config).run(sockets=[listener])
