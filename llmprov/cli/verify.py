"""`llmprov verify`: observe, verify, report; changes nothing."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from llmprov.cli import _common
from llmprov.errors import UsageError
from llmprov.run.options import Options


class Level(StrEnum):
    """The variable `verify_level`, as an option."""

    QUICK = "quick"
    STANDARD = "standard"
    SOAK = "soak"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify", epilog="Example: llmprov verify -i inventory/cluster.yml --level standard")(verify)


@_common.ansible_options
@_common.run_options
def verify(
    *,
    options: Options,
    level: Annotated[
        Level | None, typer.Option("--level", help="How much to measure: seconds, minutes, or --minutes of training.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="How long a soak trains; it survives a lost connection.")
    ] = None,
    stop: Annotated[bool, typer.Option("--stop", help="End the soak that runs, and take what it measured.")] = False,
    run: _common.RunOptions,
) -> None:
    """Verify every host against the declared state and train on it. Installs nothing."""
    from llmprov.run import session

    if minutes is not None and level is not Level.SOAK:
        raise UsageError("--minutes says how long a soak trains: add --level soak")
    if stop and level not in (None, Level.SOAK):
        raise UsageError(f"--stop ends a soak, and --level is {level}: leave one of them out")
    level_variables = {
        "verify_level": level and level.value,
        "verify_soak_minutes": minutes,
        "verify_stop": stop or None,
    }
    _common.run_and_show(session.VERIFY, _common.with_variables(run.on(options), **level_variables), run)
