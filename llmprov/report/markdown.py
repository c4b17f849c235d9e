"""report.md: the run on one page that fits a chat or an issue, however large the fleet is."""

from __future__ import annotations

import re

from llmprov.model import CheckStatus, FleetReport, HostReport
from llmprov.model.report import Changes
from llmprov.report import compare, figures
from llmprov.text import plain

#: Rows of the table, and hosts told of one by one. An issue takes 65,536 characters: at their longest these stay below
#: it.
ROWS, SINGLE = 40, 12


def escape(text: str, limit: int = 500) -> str:
    """Text from a host inside a Markdown table: nothing in it is read as Markdown or HTML."""
    safe = plain(text, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~@])", r"\\\1", safe)


def render(fleet: FleetReport) -> str:
    """The report of a run."""
    run = fleet.run
    took = f", {figures.took(fleet)}" if run.finished else ""
    lines = [
        f"# llmprov {run.command}: {escape(figures.sentence(fleet))}",
        "",
        f"Run `{run.id}`, {run.started:%Y-%m-%d %H:%M} UTC{took}, {run.outcome}, exit code {fleet.exit_code}.",
        "",
        "| host | status | done | torch | device | accuracy | " + " | ".join(figures.HEADLINES.values()) + " |",
        "|---|---|---|---|---|--:|" + "--:|" * len(figures.HEADLINES),
    ]
    rows, rest = figures.worst(fleet, ROWS)
    lines += [_row(row) for row in rows]
    lines += ["", rest] if rest else []
    if any(figures.is_troubled(row) for row in fleet.hosts):
        lines += ["", "## What to do", "", *_todo(fleet)]
    notes = [note for cohort in fleet.cohorts for note in cohort.notes]
    if notes:
        lines += ["", "## Cohorts", "", *(f"- {escape(note)}" for note in notes[:SINGLE])]
    if fleet.changes:
        lines += ["", f"## Since {fleet.changes.started:%Y-%m-%d %H:%M} UTC", "", *_changes(fleet.changes)]
    if fleet.errors:
        lines += ["", "## Errors of the run", "", *(f"- {escape(error)}" for error in fleet.errors[:SINGLE])]
    lines += ["", "## Versions", "", *(f"- {name} {version}" for name, version in run.versions.items())]
    return "\n".join(lines) + "\n"


def _todo(fleet: FleetReport) -> list[str]:
    troubled = [row for row in fleet.hosts if figures.is_troubled(row)]
    if len(troubled) <= SINGLE:
        return [line for row in troubled for line in _trouble(row)]
    return [line for group in figures.groups(fleet) for line in _group(group)]


def _group(group: figures.Group) -> list[str]:
    hosts = compare.names([escape(row.host, 80) for row in group.rows])
    plural = "s" if len(group.rows) != 1 else ""
    drain = "drain, then " if group.drain else ""
    return [
        f"- **{escape(group.says, 200)}**, {len(group.rows):,} host{plural}: {hosts}",
        f"  Next: {drain}{group.step.value}: {escape(group.what, 300)}.",
    ]


def _changes(changes: Changes) -> list[str]:
    told = [f"- {escape(c.host, 80)}: {c.before} → {c.after}" for c in (*changes.worse, *changes.better)]
    more = [f"- and {len(told) - SINGLE} more"] if len(told) > SINGLE else []
    appeared = [f"- {word}: {compare.names([escape(h, 80) for h in hosts])}"
                for word, hosts in (("new", changes.new), ("gone", changes.gone)) if hosts]  # fmt: skip
    return [*told[:SINGLE], *more, *appeared] or ["Nothing changed."]


def _row(row: HostReport) -> str:
    cells = [escape(row.host), row.status.value.replace("_", " "), figures.done(row), escape(row.torch or "")]
    cells += [escape(row.device or ""), figures.accuracy(row)]
    cells += [figures.headline(row, key) for key in figures.HEADLINES]
    return "| " + " | ".join(cells) + " |"


def _trouble(row: HostReport) -> list[str]:
    lines = [f"- **{escape(row.host)}**: {row.status.value.replace('_', ' ')}: {escape(row.summary)}"]
    if row.remedy:
        drain = "drain, then " if row.cause and row.cause.drain else ""
        lines.append(f"  Next: {drain}{escape(row.remedy)}.")
    if row.cause and row.cause.command:
        lines.append(f"  Command: {escape(row.cause.command)}")
    bad = [c for c in row.checks if c.status is not CheckStatus.PASS and c.evidence]
    lines += [f"  Evidence of {escape(c.id)}: {escape(figures.last_line(c.evidence))}" for c in bad[:3]]
    return lines
