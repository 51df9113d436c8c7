"""Settings, folders, users, networks and terminals of other people: each is named, none ends work.

One table for each kind of thing that went wrong on somebody's machine.
"""

import contextlib
import hashlib
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from course_commands import doctor, environment
from course_utils import assets, settings, sources
from course_utils.device import pick_device
from tests.test_assets import CONTENT, FILE, HUB, get_in_fresh_process, make_asset, send, serve, use

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Start from no setting at all, and from a hub and an index that were not asked yet."""
    for name in os.environ:
        if name.upper().startswith(("COURSE_", "HF_", "PIP_")) or "PROXY" in name.upper():
            monkeypatch.delenv(name)
    sources.hub.cache_clear()
    sources.index_problem.cache_clear()
    yield
    sources.hub.cache_clear()
    sources.index_problem.cache_clear()


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "course_utils", *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "TQDM_DISABLE": "1", **environment},
        check=False,
        timeout=300,
    )


# --- a setting that cannot be obeyed is refused, one that looks wrong is named ------------------


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("COURSE_DEVICE", "gpu", "COURSE_DEVICE is 'gpu'; it can be cpu, cuda, cuda:1"),
        ("COURSE_DEVICE", "cuda:x", "COURSE_DEVICE is 'cuda:x'; it can be"),
        ("COURSE_DEVICE", "cpu,cuda", "COURSE_DEVICE is 'cpu,cuda'; it can be"),
        ("COURSE_ASSETS", "shared", "COURSE_ASSETS is 'shared', which would mean another folder"),
        ("COURSE_ASSETS", "./a/../b", "Give the full path, such as /"),
        ("COURSE_ASSETS", "~nobody-has-this-name/x", "Give the full path"),
        ("COURSE_CACHE", "cache", "COURSE_CACHE is 'cache', which would mean another folder"),
        ("COURSE_CACHE", " /tmp", "COURSE_CACHE is ' /tmp'"),
    ],
)
def test_a_setting_that_cannot_be_obeyed_is_refused(monkeypatch, name, value, sentence):
    monkeypatch.setenv(name, value)
    (refused,) = environment.refused()
    assert sentence in refused
    with pytest.raises(settings.SettingError, match=re.escape(refused)):
        pick_device() if name == "COURSE_DEVICE" else assets.find("gpt2")


@pytest.mark.parametrize("name", ["cuda:99", "CUDA:98", "mps"])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(monkeypatch, name):
    monkeypatch.setenv("COURSE_DEVICE", name)
    if name == "mps" and sys.platform == "darwin":
        pytest.skip("this may be a Mac that has it")
    with pytest.raises(settings.SettingError, match=f"is {name.lower()}, which .* it can be cpu"):
        pick_device()


@pytest.mark.parametrize(("value", "kind"), [("cpu", "cpu"), (" CPU ", "cpu"), ("", None)])
def test_a_device_that_is_here_is_taken(monkeypatch, value, kind):
    monkeypatch.setenv("COURSE_DEVICE", value)
    assert environment.refused() == []
    assert kind is None or pick_device().type == kind


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COURSE_ASSETS", "~/shared")
    monkeypatch.setenv("COURSE_CACHE", "~")
    assert environment.refused() == []
    assert settings.assets_folder() == tmp_path / "shared"
    assert settings.cache_folder() == tmp_path


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "COURSE_ASSET",
            "/x",
            "COURSE_ASSET is not a setting of the course: did you mean COURSE_A",
        ),
        ("course_device", "cpu", "did you mean COURSE_DEVICE?"),
        ("COURSE_CACHE_DIR", "/x", "did you mean COURSE_CACHE?"),
        ("COURSE_LANGUAGE", "de", "there are COURSE_ASSETS, COURSE_CACHE, COURSE_DEVICE"),
        ("COURSE_BOOK", "yes", "COURSE_BOOK is 'yes'"),
        ("COURSE_ASSETS", "/not/there", "there is no folder /not/there; it is ignored"),
        ("COURSE_ASSETS", "/etc/hostname", "/etc/hostname is a file"),
        ("HF_ENDPOINT", "hf-mirror.example", "HF_ENDPOINT is not an address: 'hf-mirror.example'"),
        ("HF_ENDPOINT", "https://", "HF_ENDPOINT is not an address"),
        ("HF_ENDPOINT", "'https://hub.example'", "HF_ENDPOINT is not an address"),
        ("HF_HUB_OFFLINE", "maybe", "HF_HUB_OFFLINE is 'maybe'; it can be 1"),
        ("HF_TOKEN", "hf_a b", "HF_TOKEN is not a token"),
        ("HF_TOKEN", '"hf_abc"', "HF_TOKEN is not a token"),
        ("HF_TOKEN", "hf_ü", "HF_TOKEN is not a token"),
        ("HTTPS_PROXY", "proxy.example:3128", "HTTPS_PROXY is not an address"),
        ("https_proxy", "http://proxy.example:99999", "https_proxy is not an address"),
        ("HTTP_PROXY", "http://[::1", "HTTP_PROXY is not an address"),
        ("ALL_PROXY", "htp://proxy.example:1", "ALL_PROXY is not an address"),
        ("PIP_INDEX_URL", "mirror.example/simple", "PIP_INDEX_URL is not an address"),
        ("PIP_INDEX_URL", "http://mirror.example:0/simple", "PIP_INDEX_URL is not an address"),
        ("PIP_EXTRA_INDEX_URL", "https://a.example/simple b.example", "'b.example'"),
        ("PIP_CERT", "/not/there.pem", "PIP_CERT: there is no file /not/there.pem"),
        ("SSL_CERT_FILE", "/not/there.pem", "SSL_CERT_FILE: there is no file"),
    ],
)
def test_a_setting_that_looks_wrong_is_named(monkeypatch, name, value, sentence):
    monkeypatch.setenv(name, value)
    assert sentence in "\n".join(environment.odd())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_ENDPOINT", "https://hub.example:8443/path"),
        ("HTTPS_PROXY", "http://user:secret@proxy.example:3128"),
        ("PIP_EXTRA_INDEX_URL", "https://a.example/simple https://b.example/simple"),
        ("PIP_INDEX_URL", "file:///srv/simple"),
        ("PIP_INDEX_URL", "/usr"),
        ("HF_TOKEN", "hf_abcDEF123\n"),
        ("HF_HUB_OFFLINE", "true"),
    ],
)
def test_a_right_setting_is_not_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert [*environment.refused(), *environment.odd()] == []


def test_no_secret_is_printed(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "user:secret@proxy.example:3128")
    monkeypatch.setenv("HF_TOKEN", "hf_ä_secret")
    assert len(environment.odd()) == 2
    assert "secret" not in "\n".join(environment.odd())


@pytest.mark.parametrize(
    "arguments",
    [("fetch", "shakespeare"), ("train", "--out", "never"), ("serve", "--port", "0")],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("setting", [("COURSE_DEVICE", "gpu"), ("COURSE_CACHE", "here")])
def test_a_command_begins_with_the_settings(arguments, setting):
    done = command(*arguments, **dict([setting]))
    assert done.returncode == 2
    assert done.stderr.startswith(f"{setting[0]} is {setting[1]!r}")
    assert len(done.stderr.splitlines()) == 1


# --- the doctor names what it is there to find ---------------------------------------------------


@pytest.fixture
def ask(monkeypatch, capsys):
    """Return what the doctor prints, on this machine without a network."""

    def run(**environment):
        base = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1"}
        for name, value in {**base, **environment}.items():
            monkeypatch.setenv(name, str(value))
        status = doctor.run()
        return status, capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("environment", "status", "sentence"),
    [
        ({"COURSE_DEVICE": "gpu"}, 1, "  1.  COURSE_DEVICE is 'gpu'; it can be cpu, cuda"),
        ({"COURSE_DEVICE": "cuda:77"}, 1, "COURSE_DEVICE is cuda:77, which torch does not find"),
        ({"COURSE_ASSETS": "here"}, 1, "  1.  COURSE_ASSETS is 'here'"),
        ({"COURSE_ASSETS": "/not/there"}, 0, "  1.  COURSE_ASSETS: there is no folder /not/there"),
        ({"COURSE_ASSETS": "/etc/hostname"}, 0, "COURSE_ASSETS: /etc/hostname is a file"),
        ({"COURSE_ASSET": "/srv"}, 0, "did you mean COURSE_ASSETS?"),
        ({"HTTPS_PROXY": "proxy:1"}, 0, "HTTPS_PROXY is not an address: 'proxy:1'"),
        ({"PIP_INDEX_URL": "http://h:99999/"}, 0, "PIP_INDEX_URL is not an address"),
        ({"HF_TOKEN": "hf ü"}, 0, "HF_TOKEN is not a token"),
        ({"PIP_USER": "1"}, 0, "is set; `make` ignores it, pip run by hand does not"),
        ({"XDG_CACHE_HOME": "/etc/hostname/none"}, 1, "cannot be written, so files go to"),
    ],
)
def test_the_doctor_names_a_setting(ask, tmp_path, environment, status, sentence):
    found, page = ask(TMPDIR=tmp_path, **environment)
    assert found == status, page
    assert sentence in page
    assert "Traceback" not in page
    assert "Models and texts" in page  # it went on to the end


def test_the_doctor_names_a_folder_that_hides_the_installation(ask, tmp_path):
    for name in ("torch.py", "json.py", "mine.py"):
        (tmp_path / name).write_text("")
    _, page = ask(PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}{os.pathsep}/not/there")
    assert f"{tmp_path} hides json, torch" in page
    assert page.count("hides json") == 1


@pytest.mark.parametrize(
    ("function", "error", "sentence"),
    [
        ("_memory", RuntimeError("no such value"), "cannot be checked: RuntimeError: no such"),
        ("_version", UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), "UnicodeDecodeError"),
        ("_shadows", PermissionError(13, "Permission denied"), "Permission denied"),
    ],
)
def test_a_part_of_the_doctor_that_breaks_is_named(ask, monkeypatch, function, error, sentence):
    def broken(*_):
        raise error

    monkeypatch.setattr(doctor, function, broken)
    status, page = ask()
    assert status == 1
    assert sentence in page
    assert "Models and texts" in page


@pytest.mark.parametrize("name", ["no-such-host.invalid", "x" * 70, "ü" * 80])
def test_the_doctor_names_a_host_name_that_leads_nowhere(ask, monkeypatch, name):
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    _, page = ask()
    assert f"The name of this machine, {name}, has no address" in page
    assert "--local-addr 127.0.0.1" in page


@pytest.mark.parametrize("version", [(3, 8, 0), (3, 10, 12), (2, 7, 18)])
def test_a_wrong_python_is_named(version):
    script = f"import sys, runpy; sys.version_info = {version}; "
    script += "sys.argv = ['-m', 'doctor']; runpy.run_module('course_utils', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("The course needs Python 3.11 or newer")


@pytest.mark.parametrize("version", ["3.11.0", "3.11.2", "3.12.0", "3.13.0"])
def test_every_package_that_is_pinned_can_be_installed(version):
    """Debian 12, for example, has Python 3.11.2."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert len(pinned) > 100
    for requirement in pinned:
        if requirement.marker and not requirement.marker.evaluate({"python_version": version[:4]}):
            continue
        needed = metadata.metadata(requirement.name)["Requires-Python"] or ""
        assert SpecifierSet(needed).contains(version), f"{requirement.name} needs {needed}"


# --- networks ------------------------------------------------------------------------------------


def take(listener, kept, hangs_up):
    """Take every connection, until the listener is closed."""
    with contextlib.suppress(OSError):
        while True:
            kept.append(listener.accept()[0])
            if hangs_up:
                kept.pop().close()


@contextlib.contextmanager
def silent(kind):
    """Give the address of a machine that takes connections and says nothing, or does not even."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0 if kind == "swallows" else 50)
        address = listener.getsockname()
        kept = []
        if kind == "swallows":  # the queue is full: what comes now is not answered at all
            for _ in range(3):
                caller = socket.socket()
                caller.setblocking(False)
                caller.connect_ex(address)
                kept.append(caller)
        else:
            arguments = (listener, kept, kind == "hangs up")
            threading.Thread(target=take, args=arguments, daemon=True).start()
        yield f"http://127.0.0.1:{address[1]}"
        for each in kept:
            each.close()


TWO = """
from course_utils import assets
from tests.test_assets import make_asset
import dataclasses, sys, time
hub = {"kind": "hub", "repo": "someone/thing", "revision": "0" * 40}
index = {"kind": "package", "package": "thing==1.0", "paths": {"model.bin": "x"}}
both = {name: dataclasses.replace(make_asset(hub, index), name=name) for name in ("one", "two")}
assets.manifest = lambda: both
for name in both:
    begin = time.monotonic()
    try:
        assets.get(name)
    except assets.AssetError as error:
        print(error)
    print("seconds", round(time.monotonic() - begin))
"""


@pytest.mark.parametrize(
    ("kind", "hub_says", "index_says"),
    [
        ("silent", "timed out", "no answer in 6 s, asked twice|did not answer in 15 s"),
        ("swallows", "timed out", "no answer in 6 s, asked twice|did not answer in 15 s"),
        ("hangs up", "cannot be reached", "gives no packages"),
    ],
)
def test_who_does_not_answer_is_asked_once(tmp_path, kind, hub_says, index_says):
    with silent(kind) as address:
        environment = {"HF_ENDPOINT": address, "PIP_INDEX_URL": f"{address}/simple"}
        environment |= {"PIP_CONFIG_FILE": os.devnull, "COURSE_CACHE": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", TWO],
            cwd=ROOT,
            env={**os.environ, **environment, "TQDM_DISABLE": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert done.returncode == 0, done.stderr
    first, second = map(int, re.findall(r"seconds (\d+)", done.stdout))
    assert first < 45  # two questions, each with a limit, on a busy machine
    assert second < 15  # none
    assert len(re.findall(hub_says, done.stdout)) == 2, done.stdout
    assert len(re.findall(index_says, done.stdout)) == 2, done.stdout
    assert "No matching distribution" not in done.stdout


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("not an address", "unknown url type"),
        ("http://127.0.0.1:99999/x", "refused|ort"),
        ("http://[::1/x", "Invalid IPv6 URL"),
        ("ftp://127.0.0.1:9/x", "refused"),
        ("http://\udcff/x", "Error"),
        ("https://127.0.0.1:9/x", "refused"),
    ],
)
def test_a_source_with_a_wrong_address_is_passed_over(tmp_path, monkeypatch, url, says):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    use(monkeypatch, make_asset({"kind": "url", "url": url}))
    with pytest.raises(assets.AssetError, match=says):
        assets.get("thing")
    with serve(lambda handler: send(handler, CONTENT)) as server:
        wrong, right = {"kind": "url", "url": url}, {"kind": "url", "url": server.address}
        use(monkeypatch, make_asset(wrong, right))
        assert (assets.get("thing") / "model.bin").read_bytes() == CONTENT


def refuse(code, only_with_token=False):
    def answer(handler):
        if only_with_token and "Authorization" not in handler.headers:
            headers = [("ETag", f'"{FILE.sha256}"'), ("X-Repo-Commit", HUB["revision"])]
            return send(handler, CONTENT, headers=headers)
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        return handler.end_headers()

    return answer


def to_login(handler):
    if handler.path.startswith("/login"):
        return send(handler, b"<!DOCTYPE html><html>", headers=[("Content-Type", "text/html")])
    handler.send_response(302)
    handler.send_header("Location", "/login")
    handler.send_header("Content-Length", "0")
    return handler.end_headers()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (refuse(401), "answers 401 Unauthorized"),
        (refuse(403), "answers 403 Forbidden"),
        (refuse(503), "answers 503 Service Unavailable"),
        (refuse(404), "404"),
        (to_login, "someone/thing"),
        (lambda handler: handler.connection.close(), "cannot be reached"),
    ],
    ids=["401", "403", "503", "404", "login", "closed"],
)
def test_a_hub_that_gives_no_file_is_passed_over(tmp_path, answer, says):
    with serve(answer) as server:
        done = get_in_fresh_process(tmp_path, HUB, HF_ENDPOINT=server.address)
        assert len(server.asked) < 12
    assert "AssetError" in done.stderr
    assert says in done.stderr


@pytest.mark.parametrize("code", [401, 403])
@pytest.mark.parametrize("where", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "a file"])
def test_a_stale_token_does_not_keep_public_files_away(tmp_path, code, where):
    token = {} if where == "a file" else {where: "hf_stale"}
    if where == "a file":  # where `hf auth login` keeps it
        (tmp_path / "hf").mkdir()
        (tmp_path / "hf" / "token").write_text("hf_stale")
    with serve(refuse(code, only_with_token=True)) as server:
        done = get_in_fresh_process(tmp_path, HUB, HF_ENDPOINT=server.address, **token)
        page = command(
            "doctor",
            HF_ENDPOINT=server.address,
            HF_HOME=str(tmp_path / "hf"),
            PIP_NO_INDEX="1",
            **token,
        )
    assert done.returncode == 0, done.stderr
    assert "refuses your token" in done.stderr
    assert (tmp_path / "thing" / "model.bin").read_bytes() == CONTENT
    assert "refuses your token" in page.stdout
    assert "make a new one, or unset it" in page.stdout


# --- files of others -----------------------------------------------------------------------------

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user"
)
AS_ANOTHER = """
import os, sys
from course_utils import assets, settings
from tests.test_assets import make_asset
os.setgroups([]); os.setgid(65534); os.setuid(65534)
assets.manifest = lambda: {"thing": make_asset({"kind": "url", "url": "http://127.0.0.1:9/x"})}
"""


@pytest.fixture
def public():
    """A folder that other users may enter: pytest's own lets nobody in."""
    folder = Path("/tmp" if os.path.isdir("/tmp") else ".") / f"course-test-{os.getpid()}"
    folder.mkdir()
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_another(script, **environment):
    return subprocess.run(
        [sys.executable, "-c", AS_ANOTHER + script],
        cwd=ROOT,
        env={**os.environ, "TQDM_DISABLE": "1", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize(
    ("mode", "umask", "file", "folder"),
    [
        (0o755, 0o022, 0o644, 0o755),
        (0o755, 0o077, 0o644, 0o755),
        (0o750, 0o022, 0o640, 0o750),
        (0o2775, 0o077, 0o664, 0o2775),
        (0o700, 0o022, 0o600, 0o700),
    ],
)
def test_whoever_may_enter_the_cache_may_read_what_is_fetched(
    tmp_path, monkeypatch, mode, umask, file, folder
):
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(mode)
    monkeypatch.setenv("COURSE_CACHE", str(cache))
    before = os.umask(umask)
    try:
        with serve(lambda handler: send(handler, CONTENT)) as server:
            use(monkeypatch, make_asset({"kind": "url", "url": server.address}))
            found = assets.get("thing")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in found.iterdir()}
    assert modes == {"model.bin": file, "SOURCE": file}
    assert stat.S_IMODE(found.stat().st_mode) == folder


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_expanded_weights_can_be_read_by_others(tmp_path, monkeypatch, umask):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from course_utils import pretrained

    folder = assets.find("smollm2-q4")
    assert folder, "run `python -m course_utils fetch --chapters`"
    tokenizer = AutoTokenizer.from_pretrained(
        next(folder[0].glob("float32-*"))
    )  # any that can be saved
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 50}
    config = LlamaConfig(num_attention_heads=1, num_key_value_heads=1, **sizes)
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o755)
    monkeypatch.setenv("COURSE_CACHE", str(cache))
    auto = pretrained.transformers.AutoModelForCausalLM
    monkeypatch.setattr(
        pretrained.transformers.AutoConfig, "from_pretrained", lambda *_, **__: config
    )
    monkeypatch.setattr(auto, "from_pretrained", lambda *_, **__: LlamaForCausalLM(config))
    monkeypatch.setattr(
        pretrained.transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: tokenizer
    )
    before = os.umask(umask)
    try:
        pretrained._expand(tmp_path, "any.gguf", cache / "smollm2-q4" / "float32")
    finally:
        os.umask(before)
    for path in (cache / "smollm2-q4").rglob("*"):
        wanted = 0o755 if path.is_dir() else 0o644
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


@needs_root
def test_another_user_reads_the_shared_folder(public, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(public / "cache"))
    with serve(lambda handler: send(handler, CONTENT)) as server:
        use(monkeypatch, make_asset({"kind": "url", "url": server.address}))
        assets.get("thing")
    done = as_another(
        "print(assets.get('thing'))",
        COURSE_ASSETS=str(public / "cache"),
        HOME="/not/there",
        TMPDIR=str(public),
    )
    assert done.stdout.strip() == str(public / "cache" / "thing"), done.stderr


@needs_root
@pytest.mark.parametrize(
    ("closed", "says"),
    [
        (".", "cannot be read|you may not enter"),
        ("thing/model.bin", "model.bin cannot be read"),
        ("thing", "model.bin does not exist, or you may not enter it"),
    ],
)
def test_what_another_user_may_not_read_is_passed_over_and_named(public, closed, says):
    (public / "shared" / "thing").mkdir(parents=True)
    (public / "shared" / "thing" / "model.bin").write_bytes(CONTENT)
    (public / "shared" / closed).chmod(0)
    done = as_another(
        "assets.get('thing')", COURSE_ASSETS=str(public / "shared"), TMPDIR=str(public)
    )
    (public / "shared" / closed).chmod(0o755)
    assert "AssetError" in done.stderr
    assert re.search(says, done.stderr), done.stderr


@needs_root
@pytest.mark.parametrize("home", ["closed", "/not/there", ""])
def test_without_a_home_files_go_to_a_temporary_folder_of_ones_own(public, home):
    (public / "closed").mkdir(mode=0o555)
    (public / "tmp").mkdir()
    (public / "tmp").chmod(0o1777)
    home = str(public / home) if home == "closed" else home
    script = "print(settings.cache_folder())\nassets.get('thing')"
    done = as_another(script, HOME=home, TMPDIR=str(public / "tmp"))
    folder = public / "tmp" / "course_utils-65534"
    assert done.stdout.strip() == str(folder), done.stderr
    assert "url http://127.0.0.1:9/x: " in done.stderr  # it got as far as asking for it
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    os.chown(folder, 12345, 12345)  # somebody else's now
    done = as_another(script, HOME=home, TMPDIR=str(public / "tmp"))
    assert "belongs to another user: set COURSE_CACHE" in done.stderr


@needs_root
@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv")
def test_chapter_3_begins_where_neither_home_nor_installation_can_be_written(public):
    (public / "tmp").mkdir()
    (public / "tmp").chmod(0o1777)
    # This user may read all, as one who was given an installation would, and write nothing of it.
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    drop += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    environment = {**os.environ, "HOME": str(public), "TMPDIR": str(public / "tmp")}
    done = subprocess.run(
        [*drop, sys.executable, "-c", "import course_utils, matplotlib, umap.layouts"],
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (public / "tmp" / "course_utils-65534").is_dir()


# --- bytes that change between repository and checkout -----------------------------------------


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone as Git for Windows makes it, of what is committed with today's .gitattributes."""
    folder = tmp_path_factory.mktemp("windows") / "clone"
    git = ["git", "-c", "core.autocrlf=true", "-c", "user.name=t", "-c", "user.email=t@t.example"]
    made = folder.with_name("made")
    subprocess.run([*git, "clone", "-q", "--no-local", str(ROOT), str(made)], check=True)
    shutil.copyfile(ROOT / ".gitattributes", made / ".gitattributes")
    subprocess.run([*git, "-C", str(made), "add", ".gitattributes"], check=True)
    subprocess.run([*git, "-C", str(made), "commit", "-q", "--allow-empty", "-m", "t"], check=True)
    subprocess.run([*git, "clone", "-q", str(made), str(folder)], check=True)
    return folder


@pytest.mark.parametrize(
    "pattern", ["Makefile", ".ci/run", "data/**/*.txt", "data/**/*.csv", "**/*.py", "**/*.ipynb"]
)
def test_a_clone_with_windows_line_ends_has_the_same_bytes(clone, pattern):
    paths = sorted(path for path in clone.glob(pattern) if path.is_file())
    assert paths
    for path in paths:
        if path.suffix != ".csv":  # RFC 4180 ends its lines so
            assert b"\r\n" not in path.read_bytes(), path


def test_the_data_of_a_clone_with_windows_line_ends_is_right(clone):
    for asset in assets.manifest().values():
        for source in asset.sources:
            if source["kind"] == "data":
                for file in asset.files:
                    path = clone / "data" / source.get("folder", "") / file.name
                    assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256, path


@pytest.mark.parametrize("name", ["shakespeare", "course-prose", "sentiment"])
def test_a_text_whose_line_ends_were_changed_is_mended(tmp_path, monkeypatch, name, capsys):
    (file,), (source,) = assets.manifest()[name].files, assets.manifest()[name].sources
    right = (assets.data_folder() / source.get("folder", "") / file.name).read_bytes()
    wrong = tmp_path / "data" / source.get("folder", "") / file.name
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes(right.replace(b"\n", b"\r\n"))
    for room in (assets, sources):
        monkeypatch.setattr(room, "data_folder", lambda: tmp_path / "data")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    assert "other line endings" in doctor._changed(assets.manifest()[name], source)
    assert (assets.get(name) / file.name).read_bytes() == right
    wrong.write_bytes(right + b"more")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(assets.AssetError, match="was changed; `git checkout -- data`"):
        assets.get(name)
    wrong.unlink()
    with pytest.raises(assets.AssetError, match="is missing; `git checkout -- data`"):
        assets.get(name)


# --- what is printed -----------------------------------------------------------------------------

# Where the course lies in a folder with an umlaut, Python itself cannot start in such a locale: it
# reads the environment's path files in it.
ASCII = (
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"} if str(ROOT).isascii() else {}
)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "latin-1"])
@pytest.mark.parametrize("name", ["shakespeare", "gpt2-tokenizer"])
def test_fetch_prints_to_any_terminal(encoding, name):
    done = command("fetch", name, **ASCII, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert re.match(rf"(ok|√) {name}: ", done.stdout) or done.stdout.startswith(f"� {name}")
    assert "UnicodeEncodeError" not in done.stderr


PRINT = """
import sys, logging
from course_commands import terminal
def main():
    logging.basicConfig(stream=sys.stdout, level="INFO")
    for _ in range(20_000):
        print("✓ Kürs Ωμέγα 中文 🙂 …")
    logging.info("→ é")
    sys.stderr.write("done ✓")
    open(sys.argv[1], "w").write("the job went on")
    return 3
sys.exit(terminal.run(main))
"""


@pytest.mark.parametrize(
    "redirect", ["| head -n 1", ">/dev/full", ">&-", ">&- 2>&-", "2>/dev/full | cat >/dev/null"]
)
def test_a_job_goes_on_without_a_reader(tmp_path, redirect):
    (tmp_path / "job.py").write_text(PRINT, encoding="utf-8")
    shell = (
        f"PYTHONIOENCODING=ascii '{sys.executable}' job.py out {redirect}; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", shell],
        cwd=tmp_path,
        env={**os.environ, **ASCII},
        capture_output=True,
        text=True,
    )
    assert (tmp_path / "out").read_text() == "the job went on"
    assert done.stdout.splitlines()[-1] == "3"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_signs_that_a_terminal_lacks_stay_apart(tmp_path, encoding):
    (tmp_path / "job.py").write_text(PRINT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "job.py", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    assert done.returncode == 3
    line = done.stdout.decode(encoding).splitlines()[0]
    expected = {
        "ascii": "ok K?rs ????? ?? ? ...",
        "cp1252": "ok Kürs ????? ?? ? …",
        "utf-8": "✓ Kürs Ωμέγα 中文 🙂 …",
    }
    assert line == expected[encoding]


def test_every_command_begins_there():
    """Each program of this repository that prints is started through ``terminal.run``."""
    programs = [
        path
        for folder in ("course_utils", "tools", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    ]
    assert len(programs) > 7
    for path in programs:
        assert "sys.exit(terminal.run(main))" in path.read_text(encoding="utf-8"), path


# --- make on other people's machines --------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path):
    """A checkout in a folder with a difficult name, with a stand-in for the requirements."""
    folder = tmp_path / "Kürs (neu) & co"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "README.md"):
        shutil.copyfile(ROOT / name, folder / name)
    for name in ("course_utils", "course_checks", "data", "live"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "requirements.txt").write_text("hatchling\neditables\n")
    return folder


def show(folder, *names, **environment):
    """Return what a recipe of the Makefile sees of some variables."""
    recipe = "; ".join(f'echo "{name}=$${{{name}-unset}}"' for name in names)
    (folder / "show.mk").write_text(f"include Makefile\nshow:\n\t@{recipe}\n")
    done = subprocess.run(
        ["make", "-s", "-f", "show.mk", "show"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PIP_TARGET", "/tmp/elsewhere"),
        ("PIP_REQUIRE_VIRTUALENV", "1"),
        ("PIP_CONSTRAINT", "/not/there"),
        ("PIP_PREFIX", "/tmp/elsewhere"),
        ("PIP_NO_BINARY", ":all:"),
        ("PYTHONPATH", "/tmp/foreign"),
        ("PYTHONSAFEPATH", "1"),
        ("PYTHONOPTIMIZE", "2"),
        ("PYTEST_ADDOPTS", "-p foreign_plugin"),
        ("PYTEST_PLUGINS", "foreign_plugin"),
    ],
)
def test_make_leaves_out_what_another_project_set(checkout, name, value):
    assert show(checkout, name, "PIP_USER", **{name: value, "PIP_USER": "1"}) == {
        name: "unset",
        "PIP_USER": "0",
    }


@pytest.mark.parametrize("name", settings.PIP_KEPT)
def test_make_keeps_how_the_index_is_reached(checkout, name):
    assert show(checkout, name, **{name: "a value & more"}) == {name: "a value & more"}


def test_make_makes_its_environment_whatever_is_set(checkout, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for name in ("pip.py", "hatchling.py", "sitecustomize.py", "venv.py"):
        (foreign / name).write_text("raise SystemExit('a foreign module')")
    outside = {"PIP_USER": "1", "PIP_TARGET": str(tmp_path / "t"), "PIP_CONSTRAINT": "/not/there"}
    outside |= {"PIP_REQUIRE_VIRTUALENV": "1", "PYTHONPATH": str(foreign), "PYTHONSAFEPATH": "1"}
    python = shutil.copy(sys.executable, tmp_path / "the python")  # its path has a blank
    (tmp_path / "the python").unlink()
    Path(python).symlink_to(os.path.realpath(sys.executable))
    done = subprocess.run(
        ["make", ".venv/ready", f"PYTHON={python}"],
        cwd=checkout,
        env={**os.environ, **outside, **pip_of_this_machine()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "t").exists()
    script = "import course_utils, hatchling; print(course_utils.__file__)"
    made = checkout / ".venv" / "bin" / "python"
    done = subprocess.run([made, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == str(checkout / "course_utils" / "__init__.py"), done.stderr


ENVIRONMENT = dict(os.environ)  # before any test changed it


def pip_of_this_machine():
    return {name: value for name, value in ENVIRONMENT.items() if name in settings.PIP_KEPT}


@needs_root
@pytest.mark.parametrize("home", ["/etc/hostname", "/not/there", ""])
def test_make_goes_on_where_the_home_cannot_be_written(checkout, home):
    seen = show(checkout, "HOME", "COURSE_ASSETS", HOME=home)
    assert seen == {"HOME": str(checkout / "_build" / "home"), "COURSE_ASSETS": "unset"}
    assert (checkout / "_build" / "home").is_dir()


# --- small things ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "bert", "distilgpt2"])
def test_where_a_file_came_from_before_it_is_here(tmp_path, monkeypatch, name):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    with pytest.raises(assets.AssetError, match=rf"\({name}\) is not on this machine yet. Fetch"):
        assets.origin(name)


def test_within_gives_up_in_time():
    begin = time.monotonic()
    assert sources.within(0.2, lambda: time.sleep(30), "it") == "it did not answer in 0.2 s"
    assert time.monotonic() - begin < 5
