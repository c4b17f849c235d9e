"""Shared by unit and lab tests."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import settings

from tests.timing import Times

ROOT = Path(__file__).parents[1]
LLMPROV = str(Path(sys.executable).parent / "llmprov")

# How long an example takes is the machine's affair, which has lab hosts to run beside. `make test-all` tries more examples:
# `--hypothesis-profile thorough`.
settings.register_profile("quick", deadline=None, max_examples=50)
settings.register_profile("thorough", deadline=None, max_examples=600)
settings.load_profile("quick")

#: Session fixtures that cost seconds: of the workers of pytest-xdist, one has all tests that use such a fixture.
DEAR = ("torch", "sound", "browser", "postgres")

# Many processes share few processors here, and OpenMP's threads wait for each other by spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")

Cli = Callable[..., subprocess.CompletedProcess[str]]


class LateError(Exception):
    """A run of llmprov did not end in time."""


def run_inside(argv: tuple[str, ...], cwd: Path, timeout_s: int = 900) -> subprocess.CompletedProcess[str]:
    """Run llmprov in this process: what starting the program does, without the start of another Python.

    Raises:
        LateError: it did not end within `timeout_s` seconds.
    """
    from llmprov import cli

    def late(*_: object) -> None:
        raise LateError(f"llmprov {' '.join(argv)} did not end within {timeout_s} s")

    # With a buffer below the text, as the real ones have.
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, chdir(cwd), redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [LLMPROV, *argv])
        patch.setattr(sys.modules["__main__"], "__package__", None)  # else usage says `python -m pytest`
        patch.setattr(tempfile, "tempdir", None)  # a test may have set TMPDIR
        before = signal.signal(signal.SIGALRM, late)
        signal.alarm(timeout_s)
        try:
            with pytest.raises(SystemExit) as ended:
                cli.main()
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
    texts = []
    for stream in (out, err):
        stream.seek(0)
        texts.append(stream.read())
    return subprocess.CompletedProcess([LLMPROV, *argv], int(ended.value.code or 0), *texts)


@pytest.fixture
def inside(tmp_path: Path) -> Cli:
    """Run llmprov in an empty directory, in this process."""

    def call(*argv: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        return run_inside(argv, cwd)

    return call


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
    from llmprov.run.playbook import versions

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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests together that share what is dear (`--dist loadgroup`)."""
    for item in items:
        group = next((name for name in DEAR if name in item.fixturenames), None)
        if group and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(group))
