"""report.md: the run on one page that fits a chat or an issue."""

from __future__ import annotations

import re

from llmprov.model import CheckStatus, FleetReport, HostReport, Status
from llmprov.report import figures
from llmprov.report.text import plain


def escape(text: str, limit: int = 500) -> str:
    """Text from a host inside a Markdown table: nothing in it is read as Markdown or HTML."""
    safe = plain(text, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~@])", r"\\\1", safe)


def render(fleet: FleetReport) -> str:
    """The report of a run."""
    run = fleet.run
    took = f", {(run.finished - run.started).total_seconds():.0f} s" if run.finished else ""
    lines = [
        f"# llmprov {run.command}: {escape(figures.sentence(fleet))}",
        "",
        f"Run `{run.id}`, {run.started:%Y-%m-%d %H:%M} UTC{took}, {run.outcome}, exit code {fleet.exit_code}.",
        "",
        "| host | status | done | torch | device | accuracy | " + " | ".join(figures.HEADLINES.values()) + " |",
        "|---|---|---|---|---|--:|" + "--:|" * len(figures.HEADLINES),
    ]
    lines += [_row(row) for row in fleet.hosts]
    troubled = [row for row in fleet.hosts if row.summary and row.status not in (Status.PASS, Status.NOT_SELECTED)]
    if troubled:
        lines += ["", "## What to do", ""]
        lines += [line for row in troubled for line in _trouble(row)]
    if fleet.errors:
        lines += ["", "## Errors of the run", "", *(f"- {escape(error)}" for error in fleet.errors)]
    lines += ["", "## Versions", "", *(f"- {name} {version}" for name, version in run.versions.items())]
    return "\n".join(lines) + "\n"


def _row(row: HostReport) -> str:
    cells = [escape(row.host), row.status.value.replace("_", " "), figures.done(row), escape(row.torch or "")]
    cells += [escape(row.device or ""), figures.accuracy(row)]
    cells += [figures.headline(row, key) for key in figures.HEADLINES]
    return "| " + " | ".join(cells) + " |"


def _trouble(row: HostReport) -> list[str]:
    lines = [f"- **{escape(row.host)}**: {row.status.value.replace('_', ' ')}: {escape(row.summary)}"]
    if row.remedy:
        lines.append(f"  Next: {escape(row.remedy)}.")
    bad = [c for c in row.checks if c.status is not CheckStatus.PASS and c.evidence]
    lines += [f"  Evidence of {escape(c.id)}: {escape(figures.last_line(c.evidence))}" for c in bad[:3]]
    return lines
