"""The fleet table and the plan, for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmprov.model import CheckStatus, FleetReport, HostReport, Kind, Status
from llmprov.report import figures
from llmprov.report.text import plain

STYLES = {
    Status.PASS: "green",
    Status.WARN: "yellow",
    Status.INCONCLUSIVE: "yellow",
    Status.PENDING: "yellow",
    Status.FAIL: "bold red",
    Status.REFUSED: "bold red",
    Status.UNREACHABLE: "bold red",
    Status.NOT_RUN: "bold red",
    Status.NOT_SELECTED: "dim",
}


def fleet_table(fleet: FleetReport) -> RenderableType:
    """The table, the sentences of the hosts that did not pass, and the whole in one sentence."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("host", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("done", no_wrap=True)
    table.add_column("torch", no_wrap=True)
    table.add_column("device", no_wrap=True)
    table.add_column("accuracy", justify="right", no_wrap=True)
    for heading in figures.HEADLINES.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for row in fleet.hosts:
        table.add_row(*_cells(row))
    parts: list[RenderableType] = [table, Text()]
    for row in fleet.hosts:
        parts += _troubles(row)
    parts += [Text(f"error: {plain(error)}", style="bold red") for error in fleet.errors]
    return Group(*parts, Text(figures.sentence(fleet)))


def _cells(row: HostReport) -> list[Text]:
    words = [
        figures.done(row),
        plain(row.torch or "", 40),
        plain(row.device or "", 40),
        figures.accuracy(row),
    ]
    words += [figures.headline(row, key) for key in figures.HEADLINES]
    status = Text(row.status.value.replace("_", " "), style=STYLES[row.status])
    return [Text(plain(row.host)), status, *map(Text, words)]


def _troubles(row: HostReport) -> list[RenderableType]:
    if not row.summary or row.status in (Status.PASS, Status.NOT_SELECTED):
        return []
    lines = [Text.assemble((plain(row.host), "bold"), f": {plain(row.summary, 500)}")]
    evidence = [figures.last_line(c.evidence) for c in row.checks if c.status is CheckStatus.FAIL and c.evidence]
    if evidence and evidence[0] not in row.summary:
        lines.append(Text(f"  evidence: {plain(evidence[0])}"))
    if row.remedy:
        lines.append(Text(f"  next: {plain(row.remedy, 500)}"))
    return list(lines)


def plan_tree(fleet: FleetReport) -> RenderableType:
    """What would change on each host, like a diff."""
    lines: list[RenderableType] = []
    for row in fleet.hosts:
        lines += _plan_of(row)
    pending = sum(1 for row in fleet.hosts if row.plan and row.plan.pending)
    refused = fleet.counts.get(Status.REFUSED, 0)
    unasked = sum(fleet.counts.get(status, 0) for status in (Status.UNREACHABLE, Status.FAIL, Status.NOT_RUN))
    total = sum(1 for row in fleet.hosts if row.status is not Status.NOT_SELECTED)
    plural = "s" if total != 1 else ""
    summary = f"{total} host{plural}: {pending} to change, {refused} refused, {unasked} could not be asked, "
    summary += f"{total - pending - refused - unasked} as declared. Nothing was changed."
    return Group(*lines, *(Text(f"error: {plain(e)}", style="bold red") for e in fleet.errors), Text(), Text(summary))


def _plan_of(row: HostReport) -> list[RenderableType]:
    name = (plain(row.host), "bold")
    if row.status in (Status.UNREACHABLE, Status.FAIL, Status.REFUSED):
        style = STYLES[row.status]
        return [
            Text.assemble(name, ": ", (row.status.value, style), f": {plain(row.summary, 500)}"),
            Text(f"  next: {plain(row.remedy, 500)}"),
        ]
    if row.plan is None:
        return []
    if not row.plan.pending:
        return [Text.assemble(name, ": as declared"), *_warnings(row)]
    colours = {Kind.INSTALL: "green", Kind.REMOVE: "red"}
    actions = [
        Text("  " + plain(figures.action_line(a)), style=colours.get(a.kind, "yellow")) for a in row.plan.pending
    ]
    return [Text.assemble(name), *actions, *_warnings(row)]


def _warnings(row: HostReport) -> list[RenderableType]:
    return [Text(f"  ! {plain(text)}", style="yellow") for text in (row.plan.warnings if row.plan else [])]
