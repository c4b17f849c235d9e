"""`llmprov check`: whether every host can be reached and worked on, and if not, why."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from llmprov.cli import _common
from llmprov.model.reach import Reach, StepStatus
from llmprov.run.options import Options
from llmprov.text import plain

STEPS = ("dns", "tcp", "banner", "key", "login", "shell", "sudo", "python")

SIGNS = {StepStatus.FAIL: ("FAIL", "red"), StepStatus.WARN: ("warn", "yellow"), StepStatus.SKIPPED: ("-", "dim")}


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
    # Not at the top: what it logs in with takes a tenth of a second, and no other command has a use for it.
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
        for one in found:
            for step in one.steps:
                if step.status in (StepStatus.FAIL, StepStatus.WARN):
                    out.print(Text(f"{plain(one.host)}: {step.name}: {plain(step.says, 600)}"), soft_wrap=True)
                    if step.remedy:
                        out.print(Text(f"  next: {step.remedy}"), soft_wrap=True)
        plural = "s" if len(found) != 1 else ""
        out.print(f"\n{len(found)} host{plural}: {len(found) - failed} can be provisioned, {failed} cannot.")
    raise typer.Exit(4 if failed else 0)


def _table(found: list[Reach]) -> Table:
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
