"""Real hosts for tests: one fleet that tests share, fresh hosts for those that destroy."""

from __future__ import annotations

import contextlib
import json
import os
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
from llmprov.lab.lock import held
from llmprov.lab.machine import require_lab_support
from llmprov.lab.records import STATE
from llmprov.lab.snapshot import Snapshots
from tests.conftest import LLMPROV, run_inside

#: Test module -> the prefix of its fleet, and the third number of its addresses; what it takes fresh has the next number.
#: Modules whose fleets are their own affair are not here.
FLEETS = {
    "test_lab": ("test", 32),
    "test_conda": ("conda", 34),
    "test_bad_days": ("bad", 60),
    "test_check": ("chk", 62),
    "test_depot": ("dep", 64),
    "test_hold": ("hold", 66),
    "test_provision": ("prov", 68),
    "test_roles": ("role", 70),
    "test_verify": ("twin", 72),
    "test_secrets": ("sec", 74),
    "test_driver": ("drv", 76),
}

#: Fleets that modules share, and what follows from it: one worker has all tests of such a fleet.
SHARED_FLEETS = {"test_jupyter": "test_conda"}

#: The order in which fleets are taken up, those that take longest first: so that the last ones to end are short.
LONGEST_FIRST = (
    "test_driver",
    "test_conda",
    "test_tomorrow",
    "test_driver_packages",
    "test_roles",
    "test_faults",
    "test_verify",
    "test_provision",
    "test_ends",
    "test_bad_days",
)

#: The snapshot of two provisioned hosts and a bare one, which most fleets are started from.
SNAPSHOT, SEED_RANGE = "tests-provisioned", "10.77.54.0/24"

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


def fleet_of(path: Path) -> str:
    """The module whose fleet the tests of a module use."""
    return SHARED_FLEETS.get(path.stem, path.stem)


def place_in_order(path: Path) -> int:
    """Where in the order of fleets a module's is."""
    name = fleet_of(path)
    return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in a hook of its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a fleet stay together; all are skipped by name, with the reason, where this machine cannot host a lab."""
    here = [item for item in items if "tests/lab" in str(item.path)]
    for item in here:
        item.add_marker(pytest.mark.lab)
        item.add_marker(pytest.mark.xdist_group(fleet_of(item.path)))
    items.sort(key=lambda item: place_in_order(item.path) if item in here else -1)
    try:
        require_lab_support()
    except LabUnsupported as reason:
        for item in here:
            item.add_marker(pytest.mark.skip(reason=str(reason)))


def pytest_sessionstart(session: pytest.Session) -> None:
    """A snapshot that killed tests left behind may be of other code."""
    _remove_snapshot(session)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """What the workers shared goes with the last of them."""
    _remove_snapshot(session)


def _remove_snapshot(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput") or os.geteuid() != 0:
        return
    snapshots = Snapshots()
    if any(snapshot.name == SNAPSHOT for snapshot in snapshots.all()):
        snapshots.remove(SNAPSHOT, keep_base=session.config.getoption("--keep-base"))


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
            done = run_inside((command, "-i", str(inventory), "--json", *argv), directory)
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


@contextlib.contextmanager
def cleared(prefix: str) -> Iterator[Fleet]:
    """A fleet of which nothing is there, neither before nor after."""
    fleet = Fleet(prefix)
    fleet.down(keep_base=True)
    try:
        yield fleet
    finally:
        fleet.down(keep_base=True)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The snapshot of provisioned hosts, made by the first test process that asks for it."""
    with held(STATE / ".tests-snapshot.lock"):
        if all(snapshot.name != SNAPSHOT for snapshot in Snapshots().all()):
            _save_provisioned(tmp_path_factory.mktemp("seed"))
    return SNAPSHOT


def _save_provisioned(folder: Path) -> None:
    with cleared("seed") as fleet:
        fleet.up(3, address_range=SEED_RANGE)
        lab = Lab(fleet).without_spinning()
        inventory = lab.inventory(folder / "hosts.yml", lab.of("seed1", "seed2"))
        argv = [LLMPROV, "provision", "-i", str(inventory)]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "2 hosts: 2 pass" in done.stdout
        fleet.save(SNAPSHOT)


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Three hosts of the module's own, the first two provisioned; the tests of the lab itself have bare ones."""
    prefix, number = FLEETS[request.path.stem]
    bare = request.path.stem == "test_lab"
    source = None if bare else request.getfixturevalue("saved")
    with cleared(prefix) as fleet:
        fleet.up(3, address_range=f"10.77.{number}.0/24", from_snapshot=source)
        yield Lab(fleet).without_spinning() if bare else Lab(fleet)


@pytest.fixture(scope="module")
def provisioned(lab: Lab) -> Lab:
    """The same three hosts, where a test is about what was provisioned."""
    return lab


@pytest.fixture(scope="session")
def conda_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A bookworm and a trixie host with conda, provisioned once, under conditions that conda is known to fall over.

    On conda1 whatever root does comes under umask 077; on conda2 root's own .condarc is no YAML.
    """
    with cleared("conda") as fleet:
        fleet.up(1, address_range="10.77.34.0/24", packages=PYTHON)
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


@pytest.fixture
def fresh(request: pytest.FixtureRequest) -> Iterator[Callable[..., Lab]]:
    """Hosts that one test alone has, gone after it."""
    prefix, number = FLEETS[request.path.stem]
    with cleared(f"{prefix}f") as fleet:

        def up(count: int = 1, **asked: Any) -> Lab:
            fleet.up(count, address_range=f"10.77.{number + 1}.0/24", **asked)
            return Lab(fleet)

        yield up
