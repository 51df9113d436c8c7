"""The server, started for real on 127.0.0.1 and asked by real clients, hundreds at once."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
import uvicorn

from course_utils import sampling
from course_utils.bpe import BPETokenizer
from course_utils.corpora import CharTokenizer
from course_utils.gpt import GPT, GPTConfig
from course_utils.serving import Limits, make_app

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
    torch.nn.init.normal_(model.head.weight, std=0.5)  # opinions, so that seeds and prompts matter
    return model


@contextlib.contextmanager
def served(model, tokenizer=ALPHABET, limits=None, stop=()):
    """Give the address of a server that runs in a thread."""
    server = uvicorn.Server(
        uvicorn.Config(make_app(model, tokenizer, limits, stop=stop), log_level="warning")
    )
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
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

        def features(self, ids, *, cache=None, n_pad=None):
            places = torch.arange(ids.shape[1]) + (cache[0].length if cache else 0)
            super().features(ids, cache=cache, n_pad=n_pad)  # moves the cache on
            wanted = torch.tensor([data[(int(p) - 1) % len(data)] for p in places + 1])
            return torch.nn.functional.one_hot(wanted, 256).float()[None] * 50

    model = Scripted(GPTConfig(256, block_size=64, n_layer=1, n_head=1, n_embd=256)).eval()
    with torch.no_grad():
        model.head.weight.copy_(torch.eye(256))
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


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "no_such_address"),
        ("GET", "/generate", 405, "no_such_address"),
        ("GET", "/docs", 404, "no_such_address"),
        ("POST", "/generate", 415, "not_json"),
    ],
)
def test_wrong_addresses_and_kinds(address, method, path, status, code):
    found = httpx.request(
        method, address + path, data={"prompt": "a"} if method == "POST" else None
    )
    assert (found.status_code, found.json()["error"]["code"]) == (status, code)


def test_after_all_that_it_still_answers(address):
    for body, *_ in WRONG.values():
        httpx.post(f"{address}/generate", json=body)
    assert httpx.get(f"{address}/health").json()["status"] == "ok"
    assert ask(address, prompt="a", max_new_tokens=2).status_code == 200


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

    def features(self, *arguments, **options):
        time.sleep(0.05)
        return super().features(*arguments, **options)


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
        def features(self, ids, **options):
            if ids.shape[1] == 3:
                raise RuntimeError("out of memory")
            return super().features(ids, **options)

    model = Failing(GPTConfig(ALPHABET.vocab_size, n_layer=1, n_head=1, n_embd=8)).eval()
    with served(model) as address:
        found = ask(address, prompt="abc")
        assert found.status_code == 500
        assert found.json()["error"]["code"] == "model_failed"
        assert "out of memory" not in found.text  # the details are for whoever runs it
        assert ask(address, prompt="ab", max_new_tokens=3).status_code == 200
    assert "out of memory" in caplog.text


def test_the_log_holds_sizes_and_never_texts(caplog):
    caplog.set_level("INFO", logger="course_utils.serving")
    with served(tiny()) as address:
        answer = ask(address, prompt="my secret plan", max_new_tokens=30, seed=1).json()["text"]
        ask(address, prompt="my secret plan", nonsense=1)
    assert "14 prompt tokens, 30 new tokens" in caplog.text
    assert "refused: bad_field" in caplog.text
    assert "secret" not in caplog.text and answer not in caplog.text


# --- the command ---------------------------------------------------------------------------------


def command(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "course_utils", "serve", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def test_the_command_serves_and_stops_when_told():
    process = command("--model", "gpt2", "--port", "0")
    try:
        line = process.stdout.readline()
        assert "answers on http://127.0.0.1:" in line, process.stderr.read()
        address = line.split(" on ")[1].split()[0]
        found = ask(address, prompt="The weather is", max_new_tokens=8, seed=1)
        assert found.status_code == 200 and found.json()["text"]
    finally:
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=30)
    assert "8 new tokens" in log and "weather" not in log
    assert "Traceback" not in log


def test_a_taken_port_is_said_in_a_sentence():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = command("--port", str(listener.getsockname()[1]))
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "--port 0 finds a free one" in errors and "Traceback" not in errors
