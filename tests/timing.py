"""What tests cost: a plugin that writes one line a part, and a command that does so for what is no test.

`pytest --times FILE --part NAME` appends a JSON line to FILE at its end; `python -m tests.timing FILE NAME COMMAND...` runs
a command and does the same. `python -m tests.table FILE` prints all of them.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

#: The name of the property by which a report carries processor time from a worker of pytest-xdist.
PROPERTY = "processor_s"


@dataclass
class Test:
    """One test: its outcome and what it cost, with its fixtures' setup and teardown."""

    __test__ = False
    outcome: str = "passed"
    wall_s: float = 0.0
    #: User and system time of the process that ran it, and of the children that ended meanwhile.
    processor_s: float = 0.0


@dataclass
class Part:
    """One run of pytest, or one command."""

    part: str
    wall_s: float = 0.0
    #: User and system time of the process and of all its children.
    processor_s: float = 0.0
    #: How long the processors of the machine were busy meanwhile, with whatever; none where the kernel does not say.
    machine_s: float | None = None
    tests: dict[str, Test] = field(default_factory=dict)

    def append_to(self, path: Path) -> None:
        """Write it as one line; several parts may do so at once."""
        with path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(asdict(self)) + "\n")


def processor_s() -> float:
    """Processor time of this process and of its children that ended, in seconds."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def machine_s(stat: str) -> float:
    """How long the processors were busy since the machine's start, in seconds, by the text of /proc/stat."""
    user, nice, system, _idle, _iowait, irq, softirq = (int(word) for word in stat.split(None, 8)[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class Clock:
    """What went by since it was made."""

    def __init__(self) -> None:
        self.began = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float | None]:
        try:
            machine = machine_s(Path("/proc/stat").read_text(encoding="ascii"))
        except (OSError, ValueError):
            machine = None
        return time.monotonic(), processor_s(), machine

    def stop(self, part: Part) -> None:
        """Write into a part what it took."""
        (wall, processor, machine), (wall_0, processor_0, machine_0) = self._now(), self.began
        part.wall_s, part.processor_s = wall - wall_0, processor - processor_0
        part.machine_s = None if machine is None or machine_0 is None else machine - machine_0


class Times:
    """The plugin: it measures in the process that runs a test, and collects in the one that began the run."""

    def __init__(self, path: Path | None, part: str) -> None:
        self.path, self.part, self.clock, self.mark = path, Part(part), Clock(), 0.0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        """Begin to count a test's processor time."""
        self.mark = processor_s()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Iterator[None]:
        """Write into the report of each phase (setup, call, teardown) the processor time that it took."""
        report = yield
        now = processor_s()
        report.user_properties.append((PROPERTY, now - self.mark))
        self.mark = now
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up the phases of a test."""
        test = self.part.tests.setdefault(report.nodeid, Test())
        test.wall_s += report.duration
        test.processor_s += sum(value for name, value in report.user_properties if name == PROPERTY)
        if report.outcome == "failed" or (report.outcome == "skipped" and test.outcome == "passed"):
            test.outcome = report.outcome

    def pytest_unconfigure(self) -> None:
        """Write the line: by now the workers have ended, and their time counts as that of children."""
        if self.path is not None:
            self.clock.stop(self.part)
            self.part.append_to(self.path)


def main(path: str, part: str, *command: str) -> int:
    """Run a command as a part that has no tests; returns its exit code."""
    clock, done = Clock(), Part(part)
    code = subprocess.run(command).returncode
    clock.stop(done)
    done.append_to(Path(path))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
