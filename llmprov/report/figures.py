"""The few figures that every short form of the report shows."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from dataclasses import dataclass
from statistics import median

from llmprov.knowledge import FIGURES
from llmprov.model import Action, FleetReport, HostReport, Kind, Measurement, Status
from llmprov.model.report import Step
from llmprov.text import plain

#: Key -> heading of the column; the unit stands in the heading.
HEADLINES = {"train.tokens_per_s": "tokens/s"}


def compared(row: HostReport) -> dict[str, tuple[float, str]]:
    """The figures that hosts are compared by: key -> (median of the host's devices, unit)."""
    found: dict[str, list[Measurement]] = {}
    for m in row.measurements:
        if m.key in FIGURES:
            found.setdefault(m.key, []).append(m)
    return {key: (median([m.value for m in of]), of[0].unit) for key, of in found.items()}


def headline(row: HostReport, key: str) -> str:
    """One measurement, summed over the host's devices, with thousands parted; empty where it was not measured."""
    found = [m.value for m in row.measurements if m.key == key]
    return f"{sum(found):,.0f}" if found else ""


def accuracy(row: HostReport) -> str:
    """The held-out accuracy of the classifier as a percentage, or an empty text."""
    check = next((c for c in row.checks if c.id == "train.accuracy"), None)
    return f"{check.measured:.1%}" if check and isinstance(check.measured, int | float) else ""


def done(row: HostReport) -> str:
    """What was done on a host, in words."""
    if row.plan is None:
        return ""
    changed = len(row.converged.changed)
    return f"{changed} change{'s' if changed != 1 else ''}" if changed else "nothing"


def last_line(evidence: str) -> str:
    """The end of a traceback or of an output, which says most."""
    return (evidence.strip().splitlines() or [""])[-1][:300]


def action_line(action: Action) -> str:
    """One action like a line of a diff."""
    sign = {Kind.INSTALL: "+", Kind.REMOVE: "-", Kind.NONE: "="}.get(action.kind, "~")
    moved = " -> ".join(filter(None, [action.before, action.after]))
    return f"{sign} {action.component}: {action.kind} {moved}".rstrip() + (f" ({action.why})" if action.why else "")


def is_troubled(row: HostReport) -> bool:
    """Whether there is something to say about a host."""
    return bool(row.summary) and row.status not in (Status.PASS, Status.NOT_SELECTED)


def worst(fleet: FleetReport, most: int) -> tuple[list[HostReport], str]:
    """All rows, or where they are more than `most`: so many of the worst, and in words what the others are."""
    shown = fleet.hosts if len(fleet.hosts) <= most else [row for row in fleet.hosts if is_troubled(row)][:most]
    rest = fleet.hosts[len(shown) :]
    counts = ", ".join(f"{n:,} {status.value}" for status, n in Counter(row.status for row in rest).items())
    return shown, f"{len(rest):,} more: {counts}; report.html has them all" if rest else ""


def sentence(fleet: FleetReport) -> str:
    """The whole run in one sentence."""
    counts = ", ".join(f"{count:,} {status.value.replace('_', ' ')}" for status, count in fleet.counts.items())
    changed = sum(len(row.converged.changed) for row in fleet.hosts)
    plural = "s" if changed > 1 else ""
    what = f"{changed} change{plural} {'would be ' if fleet.run.check_mode else ''}made"
    if not changed:
        what = "nothing was changed on any host"
    made_up = "simulated: " if fleet.run.simulated else ""
    return f"{made_up}{len(fleet.hosts):,} host{'s' if len(fleet.hosts) != 1 else ''}: {counts}; {what}."


def took(fleet: FleetReport) -> str:
    """How long the run took, in words; empty for one that did not finish."""
    if fleet.run.finished is None:
        return ""
    seconds = (fleet.run.finished - fleet.run.started).total_seconds()
    return f"{seconds:.0f} s" if seconds < 180 else f"{seconds / 60:.0f} min"


@dataclass(frozen=True)
class Group:
    """Hosts with the same cause and the same next step, worst first."""

    says: str
    step: Step
    what: str
    drain: bool
    rows: list[HostReport]


def groups(fleet: FleetReport) -> list[Group]:
    """What to do, one entry a cause, in the order of the hosts: each host that needs something is in exactly one."""
    found: dict[str, list[HostReport]] = {}
    for row in fleet.hosts:
        if row.cause:
            found.setdefault(row.cause.id, []).append(row)
    told = []
    for rows in found.values():
        cause = rows[0].cause
        assert cause is not None  # that is how they were found
        # `GPU 3` is one host's; for several it is whichever GPU each host's own row names.
        said = {re.sub(r"\bGPU \d+\b", "a GPU", row.cause.says) for row in rows if row.cause}
        says = (
            cause.says
            if len(rows) == 1
            else said.pop()
            if len(said) == 1
            else cause.id.replace("_", " ").replace(".", " ")
        )
        same = len({row.cause.what for row in rows if row.cause}) == 1
        told.append(Group(says, cause.step, cause.what if same else "see each host", cause.drain, rows))
    return told


def drain(row: HostReport) -> str:
    """The command that takes work off a host where that comes first; Slurm's, as most such fleets have it."""
    if row.cause is None or not row.cause.drain:
        return ""
    reason = f"Reason=llmprov: {row.cause.id}"
    return shlex.join(["scontrol", "update", f"NodeName={plain(row.host)}", "State=DRAIN", reason])
