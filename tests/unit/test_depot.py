"""The depot: what is fetched once, checked, resumed, shared, cleaned up; and how it is served."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.utils import parse_wheel_filename

from llmprov.depot import conda, wheels
from llmprov.depot import session as sessions
from llmprov.depot.store import GRACE_S, Store
from llmprov.errors import LlmprovError
from llmprov.knowledge import PROFILES
from llmprov.model import Artifact

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Origin(BaseHTTPRequestHandler):
    """A server on this machine that counts, breaks off and answers wrongly as told."""

    protocol_version = "HTTP/1.1"
    hits: list[str] = []
    break_after: int | None = None
    status: int = 200

    def do_GET(self):
        wanted = self.headers.get("Range", "")
        type(self).hits.append(wanted)
        if self.status != 200:
            self.send_response(self.status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(CONTENT) - begin))
        self.end_headers()
        end = len(CONTENT) if self.break_after is None else begin + self.break_after
        self.wfile.write(CONTENT[begin:end])
        if end < len(CONTENT):
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def origin():
    Origin.hits, Origin.break_after, Origin.status = [], None, 200
    server = ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/thing-1.0.whl"
    server.shutdown()
    server.server_close()


@pytest.fixture
def quick(monkeypatch):
    """Tries follow each other without the pauses between them."""
    monkeypatch.setattr("llmprov.depot.download.time.sleep", lambda _: None)


def artifact(url, sha256=DIGEST):
    return Artifact(filename="thing-1.0.whl", url=url, sha256=sha256)


def test_it_is_fetched_once(origin, tmp_path):
    store = Store(tmp_path)
    assert store.ensure(artifact(origin)).fetched_bytes == len(CONTENT)
    kept = Store(tmp_path).ensure(artifact(origin))
    assert (kept.fetched_bytes, kept.path.read_bytes()) == (0, CONTENT)
    assert Origin.hits == [""]


def test_many_at_once_fetch_once(origin, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda _: Store(tmp_path).ensure(artifact(origin)), range(8)))
    assert sum(k.fetched_bytes for k in kept) == len(CONTENT)
    assert Origin.hits == [""]


def test_a_poisoned_entry_is_found_and_fetched_again(origin, tmp_path):
    store = Store(tmp_path)
    path = store.ensure(artifact(origin)).path
    stamp = path.stat()
    path.chmod(0o644)
    path.write_bytes(CONTENT[:-1] + b"!")  # as long as before
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # and as old
    assert store.ensure(artifact(origin)).fetched_bytes == len(CONTENT)
    assert store.path(DIGEST).read_bytes() == CONTENT


def test_an_entry_that_did_not_change_is_not_read_again(origin, tmp_path):
    path = Store(tmp_path).ensure(artifact(origin)).path
    Store(tmp_path).ensure(artifact(origin))
    reads = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("llmprov.depot.store.sha256_of", lambda path: reads.append(path) or DIGEST)
        Store(tmp_path).ensure(artifact(origin))
        assert reads == []
        path.touch()
        Store(tmp_path).ensure(artifact(origin))
        assert reads == [path]


def test_an_interrupted_download_is_taken_up(origin, tmp_path, quick):
    Origin.break_after = 300_000
    assert Store(tmp_path).ensure(artifact(origin)).path.read_bytes() == CONTENT
    offsets = [int(hit.removeprefix("bytes=").rstrip("-")) for hit in Origin.hits[1:]]
    assert offsets == sorted(set(offsets))
    assert offsets[0] > 200_000


def test_what_a_dead_run_left_is_gone_on_with(origin, tmp_path):
    partial = tmp_path / "partial" / DIGEST
    partial.parent.mkdir()
    partial.write_bytes(CONTENT[:1000])
    assert Store(tmp_path).ensure(artifact(origin)).path.read_bytes() == CONTENT
    assert Origin.hits == ["bytes=1000-"]


def test_another_content_is_refused_and_nothing_of_it_stays(origin, tmp_path):
    with pytest.raises(LlmprovError, match="another content than declared"):
        Store(tmp_path).ensure(artifact(origin, "0" * 64))
    assert not list((tmp_path / "sha256").rglob("*")) or not Store(tmp_path).path("0" * 64).exists()
    assert not (tmp_path / "partial" / ("0" * 64)).exists()


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (503, 4)])
def test_what_cannot_be_had_is_one_sentence(origin, tmp_path, quick, status, tries):
    Origin.status = status
    with pytest.raises(LlmprovError, match=f"thing-1.0.whl could not be fetched .* answered {status}"):
        Store(tmp_path).ensure(artifact(origin))
    assert len(Origin.hits) == tries


def test_a_password_in_a_url_is_never_shown(tmp_path, quick):
    with pytest.raises(LlmprovError) as caught:
        Store(tmp_path).ensure(artifact("http://user:secret@127.0.0.1:9/thing-1.0.whl"))
    assert "secret" not in str(caught.value)


def test_the_store_is_kept_under_its_size_but_for_what_is_in_use(tmp_path):
    store = Store(tmp_path, limit_gb=25e-6)
    files = []
    for number in range(4):
        content = bytes([number]) * 10_000
        source = tmp_path / f"source{number}"
        source.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        files.append(store.ensure(Artifact(filename="x.whl", url=source.as_uri(), sha256=sha256)).path)
        age = time.time() - GRACE_S * 2 + number
        os.utime(files[-1], (age, age))
    os.utime(files[0])  # just used
    assert store.clean() == 20_000
    assert [path.exists() for path in files] == [True, False, False, True]


# -- the session and its server ------------------------------------------------------------------------------------


def test_an_answer_is_asked_for_once_in_a_session(tmp_path):
    shared = sessions.Session(Store(tmp_path), os.getpid())
    asked = []

    def work():
        asked.append(1)
        return [artifact("file:///x")]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: shared.once("key", work), range(4)))
    assert len(asked) == 1
    assert found == [[artifact("file:///x")]] * 4


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_the_server_answers_to_the_token_and_goes_with_its_ansible(tmp_path):
    store = Store(tmp_path)
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    store.ensure(artifact(source.as_uri()))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as ansible:
        shared = sessions.Session(store, ansible.pid)
        endpoint = shared.server()
        assert shared.server() == endpoint
        note = shared.directory / "server-127.0.0.1.json"
        assert note.stat().st_mode & 0o077 == 0

        def get(path, **headers):
            connection = http.client.HTTPConnection("127.0.0.1", endpoint.port)
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            with contextlib.closing(connection):
                return answer.status, answer.read()

        assert get(f"/{endpoint.token}/{DIGEST}") == (200, CONTENT)
        assert get(f"/{endpoint.token}/{DIGEST}", Range="bytes=10-") == (206, CONTENT[10:])
        for path in (f"/{'x' * 32}/{DIGEST}", f"/{DIGEST}", "/", f"/{endpoint.token}/../../etc/passwd"):
            assert get(path)[0] == 404
        ansible.communicate(b"\n")
    deadline = time.monotonic() + 60
    while shared.directory.exists() and time.monotonic() < deadline:
        time.sleep(0.05)  # polling, with a deadline
    assert not shared.directory.exists()
    # The process itself ends a moment after its folder.
    while listens(endpoint.port):
        assert time.monotonic() < deadline


def test_an_address_that_is_not_this_machines_is_one_sentence(tmp_path):
    with pytest.raises(LlmprovError, match=r"could not listen on 192.0.2.1.*depot_address"):
        sessions.Session(Store(tmp_path), os.getpid()).server("192.0.2.1")


def test_what_a_killed_session_left_is_swept_by_the_next(tmp_path):
    dead = tmp_path / "sessions/999999999-1"
    dead.mkdir(parents=True)
    sessions.Session(Store(tmp_path), os.getpid())
    assert not dead.exists()


# -- wheels --------------------------------------------------------------------------------------------------------


TARGET = wheels.Target("3.11.2", "x86_64", "2.36")


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["a-1-py3-none-any.whl", "a-1-cp311-cp311-manylinux_2_28_x86_64.whl"], 1),
        (["a-1-cp311-cp311-manylinux_2_39_x86_64.whl", "a-1-cp311-cp311-manylinux2014_x86_64.whl"], 1),
        (["a-1-cp39-abi3-manylinux_2_17_x86_64.whl", "a-1-py3-none-any.whl"], 0),
        (["a-1-cp312-cp312-manylinux_2_17_x86_64.whl", "a-1-py3-none-any.whl"], 1),
        (["a-1-cp311-cp311-manylinux_2_17_aarch64.whl", "a-1-py2.py3-none-any.whl"], 1),
    ],
)
def test_the_wheel_that_fits_the_host_best_is_taken(files, chosen):
    listed = [{"url": f"https://x/{name}", "hashes": {"sha256": "0" * 64}} for name in files]
    found = wheels._wheel({"name": "a", "version": "1", "wheels": listed}, TARGET.tags(), TARGET)
    assert found.filename == files[chosen]


@pytest.mark.parametrize(
    ("wheel", "words"),
    [
        (
            {"url": "https://x/a-1-cp312-cp312-win_amd64.whl", "hashes": {"sha256": "0" * 64}},
            "no wheel for Python 3.11",
        ),
        ({"url": "https://x/a-1-py3-none-any.whl"}, "no sha256"),
    ],
)
def test_what_cannot_be_installed_is_refused_by_name(wheel, words):
    with pytest.raises(LlmprovError, match=words):
        wheels._wheel({"name": "a", "version": "1", "wheels": [wheel]}, TARGET.tags(), TARGET)


@given(st.integers(17, 45))
def test_no_wheel_for_a_newer_c_library_is_ever_taken(glibc):
    target = wheels.Target("3.11", "x86_64", f"2.{glibc}")
    for tag in target.tags():
        if tag.platform.startswith("manylinux_2_"):
            assert int(tag.platform.split("_")[2]) <= glibc
    assert int(target.uv_platform().rsplit("_", 1)[1]) <= glibc


def test_wheels_are_resolved_with_digests_and_keep_what_is_there(tmp_path):
    found = {a.name: a for a in wheels.resolve(["jinja2"], TARGET, preferred=[("markupsafe", "3.0.2")])}
    assert found["markupsafe"].version == "3.0.2"
    assert {len(a.sha256) for a in found.values()} == {64}
    kept = Store(tmp_path).ensure(found["markupsafe"])
    assert zipfile.is_zipfile(kept.path)
    assert parse_wheel_filename(found["markupsafe"].filename)[0] == "markupsafe"
    without = wheels.resolve(["jinja2"], TARGET, given=[("markupsafe", "3.0.2")])
    assert [a.name for a in without] == ["jinja2"]


def test_a_name_that_no_index_has_is_one_sentence():
    with pytest.raises(LlmprovError, match=r"cannot be resolved for Python 3.11 on x86_64.*nosuchdistribution-x"):
        wheels.resolve(["nosuchdistribution-x"], TARGET)


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_profile_can_be_had_for_a_supported_python(profile):
    found = {artifact.name for artifact in wheels.resolve(PROFILES[profile], TARGET)}
    assert set(PROFILES[profile]) <= found


# -- conda ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def channel(tmp_path_factory):
    """A channel of four empty packages, two of them of one name."""
    from llmprov.lab.conda.channel import write_index
    from llmprov.lab.conda.package import Package

    folder = tmp_path_factory.mktemp("channel")
    made = [
        Package("python", "3.11.9", (), {}, build="h1_cpython"),
        Package("python", "3.12.1", ("__glibc >=2.38",), {}, build="h1_cpython"),
        Package("pytorch", "2.13.0", ("python",), {}, build="cpu_py311_0"),
        Package("pytorch", "2.13.0", ("python", "__cuda >=12"), {}, build="cuda129_py311_0"),
    ]
    write_index(folder, made)
    return folder.as_uri()


def solved(channel, specs, glibc="2.36", cuda=None, kept=()):
    target = conda.CondaTarget("x86_64", glibc, "6.1", cuda)
    return {a.name: a.filename for a in conda.solve(specs, [channel], target, kept=kept)}


def test_what_the_host_can_run_decides(channel):
    assert solved(channel, ["python"]) == {"python": "python-3.11.9-h1_cpython.conda"}
    assert solved(channel, ["python"], glibc="2.41") == {"python": "python-3.12.1-h1_cpython.conda"}
    assert solved(channel, ["pytorch=2.13.0=cuda*"], cuda="12.8")["pytorch"] == "pytorch-2.13.0-cuda129_py311_0.conda"
    assert solved(channel, ["pytorch=2.13.0=cpu*"], cuda="12.8")["pytorch"] == "pytorch-2.13.0-cpu_py311_0.conda"
    with pytest.raises(LlmprovError, match="pytorch"):
        solved(channel, ["pytorch=2.13.0=cuda*"])


def test_what_is_there_is_kept_where_it_may_be(channel):
    has = ["python=3.11.9=h1_cpython"]
    assert solved(channel, ["python"], glibc="2.41", kept=has)["python"] == "python-3.11.9-h1_cpython.conda"
    assert solved(channel, ["python=3.12"], glibc="2.41", kept=has)["python"] == "python-3.12.1-h1_cpython.conda"


def test_every_package_has_a_place_and_a_digest(channel):
    target = conda.CondaTarget("x86_64", "2.36", "6.1")
    (found,) = conda.solve(["python"], [channel], target)
    assert found.url == f"{channel}/linux-64/{found.filename}"
    assert len(found.sha256) == 64


@pytest.mark.parametrize(
    ("channels", "specs", "words"),
    [
        (["file:///nowhere/at/all"], ["python"], "file:///nowhere/at/all"),
        (None, ["nosuchpackage"], "nosuchpackage"),
        (None, ["python>=4"], "python"),
    ],
)
def test_what_no_channel_has_is_one_sentence(channel, channels, specs, words):
    with pytest.raises(LlmprovError, match="cannot be had from") as caught:
        conda.solve(specs, channels or [channel], conda.CondaTarget("x86_64", "2.36", "6.1"))
    assert words in str(caught.value)


def test_an_architecture_without_conda_is_named():
    with pytest.raises(LlmprovError, match="riscv64"):
        conda.solve(["python"], ["conda-forge"], conda.CondaTarget("riscv64", "2.36", "6.1"))
