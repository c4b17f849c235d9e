"""What modules read of a host and of conda's output; run here as they are, outside Ansible."""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import signal
import subprocess
import sys
import time
import types
import zipfile
from pathlib import Path

import pytest

from llmprov.model import CondaPrefix, Environment
from tests.conftest import ROOT

RECORDED = ROOT / "tests/fixtures/conda"


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def host():
    return load("llmprov_host", ROOT / "roles/preflight/module_utils/llmprov_host.py")


@pytest.fixture(scope="module")
def files(host):
    """The code that looks at files; it and what it uses are found where Ansible puts them when it packs a module."""
    shared = {"llmprov_host": host}
    try:
        sys.modules["ansible.module_utils.llmprov_host"] = host
        shared["llmprov_files"] = load("llmprov_files", ROOT / "roles/preflight/module_utils/llmprov_files.py")
        sys.modules["ansible.module_utils.llmprov_files"] = shared["llmprov_files"]
        yield shared["llmprov_files"]
    finally:
        for name in shared:
            sys.modules.pop(f"ansible.module_utils.{name}", None)


@pytest.fixture(scope="module")
def environment(files):
    return load("llmprov_environment", ROOT / "roles/venv/library/llmprov_environment.py")


def test_the_real_condas_explicit_list_is_read_as_it_was_asked_for(environment):
    linked = environment.linked((RECORDED / "list-explicit-sha256.txt").read_text())
    assert len(linked) == 2
    assert {url.split("#")[0].rsplit("/", 1)[1] for url in linked} == {
        "pip-26.3-pyhd8ed1ab_0.conda",
        "python-3.11.7-h0dbd9de_0_cpython.conda",
    }
    assert {len(url.split("#")[1]) for url in linked} == {64}


@pytest.mark.parametrize("name", ["list-not-an-env.json", "create-explicit-json-prints-nothing.json"])
def test_what_is_no_list_names_nothing_that_was_asked_for(environment, name):
    assert not {word for word in environment.linked((RECORDED / name).read_text()) if "#" in word}


def conda_at(folder, said):
    for part in ("bin", "conda-meta"):
        (folder / part).mkdir(parents=True)
    (folder / "bin/python").symlink_to(sys.executable)
    (folder / "bin/conda").write_text(f"#!/bin/sh\nprintf '%s\\n' '{said}'\n")
    (folder / "bin/conda").chmod(0o755)
    (folder / "conda-meta/conda-26.7.1-py312_0.json").write_text("{}")
    (folder / "conda-meta/history").touch()
    return str(folder)


def test_the_real_condas_version_is_read(host, tmp_path):
    said = (RECORDED / "version.txt").read_text().strip()
    seen = CondaPrefix.model_validate(host.conda_prefix(conda_at(tmp_path / "conda", said)))
    assert (seen.works, seen.version, seen.kind) == (True, "26.7.1", "conda")


@pytest.mark.parametrize("said", ["", "Traceback", "conda", "command not found: conda"])
def test_a_conda_that_says_anything_else_does_not_work(host, tmp_path, said):
    assert host.conda_prefix(conda_at(tmp_path / "conda", said))["works"] is False


def test_records_are_told_by_their_names(host, tmp_path):
    (tmp_path / "conda-meta").mkdir()
    for name in ("python-3.11.2-lab_0_cpython.json", "py-rattler-0.28.0-py311_0.json", "history", "state"):
        (tmp_path / "conda-meta" / name).write_text("{}")
    assert host.conda_packages(str(tmp_path)) == {"python": "3.11.2=lab_0_cpython", "py-rattler": "0.28.0=py311_0"}


@pytest.mark.parametrize(
    ("make", "kind", "works"),
    [
        (lambda p: None, "none", False),
        (lambda p: p.mkdir(), "none", False),
        (lambda p: (p.mkdir(), (p / "thesis.txt").touch()), "other", False),
        (lambda p: (p / "conda-meta").mkdir(parents=True), "conda", False),
        (lambda p: p.symlink_to("nowhere"), "none", False),
    ],
    ids=["nothing", "empty", "data", "half-made", "dangling"],
)
def test_what_stands_where_an_environment_should(host, tmp_path, make, kind, works):
    make(tmp_path / "env")
    seen = Environment.model_validate(host.environment(str(tmp_path / "env")))
    assert (seen.kind, seen.python_works) == (kind, works)


def test_what_only_its_owner_reads_is_seen(host, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root is asked")
    (tmp_path / "bin").mkdir()
    assert not host.readable(str(tmp_path), ["bin"]) or tmp_path.stat().st_mode & 0o004
    tmp_path.chmod(0o755)
    assert host.readable(str(tmp_path), ["bin", "not-there"])
    (tmp_path / "bin").chmod(0o700)
    assert not host.readable(str(tmp_path), ["bin"])


def test_turns_are_taken(host, tmp_path):
    lock = str(tmp_path / "sub/conda.lock")
    with host.Turn(lock, 5), pytest.raises(TimeoutError, match=f"process {os.getpid()} holds"):
        host.Turn(lock, 0).__enter__()
    with host.Turn(lock, 0):
        pass


def test_a_file_is_written_whole_and_readable(host, tmp_path):
    old = os.umask(0o077)
    try:
        host.write_whole(str(tmp_path / "a/b"), "text")
    finally:
        os.umask(old)
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o644
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a/b"]


def test_an_environments_builds_are_its_own(environment, tmp_path):
    kept = ["llm.b.1", "llm.extra", "other.1", "llm"]
    for name in [*kept, "llm.1", "llm.2", "llm.3.before", "llm.11.link"]:
        (tmp_path / "envs/.llmprov" / name).mkdir(parents=True)
    path = tmp_path / "envs/llm"
    environment.switch(str(path), str(tmp_path / "envs/.llmprov/llm.2"))
    assert path.readlink().name == "llm.2"
    assert {p.name for p in (tmp_path / "envs/.llmprov").iterdir()} == {*kept, "llm.2"}


def test_a_directory_gives_way_to_a_link(environment, tmp_path):
    (tmp_path / "llm/bin").mkdir(parents=True)
    (tmp_path / ".llmprov/llm.1").mkdir(parents=True)
    environment.switch(str(tmp_path / "llm"), str(tmp_path / ".llmprov/llm.1"))
    assert (tmp_path / "llm").is_symlink()
    assert [p.name for p in (tmp_path / ".llmprov").iterdir()] == ["llm.1"]


# -- a soak on a host ----------------------------------------------------------------------------------------------------


@pytest.fixture
def verify(tmp_path, monkeypatch):
    """The module. Nobody waits for what it starts, here too: Python's warning of that is left out."""
    monkeypatch.setattr(subprocess.Popen, "__del__", lambda _: None)
    guard = load("llmprov_guard", ROOT / "roles/preflight/module_utils/llmprov_guard.py")
    monkeypatch.setitem(sys.modules, "ansible.module_utils.llmprov_guard", guard)
    module = load("llmprov_verify", ROOT / "roles/verify/library/llmprov_verify.py")
    monkeypatch.setattr(module, "PLACE", str(tmp_path))
    return module


def test_what_a_power_cut_left_of_an_earlier_boot_goes_with_the_next_run(verify, tmp_path):
    (tmp_path / "llmprov-00000000-abcd1234" / "pymp").mkdir(parents=True)
    (tmp_path / "llmprov-soak-0").mkdir()
    with verify.own_folder() as first, verify.own_folder() as second:
        assert {first, second, str(tmp_path / "llmprov-soak-0")} == set(map(str, tmp_path.iterdir()))
    assert [path.name for path in tmp_path.iterdir()] == ["llmprov-soak-0"]


def soak(main):
    """Arguments of the module with a payload whose program is `main`."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("__main__.py", main)
    payload = base64.b64encode(packed.getvalue()).decode()
    return {
        "python": sys.executable,
        "payload": payload,
        "declared": "{}",
        "level": "soak",
        "minutes": 1,
        "variables": {"GREETING": "hello"},
    }


def ended(verify, folder):
    deadline = time.monotonic() + 30
    while verify.running(folder):
        assert time.monotonic() < deadline
        time.sleep(0.02)  # a poll of the process table


def test_a_soak_is_started_once_and_its_results_are_taken_once(verify):
    folder = verify.job_folder()
    params = soak("import os, sys; print(os.environ['GREETING'], os.environ['TMPDIR']); sys.stdin.read(); sys.exit(3)")
    assert verify.start(params, folder) == {"running": True, "started": True}
    ended(verify, folder)
    # Results that nobody took are not thrown away by the next start.
    assert verify.start(params, folder) == {"running": True, "started": False}
    taken = verify.take(folder)
    assert (taken["running"], taken["exit_code"], taken["document"]) == (False, 3, f"hello {folder}\n")
    assert verify.take(folder) == {"running": False, "gone": True}
    assert not os.path.lexists(folder)


READY = "import signal, sys; signal.signal(15, %s); open(sys.argv[0] + '.ready', 'w').close(); "


def started(verify, handler):
    """Start a soak with a handler for SIGTERM, and return once that is installed."""
    folder = verify.job_folder()
    params = soak(READY % handler + "[signal.pause() for _ in iter(int, 1)]")
    verify.start(params, folder)
    deadline = time.monotonic() + 30
    while not Path(f"{folder}/payload.pyz.ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # a poll with a deadline
    return folder, params


def test_a_soak_that_runs_is_joined_and_told_to_stop(verify):
    folder, params = started(verify, "lambda *_: (print('stopped'), sys.exit(0))")
    assert verify.start(params, folder)["started"] is False
    assert verify.take(folder) == {"running": True}
    stopped = verify.stop(folder)
    assert (stopped["exit_code"], stopped["document"]) == (0, "stopped\n")


def test_a_soak_that_is_ended_by_a_signal_says_which(verify):
    folder, _ = started(verify, "signal.SIG_DFL")
    assert verify.stop(folder)["exit_code"] == -signal.SIGTERM


def test_a_soak_that_does_not_listen_is_killed(verify, monkeypatch):
    monkeypatch.setattr(verify, "STOP_S", 0.2)
    folder, _ = started(verify, "signal.SIG_IGN")
    assert verify.stop(folder)["exit_code"] == -signal.SIGKILL
    assert not os.path.lexists(folder)


def test_a_soak_that_lost_its_power_is_started_anew(verify):
    folder = verify.job_folder()
    params = soak("import signal; signal.pause()")
    verify.start(params, folder)
    leader = verify.running(folder)
    os.killpg(leader, signal.SIGKILL)
    ended(verify, folder)
    assert verify.start(params, folder)["started"] is True
    os.killpg(verify.running(folder), signal.SIGKILL)
    ended(verify, folder)
    assert verify.take(folder)["exit_code"] == -signal.SIGKILL


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
@pytest.mark.parametrize("work", ["start", "take", "stop"])
def test_a_folder_that_somebody_else_made_is_not_trusted(verify, tmp_path, work):
    folder = verify.job_folder()
    Path(folder).mkdir()
    (Path(folder) / "process").write_text(f"{os.getpid()} {verify.began(os.getpid())}")
    os.chown(folder, 65534, 65534)
    with pytest.raises(OSError, match="somebody else's"):
        getattr(verify, work)(*([soak("")] if work == "start" else []), folder)


# -- the driver's modules ----------------------------------------------------------------------------------------


@pytest.fixture
def driver_module(host, monkeypatch):
    """Load a module of the role nvidia_driver, with the shared code under the name that Ansible gives it."""
    package = types.ModuleType("ansible.module_utils.llmprov_host")
    package.__dict__.update(host.__dict__)
    monkeypatch.setitem(sys.modules, package.__name__, package)
    return lambda name: load(name, ROOT / f"roles/nvidia_driver/library/{name}.py")


def test_a_failed_build_is_told_by_its_newest_log_alone(driver_module, tmp_path, monkeypatch):
    dkms = driver_module("llmprov_dkms")
    monkeypatch.setattr(dkms, "LOGS", (str(tmp_path / "*/make.log"),))
    assert dkms.reason(0) == ""
    for number, text in enumerate(
        ("x.c:1:1: error: old", "gcc -Wno-error=format -c x.c\ny.c:2:2: error: new\nmake: *** [y.o] Error 1"), 1
    ):
        (tmp_path / str(number)).mkdir()
        log = tmp_path / str(number) / "make.log"
        log.write_text(f"DKMS make.log for nvidia-580 for kernel 6.1.0-{number}-amd64 (x86_64)\n{text}\n")
        os.utime(log, (number * 100, number * 100))
    told = "the module cannot be built for the kernel 6.1.0-2-amd64: y.c:2:2: error: new"
    assert dkms.reason(0) == f"{told}; all of it: {tmp_path}/2/make.log"
    # Of an older try: it says nothing of this one.
    assert dkms.reason(201) == ""
    log.write_text("ERROR: modpost: GPL-incompatible module nvidia.ko uses GPL-only symbol\n")
    assert "cannot be built: ERROR: modpost: GPL-incompatible" in dkms.reason(0)
    log.write_text("all went well\n")
    assert dkms.reason(0) == ""


def test_what_users_install_between_two_installations_stays_theirs(driver_module, tmp_path, monkeypatch):
    record, path = driver_module("llmprov_package_record"), str(tmp_path / "state/record.json")
    there = {"base"}
    monkeypatch.setattr(record, "installed", lambda: set(there))

    def run(name, *brings):
        record.remember(path, record.read_json(path) or {}, "begun")
        there.update(brings)
        if name == "whole":
            record.remember(path, record.read_json(path), "complete")

    run("whole", "driver-1", "libs-1")
    there.add("htop")
    run("interrupted", "driver-2")
    run("whole", "libs-2")
    assert record.read_json(path) == {"brought": ["driver-1", "driver-2", "libs-1", "libs-2"], "made": []}


def test_versions_are_compared_by_their_numbers(driver_module):
    pin = driver_module("llmprov_apt_pin")
    assert pin.upstream("2:580.95.05-0ubuntu1") == "580.95.05"
    assert max(["580.95.05", "580.105.08", "580.9.1"], key=pin.key) == "580.105.08"


def test_dnfs_list_of_what_it_leaves_alone_is_read(files, tmp_path, monkeypatch):
    observe = load("llmprov_observe", ROOT / "roles/preflight/files/observe.py")
    listed = tmp_path / "versionlock.list"
    listed.write_text(
        "# Added lock on Mon Nov 23 2026\nnvidia-driver-cuda-3:580.95.05-1.el9.*\nkmod-nvidia-open-dkms-3:580.95.05-1.el9.*\n"
        "kernel-5.14.0-427.el9.*\n!nvidia-excluded-0:1-1.*\n"
    )
    monkeypatch.setattr(observe, "VERSION_LOCKS", str(listed))
    monkeypatch.setattr(observe.shutil, "which", lambda name: None)
    assert observe.held_packages() == ["kernel", "kmod-nvidia-open-dkms", "nvidia-driver-cuda"]


# -- builds that go ------------------------------------------------------------------------------------------------


def built(environment, files, folder, name, **content):
    """A build as llmprov leaves one, and what users put into it since."""
    build = folder / name
    build.mkdir(parents=True)
    (build / "pyvenv.cfg").write_text("")
    (build / files.OTHERS).write_text(f"pyvenv.cfg\n{files.OTHERS}\n")
    for path, text in content.items():
        (build / path).write_text(text)
    return str(build)


def kept(path):
    root = Path(f"{path}.kept")
    return {str(p.relative_to(root)): p.read_text() for p in sorted(root.rglob("*")) if p.is_file()}


def test_what_users_put_into_a_build_is_kept_and_never_written_over(environment, files, tmp_path):
    path = str(tmp_path / "llm")
    for text in ("first", "second", "third"):
        # Numbers come again: an environment that was removed begins anew.
        old = built(environment, files, tmp_path / ".llmprov", "llm.1", notes=text)
        environment.discard(old, path)
        assert not Path(old).exists()
    assert kept(path) == {"1/notes": "first", "1-2/notes": "second", "1-3/notes": "third"}


def test_an_environment_that_somebody_else_made_is_kept_whole_when_it_is_replaced(environment, files, tmp_path):
    path, folder = str(tmp_path / "llm"), tmp_path / ".llmprov"
    (folder / "llm.2.before/lib").mkdir(parents=True)
    environment.discard(str(folder / "llm.2.before"), path)
    assert not Path(f"{path}.kept").exists(), "nothing was in it"
    (folder / "llm.2.before/lib").mkdir(parents=True)
    (folder / "llm.2.before/lib/thesis.py").write_text("x")
    environment.discard(str(folder / "llm.2.before"), path)
    assert kept(path) == {"2.before/lib/thesis.py": "x"}


def test_a_rebuild_keeps_the_previous_build_until_the_new_one_is_accepted_or_reverted(environment, files, tmp_path):
    path, folder = tmp_path / "llm", tmp_path / ".llmprov"
    first, second, third = (built(environment, files, folder, f"llm.{n}", **{"llmprov.json": "{}"}) for n in (1, 2, 3))
    environment.switch(str(path), first)
    assert sorted(p.name for p in folder.iterdir()) == ["llm.1"], "what was half-made goes"
    second, third = (built(environment, files, folder, f"llm.{n}", **{"llmprov.json": "{}"}) for n in (2, 3))
    environment.switch(str(path), second, keep=True)
    assert (str(path.readlink()), sorted(p.name for p in folder.iterdir())) == (".llmprov/llm.2", ["llm.1", "llm.2"])
    # One more before anybody decided: what was never found good is not what to revert to.
    third = built(environment, files, folder, "llm.3", **{"llmprov.json": "{}"})
    environment.switch(str(path), third, keep=True)
    assert (str(path.readlink()), sorted(p.name for p in folder.iterdir())) == (".llmprov/llm.3", ["llm.1", "llm.3"])
    environment.revert({"path": str(path)})
    assert (str(path.readlink()), sorted(p.name for p in folder.iterdir())) == (".llmprov/llm.1", ["llm.1"])
    second = built(environment, files, folder, "llm.2", **{"llmprov.json": "{}"})
    environment.switch(str(path), second, keep=True)
    environment.accept({"path": str(path)})
    assert (str(path.readlink()), sorted(p.name for p in folder.iterdir())) == (".llmprov/llm.2", ["llm.2"])
    assert (folder / "llm.2/llmprov.json").read_text() == "{}\n"


def test_environments_are_found_and_installations_of_conda_are_none(files, tmp_path):
    observe = load("llmprov_observe", ROOT / "roles/preflight/files/observe.py")
    for name in ("conda/conda-meta", "base/conda-meta", "base/condabin", "data", "venv", ".llmprov/llm.1/conda-meta"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "venv/pyvenv.cfg").write_text("")
    (tmp_path / "llm").symlink_to(".llmprov/llm.1")
    found = {Path(row["path"]).name: row["kind"] for row in observe.environments_in([str(tmp_path)])}
    assert found == {"conda": "conda", "venv": "venv", "llm": "conda"}
