"""What modules read of a host and of conda's output; run here as they are, outside Ansible."""

from __future__ import annotations

import importlib.util
import os
import sys
import types

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
def environment(host):
    # Ansible puts the shared code under this name when it packs a module.
    package = "ansible.module_utils.llmprov_host"
    sys.modules[package] = types.ModuleType(package)
    sys.modules[package].__dict__.update(host.__dict__)
    try:
        yield load("llmprov_environment", ROOT / "roles/venv/library/llmprov_environment.py")
    finally:
        del sys.modules[package]


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
