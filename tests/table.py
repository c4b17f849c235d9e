"""What a tier of tests cost, as a table: `python -m tests.table FILE` reads what `tests.timing` wrote.

A row a part, their sum, and the ten tests that took longest. Parts may run beside each other: then their wall times overlap,
and each part's time of the machine holds the work of the others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

DEAREST = 10
HEAD = ("part", "tests", "failed", "skipped", "wall time", "processor time", "machine's processor time")
NOTE = """\
Processor time is that of the tests' processes and their children. The machine's is that of all its processes while the
part ran: lab hosts are no children of a test. A test's times contain its fixtures. A shared fixture counts for the first
test that uses it, and its end for the last test of the process: there the processor time of a browser appears."""


def clock(seconds: float | None) -> str:
    """Seconds as m:ss, short ones with a tenth; a dash for what was not measured."""
    if seconds is None:
        return "-"
    if round(seconds, 1) < 10:
        return f"{seconds:.1f} s"
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"


def row(part: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of one part."""
    outcomes = [test["outcome"] for test in part["tests"].values()]
    counts = (str(count) for count in (len(outcomes), outcomes.count("failed"), outcomes.count("skipped")))
    return (part["part"], *counts, *(clock(part[key]) for key in ("wall_s", "processor_s", "machine_s")))


def total(parts: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The last row: sums of what can be added. Parts may overlap, so the wall time and the machine's time cannot be."""
    parts = list(parts)
    outcomes = [test["outcome"] for part in parts for test in part["tests"].values()]
    counts = (str(count) for count in (len(outcomes), outcomes.count("failed"), outcomes.count("skipped")))
    return ("all", *counts, "", clock(sum(part["processor_s"] for part in parts)), "")


def dearest(parts: Iterable[Mapping[str, Any]], count: int = DEAREST) -> list[tuple[str, str, str]]:
    """The tests that took longest: wall time, processor time, name."""
    tests = [(test["wall_s"], test["processor_s"], name) for part in parts for name, test in part["tests"].items()]
    return [(clock(wall), clock(processor), name) for wall, processor, name in sorted(tests, reverse=True)[:count]]


def aligned(rows: Iterable[tuple[str, ...]], left: int) -> str:
    """Rows as columns; the column number `left` is text and stands on the left, numbers on the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        (cell.ljust(width) if at == left else cell.rjust(width))
        for cells in rows
        for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "\n".join("  ".join(line).rstrip() for line in zip(*[iter(lines)] * len(widths), strict=True))


def table(parts: list[Mapping[str, Any]]) -> str:
    """The whole text."""
    rows = [HEAD, *(row(part) for part in parts), total(parts)]
    most = [("wall time", "processor time", "test"), *dearest(parts)]
    return f"{aligned(rows, 0)}\n\nThe ten dearest tests:\n{aligned(most, 2)}\n\n{NOTE}"


def main(path: str) -> None:
    """Print the table of a file."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    sys.stdout.write(table([json.loads(line) for line in lines]) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
