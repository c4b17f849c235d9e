"""`llmprov report`: render a finished run again, or one that never was."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from llmprov.cli import _common
from llmprov.errors import UsageError


class Format(StrEnum):
    """The forms of a report."""

    TABLE = "table"
    HTML = "html"
    MD = "md"
    JSON = "json"
    JUNIT = "junit"
    PROM = "prom"


FILES = {
    Format.HTML: "report.html",
    Format.MD: "report.md",
    Format.JUNIT: "junit.xml",
    Format.PROM: "metrics.prom",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report", epilog="Example: llmprov report latest --format html > report.html")(report)


def report(
    run: Annotated[
        str | None, typer.Argument(help="A run's directory, its name or the beginning of it, or `latest`.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How to render it.")] = Format.TABLE,
    runs: _common.RunsOption = _common.RUNS,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write every file of the report here.")
    ] = None,
    simulate: Annotated[
        int | None,
        typer.Option("--simulate", metavar="N", min=1, max=100_000, help="A fleet of N hosts that does not exist."),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=3650, help="Which simulated fleet; one a day from 2026.")
    ] = 0,
    baseline: _common.BaselineOption = None,
    effect: _common.EffectOption = _common.EFFECT_PERCENT,
    history: _common.HistoryOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Render a finished run again, in any format; exits with the run's own exit code.

    With --simulate it reports on a fleet that does not exist, with faults planted in it: to see what a report looks
    like before there is a fleet. It is kept where --out says, and not recorded in the history unless --history is
    given.
    """
    from llmprov.report import files, terminal
    from llmprov.run import rendering

    if (run is None) == (simulate is None):
        raise UsageError("name a run (`latest` is the newest), or a number of hosts with --simulate")
    if simulate is not None:
        judge = _common.judging(baseline, effect, history or "off")
        done = rendering.simulated(simulate, seed, judge, runs, out)
    else:
        done = rendering.again(run or "", _common.judging(baseline, effect, history), runs, out)
    for text in done.complaints:
        _common.complain(text)
    if as_json or form is Format.JSON:
        _common.write_json(done.fleet)
    elif form in FILES:
        sys.stdout.write(files.render(FILES[form], done.fleet))
    else:
        _common.out().print(terminal.fleet_table(done.fleet))
        if done.path is not None:
            _common.out().print(f"report: {done.path / 'report.html'}", soft_wrap=True)
    raise typer.Exit(done.fleet.exit_code)
