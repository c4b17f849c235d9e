"""What tests cost: how it is counted, kept and told."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests import table, timing
from tests.conftest import ROOT

RUN = """
import subprocess, sys

BURN = "import time\\nwhile time.process_time() < 0.3: pass"

def test_child():
    subprocess.run([sys.executable, "-c", BURN], check=True)

def test_idle():
    pass

def test_wrong():
    raise AssertionError
"""
STAT = "cpu  100 20 30 4000 500 6 7 80 90 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n"


def part(name, **tests):
    """A part with tests of (outcome, wall time, processor time)."""
    return {
        "part": name,
        "wall_s": 90.0,
        "processor_s": 61.2,
        "machine_s": None,
        "tests": {
            test: {"outcome": outcome, "wall_s": wall, "processor_s": processor}
            for test, (outcome, wall, processor) in tests.items()
        },
    }


def test_the_machine_was_busy_but_for_idling_waiting_and_what_others_stole(monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda _: 100)
    assert timing.machine_s(STAT) == pytest.approx(1.63)


def test_the_phases_of_a_test_are_one_test():
    times = timing.Times(None, "unit")
    phases = (("setup", "passed", 1.0, 0.5), ("call", "failed", 2.0, 0.25), ("teardown", "passed", 4.0, 0.125))
    for when, outcome, wall, processor in phases:
        report = pytest.TestReport("a", ("a", 1, "a"), {}, outcome, None, when, duration=wall)
        report.user_properties = [(timing.PROPERTY, processor), ("something else", "x")]
        times.pytest_runtest_logreport(report)
    assert times.part.tests == {"a": timing.Test("failed", 7.0, 0.875)}


def test_a_command_is_a_part_without_tests(tmp_path):
    burn = "import time\nwhile time.process_time() < 0.3: pass\nraise SystemExit(3)"
    assert timing.main(str(tmp_path / "times"), "lint", sys.executable, "-c", burn) == 3
    written = json.loads((tmp_path / "times").read_text())
    assert (written["part"], written["tests"]) == ("lint", {})
    assert written["processor_s"] >= 0.3
    assert written["wall_s"] > 0


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_run_writes_a_line_with_the_time_of_children(tmp_path, workers):
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_addoption, pytest_configure\n")
    (tmp_path / "test_it.py").write_text(RUN)
    argv = [
        sys.executable,
        "-m",
        "pytest",
        tmp_path,
        "--rootdir",
        tmp_path,
        "-n",
        workers,
        "--times",
        tmp_path / "times",
    ]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = (tmp_path / "times").read_text().splitlines()
    told = json.loads(line)
    tests = {name.rpartition("::")[2]: test for name, test in told["tests"].items()}
    assert {name: test["outcome"] for name, test in tests.items()} == {
        "test_child": "passed",
        "test_idle": "passed",
        "test_wrong": "failed",
    }
    assert tests["test_child"]["processor_s"] >= 0.3
    assert tests["test_idle"]["processor_s"] < 0.3
    assert told["processor_s"] >= 0.3


def test_the_table_has_a_row_a_part_and_the_dearest_tests_of_all():
    parts = [
        part("unit", quick=("passed", 0.1, 0.1), slow=("failed", 75.0, 3.0)),
        part("services", middle=("skipped", 9.96, 9.0)),
        part("lint"),
    ]
    lines = table.table(parts).splitlines()
    assert lines[0].split("  ")[0] == "part"
    assert [line.split() for line in lines[1:4]] == [
        ["unit", "2", "1", "0", "1:30", "1:01", "-"],
        ["services", "1", "0", "1", "1:30", "1:01", "-"],
        ["lint", "0", "0", "0", "1:30", "1:01", "-"],
    ]
    assert lines[4].split() == ["all", "3", "1", "1", "3:04"]
    assert [line.split() for line in lines[8:11]] == [
        ["1:15", "3.0", "s", "slow"],
        ["0:10", "9.0", "s", "middle"],
        ["0.1", "s", "0.1", "s", "quick"],
    ]


def test_no_more_than_ten_tests_are_named():
    assert len(table.dearest([part("unit", **{f"t{n}": ("passed", n, n) for n in range(30)})])) == 10


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (9.94, "9.9 s"), (9.96, "0:10"), (59.6, "1:00"), (3725, "62:05"), (None, "-")]
)
def test_times_are_short(seconds, text):
    assert table.clock(seconds) == text
