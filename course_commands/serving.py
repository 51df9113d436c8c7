"""A language model as a web service: `python -m course_utils serve`.

A request passes through three hands. The app reads it and, with a reason, refuses what cannot be
answered. One thread runs the model: it works on several texts at a time, each with its own cache
and its own random numbers, and gives each one token in turn, so that a short answer need not wait
for a long one and no two can mix. Then the app turns the tokens into characters and sends them.

In reading order: what a request may ask for (:class:`Limits`, :class:`GenerateRequest`), the thread
that runs the model (:class:`ModelThread`), what lies between tokens and characters
(:class:`Service`), and the app (:func:`make_app`). What holds for any web server, whatever it
serves, is in `server.py`; the command is in `serve.py`.
"""

import asyncio
import itertools
import json
import logging
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import prometheus_client as prometheus
import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from course_commands.server import Refusal, read_json
from course_utils.gpt import GPT
from course_utils.sampling import stream

log = logging.getLogger(__name__)
END, FAILED = -1, -2  # what follows the last token of a text


# --- what a request may ask for ------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """What the server accepts; everything beyond is refused with a reason.

    Args:
        prompt_tokens: longest prompt; never more than the model's context.
        new_tokens: most tokens that one request may ask for.
        body_bytes: longest body of a request.
        active: how many texts are written at the same time, each with its own cache.
        waiting: how many requests may wait in the queue; the next is told to come back (429).
        seconds: from the arrival of a whole request to the last token of its answer.
    """

    prompt_tokens: int = 512
    new_tokens: int = 256
    body_bytes: int = 65_536
    active: int = 8
    waiting: int = 64
    seconds: float = 60.0


class GenerateRequest(BaseModel):
    """The body of POST /generate. An unknown field is an error: it is never ignored."""

    model_config = ConfigDict(extra="forbid", strict=True)
    prompt: str = Field(min_length=1, description="a text to continue, not empty")
    max_new_tokens: int = Field(64, ge=1, description="a whole number, at least 1")
    temperature: float = Field(1.0, ge=0, le=100, description="from 0 (greedy) to 100")
    top_p: float = Field(1.0, gt=0, le=1, description="above 0 and at most 1")
    seed: int | None = Field(None, ge=0, lt=2**63, description="a whole number from 0, or null")
    stream: bool = Field(False, description="true or false")


# --- the thread that runs the model --------------------------------------------------------------


@dataclass(eq=False)
class Job:
    """One text being written: the model's thread puts tokens into ``results``, the app reads."""

    number: int
    tokens: Iterator[torch.Tensor]  # from course_utils.sampling.stream; each is (1,)
    n_prompt: int
    seed: int
    loop: asyncio.AbstractEventLoop
    arrived: float = field(default_factory=time.monotonic)
    results: "asyncio.Queue[int]" = field(default_factory=asyncio.Queue)
    cancelled: bool = False

    def put(self, result: int) -> None:
        """Hand over a token, END or FAILED, from the model's thread."""
        with suppress(RuntimeError):  # the app's loop is closed: nobody is waiting any more
            self.loop.call_soon_threadsafe(self.results.put_nowait, result)


class ModelThread(threading.Thread):
    """The one thread that runs the model: a token for each active job, round after round."""

    def __init__(self, limits: Limits):
        super().__init__(name="model", daemon=True)
        self.limits = limits
        self.waiting: deque[Job] = deque()
        self.active: list[Job] = []
        self.deadline = math.inf  # until the server is told to stop
        self._changed = threading.Condition()

    @property
    def stopping(self) -> bool:
        """Whether the server has been told to stop."""
        return self.deadline < math.inf

    def submit(self, job: Job) -> None:
        """Put a job into the queue.

        Raises:
            Refusal: the queue is full, or the server is stopping.
        """
        with self._changed:
            if self.stopping:
                raise _stopping()
            free = self.limits.active - len(self.active)
            if len(self.waiting) >= self.limits.waiting + max(0, free):
                raise Refusal(
                    *(429, "queue_full", f"{len(self.waiting)} requests are waiting already"),
                    f"at most {self.limits.waiting} waiting",
                    "Try again in a second, and wait longer after each refusal.",
                )
            self.waiting.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Drop a job: nobody waits for it any more."""
        with self._changed:
            job.cancelled = True
            if job in self.waiting:
                self.waiting.remove(job)

    def stop(self, grace: float = 0) -> None:
        """Take no new jobs; those in progress have ``grace`` seconds left. Then the thread ends."""
        with self._changed:
            self.deadline = min(self.deadline, time.monotonic() + grace)
            self._changed.notify()

    def run(self) -> None:
        """Write until :meth:`stop`."""
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
        """Write one token of a job; return whether there may be more."""
        try:
            token = END if job.cancelled else int(next(job.tokens, END))
        except Exception:  # one bad text must not end the thread for all
            log.exception("request %d failed", job.number)
            token = FAILED
        job.put(token)
        return token >= 0


# --- between tokens and characters ---------------------------------------------------------------


class Metrics:
    """The numbers on GET /metrics, in a registry of their own for each app."""

    def __init__(self, thread: ModelThread):
        self.registry = prometheus.CollectorRegistry()

        def new(kind: type, name: str, text: str, *labels: str) -> Any:
            return kind(f"course_{name}", text, labels, registry=self.registry)

        self.requests = new(prometheus.Counter, "requests", "Requests by how they ended", "outcome")
        self.tokens = new(prometheus.Counter, "tokens", "Tokens written")
        self.seconds = new(prometheus.Histogram, "request_seconds", "Arrival to last token")
        self.first = new(prometheus.Histogram, "first_token_seconds", "Arrival to first token")
        for name, jobs in (("waiting", thread.waiting), ("active", thread.active)):
            gauge = new(prometheus.Gauge, name, f"Requests {name} now")
            gauge.set_function(lambda jobs=jobs: len(jobs))


class Service:
    """A model with its tokenizer, its thread, its limits and its counts.

    Args:
        model: on the device to run on; nothing else may use it meanwhile.
        tokenizer: has ``encode(text)`` and ``decode(ids)``, by bytes or by characters.
        limits: what to accept.
        stop: ids that end a text, such as GPT-2's end-of-text; they are not part of the answer.
    """

    def __init__(self, model: GPT, tokenizer: Any, limits: Limits, stop: Sequence[int]):
        self.model, self.tokenizer, self.limits, self.stop = model, tokenizer, limits, stop
        self.thread = ModelThread(limits)
        self.metrics = Metrics(self.thread)
        self._numbers = itertools.count(1)

    def start(self, wanted: GenerateRequest) -> Job:
        """Queue the job for a request.

        Raises:
            Refusal: the request goes beyond a limit, or there is no room for it now.
        """
        try:
            ids = list(self.tokenizer.encode(wanted.prompt))
        except ValueError as error:
            raise _bad("prompt", str(error), "text in the model's alphabet") from None
        n_most = min(self.limits.prompt_tokens, self.model.config.block_size)
        if not 1 <= len(ids) <= n_most:
            wrong, advice = f"it has {len(ids)} tokens", "Shorten it: the end matters most."
            raise _bad("prompt", wrong, f"1 to {n_most} tokens", advice)
        if wanted.max_new_tokens > self.limits.new_tokens:
            wrong = f"it is {wanted.max_new_tokens}"
            raise _bad("max_new_tokens", wrong, f"at most {self.limits.new_tokens}")
        seed = secrets.randbelow(2**31) if wanted.seed is None else wanted.seed
        how: dict[str, Any] = {"greedy": True}
        if wanted.temperature >= 0.01:  # below, logits would overflow; it is greedy in effect
            generator = torch.Generator().manual_seed(seed)
            how = {"temperature": wanted.temperature, "top_p": wanted.top_p, "generator": generator}
        # A full window drops its first quarter at once, so that the cache still helps.
        how["stride"] = max(1, self.model.config.block_size // 4)
        tokens = stream(self.model, [ids], wanted.max_new_tokens, stop=self.stop, **how)
        job = Job(next(self._numbers), tokens, len(ids), seed, asyncio.get_running_loop())
        self.thread.submit(job)
        return job

    async def pieces(self, job: Job, request: Request) -> AsyncIterator[dict[str, Any]]:
        """Yield ``{"text": …}`` as characters become whole, and at the end how the text ended."""
        ids: list[int] = []
        sent, reason = "", ""
        watch = asyncio.create_task(_cancel_when_gone(request, job))
        try:
            while not reason:
                token, reason = await self._next(job)
                if not reason:
                    ids.append(token)
                    if len(ids) == 1:
                        self.metrics.first.observe(time.monotonic() - job.arrived)
                text = self.tokenizer.decode(ids)
                # A character may need several tokens; until they are all here it is U+FFFD.
                if len(text) > len(sent) and (reason or not text.endswith("\ufffd")):
                    yield {"text": text[len(sent) :]}
                    sent = text
        finally:
            watch.cancel()
            self.thread.cancel(job)
            self._record(job, len(ids), reason or "disconnected")
        yield {"finish_reason": reason, "seed": job.seed, "new_tokens": len(ids)}

    async def _next(self, job: Job) -> tuple[int, str]:
        """Wait for a token; return it with "", or END with the reason why there are no more."""
        until = min(job.arrived + self.limits.seconds, self.thread.deadline)
        try:
            token = await asyncio.wait_for(job.results.get(), until - time.monotonic())
        except TimeoutError:
            return END, "stopping" if self.thread.stopping else "timeout"
        if token == FAILED:
            return END, "error"
        if token == END:
            return END, "disconnected" if job.cancelled else "length"
        return (END, "stop") if token in self.stop else (token, "")

    def _record(self, job: Job, n_new: int, reason: str) -> None:
        """Count and log a request: sizes and times, never the text of people who trust us."""
        seconds = time.monotonic() - job.arrived
        self.metrics.requests.labels(reason).inc()
        self.metrics.tokens.inc(n_new)
        self.metrics.seconds.observe(seconds)
        log.info(
            "request %d: %d prompt tokens, %d new tokens, %.3f s, %s",
            *(job.number, job.n_prompt, n_new, seconds, reason),
        )


async def _cancel_when_gone(request: Request, job: Job) -> None:
    """Cancel a job when its client hangs up, even while it waits for its first token."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.cancelled = True
    job.results.put_nowait(END)


# --- the app -------------------------------------------------------------------------------------


def make_app(
    model: GPT, tokenizer: Any, limits: Limits | None = None, *, stop: Sequence[int] = ()
) -> FastAPI:
    """Return the web app that serves ``model``; see :class:`Service` for the arguments.

    POST /generate answers with application/json, or with application/x-ndjson, a line of JSON for
    each piece, for ``"stream": true``; GET /health with application/json; GET /metrics with the
    text format of Prometheus. There is one format each, so the Accept header is ignored.
    """
    service = Service(model, tokenizer, limits or Limits(), stop)
    thread = service.thread

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        thread.start()
        yield
        thread.stop()
        await asyncio.to_thread(thread.join, 5)

    # No /docs: that page would load scripts from a third party. /openapi.json describes /generate.
    app = FastAPI(title="A language model", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False  # an address that does not exist is 404, always
    app.state.thread = thread
    _answer_errors(app, service.metrics)
    schema = {"content": {"application/json": {"schema": GenerateRequest.model_json_schema()}}}

    @app.post("/generate", openapi_extra={"requestBody": schema})
    async def generate(request: Request) -> Response:
        wanted = await _read(request, service.limits)
        job = service.start(wanted)
        if wanted.stream:
            lines = (json.dumps(piece) + "\n" async for piece in service.pieces(job, request))
            return StreamingResponse(lines, media_type="application/x-ndjson")
        *parts, end = [piece async for piece in service.pieces(job, request)]
        if refusal := _unfinished(end["finish_reason"], service.limits):
            raise refusal
        return JSONResponse({"text": "".join(part["text"] for part in parts), **end})

    async def health(_: Request) -> Response:
        well = thread.is_alive() and not thread.stopping
        state = {"waiting": len(thread.waiting), "active": len(thread.active)}
        status = {"status": "ok" if well else "stopping", "parameters": model.num_parameters()}
        return JSONResponse(status | state, 200 if well else 503)

    async def metrics(_: Request) -> Response:
        text = prometheus.generate_latest(service.metrics.registry)
        return Response(text, media_type=prometheus.CONTENT_TYPE_LATEST)

    app.add_route("/health", health)  # GET, and HEAD with it
    app.add_route("/metrics", metrics)
    return app


def _answer_errors(app: FastAPI, metrics: Metrics) -> None:
    """Make every error a line in the log, a count, and an answer in the form of a Refusal."""

    def noted(code: str) -> None:
        metrics.requests.labels(code).inc()
        log.info("refused: %s", code)

    @app.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> Response:
        noted(refusal.code)
        headers = {"Retry-After": "1"} if refusal.status == 429 else None
        return JSONResponse(refusal.body, refusal.status, headers)

    @app.exception_handler(HTTPException)
    async def no_such_route(request: Request, error: HTTPException) -> Response:
        method, path, allowed = request.method, request.scope["path"], error.headers or {}
        refusal = Refusal(
            *(404, "no_such_address", f"there is no address {path}"),
            "POST /generate, GET /health or GET /metrics",
            "Correct the address.",
        )
        if error.status_code == 405:
            expected = allowed.get("Allow", "")
            wrong = f"{path} does not answer to {method}"
            refusal = Refusal(405, "wrong_method", wrong, expected, f"Use {expected}.")
        noted(refusal.code)
        return JSONResponse(refusal.body, refusal.status, allowed)

    @app.exception_handler(ClientDisconnect)
    async def incomplete(_: Request, error: ClientDisconnect) -> Response:
        noted("incomplete")  # the client hung up in the middle of its request, or was too slow
        return Response()  # nobody is there to read it


def _unfinished(reason: str, limits: Limits) -> Refusal | None:
    """Return the refusal for a text that was not finished; None for all others."""
    if reason == "stopping":
        return _stopping()
    if reason == "timeout":
        wrong = f"the answer was not ready within {limits.seconds:g} seconds"
        return Refusal(504, "too_late", wrong, "a shorter text", "Ask for fewer tokens, or stream.")
    if reason == "error":
        wrong = "the model stopped with an error, which is in the server's log"
        return Refusal(500, "model_failed", wrong, "a text", "Tell whoever runs the server.")
    return None


def _stopping() -> Refusal:
    wrong = "the server is stopping"
    return Refusal(503, "stopping", wrong, "a server that keeps running", "Try again later.")


def _bad(name: str, wrong: str, expected: str, advice: str = "") -> Refusal:
    advice = advice or f"Correct {name} and ask again."
    return Refusal(422, "bad_field", f"{name}: {wrong}", expected, advice)


async def _read(request: Request, limits: Limits) -> GenerateRequest:
    """Return what a request asks for, or refuse it."""
    body = await read_json(request, limits.body_bytes)
    try:
        return GenerateRequest.model_validate_json(body)
    except ValidationError as errors:
        raise _explain(errors.errors(include_url=False, include_input=False)[0]) from None


def _explain(error: Any) -> Refusal:
    """Return the refusal for pydantic's first error."""
    if error["type"] == "json_invalid":
        expected = '{"prompt": "…", "max_new_tokens": 64}'
        advice = "Write the body with a JSON library, not by hand."
        return Refusal(400, "malformed_json", error["msg"], expected, advice)
    fields = GenerateRequest.model_fields
    name = ".".join(str(part) for part in error["loc"]) or "the body"
    if name in fields:
        return _bad(name, error["msg"], fields[name].description or "")
    wrong, advice = "there is no such field", f"Remove {name}, or correct its spelling."
    if not error["loc"]:
        wrong, advice = error["msg"], "Send an object with these fields."
    return _bad(name, wrong, f"the fields {', '.join(fields)}", advice)
