"""Real hosts for tests: one fleet that tests share, fresh hosts for those that destroy."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmprov.errors import LabUnsupported
from llmprov.lab.fleet import Fleet
from llmprov.lab.host import LabHost
from llmprov.lab.machine import require_lab_support
from tests.conftest import LLMPROV

#: Ranges of their own, so that a lab of the user's stays as it is.
SHARED_RANGE, FRESH_RANGE = "10.77.32.0/24", "10.77.33.0/24"
CONDA_RANGE, FRESH_CONDA_RANGE = "10.77.34.0/24", "10.77.35.0/24"

#: What hosts have from the start where a test is not about bare ones, as installing it takes ten seconds a host.
PYTHON = ("python3",)

#: What every test provisions: the CPU build from the machine's own indexes, and one small package.
VARIABLES: dict[str, Any] = {
    "llm_env_manager": "venv",
    "pytorch_variant": "cpu",
    "pytorch_index_url": "",
    "llm_packages": ["pyyaml>=6"],
}

#: What the hosts with conda get: a wheel beside conda packages, two of them of the channel's own.
CONDA: dict[str, Any] = {
    "llm_env_manager": "conda",
    "llm_python": "3.11",
    "llm_profiles": ["llm"],
    "conda_env_conda_packages": ["six=1.16"],
}

#: What they have in most tests, as environments are built many times: the same without what the profile brings.
LIGHT: dict[str, Any] = {**CONDA, "llm_profiles": [], "llm_packages": ["pyyaml>=6", "pandas"]}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip by name, with the reason, where this machine cannot host a lab."""
    here = [item for item in items if "tests/lab" in str(item.path)]
    for item in here:
        item.add_marker(pytest.mark.lab)
    try:
        require_lab_support()
    except LabUnsupported as reason:
        for item in here:
            item.add_marker(pytest.mark.skip(reason=str(reason)))


@dataclass
class Lab:
    """A fleet and what tests do with it."""

    fleet: Fleet

    def host(self, name: str) -> LabHost:
        return self.fleet.host(name)

    def sh(self, name: str, script: str) -> str:
        return self.host(name).execute("sh", "-c", script)

    def without_spinning(self) -> Lab:
        """Have what runs by sudo on the hosts compute with one thread, as tests/conftest.py has it here."""
        for host in self.fleet.hosts():
            self.sh(host.name, "echo OMP_NUM_THREADS=1 > /etc/environment")
            self.sh(host.name, "echo 'Defaults env_file=/etc/environment' > /etc/sudoers.d/environment")
        return self

    def inventory(self, path: Path, hosts: dict[str, dict[str, Any]], **variables: Any) -> Path:
        """An inventory of aliases: each name with its own variables, logging in as the lab's own inventory does."""
        own = yaml.safe_load(self.fleet.inventory.read_text("utf-8"))["all"]["vars"]
        content = {"all": {"hosts": hosts, "vars": {**own, **VARIABLES, **variables}}}
        path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
        return path

    def of(self, *names: str) -> dict[str, dict[str, Any]]:
        """Hosts by their own names."""
        return {name: {"ansible_host": self.host(name).address} for name in names}


@dataclass
class Ran:
    """A finished run of llmprov: exit code, both streams, and the report where it made one."""

    code: int
    out: str
    err: str
    fleet: dict[str, Any]

    def row(self, host: str) -> dict[str, Any]:
        return next(r for r in self.fleet["hosts"] if r["host"] == host)

    def statuses(self) -> dict[str, str]:
        return {r["host"]: r["status"] for r in self.fleet["hosts"]}


Run = Callable[..., Ran]


@pytest.fixture(scope="session")
def llmprov_in() -> Callable[[Path], Run]:
    """Run llmprov in a directory and read its JSON; what it printed is shown where the test then fails."""

    def of(directory: Path) -> Run:
        def call(command: str, inventory: Path, *argv: str) -> Ran:
            done = subprocess.run(
                [LLMPROV, command, "-i", str(inventory), "--json", *argv],
                cwd=directory,
                capture_output=True,
                text=True,
                timeout=600,
                stdin=subprocess.DEVNULL,
            )
            print(f"$ llmprov {command} {' '.join(argv)} -> {done.returncode}\n{done.stderr}")
            fleet = json.loads(done.stdout) if done.stdout else {"hosts": []}
            for row in fleet["hosts"]:
                print(f"  {row['host']}: {row['status']}: {row['summary']}")
            return Ran(done.returncode, done.stdout, done.stderr, fleet)

        return call

    return of


@pytest.fixture
def llmprov(tmp_path: Path, llmprov_in: Callable[[Path], Run]) -> Run:
    """Run llmprov in an empty directory, as `llmprov_in` does."""
    return llmprov_in(tmp_path)


@pytest.fixture(scope="session", autouse=True)
def bases(request: pytest.FixtureRequest) -> Iterator[None]:
    """The base trees, which labs share: gone with the last lab of the last of several test processes."""
    yield
    Fleet("none").down(keep_base=request.config.getoption("--keep-base"))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Three bookworm hosts that tests share: each leaves them working, or uses `fresh`."""
    fleet = Fleet("test")
    fleet.down(keep_base=True)
    try:
        fleet.up(3, address_range=SHARED_RANGE)
        yield Lab(fleet).without_spinning()
    finally:
        fleet.down(keep_base=True)


@pytest.fixture(scope="session")
def provisioned(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The shared fleet with its first two hosts provisioned; the third stays bare."""
    folder = tmp_path_factory.mktemp("provisioned")
    inventory = lab.inventory(folder / "hosts.yml", lab.of("test1", "test2"))
    done = subprocess.run(
        [LLMPROV, "provision", "-i", str(inventory)], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 hosts: 2 pass" in done.stdout
    return lab


@pytest.fixture(scope="session")
def conda_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A bookworm and a trixie host with conda, provisioned once, under conditions that conda is known to fall over.

    On conda1 whatever root does comes under umask 077; on conda2 root's own .condarc is no YAML.
    """
    fleet = Fleet("conda")
    fleet.down(keep_base=True)
    try:
        fleet.up(1, address_range=CONDA_RANGE, packages=PYTHON)
        fleet.up(2, release="trixie", packages=PYTHON)
        hosts = Lab(fleet).without_spinning()
        hosts.sh("conda1", "echo 'Defaults umask=0077, umask_override' > /etc/sudoers.d/umask")
        hosts.sh("conda2", "echo 'channels: [unclosed' > /root/.condarc")
        folder = tmp_path_factory.mktemp("conda")
        inventory = hosts.inventory(folder / "hosts.yml", hosts.of("conda1", "conda2"), **CONDA)
        # The first test that asks for these verifies them.
        argv = [LLMPROV, "provision", "-i", str(inventory), "--no-verify"]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
        yield hosts
    finally:
        fleet.down(keep_base=True)


@pytest.fixture
def fresh(request: pytest.FixtureRequest) -> Iterator[Callable[..., Lab]]:
    """Hosts of one's own, gone after the test; those of the tests of conda stand apart, as they run beside the others."""
    conda = request.path.stem == "test_conda"
    prefix, addresses = ("freshc", FRESH_CONDA_RANGE) if conda else ("fresh", FRESH_RANGE)
    fleet = Fleet(prefix)
    fleet.down(keep_base=True)

    def up(count: int = 1, **asked: Any) -> Lab:
        fleet.up(count, address_range=addresses, **asked)
        return Lab(fleet)

    try:
        yield up
    finally:
        fleet.down(keep_base=True)
