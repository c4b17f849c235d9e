"""`llmprov report`: render a finished run again."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from llmprov.cli import _common
from llmprov.report import markdown, terminal
from llmprov.run.directory import find_run, load_fleet


class Format(StrEnum):
    """The forms of a report."""

    TABLE = "table"
    MD = "md"
    JSON = "json"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report", epilog="Example: llmprov report latest --format md > report.md")(report)


def report(
    run: Annotated[str, typer.Argument(help="A run's directory, its name or the beginning of it, or `latest`.")],
    form: Annotated[Format, typer.Option("--format", help="How to render it.")] = Format.TABLE,
    runs: _common.RunsOption = _common.RUNS,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Render a finished run again, in any format; exits with the run's own exit code."""
    fleet = load_fleet(find_run(run, Path(runs)))
    if as_json or form is Format.JSON:
        sys.stdout.write(fleet.model_dump_json(indent=2) + "\n")
    elif form is Format.MD:
        sys.stdout.write(markdown.render(fleet))
    else:
        _common.out().print(terminal.fleet_table(fleet))
    raise typer.Exit(fleet.exit_code)
