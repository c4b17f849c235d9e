"""The few figures that every short form of the report shows."""

from __future__ import annotations

from llmprov.model import Action, FleetReport, HostReport, Kind

#: Key -> heading of the column; the unit stands in the heading.
HEADLINES = {"train.tokens_per_s": "tokens/s"}


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


def sentence(fleet: FleetReport) -> str:
    """The whole run in one sentence."""
    counts = ", ".join(f"{count} {status.value.replace('_', ' ')}" for status, count in fleet.counts.items())
    changed = sum(len(row.converged.changed) for row in fleet.hosts)
    plural = "s" if changed > 1 else ""
    what = f"{changed} change{plural} {'would be ' if fleet.run.check_mode else ''}made"
    if not changed:
        what = "nothing was changed on any host"
    return f"{len(fleet.hosts)} host{'s' if len(fleet.hosts) != 1 else ''}: {counts}; {what}."
