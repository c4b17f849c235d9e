"""The fleet table and the plan, for a terminal."""

from __future__ import annotations

from itertools import zip_longest

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmprov.model import CheckStatus, FleetReport, HostReport, Kind, Status
from llmprov.report import compare, figures
from llmprov.text import plain

#: Rows of the table, and hosts told of one by one: more are told by their cause, and stand in the page.
ROWS, SINGLE = 40, 12

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
    rows, rest = figures.worst(fleet, ROWS)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("host", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("done", no_wrap=True)
    table.add_column("torch", no_wrap=True)
    table.add_column("device", no_wrap=True)
    table.add_column("accuracy", justify="right", no_wrap=True)
    for heading in figures.HEADLINES.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    parts: list[RenderableType] = [table, *([Text(f"… {rest}", style="dim")] if rest else []), Text()]
    troubled = [row for row in fleet.hosts if figures.is_troubled(row)]
    if len(troubled) <= SINGLE:
        parts += [line for row in troubled for line in _troubles(row)]
    else:
        parts += [line for group in figures.groups(fleet) for line in _group(group)]
    parts += [Text(f"cohort of {len(c.hosts):,} ({plain(c.describes, 80)}): {plain(note, 300)}", style="yellow")
              for c in fleet.cohorts[:20] for note in c.notes[:3]]  # fmt: skip
    parts += _changes(fleet)
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


def _group(group: figures.Group) -> list[RenderableType]:
    hosts = compare.names([plain(row.host, 60) for row in group.rows])
    plural = "s" if len(group.rows) != 1 else ""
    step = f"{'drain, then ' if group.drain else ''}{group.step.value}"
    return [
        Text.assemble((plain(group.says, 200), "bold"), f", {len(group.rows):,} host{plural}: {hosts}"),
        Text(f"  next: {step}: {plain(group.what, 300)}"),
    ]


def _changes(fleet: FleetReport) -> list[RenderableType]:
    """What is otherwise than in the run before; nothing where that is the same."""
    changes = fleet.changes
    if changes is None or not (changes.worse or changes.better or changes.new or changes.gone):
        return []
    told = [f"{plain(c.host, 60)} {c.before} -> {c.after}" for c in changes.worse]
    words = [
        f"{len(told)} worse ({compare.names(told)})" if told else "",
        f"{len(changes.better)} better" if changes.better else "",
    ]
    words += [f"{len(changes.new)} new" if changes.new else "", f"{len(changes.gone)} gone" if changes.gone else ""]
    return [Text(f"since {changes.started:%Y-%m-%d %H:%M} UTC: {', '.join(filter(None, words))}")]


def _troubles(row: HostReport) -> list[RenderableType]:
    lines = [Text.assemble((plain(row.host), "bold"), f": {plain(row.summary, 500)}")]
    evidence = [figures.last_line(c.evidence) for c in row.checks if c.status is CheckStatus.FAIL and c.evidence]
    if evidence and evidence[0] not in row.summary:
        lines.append(Text(f"  evidence: {plain(evidence[0])}"))
    if row.remedy:
        drain = "drain, then " if row.cause and row.cause.drain else ""
        lines.append(Text(f"  next: {drain}{plain(row.remedy, 500)}"))
    if row.cause and row.cause.command:
        lines.append(Text(f"        {plain(row.cause.command, 500)}", style="dim"))
    return list(lines)


def undeclared(found: dict[str, list[dict[str, str]]]) -> RenderableType:
    """Environments that may go, by host."""
    lines: list[RenderableType] = []
    for host, environments in found.items():
        lines.append(Text(plain(host), style="bold"))
        lines += [
            Text(f"  - {plain(about['path'], 500)} ({plain(about['manager'])})", style="red") for about in environments
        ]
    return Group(*lines)


def lock_moves(moves: dict[str, list[str]], holds: str, path: str, written: bool) -> RenderableType:
    """What moved in a lock, like a diff, and what became of the file."""
    lines: list[RenderableType] = []
    colours = {"+": "green", "-": "red"}
    for title, changes in moves.items():
        lines.append(Text(plain(title), style="bold"))
        lines += [Text(f"  {plain(change)}", style=colours.get(change[0], "yellow")) for change in changes]
    if written:
        said = f"{path} is written"
    else:
        said = f"{path} would change; nothing was written" if moves else f"{path} is up to date"
    return Group(*lines, *([Text()] if lines else []), Text(f"{plain(said)}: {plain(holds)}."))


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
    drifted = sum(map(_drifted, fleet.hosts))
    summary += f"{total - pending - refused - unasked} as declared"
    summary += f"; {drifted} with drift. Nothing was changed." if drifted else ". Nothing was changed."
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
        return [Text.assemble(name, f": as declared{', with drift' if _drifted(row) else ''}"), *_warnings(row)]
    colours = {Kind.INSTALL: "green", Kind.REMOVE: "red"}
    actions = []
    for action in row.plan.pending:
        actions.append(Text("  " + plain(figures.action_line(action)), style=colours.get(action.kind, "yellow")))
        actions += [Text(f"      {plain(line, 500)}", style="dim") for line in action.details]
    return [Text.assemble(name), *actions, *_warnings(row)]


def _drifted(row: HostReport) -> bool:
    return row.plan is not None and any(finding.id.startswith("drift.") for finding in row.plan.findings)


def _warnings(row: HostReport) -> list[RenderableType]:
    if row.plan is None:
        return []
    found = [Text(f"  ! {plain(text)}", style="yellow") for text in row.plan.warnings]
    for finding, after in zip_longest(row.plan.findings, row.plan.findings[1:]):
        found.append(Text(f"  ! {plain(finding.says)}", style="yellow"))
        if after is None or after.remedy != finding.remedy:
            found.append(Text(f"    next: {plain(finding.remedy)}"))
    return list(found)
