"""The history, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmprov.knowledge import FIGURES
from llmprov.model import Status
from llmprov.model.history import Diff, Trouble
from llmprov.report import compare
from llmprov.report.terminal import STYLES
from llmprov.text import number, plain

HEADLINE = "train.tokens_per_s"
BARS = "▁▂▃▄▅▆▇█"

#: Lines of one kind: a fleet's bad day fills screens.
MOST = 30


def overview(name: str, runs: Sequence[dict[str, Any]], troubles: Sequence[Trouble], cohorts: Any) -> RenderableType:
    """The last runs, the hosts that do not pass, and the cohorts with their ids."""
    if not runs:
        return Text(f"no run is recorded in {plain(name)}: `llmprov verify` and `llmprov provision` record theirs")
    table = _table("run", "command", "hosts", "ended", "exit code")
    for run in runs:
        told = [Text(f"{count} {status} ", style=STYLES[Status(status)]) for status, count in run["counts"].items()]
        exit_code = str(run["exit_code"]) + ("" if run["outcome"] == "finished" else f", {run['outcome']}")
        table.add_row(run["id"], run["command"], str(run["hosts"]), Text.assemble(*told), exit_code)
    parts: list[RenderableType] = [table]
    if troubles:
        worst = _table("host", "status", "since", "changed")
        for one in troubles[:MOST]:
            turned = f"{one.turns} time{'s' if one.turns != 1 else ''} in the last runs" if one.turns else ""
            turned += ": it comes and goes" if one.flaps else ""
            worst.add_row(plain(one.host, 80), _status(one.status), _ago(one.since), turned)
        parts += [Text(), worst, *_more(len(troubles))]
    shown = {row["cohort"]: row for row in cohorts if row["key"] == HEADLINE}
    if shown:
        kinds = _table("cohort", "hosts", "training", "what")
        for row in list(shown.values())[:MOST]:
            figure = f"{row['median']:,.0f} {row['unit']}"
            kinds.add_row(row["cohort"], str(row["count"]), figure, plain(row["describes"], 100))
        parts += [Text(), kinds]
    return Group(*parts)


def host(records: Sequence[dict[str, Any]]) -> RenderableType:
    """One host, the newest run first, with a bar for its training rate."""
    rates = [_rate(row) for row in records]
    table = _table("run", "status", "training", "", "cause", "what")
    for row, rate, bar in zip(records, rates, _bars(rates), strict=True):
        shown = f"{rate:,.0f}" if rate else ""
        table.add_row(
            row["run"], _status(row["status"]), shown, bar, plain(row["cause"], 40), plain(row["summary"], 100)
        )
    passes = [row["status"] == Status.PASS.value for row in records]
    turns = sum(a != b for a, b in pairwise(passes))
    told = f"{plain(records[0]['host'])}: {sum(passes)} of {len(passes)} runs passed, {turns} changes of that"
    return Group(table, Text(told))


def cohort(records: Sequence[dict[str, Any]]) -> RenderableType:
    """One cohort: its medians, a line a run and a column a figure."""
    keys = [key for key in FIGURES if any(row["key"] == key for row in records)]
    runs: dict[str, dict[str, dict[str, Any]]] = {}
    for row in records:
        runs.setdefault(row["run"], {})[row["key"]] = row
    table = _table("run", "hosts", *(f"{FIGURES[key].name}, {_unit(records, key)}" for key in keys), "")
    bars = _bars([of[keys[0]]["median"] if keys[0] in of else None for of in runs.values()])
    for (run, of), bar in zip(runs.items(), bars, strict=True):
        values = [number(of[key]["median"]) if key in of else "" for key in keys]
        table.add_row(run, str(max(row["count"] for row in of.values())), *values, bar)
    return Group(Text(plain(records[0]["describes"], 300), style="bold"), table)


def difference(diff: Diff) -> RenderableType:
    """What is otherwise, the worst first."""
    lines = [Text(f"{diff.before} -> {diff.after}", style="bold")]
    for word, changes, style in (("worse", diff.worse, "bold red"), ("better", diff.better, "green")):
        told = [f"  {plain(c.host, 80)}: {c.before} -> {c.after}" for c in changes]
        lines += _block(f"{len(changes)} {word}", told, style)
    lines += _block(
        f"{len(diff.new)} new", [f"  {compare.names([plain(h, 80) for h in diff.new], 10)}"] if diff.new else []
    )
    lines += _block(
        f"{len(diff.gone)} gone", [f"  {compare.names([plain(h, 80) for h in diff.gone], 10)}"] if diff.gone else []
    )
    moved = [f"  {plain(name, 100)}: {_changes(of)}" for name, of in (*diff.cohorts.items(), *diff.figures.items())]
    lines += _block("figures that moved", moved, "yellow")
    checks = [
        f"  {plain(name, 80)}: {check}: {before or 'pass'} -> {after or 'pass'}"
        for name, of in diff.findings.items()
        for check, (before, after) in of.items()
    ]
    lines += _block("findings", checks)
    versions = [
        f"  {plain(name, 80)}: {part} {before or 'none'} -> {after or 'none'}"
        for name, of in diff.versions.items()
        for part, (before, after) in of.items()
    ]
    lines += _block("versions", versions)
    if len(lines) == 1:
        lines.append(Text("nothing changed"))
    return Group(*lines)


def _block(title: str, lines: Sequence[str], style: str = "") -> list[Text]:
    if not lines:
        return []
    return [Text(title, style=style), *(Text(line) for line in lines[:MOST]), *_more(len(lines))]


def _more(count: int) -> list[Text]:
    return [Text(f"  and {count - MOST} more; --json has them all", style="dim")] if count > MOST else []


def _changes(of: dict[str, float]) -> str:
    return ", ".join(f"{FIGURES[key].name} {change:+.1%}" for key, change in of.items() if key in FIGURES)


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def _status(status: str) -> Text:
    return Text(status.replace("_", " "), style=STYLES[Status(status)])


def _ago(since: datetime | None) -> str:
    if since is None:
        return ""
    days = (datetime.now(UTC) - since).days
    return f"{since:%Y-%m-%d %H:%M}" + (f", {days} days" if days > 1 else "")


def _rate(row: dict[str, Any]) -> float | None:
    values = row["figures"].get(HEADLINE, {}).values()
    return median(values) if values else None


def _unit(records: Iterable[dict[str, Any]], key: str) -> str:
    return next(plain(row["unit"], 20) for row in records if row["key"] == key)


def _bars(values: Sequence[float | None]) -> list[str]:
    """A bar for each value, from nothing to the largest; steps of an eighth."""
    top = max((value for value in values if value), default=0.0)
    return [BARS[min(int(value / top * len(BARS)), len(BARS) - 1)] if value and top else "" for value in values]
