"""`llmprov check`: whether every host can be reached and worked on, and if not, why."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from llmprov.cli import _common
from llmprov.run.options import Options
from llmprov.text import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmprov.model.reach import Reach

STEPS = ("dns", "tcp", "banner", "key", "login", "shell", "sudo", "python")

#: Status of a step -> how a table shows it; one that passed is shown by its time.
SIGNS = {"fail": ("FAIL", "red"), "warn": ("warn", "yellow"), "skipped": ("-", "dim")}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check", epilog="Example: llmprov check -i inventory/cluster.yml")(check)


@_common.ansible_options
def check(
    options: Options,
    pin: Annotated[
        bool, typer.Option("--pin", help="Show the keys of hosts that are not known yet, and pin them first.")
    ] = False,
    as_json: _common.JsonOption = False,
) -> None:
    """Look how far each host can be reached: name, port, host key, login, sudo, Python. Changes nothing on hosts."""
    from llmprov import check as reach

    for name, key, path in reach.pin(options) if pin else []:
        sys.stderr.write(f"pinned {plain(name)}: {key} in {path}; compare it with the host's own\n")
    found = reach.check(options)
    failed = sum(one.failed is not None for one in found)
    if as_json:
        json.dump([one.model_dump(mode="json") for one in found], sys.stdout)
    else:
        out = _common.out()
        out.print(_table(found))
        for line in _complaints(found):
            out.print(line, soft_wrap=True, markup=False)
        plural = "s" if len(found) != 1 else ""
        out.print(f"\n{len(found)} host{plural}: {len(found) - failed} can be provisioned, {failed} cannot.")
    raise typer.Exit(4 if failed else 0)


def _complaints(found: list[Reach]) -> Iterator[str]:
    """What is wrong with each host, and what to do about it, a line each."""
    for one in found:
        for step in one.steps:
            if step.status in ("fail", "warn"):
                yield f"{plain(one.host)}: {step.name}: {plain(step.says, 600)}"
                if step.remedy:
                    yield f"  next: {step.remedy}"


def _table(found: list[Reach]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in ("host", "address", *STEPS):
        table.add_column(name, no_wrap=True)
    for one in found:
        steps = {step.name: step for step in one.steps}
        cells = []
        for name in STEPS:
            step = steps.get(name)
            if step is None:
                cells.append(Text(""))
            elif step.status in SIGNS:
                cells.append(Text(*SIGNS[step.status]))
            else:
                cells.append(Text(f"{step.time_ms:.0f} ms"))
        table.add_row(Text(plain(one.host)), Text(plain(one.address)), *cells)
    return table
