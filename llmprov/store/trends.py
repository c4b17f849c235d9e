"""Questions to the history: what changed, since when, what flaps, what got slower. Pure functions of its records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Any

from llmprov.knowledge import FIGURES
from llmprov.model import FleetReport, Status
from llmprov.model.history import TURNS, Diff, Trouble
from llmprov.model.report import Change, Changes
from llmprov.report import EFFECT
from llmprov.report.compare import Baseline, Reading
from llmprov.store.history import SILENT, History, started_of

#: Runs looked back on for flapping.
LOOK_BACK = 10

_ORDER = [status.value for status in Status]


def compare_statuses(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[list[Change], list[Change]]:
    """(worse, better): hosts that took part in both and ended otherwise, the worst first."""
    worse: list[Change] = []
    better: list[Change] = []
    for host, now in after.items():
        then = before.get(host)
        if then is None or then == now or then in SILENT or now in SILENT:
            continue
        change = Change(host=host, before=Status(then), after=Status(now))
        (worse if _ORDER.index(now) < _ORDER.index(then) else better).append(change)
    for changes in (worse, better):
        changes.sort(key=lambda change: (_ORDER.index(str(change.after)), change.host))
    return worse, better


def changes(history: History, run: str, statuses: Mapping[str, str]) -> Changes | None:
    """What changed since the newest earlier run over most of the same hosts; None where there is none."""
    for earlier, then in history.statuses(LOOK_BACK, before=run):
        if 2 * len(then.keys() & statuses.keys()) < max(len(then), len(statuses)):
            continue
        worse, better = compare_statuses(then, statuses)
        return Changes(
            run=earlier,
            started=datetime.fromisoformat(started_of(earlier)),
            worse=worse,
            better=better,
            new=sorted(statuses.keys() - then.keys()),
            gone=sorted(then.keys() - statuses.keys()),
        )
    return None


def troubles(history: History) -> list[Trouble]:
    """Hosts that do not pass now, and hosts that flap, the longest first."""
    runs = history.statuses(LOOK_BACK)
    since = history.since()
    found = []
    for host in {host for _, statuses in runs for host in statuses}:
        line = [statuses[host] for _, statuses in runs if statuses.get(host, SILENT[0]) not in SILENT]
        if not line:
            continue
        turned = sum((a == "pass") != (b == "pass") for a, b in pairwise(line))
        if host in since or turned >= TURNS:
            found.append(Trouble(host, line[0], since.get(host), turned))
    return sorted(found, key=lambda trouble: (str(trouble.since or "~"), trouble.host))


def diff(history: History, before: str, after: str, effect: float = EFFECT) -> Diff:
    """Everything that is otherwise in run `after` than in run `before`; `effect` is the least change that matters."""
    then, now = history.hosts(before), history.hosts(after)
    told = Diff(before, after, new=sorted(now.keys() - then.keys()), gone=sorted(then.keys() - now.keys()))
    statuses = [{host: row["status"] for host, row in rows.items()} for rows in (then, now)]
    told.worse, told.better = compare_statuses(*statuses)
    for host in sorted(then.keys() & now.keys()):
        old, new = then[host], now[host]
        if {old["status"], new["status"]} & set(SILENT):
            continue
        _note(told.versions, host, _pairs(old["versions"], new["versions"]))
        _note(told.findings, host, _pairs(old["findings"], new["findings"]))
        # Figures of another kind of machine, or of another PyTorch, say nothing about this one.
        if old["cohort"] == new["cohort"]:
            _note(told.figures, host, _moved(_medians(old["figures"]), _medians(new["figures"]), effect))
    medians = _cohort_medians(history, before)
    for describes, values in _cohort_medians(history, after).items():
        _note(told.cohorts, describes, _moved(medians.get(describes, {}), values, effect))
    return told


def _note(into: dict[str, dict[str, Any]], name: str, found: dict[str, Any]) -> None:
    if found:
        into[name] = found


def _pairs(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    names = sorted(before.keys() | after.keys())
    return {n: (before.get(n, ""), after.get(n, "")) for n in names if before.get(n, "") != after.get(n, "")}


def _medians(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {key: median(values.values()) for key, values in figures.items() if values}


def _moved(before: Mapping[str, float], after: Mapping[str, float], effect: float) -> dict[str, float]:
    found = {}
    for key in sorted(before.keys() & after.keys()):
        least = (FIGURES[key].effect if key in FIGURES else None) or effect
        change = after[key] / before[key] - 1 if before[key] else 0.0
        if abs(change) >= least:
            found[key] = round(change, 4)
    return found


def _cohort_medians(history: History, run: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for row in history.cohorts(run):
        found.setdefault(row["describes"], {})[row["key"]] = row["median"]
    return found


def statuses_of(fleet: FleetReport) -> dict[str, str]:
    """Host -> status, of a run that may not be recorded yet."""
    return {row.host: row.status.value for row in fleet.hosts}


def baseline(history: History, run: str) -> Baseline:
    """A recorded run, to hold figures against; the repeats of its readings are not recorded."""
    rows: Iterable[dict[str, Any]] = history.hosts(run).values()
    found = Baseline(run)
    for row in rows:
        found.cohorts[row["host"]] = row["cohort"]
        for key, devices in row["figures"].items():
            readings: Sequence[Reading] = [Reading(device, value, ()) for device, value in devices.items()]
            found.readings.setdefault(key, {})[row["host"]] = list(readings)
    return found
