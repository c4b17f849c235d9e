"""`llmprov lock`: every version and digest that the fleet gets, as a file to commit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from llmprov.cli import _common
from llmprov.errors import UsageError
from llmprov.run.options import Options


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("lock", epilog="Example: llmprov lock -i inventory/lab.yml --upgrade numpy")(lock)


@_common.ansible_options
def lock(
    options: Options,
    names: Annotated[list[str], typer.Argument(metavar="[NAME]...", help="Packages to upgrade; all without.")] = [],  # noqa: B006
    path: Annotated[Path, typer.Option("--lock", metavar="FILE", help="Where the lock is.")] = _common.LOCK,
    upgrade: Annotated[bool, typer.Option("--upgrade", help="Let packages move, all or those named.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the lock as JSON, and nothing else, on stdout.")
    ] = False,
) -> None:
    """Resolve all that hosts get, write it down to the digest, and show what moves. Changes nothing on hosts.

    Without --upgrade everything stays as locked that still fits the declaration. With --check nothing is written.
    """
    from llmprov.report import terminal
    from llmprov.run import lock_file, locking

    if names and not upgrade:
        raise UsageError(f"{names[0]} is named, and only --upgrade takes names: add it")
    wanted = locking.Upgrade(upgrade, tuple(names))
    made = locking.make(options, _common.progress(quiet=as_json), path, wanted)
    for sentence in made.left_out:
        _common.complain(f"not locked: {sentence}")
    written = not options.check and locking.save(made, path)
    if as_json:
        sys.stdout.write(made.lock.model_dump_json(indent=2) + "\n")
    elif not made.lock.environments:
        _common.complain("no host could be locked, so no lock is written")
    else:
        _common.out().print(terminal.lock_moves(made.moves(), lock_file.summary(made.lock), str(path), written))
    raise typer.Exit(made.fleet.exit_code or (3 if made.left_out else 0))
