"""The command line. One file a sub-command: parse, call, render.

Each command loads what it needs when it runs, so that none pays for another one, and `--help` for none.
"""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from llmprov import __version__
from llmprov.cli import _common, check, history, lab, lock, plan, provision, rebuild, report, verify
from llmprov.errors import Cancelled, LlmprovError


class Commands(TyperGroup):
    """Typer ends a command without a word when ctrl-C is pressed; this says one."""

    def invoke(self, ctx: Any) -> Any:
        """Raises Cancelled where a command did not answer ctrl-C itself."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Cancelled("cancelled") from None


app = typer.Typer(
    name="llmprov",
    cls=Commands,
    help="From machines answering on SSH to machines that provably train large models.",
    epilog="Exit codes: 0 every selected host passes · 1 llmprov failed · 2 usage, inventory or variables are wrong · "
    "3 a host failed to converge, was refused or is pending · 4 a selected host was unreachable or not run · "
    "5 a host failed verification · 130 cancelled.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
)
app.add_typer(lab.app, name="lab")
for module in (check, plan, provision, verify, rebuild, lock, report):
    module.register(app)
app.add_typer(history.app, name="history")


def _version(asked: bool) -> None:
    if asked:
        _common.out().print(f"llmprov {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """From machines answering on SSH to machines that provably train large models."""


def main() -> None:
    """Run the command line; every mistake ends in one sentence and its exit code."""
    try:
        app()
    except LlmprovError as error:
        _common.complain(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of a pipe (`head`) is gone; nothing more can be said to it.
        sys.stderr.close()
        sys.exit(0)
