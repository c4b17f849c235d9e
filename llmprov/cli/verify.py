"""`llmprov verify`: observe, verify, report; changes nothing."""

from __future__ import annotations

import typer

from llmprov.cli import _common
from llmprov.run import ansible, session


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify", epilog="Example: llmprov verify -i inventory/cluster.yml --strict")(verify)


@_common.ansible_options
def verify(
    options: ansible.Options,
    runs: _common.RunsOption = _common.RUNS,
    strict: _common.StrictOption = False,
    as_json: _common.JsonOption = False,
) -> None:
    """Verify every host against the declared state and train on it. Installs nothing."""
    _common.run_and_show(session.VERIFY, options, runs, as_json, strict=strict)
