"""`llmprov provision`: observe, plan, converge, verify, report."""

from __future__ import annotations

from typing import Annotated

import typer

from llmprov.cli import _common
from llmprov.run.options import Options


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("provision", epilog="Example: llmprov provision -i inventory/cluster.yml")(provision)


@_common.ansible_options
@_common.run_options
def provision(
    *,
    options: Options,
    verify: Annotated[bool, typer.Option(help="Verify the hosts at the end.")] = True,
    reboot: Annotated[
        bool,
        typer.Option("--reboot", help="Reboot hosts whose driver waits for it: one at a time, none after a failure."),
    ] = False,
    run: _common.RunOptions,
) -> None:
    """Bring every host to the declared state, verify that it trains, and report."""
    from llmprov.run import session

    wanted = verify and not options.check and options.selects("verify")
    work = session.PROVISION if wanted else session.CONVERGE_ONLY
    if reboot and not options.check:
        work = work.with_reboots()
    _common.run_and_show(work, run.on(options), run)
