"""`llmprov rebuild`: back to exactly the declared state."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Annotated

import typer

from llmprov.cli import _common
from llmprov.errors import UsageError
from llmprov.run.options import Options


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("rebuild", epilog="Example: llmprov rebuild -i inventory/lab.yml --limit lab07")(rebuild)


@_common.ansible_options
@_common.run_options
def rebuild(
    *,
    options: Options,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove environments that nobody declared, too; shows them first.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether what --prune shows may go.")] = False,
    run: _common.RunOptions,
) -> None:
    """Bring hosts back to exactly the declaration: new environments beside the old, which go once the new ones pass."""
    from llmprov.run import session

    options = run.on(options)
    if prune:
        options = _shown(options, yes, run.as_json)
    _common.run_and_show(session.REBUILD_CHECK if options.check else session.REBUILD, options, run)


def _shown(options: Options, yes: bool, as_json: bool) -> Options:
    """Show what nobody declared and ask for it; what comes between this and the rebuild stays."""
    from llmprov.report import terminal
    from llmprov.run import prune

    console = _common.err()
    found = prune.undeclared(options, _common.progress(quiet=as_json))
    if not found:
        console.print("no environments but the declared ones")
        return options
    console.print(terminal.undeclared(found))
    if not yes and not options.check:
        if not sys.stdin.isatty():
            raise UsageError("--prune asks before it removes these, and there is no terminal: say --yes if they may go")
        if not typer.confirm("Remove them, with all that is in them?", err=True):
            raise UsageError("nothing was changed: leave --prune out to rebuild without removing them")
    return replace(options, extra_vars=(*options.extra_vars, json.dumps({prune.VARIABLE: found})))
