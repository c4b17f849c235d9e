"""Shared by unit and lab tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.timing import Times

ROOT = Path(__file__).parents[1]
LLMPROV = str(Path(sys.executable).parent / "llmprov")

# How long an example takes is the machine's affair, which has lab hosts to run beside.
settings.register_profile("llmprov", deadline=None)
settings.load_profile("llmprov")

# Many processes share few processors here, and OpenMP's threads wait for each other by spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run llmprov in an empty directory, as a user would."""

    def call(*argv: str, cwd: Path = tmp_path, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [LLMPROV, *argv], cwd=cwd, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL
        )

    return call


def pytest_report_header() -> list[str]:
    """State what is tested with what."""
    from llmprov.run.ansible import versions

    return [", ".join(f"{name} {version}" for name, version in versions().items())]


@pytest.fixture(scope="session", autouse=True)
def _history(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Runs of tests are remembered apart from those of whoever runs the tests."""
    os.environ["LLMPROV_HISTORY"] = str(tmp_path_factory.mktemp("history") / "history.db")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--keep-base`: another test process follows, and takes the labs' base trees over; `--times`: `tests.timing`."""
    parser.addoption("--keep-base", action="store_true", help="leave the labs' base trees for the next tests")
    parser.addoption("--times", metavar="FILE", type=Path, help="append a line about what the tests cost to this file")
    parser.addoption("--part", default="tests", help="what that line calls these tests")


def pytest_configure(config: pytest.Config) -> None:
    """Measure what tests cost; where pytest-xdist runs them, its workers measure and their parent writes."""
    path = None if hasattr(config, "workerinput") else config.getoption("--times")
    config.pluginmanager.register(Times(path, config.getoption("--part")))
