"""The server, started for real on 127.0.0.1 and asked by real clients, hundreds at once."""

import asyncio
import contextlib
import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import nbformat
import psutil
import pytest
import torch
from jupyter_client import KernelManager

from course_commands import serve, server
from course_commands.server import Server
from course_commands.serving import Limits, make_app
from course_utils import sampling
from course_utils.bpe import BPETokenizer
from course_utils.corpora import CharTokenizer
from course_utils.gpt import GPT, GPTConfig

ROOT = Path(__file__).resolve().parents[1]
ALPHABET = CharTokenizer("\n abcdefghijklmnopqrstuvwxyz0123456789")


def run_apart(coroutine):
    """Run it in a thread of its own: the browser of other tests has a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A tiny model gains nothing by more, and threads that wait take time from the web side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(vocab_size=ALPHABET.vocab_size, block_size=64):
    torch.manual_seed(0)
    config = GPTConfig(vocab_size, block_size=block_size, n_layer=2, n_head=2, n_embd=16)
    model = GPT(config).eval()
    torch.nn.init.normal_(
        model.lm_head.weight, std=0.5
    )  # opinions, so that seeds and prompts matter
    return model


@contextlib.contextmanager
def served(model, tokenizer=ALPHABET, limits=None, stop=()):
    """Give the address of a server that runs in a thread."""
    running = Server(make_app(model, tokenizer, limits, stop=stop), "")
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join(30)
            assert not thread.is_alive(), "the server did not stop"


@pytest.fixture(scope="module")
def address():
    with served(tiny(), limits=Limits(prompt_tokens=40, new_tokens=100, body_bytes=2000)) as found:
        yield found


def alone(model, tokenizer, prompt, n, seed, temperature=1.0):
    """Return the text that a request must get, computed without any server."""
    strategy = {"greedy": True}
    if temperature:
        generator = torch.Generator().manual_seed(seed)
        strategy = {"temperature": temperature, "generator": generator}
    ids = tokenizer.encode(prompt)
    stride = max(1, model.config.block_size // 4)
    [whole] = sampling.generate(model, [ids], n, stride=stride, **strategy)
    return tokenizer.decode(whole[len(ids) :])


def ask(address, **body):
    return httpx.post(f"{address}/generate", json=body, timeout=30)


def read_stream(response):
    *parts, end = [json.loads(line) for line in response.iter_lines()]
    return "".join(part["text"] for part in parts), end, len(parts)


def metric(address, name):
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


# --- one request ---------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0, 0.7, 1.0])
def test_the_answer_is_the_one_computed_without_a_server(address, temperature):
    found = ask(address, prompt="hello", max_new_tokens=90, seed=3, temperature=temperature)
    assert found.status_code == 200
    assert found.json() == {
        "text": alone(tiny(), ALPHABET, "hello", 90, 3, temperature),
        "finish_reason": "length",
        "seed": 3,
        "new_tokens": 90,
    }


def test_without_a_seed_the_answer_says_which_was_drawn(address):
    first = ask(address, prompt="hello", max_new_tokens=30).json()
    again = ask(address, prompt="hello", max_new_tokens=30, seed=first["seed"]).json()
    assert again == first


def test_top_p_narrows_the_choice(address):
    greedy = ask(address, prompt="hello", max_new_tokens=30, temperature=0).json()["text"]
    narrow = ask(address, prompt="hello", max_new_tokens=30, top_p=1e-6, seed=1).json()["text"]
    assert narrow == greedy


def test_a_stop_token_ends_the_text_and_is_not_part_of_it():
    text = alone(tiny(), ALPHABET, "stop", 40, 5)
    stop = text[7]
    with served(tiny(), stop=ALPHABET.encode(stop)) as address:
        found = ask(address, prompt="stop", max_new_tokens=40, seed=5).json()
    assert found["text"] == text[: text.index(stop)]
    assert found["finish_reason"] == "stop"


def test_streaming_sends_the_same_text_piece_by_piece(address):
    body = {"prompt": "hello", "max_new_tokens": 50, "seed": 4, "stream": True}
    with httpx.stream("POST", f"{address}/generate", json=body) as response:
        assert response.headers["content-type"] == "application/x-ndjson"
        text, end, n_parts = read_stream(response)
    assert text == alone(tiny(), ALPHABET, "hello", 50, 4)
    assert n_parts == 50
    assert end == {"finish_reason": "length", "seed": 4, "new_tokens": 50}


def test_streaming_never_sends_half_a_character():
    text = "naïve 日本語 🙂 café " * 40
    tokenizer = BPETokenizer.train(text, 300)
    ids = torch.tensor(tokenizer.encode(text))
    model = tiny(tokenizer.vocab_size, block_size=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
    for _ in range(120):  # learn the text by heart, so that it writes characters of many bytes
        start = int(torch.randint(len(ids) - 33, ()))
        window = ids[start : start + 33][None]
        loss = model(window[:, :-1], window[:, 1:])[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with served(model, tokenizer) as address:
        body = {"prompt": "naïve", "max_new_tokens": 60, "temperature": 0, "stream": True}
        with httpx.stream("POST", f"{address}/generate", json=body, timeout=30) as response:
            pieces = [json.loads(line) for line in response.iter_lines()]
    sent = "".join(piece.get("text", "") for piece in pieces)
    assert sent == alone(model, tokenizer, "naïve", 60, 0, temperature=0)
    assert any(ord(character) > 255 for character in sent)


class Bytes:
    """A tokenizer whose tokens are single bytes, so that most characters take several."""

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode("utf-8", errors="replace")


def test_characters_of_several_tokens_arrive_whole():
    target = "日本 🙂é!"
    data = list(target.encode())

    class Scripted(GPT):
        """A GPT whose next byte is given by the place alone."""

        def hidden_states(self, ids, *, cache=None, n_pad=None):
            places = torch.arange(ids.shape[1]) + (cache[0].length if cache else 0)
            super().hidden_states(ids, cache=cache, n_pad=n_pad)  # moves the cache on
            wanted = torch.tensor([data[(int(p) - 1) % len(data)] for p in places + 1])
            return torch.nn.functional.one_hot(wanted, 256).float()[None] * 50

    model = Scripted(GPTConfig(256, block_size=64, n_layer=1, n_head=1, n_embd=256)).eval()
    with torch.no_grad():
        model.lm_head.weight.copy_(torch.eye(256))
    with served(model, Bytes()) as address:
        body = {"prompt": "x", "max_new_tokens": len(data), "temperature": 0, "stream": True}
        with httpx.stream("POST", f"{address}/generate", json=body, timeout=30) as response:
            *parts, end = [json.loads(line) for line in response.iter_lines()]
    assert [part["text"] for part in parts] == list(target)
    assert end["new_tokens"] == len(data)


# --- what is refused -----------------------------------------------------------------------------

WRONG = {
    "no prompt": ({}, 422, "bad_field", "prompt"),
    "empty prompt": ({"prompt": ""}, 422, "bad_field", "prompt"),
    "no text": ({"prompt": 3}, 422, "bad_field", "prompt"),
    "unknown field": ({"prompt": "a", "max_tokens": 3}, 422, "bad_field", "max_tokens"),
    "too long": ({"prompt": "a" * 41}, 422, "bad_field", "41 tokens"),
    "too much": ({"prompt": "a", "max_new_tokens": 101}, 422, "bad_field", "101"),
    "none": ({"prompt": "a", "max_new_tokens": 0}, 422, "bad_field", "max_new_tokens"),
    "half a token": ({"prompt": "a", "max_new_tokens": 2.5}, 422, "bad_field", "max_new_tokens"),
    "a word": ({"prompt": "a", "max_new_tokens": "9"}, 422, "bad_field", "max_new_tokens"),
    "temperature": ({"prompt": "a", "temperature": -1}, 422, "bad_field", "temperature"),
    "top_p": ({"prompt": "a", "top_p": 0}, 422, "bad_field", "top_p"),
    "seed": ({"prompt": "a", "seed": -1}, 422, "bad_field", "seed"),
    "a foreign letter": ({"prompt": "é"}, 422, "bad_field", "é"),
    "a list": (["a"], 422, "bad_field", "the body"),
    "body": ({"prompt": "a" * 3000}, 413, "body_too_large", "too large"),
}


@pytest.mark.parametrize(("body", "status", "code", "word"), WRONG.values(), ids=WRONG)
def test_a_bad_request_is_told_what_is_wrong(address, body, status, code, word):
    found = httpx.post(f"{address}/generate", json=body)
    assert found.status_code == status, found.text
    error = found.json()["error"]
    assert error["code"] == code
    assert word in error["wrong"]
    assert error["expected"] and error["what_to_do"]


@pytest.mark.parametrize(
    "text", ['{"prompt": "a",', "", "prompt", '{"prompt": "\\ud800"}', b"\xff"]
)
def test_malformed_json(address, text):
    headers = {"content-type": "application/json"}
    found = httpx.post(f"{address}/generate", content=text, headers=headers)
    assert found.status_code == 400, found.text
    assert found.json()["error"]["code"] == "malformed_json"


WRONG_ADDRESSES = {
    "root": ("GET", "/", 404, "no_such_address", None),
    "no such page": ("POST", "/docs", 404, "no_such_address", None),
    "a slash too many": ("GET", "/health/", 404, "no_such_address", None),
    "upper case": ("GET", "/Health", 404, "no_such_address", None),
    "upwards": ("GET", "/health/../../etc/passwd", 404, "no_such_address", None),
    "hidden NUL": ("HEAD", "/health%00", 404, "no_such_address", None),
    "generate is no page": ("GET", "/generate", 405, "wrong_method", {"POST"}),
    "HEAD of generate": ("HEAD", "/generate", 405, "wrong_method", {"POST"}),
    "delete health": ("DELETE", "/health", 405, "wrong_method", {"GET", "HEAD"}),
    "post metrics": ("POST", "/metrics", 405, "wrong_method", {"GET", "HEAD"}),
    "options": ("OPTIONS", "/metrics", 405, "wrong_method", {"GET", "HEAD"}),
    "invented": ("BREW", "/generate", 405, "wrong_method", {"POST"}),
}


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "allow"), WRONG_ADDRESSES.values(), ids=WRONG_ADDRESSES
)
def test_wrong_addresses_and_methods(address, method, path, status, code, allow):
    found = httpx.request(method, address + path)
    assert found.status_code == status
    assert found.headers["content-type"] == "application/json"
    if method == "HEAD":
        assert found.content == b""
    else:
        assert found.json()["error"]["code"] == code
    if allow:
        assert set(found.headers["allow"].split(", ")) == allow


@pytest.mark.parametrize("path", ["/health", "/metrics", "/metrics?a=b"])
def test_head_is_get_without_the_body(address, path):
    head, got = httpx.head(address + path), httpx.get(address + path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize("accept", ["text/html", "application/xml;q=1", "*/*", "nonsense"])
def test_accept_changes_nothing(address, accept):
    headers = {"accept": accept}
    found = httpx.post(f"{address}/generate", json={"prompt": "a"}, headers=headers)
    assert (found.status_code, found.headers["content-type"]) == (200, "application/json")


MEDIA_TYPES = {
    "application/json": None,
    "Application/JSON": None,
    "application/json; charset=utf-8": None,
    'APPLICATION/JSON ;Charset="UTF-8"; a=b': None,
    "application/json;charset=UTF8": None,
    "application/json; charset=us-ascii": None,
    "application/json; charset=utf-16": "not_utf8",
    "application/json; charset=latin-1": "not_utf8",
    'application/json; charset="windows-1252"': "not_utf8",
    "application/json, text/plain": "not_json",
    "application/jsonp": "not_json",
    "application": "not_json",
    "text/plain": "not_json",
    "application/x-www-form-urlencoded": "not_json",
    "": "not_json",
    "; charset=utf-8": "not_json",
}


@pytest.mark.parametrize(("media_type", "code"), MEDIA_TYPES.items(), ids=MEDIA_TYPES)
def test_media_types(address, media_type, code):
    headers = {"content-type": media_type}
    found = httpx.post(f"{address}/generate", content=b'{"prompt": "a"}', headers=headers)
    assert found.status_code == (415 if code else 200), found.text
    if code:
        error = found.json()["error"]
        assert error["code"] == code and error["wrong"] and error["what_to_do"].endswith(".")


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip"])
def test_a_compressed_body_is_refused(address, coding):
    headers = {"content-type": "application/json", "content-encoding": coding}
    found = httpx.post(f"{address}/generate", content=b'{"prompt": "a"}', headers=headers)
    assert (found.status_code, found.json()["error"]["code"]) == (415, "compressed")


def test_after_all_that_it_still_answers(address):
    for body, *_ in WRONG.values():
        httpx.post(f"{address}/generate", json=body)
    assert httpx.get(f"{address}/health").json()["status"] == "ok"
    assert ask(address, prompt="a", max_new_tokens=2).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/metrics", "/nowhere"])
def test_an_answer_is_sent_at_once(address, path):
    with httpx.Client(trust_env=False) as client:
        seconds = [client.get(address + path).elapsed.total_seconds() for _ in range(20)]
    assert min(seconds) < 0.03  # without TCP_NODELAY each but the first waits for 0.04


# --- many requests -------------------------------------------------------------------------------


def test_three_hundred_at_once_none_lost_none_mixed_up():
    model = tiny()
    bodies = [
        {
            "prompt": f"request {n} of {n % 7}",
            "max_new_tokens": 5 + n % 20,
            "seed": n,
            "temperature": (0, 0.8, 1.0)[n % 3],
            "stream": n % 2 == 0,
        }
        for n in range(300)
    ]
    expected = [
        alone(model, ALPHABET, b["prompt"], b["max_new_tokens"], b["seed"], b["temperature"])
        for b in bodies
    ]
    assert len(set(expected)) > 250

    async def send(client, address, body):
        response = await client.post(f"{address}/generate", json=body)
        assert response.status_code == 200, response.text
        if not body["stream"]:
            return response.json()["text"]
        *parts, end = [json.loads(line) for line in response.text.splitlines()]
        assert end["new_tokens"] == body["max_new_tokens"]
        return "".join(part["text"] for part in parts)

    async def send_all(address):
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:
            return await asyncio.gather(*(send(client, address, body) for body in bodies))

    with served(model, limits=Limits(waiting=300)) as address:
        found = run_apart(send_all(address))
        assert metric(address, 'course_requests_total{outcome="length"}') == 300
        assert metric(address, "course_tokens_total") == sum(b["max_new_tokens"] for b in bodies)
        health = httpx.get(f"{address}/health").json()
    assert found == expected
    assert (health["waiting"], health["active"]) == (0, 0)


class Slow(GPT):
    """A GPT that takes its time for every token."""

    def hidden_states(self, *arguments, **options):
        time.sleep(0.05)
        return super().hidden_states(*arguments, **options)


def slow():
    torch.manual_seed(0)
    return Slow(GPTConfig(ALPHABET.vocab_size, n_layer=1, n_head=1, n_embd=8)).eval()


def test_a_full_queue_says_come_back():
    async def flood(address):
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            body = {"prompt": "a", "max_new_tokens": 10}
            requests = [client.post(f"{address}/generate", json=body) for _ in range(12)]
            return await asyncio.gather(*requests)

    with served(slow(), limits=Limits(active=1, waiting=3)) as address:
        answers = run_apart(flood(address))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) == 8  # one is written, three wait
        assert all(answer.headers["retry-after"] == "1" for answer in refused)
        assert refused[0].json()["error"]["code"] == "queue_full"
        assert sorted({answer.status_code for answer in answers}) == [200, 429]
        assert ask(address, prompt="a", max_new_tokens=1).status_code == 200


def test_a_short_answer_does_not_wait_for_a_long_one():
    with served(slow(), limits=Limits(active=2)) as address:
        body = {"prompt": "a", "max_new_tokens": 100, "stream": True}
        with httpx.stream("POST", f"{address}/generate", json=body, timeout=30) as response:
            lines = response.iter_lines()
            next(lines)  # the long one is being written
            started = time.monotonic()
            assert ask(address, prompt="b", max_new_tokens=2).status_code == 200
            assert time.monotonic() - started < 2  # the long one takes five seconds at least
            assert httpx.get(f"{address}/health").json()["active"] == 1


def test_who_hangs_up_is_forgotten():
    with served(slow(), limits=Limits(active=1, waiting=4)) as address:
        body = {"prompt": "a", "max_new_tokens": 200, "stream": True}
        with httpx.stream("POST", f"{address}/generate", json=body, timeout=30) as response:
            lines = response.iter_lines()
            next(lines)
            with pytest.raises(httpx.ReadTimeout):  # this one waits in the queue, and gives up
                httpx.post(f"{address}/generate", json=body | {"stream": False}, timeout=0.3)
            wait_for(lambda: httpx.get(f"{address}/health").json()["waiting"] == 0)
        wait_for(lambda: httpx.get(f"{address}/health").json()["active"] == 0)
        assert metric(address, 'course_requests_total{outcome="disconnected"}') == 2


def test_a_slow_reader_holds_up_nobody(address):
    body = {"prompt": "a", "max_new_tokens": 100, "seed": 1, "stream": True}
    with httpx.stream("POST", f"{address}/generate", json=body, timeout=30) as response:
        lines = response.iter_lines()
        next(lines)
        for n in range(5):  # while the first one does not read
            assert ask(address, prompt="b", max_new_tokens=20, seed=n).status_code == 200
        rest = [json.loads(line) for line in lines]
    assert rest[-1]["new_tokens"] == 100


def test_what_takes_too_long_ends_with_a_reason():
    with served(slow(), limits=Limits(seconds=0.4)) as address:
        found = ask(address, prompt="a", max_new_tokens=100)
        assert found.status_code == 504
        assert "0.4 seconds" in found.json()["error"]["wrong"]
        body = {"prompt": "a", "max_new_tokens": 100, "stream": True}
        with httpx.stream("POST", f"{address}/generate", json=body, timeout=30) as response:
            text, end, _ = read_stream(response)
        assert end["finish_reason"] == "timeout"
        assert 0 < len(text) == end["new_tokens"] < 100
        wait_for(lambda: httpx.get(f"{address}/health").json()["active"] == 0)


def test_a_failing_text_does_not_end_the_server(caplog):
    class Failing(GPT):
        def hidden_states(self, ids, **options):
            if ids.shape[1] == 3:
                raise RuntimeError("out of memory")
            return super().hidden_states(ids, **options)

    model = Failing(GPTConfig(ALPHABET.vocab_size, n_layer=1, n_head=1, n_embd=8)).eval()
    with served(model) as address:
        found = ask(address, prompt="abc")
        assert found.status_code == 500
        assert found.json()["error"]["code"] == "model_failed"
        assert "out of memory" not in found.text  # the details are for whoever runs it
        assert ask(address, prompt="ab", max_new_tokens=3).status_code == 200
    assert "out of memory" in caplog.text


def test_the_log_holds_sizes_and_never_texts(caplog):
    caplog.set_level("INFO", logger="course_commands.serving")
    with served(tiny()) as address:
        answer = ask(address, prompt="my secret plan", max_new_tokens=30, seed=1).json()["text"]
        ask(address, prompt="my secret plan", nonsense=1)
    assert "14 prompt tokens, 30 new tokens" in caplog.text
    assert "refused: bad_field" in caplog.text
    assert "secret" not in caplog.text and answer not in caplog.text


# --- clients that are slow, rude or gone --------------------------------------------------------

HEAD = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
LONG = HEAD + b"Content-Length: 500\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def posted(**body):
    data = json.dumps(body).encode()
    return HEAD + f"Content-Length: {len(data)}\r\n\r\n".encode() + data


def connect(address, data=b""):
    client = socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), timeout=20)
    client.sendall(data)
    return client


def everything(client):
    """Return all that the server sends until it hangs up."""
    with contextlib.closing(client):
        return b"".join(iter(lambda: client.recv(65536), b""))


def rst(client):
    """Hang up as a program does that was killed: nothing sent is waited for."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


RAW = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\r\n\r\n", 400, "not_http"),
    "a letter in the length": (HEAD + b"Content-Length: 5x\r\n\r\n", 400, "not_http"),
    "a negative length": (HEAD + b"Content-Length: -5\r\n\r\n", 400, "not_http"),
    "two lengths": (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400, "not_http"),
    "no chunk": (CHUNKED + b"zz\r\n", 400, "not_http"),
    "no chunk, no type": (b"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "not_http"),
    "no chunk, no address": (b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 400, "not_http"),
    "headers without end": (b"GET /health HTTP/1.1\r\nX: " + b"a" * 300_000, 400, "not_http"),
    "a length that is too large": (HEAD + b"Content-Length: 9999999999\r\n\r\n", 413, "body_too_large"),
    "chunks that are too large": (CHUNKED + b"3e8\r\n" + b"a" * 1000 + b"\r\n3e9\r\n" + b"a" * 1001 + b"\r\n", 413, "body_too_large"),
    "a thousand small chunks": (CHUNKED + b"1\r\n \r\n" * 2001, 413, "body_too_large"),
    "a length that is too short": (HEAD + b'Content-Length: 5\r\n\r\n{"prompt": "a"}', 400, "malformed_json"),
    "a strange host": (b"GET /x HTTP/1.1\r\nHost: [::1\r\n\r\n", 404, "no_such_address"),
    "no path": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404, "no_such_address"),
    "another site": (b"GET http://example.org/health HTTP/1.1\r\nHost: x\r\n\r\n", 404, "no_such_address"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "status", "code"), RAW.values(), ids=RAW)
def test_what_is_hardly_http(address, caplog, data, status, code):
    with connect(address, data) as client:
        answer = client.recv(65536)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
        if b"\r\n\r\n{" not in answer:
            answer += client.recv(65536)
    assert json.loads(re.search(rb"\r\n\r\n(\{.*?\}\})", answer)[1])["error"]["code"] == code
    assert httpx.get(f"{address}/health").status_code == 200
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("size", [3_000, 200_000, 20_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_any_size_gets_an_answer(address, size, chunked):
    content = (b"a" * 1000 for _ in range(size // 1000)) if chunked else b"a" * size
    headers = {"content-type": "application/json"}
    found = httpx.post(f"{address}/generate", content=content, headers=headers, timeout=60)
    assert (found.status_code, found.json()["error"]["code"]) == (413, "body_too_large")


@pytest.fixture(scope="module")
def impatient():
    """A server that waits for one second."""
    before, server.TimedHTTP.seconds = server.TimedHTTP.seconds, 1.0
    with served(tiny()) as found:
        yield found
    server.TimedHTTP.seconds = before


SLOW = {
    "header, a byte at a time": (b"GET /health HTTP/1.1\r\nX: ", b"a", 408),
    "header lines": (b"GET /health HTTP/1.1\r\n", b"a: b\r\n", 408),
    "header that stops": (HEAD, b"", 408),
    "body, a byte at a time": (LONG, b"a", 408),
    "body that stops": (LONG + b"abc", b"", 408),
    "body that never begins": (LONG, b"", 408),
    "chunks": (CHUNKED, b"1\r\n \r\n", 408),
    "second request": (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea", b"a", 200),
    "body that nobody asked for": (b"GET /health HTTP/1.1\r\nContent-Length: 500\r\nHost: x\r\n\r\n", b"a", 200),
    "body after a refusal": (b"POST /x HTTP/1.1\r\nContent-Length: 500\r\nHost: x\r\n\r\n", b"a", 404),
    "nothing": (b"", b"", None),
}  # fmt: skip


@pytest.mark.parametrize(("first", "piece", "status"), SLOW.values(), ids=SLOW)
def test_a_slow_client_is_answered_and_hung_up_on(impatient, caplog, first, piece, status):
    client, answer, started = connect(impatient, first), b"", time.monotonic()
    client.settimeout(0.1)
    with client, contextlib.suppress(ConnectionError):  # a reset: it was writing at that moment
        while time.monotonic() - started < 10:
            client.sendall(piece)
            with contextlib.suppress(TimeoutError):
                if not (more := client.recv(65536)):
                    break
                answer += more
    assert 0.8 < time.monotonic() - started < 5
    assert answer.split(b" ")[1:2] == ([str(status).encode()] if status else [])
    assert "Traceback" not in caplog.text


def test_many_slow_clients_stop_nobody(impatient):
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2_000:
        pytest.skip("this process may not have both ends of 900 connections")
    clients = [connect(impatient, (HEAD, LONG, b"", LONG + b"a")[n % 4]) for n in range(900)]
    for n in range(5):
        assert ask(impatient, prompt="a", max_new_tokens=3, seed=n).status_code == 200
    answers = [everything(client) for client in clients]  # each is hung up on
    assert sum(b" 408 " in answer for answer in answers) == 675


def fin(client):
    client.close()


STREAM = posted(prompt="a", max_new_tokens=200, stream=True)
GONE = {
    "before the answer": posted(prompt="a", max_new_tokens=200),
    "in the middle of a stream": STREAM,
    "in the middle of its body": LONG + b"abc",
    "in the middle of a chunk": CHUNKED + b"5\r\nabc",
    "in the middle of a header": HEAD,
    "before it said anything": b"",
}


@pytest.mark.parametrize("leave", [fin, rst])
@pytest.mark.parametrize("data", GONE.values(), ids=GONE)
def test_who_hangs_up_costs_a_line_at_most(caplog, data, leave):
    caplog.set_level("INFO")
    others = {thread.ident for thread in threading.enumerate()}  # of other servers
    with served(slow()) as address:
        client = connect(address, data)
        if data is STREAM:
            client.recv(10)
        elif b"200" in data:
            wait_for(lambda: httpx.get(f"{address}/health").json()["active"] == 1)
        else:
            time.sleep(0.1)
        caplog.clear()
        leave(client)
        wait_for(lambda: httpx.get(f"{address}/health").json()["active"] == 0, seconds=2)
        time.sleep(0.1)
    lines = [r.getMessage() for r in caplog.records if r.thread not in others]
    assert len(lines) == (0 if data in (HEAD, b"") else 1), lines
    assert all("disconnected" in line or line == "refused: incomplete" for line in lines)
    assert "Traceback" not in caplog.text


STUBBORN = {
    "keep-alive": [b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"] * 3,
    "half a header": [HEAD, HEAD, b""],
    "half a body": [LONG, LONG + b"a", CHUNKED],
    "a long answer": [posted(prompt="a", max_new_tokens=250)] * 3,
    "a stream": [STREAM] * 3,
    "streams that nobody reads": [STREAM * 200] * 3,
    "a queue": [STREAM] * 20,
}


@pytest.mark.parametrize("requests", STUBBORN.values(), ids=STUBBORN)
def test_stopping_takes_seconds_whatever_clients_do(monkeypatch, caplog, requests):
    monkeypatch.setattr(server, "GRACE_SECONDS", 1.0)
    with contextlib.ExitStack() as stack:
        with served(slow()) as address:
            for data in requests:
                client = stack.enter_context(connect(address, data))
            time.sleep(0.5)
            started = time.monotonic()
        assert time.monotonic() - started < 4
        if requests == [STREAM] * 3:  # it is told why it ends
            assert b'"finish_reason": "stopping"' in everything(client)
    assert "Traceback" not in caplog.text


# --- the command ---------------------------------------------------------------------------------


def command(*arguments, **how):
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | how
    line = [sys.executable, "-m", "course_utils", "serve", *arguments]
    return subprocess.Popen(line, cwd=ROOT, **how)


def address_in(line):
    return re.search(r"http://\S+:\d+", line)[0]


def test_the_command_serves_and_stops_when_told():
    process = command("--model", "gpt2", "--port", "0")
    try:
        line = process.stdout.readline()
        assert "answers on http://127.0.0.1:" in line, process.stderr.read()
        found = ask(address_in(line), prompt="The weather is", max_new_tokens=8, seed=1)
        assert found.status_code == 200 and found.json()["text"]
    finally:
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "8 new tokens" in log and "weather" not in log
    assert "Traceback" not in log


REFUSED = {
    "--port": ("70000", "65536", "-1", "abc", "", "80.0", "1_000", "٨", "+80", "9" * 5000),
    "--host": ("no.such.invalid", "8.8.8.8", "2001:db8::1", "256.1.1.1", "http://127.0.0.1", "127.0.0.1:80", "224.0.0.1", "255.255.255.255", "a..b", "x" * 70, "", " "),
}  # fmt: skip


@pytest.mark.parametrize(
    ("option", "value"), [(option, value) for option in REFUSED for value in REFUSED[option]]
)
def test_a_wrong_port_or_host_is_a_sentence(option, value):
    arguments = {"--host": "127.0.0.1", "--port": "0"} | {option: value}
    with pytest.raises(ValueError, match="--") as error:
        serve.listen(*arguments.values())
    sentence = str(error.value)
    assert sentence.startswith(f"{option} {value!r} is") and sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_taken_port_is_a_sentence(host):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        with pytest.raises(ValueError, match=f"Port {port} of {host} is taken .* --port 0 finds"):
            serve.listen(host, port)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied")])
def test_a_privileged_port_is_a_sentence(monkeypatch, error):
    def bind(*arguments, **options):  # this machine may let everybody take any port
        raise error

    monkeypatch.setattr(socket, "create_server", bind)
    for port in ("1", "80", "443"):
        with pytest.raises(ValueError, match=f"Port {port} is for administrators only; take one"):
            serve.listen("127.0.0.1", port)


@pytest.mark.parametrize(
    "arguments", [("--port", "70000"), ("--host", "8.8.8.8"), ("--port", "0", "--host", "")]
)
def test_a_wrong_address_is_said_before_anything_is_loaded(arguments):
    started = time.monotonic()
    process = command(*arguments)
    output, errors = process.communicate(timeout=60)
    assert time.monotonic() - started < 3  # torch alone takes as long
    assert (process.returncode, output, len(errors.splitlines())) == (2, "", 1)


@pytest.mark.parametrize(
    "missing", [("fastapi",), ("uvicorn",), ("prometheus_client",), ("fastapi", "uvicorn")]
)
def test_a_missing_package_is_a_sentence_with_the_way_out(missing):
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({missing}))\n"
        "from course_utils.__main__ import main; sys.exit(main(['serve', '--port', '0']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    packages = " ".join(missing).replace("_", "-")
    assert done.stderr.endswith(f"-m pip install {packages}\n")


HOSTS = {
    "127.0.0.1": "http://127.0.0.1:",
    "127.0.0.2": "http://127.0.0.2:",
    "localhost": "http://127.0.0.1:",
    "0.0.0.0": "http://127.0.0.1:",
    "::1": "http://[::1]:",
    "[::1]": "http://[::1]:",
    "::": "http://127.0.0.1:",
}


@pytest.mark.parametrize(("host", "printed"), HOSTS.items(), ids=HOSTS)
def test_the_printed_address_can_be_opened(host, printed):
    if ":" in host and not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("no IPv6 here")
    with serve.listen(host, "0") as listener:
        url = serve.url_of(listener)
        assert url.startswith(printed)
        running = Server(make_app(tiny(), ALPHABET), url)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert httpx.get(f"{url}/health", trust_env=False).json()["status"] == "ok"
        finally:
            running.should_exit = True
            thread.join(30)


# A parent that starts a server, says its number and address, and then is killed.
PARENT = """
import subprocess, sys, time
line = [sys.executable, "-m", "course_utils", "serve", "--port", "0", "--until-eof"]
child = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline(), flush=True)
{then}
"""


@pytest.mark.parametrize(
    "then", ["time.sleep(600)", "child.stdin.close(); time.sleep(600)", "sys.exit()"]
)
def test_the_server_ends_with_the_program_that_started_it(then):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(then=then)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        line = parent.stdout.readline()
        address = address_in(line)
        if then == "time.sleep(600)":
            assert httpx.get(f"{address}/health").status_code == 200
            parent.kill()

        def is_gone():
            try:
                return httpx.get(f"{address}/health").status_code == 503
            except httpx.TransportError:
                return True

        wait_for(is_gone, seconds=10)
    finally:
        parent.kill()
        parent.communicate()


@pytest.mark.parametrize("stdin", ["empty", "text", "closed"])
def test_standard_input_that_has_ended_already_stops_the_server(stdin):
    process = command(
        *("--port", "0", "--until-eof"),
        stdin=subprocess.PIPE,
        preexec_fn=(lambda: os.close(0)) if stdin == "closed" else None,
        env=os.environ | {"TQDM_DISABLE": "1"},  # a slow network shows a bar
    )
    output, errors = process.communicate("a\nb" if stdin == "text" else "", timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert output.startswith("GPT-2") and output.count("\n") == 1


@pytest.fixture
def chapter():
    """Give the chapter's cells about its server, and a kernel that is ready to run them."""
    notebook = nbformat.read(ROOT / "notebooks/10_from_model_to_product.ipynb", as_version=4)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    (first,) = (n for n, source in enumerate(cells) if "--until-eof" in source)
    (last,) = (n for n, source in enumerate(cells) if "server.wait" in source)
    manager = KernelManager()
    manager.start_kernel(cwd=str(ROOT / "notebooks"))
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=120)  # before that, the news that a cell has ended may get lost

    def run(source):
        said = []
        reply = client.execute_interactive(source, timeout=120, output_hook=said.append)["content"]
        assert reply["status"] == "ok", reply
        return "".join(message["content"].get("text", "") for message in said)

    imports = "import httpx, json, re, subprocess, sys, tempfile, time\nfrom pathlib import Path\n"
    run(imports + "workplace = tempfile.TemporaryDirectory(); folder = Path(workplace.name)")
    try:
        yield run, cells[first], cells[last], manager
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def servers(kernel):
    children = psutil.Process(kernel.provisioner.pid).children()
    return [
        child
        for child in children
        if child.status() != psutil.STATUS_ZOMBIE and "course_utils" in child.cmdline()
    ]


def test_the_chapters_server_is_one_never_waits_for_a_reader_and_stops(chapter):
    run, start, end, kernel = chapter
    run(start)
    run(start)
    wait_for(lambda: len(servers(kernel)) == 1)
    many = "for _ in range(2000): client.post('/generate', json={'prompt': ''})"
    run(many)  # each writes a line; a pipe that nobody reads holds 770 of them
    assert "'ok'" in run("print(client.get('/health').json())")
    assert "refused: bad_field" in run(end)
    assert servers(kernel) == []


@pytest.mark.parametrize("how", ["kill", "exit", "restart"])
def test_the_chapters_server_ends_with_its_kernel(chapter, how):
    run, start, _, kernel = chapter
    run(start)
    (server,) = servers(kernel)
    if how == "kill":
        os.kill(kernel.provisioner.pid, signal.SIGKILL)
    elif how == "exit":
        kernel.shutdown_kernel()
    else:
        kernel.restart_kernel(now=True)
    server.wait(20)  # raises when it goes on


OUTPUTS = {
    "ASCII": {"env": {"PYTHONIOENCODING": "ascii"}},
    "cp1252": {"env": {"PYTHONIOENCODING": "cp1252"}},
    "no stdin": {"close": (0,)},
    "no stderr": {"close": (2,)},
    "no stdout": {"close": (1,)},
}


@pytest.mark.parametrize("how", OUTPUTS.values(), ids=OUTPUTS)
def test_nothing_printed_ends_the_server(how):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    closed = how.get("close", ())
    process = command(
        *("--port", port),
        env=os.environ | how.get("env", {}),
        preexec_fn=lambda: [os.close(number) for number in closed],
    )
    try:

        def answers():
            assert process.poll() is None, process.communicate()
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200

        wait_for(answers, seconds=60)
        with connect(f":{port}", b"GET /\xff\xfe%0aline HTTP/1.1\r\nHost: \xe9\r\n\r\n"):
            pass
        found = ask(f"http://127.0.0.1:{port}", prompt="Größe ☂", max_new_tokens=2)
        assert found.status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("few", "most", "n_clients"), [(200, 200, 400), (256, 2048, 600), (1024, 4096, 1500)]
)
def test_more_clients_than_open_files(few, most, n_clients):
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, most))

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[0] < n_clients + 200:
        pytest.skip("this process may not have so many connections itself")
    process = command("--port", "0", preexec_fn=limit)
    with contextlib.ExitStack() as stack:
        try:
            address = address_in(process.stdout.readline())
            for _ in range(n_clients):
                stack.enter_context(connect(address))
            health = httpx.get(f"{address}/health", timeout=60)  # a place is free in 10 s
            assert health.json()["status"] == "ok"
            assert health.elapsed.total_seconds() < (60 if n_clients > most else 5)
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=30)
    assert len(log.splitlines()) < 10


def test_a_line_end_in_a_request_forges_no_line_of_the_log(address, caplog):
    caplog.set_level("INFO", logger="course_commands.serving")
    forged = "\n2026-01-01 request 7: forged"
    ask(address, prompt=forged)
    ask(address, **{forged: 1, "prompt": "a"})
    httpx.get(f"{address}/%0d%0aforged")
    httpx.post(f"{address}/generate", content=b"", headers={"content-type": "forged\\n"})
    records = [record for record in caplog.records if record.name == "course_commands.serving"]
    assert len(records) == 4
    assert not any("forged" in record.getMessage() for record in records)
