"""From rows to a kept report: compared, explained, set beside what the history knows, written, recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llmprov.errors import LlmprovError, UsageError
from llmprov.model import FleetReport, HostReport, RunInfo, Status
from llmprov.report import EFFECT, aggregate, compare
from llmprov.report.files import uncollected
from llmprov.run.directory import RunDirectory, find_run, load_fleet

if TYPE_CHECKING:
    from llmprov.store.history import History


@dataclass(frozen=True)
class Judging:
    """How figures are judged, and where runs are remembered."""

    #: The least deviation that matters, as a fraction.
    effect: float = EFFECT
    #: Name of an earlier run to hold figures against.
    baseline: str | None = None
    #: Address of the history; empty for none.
    history: str = ""


@dataclass
class Finished:
    """A report, where it lies (None where nothing is kept), and what could not be done beside it."""

    fleet: FleetReport
    path: Path | None = None
    complaints: list[str] = field(default_factory=list)


def warm() -> None:
    """Load what only the end of a run needs while hosts are at work: drivers of databases, templates."""

    def load() -> None:
        import llmprov.report.html
        import llmprov.report.junit
        import llmprov.report.metrics
        import llmprov.store.trends  # noqa: F401

    threading.Thread(target=load, daemon=True).start()


def open_history(address: str) -> History:
    """The history at an address; loads the database's driver only now.

    Raises:
        UsageError: the address makes no sense.
        LlmprovError: it cannot be opened.
    """
    from llmprov.store.history import History

    return History(address)


def find_baseline(judging: Judging, runs: Path) -> compare.Baseline | None:
    """The run that figures are held against: a run directory, else a run that the history knows.

    Raises:
        UsageError: there is no such run.
    """
    if judging.baseline is None:
        return None
    try:
        return compare.baseline_of(load_fleet(find_run(judging.baseline, runs)))
    except UsageError:
        if not judging.history:
            raise
    from llmprov.store import trends

    with open_history(judging.history) as history:
        return trends.baseline(history, history.find(judging.baseline))


def tell(
    info: RunInfo,
    rows: list[HostReport],
    exit_code: Callable[[list[HostReport]], int],
    errors: list[str],
    judging: Judging,
    baseline: compare.Baseline | None = None,
    directory: RunDirectory | None = None,
) -> Finished:
    """The report of a run: judged, written into `directory` and recorded, as far as there is one and a history."""
    with uncollected():
        fleet = aggregate.fleet(info, rows, exit_code, errors, judging.effect, baseline)
        done = Finished(fleet, directory.path if directory else None)
        if directory is None:
            return done
        history = _history(judging, done)
        if history:
            _remember(history, fleet, done)
        directory.write_fleet(fleet)
        if history:
            _record(history, fleet, directory.path.parent, done)
    return done


def _history(judging: Judging, done: Finished) -> History | None:
    if not judging.history:
        return None
    try:
        return open_history(judging.history)
    except LlmprovError as error:
        done.complaints.append(f"{error}; the run is complete, `llmprov history import {done.path}` records it later")
        return None


def _remember(history: History, fleet: FleetReport, done: Finished) -> None:
    """What the history knows of these hosts, into the report."""
    from llmprov.store import trends

    if not any(row.checks for row in fleet.hosts):
        return
    try:
        fleet.changes = trends.changes(history, fleet.run.id, trends.statuses_of(fleet))
        since = history.since() if any(row.status is not Status.PASS for row in fleet.hosts) else {}
    except LlmprovError as error:
        done.complaints.append(str(error))
        return
    for row in fleet.hosts:
        if row.status not in (Status.PASS, Status.NOT_SELECTED):
            row.since = since.get(row.host, fleet.run.started)


def _record(history: History, fleet: FleetReport, runs: Path, done: Finished) -> None:
    """This run, and those beside it whose writer was stopped before it came to that."""
    try:
        with history:
            history.record(fleet)
            catch_up(history, runs)
    except LlmprovError as error:
        done.complaints.append(f"{error}; the run is complete, `llmprov history import {done.path}` records it later")


def catch_up(history: History, runs: Path) -> list[str]:
    """Record finished runs of real fleets under `runs` that the history does not know, and return their names."""
    from llmprov.store.history import RUN_ID

    taken = []
    known = {run["id"] for run in history.runs()}
    for path in sorted(runs.glob("*/fleet.json")):
        name = path.parent.name
        if name in known or not RUN_ID.fullmatch(name) or not (path.parent / "run.json").exists():
            continue
        try:
            fleet = load_fleet(RunDirectory(path.parent))
        except UsageError:
            continue
        real = not fleet.run.simulated
        if real and fleet.run.id == name and fleet.run.outcome != "running" and history.record(fleet):
            taken.append(name)
    return taken
