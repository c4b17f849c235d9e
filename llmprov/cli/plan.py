"""`llmprov plan`: what would change, like a diff; changes nothing."""

from __future__ import annotations

import typer

from llmprov.cli import _common
from llmprov.run.options import Options


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan", epilog="Example: llmprov plan -i inventory/cluster.yml --limit gpu01")(plan)


@_common.ansible_options
def plan(
    options: Options,
    locked: _common.LockedOption = False,
    lock: _common.LockOption = _common.LOCK,
    as_json: _common.JsonOption = False,
) -> None:
    """Show what would change on each host, like a diff. Changes nothing and keeps no run."""
    from llmprov.report import terminal
    from llmprov.run import session

    asked = _common.RunOptions(locked=locked, lock=lock, as_json=as_json)
    _common.run_and_show(session.PLAN, asked.on(options), asked, terminal.plan_tree, keep=False)
