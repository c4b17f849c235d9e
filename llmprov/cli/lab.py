"""`llmprov lab`: a fleet of real hosts on this machine."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from llmprov.cli import _common
from llmprov.lab import DEFAULT_NETWORK, DEFAULT_PREFIX, Fleet, HostStatus

app = typer.Typer(help="A fleet of real Debian hosts on this machine.", no_args_is_help=True)

Prefix = Annotated[str, typer.Option("--prefix", help="Name of the lab, and the beginning of its hosts' names.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(epilog="Example: llmprov lab up -n 3 --gpu lab2=10de:2330*8")
def up(
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=200, help="How many hosts.")] = 3,
    release: Annotated[str, typer.Option("--release", help="bookworm or trixie, for hosts that are new.")] = "bookworm",
    gpu: Annotated[
        list[str],
        typer.Option("--gpu", metavar="[HOST=]ID[*COUNT]", help="PCI id that hosts show as an NVIDIA device."),
    ] = [],  # noqa: B006
    package: Annotated[
        list[str],
        typer.Option("--package", metavar="NAME", help="Debian package that new hosts have from the start."),
    ] = [],  # noqa: B006
    prefix: Prefix = DEFAULT_PREFIX,
    network: Annotated[
        str | None,
        typer.Option("--network", metavar="RANGE", help=f"Address range [default: {DEFAULT_NETWORK}]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring up hosts, each with its own systemd, sshd, apt and reboot. Safe to repeat."""
    fleet = Fleet(prefix)
    hosts = fleet.up(
        count, release, tuple(gpu), network, tuple(package), say=lambda text: sys.stderr.write(f"{text}\n")
    )
    _show(hosts, as_json)
    if not as_json:
        _common.out().print(f"inventory: {fleet.inventory}", soft_wrap=True)


@app.command(epilog="Example: llmprov lab status --json")
def status(prefix: Prefix = DEFAULT_PREFIX, as_json: Json = False) -> None:
    """Show the hosts of a lab."""
    _show(Fleet(prefix).status(), as_json)


@app.command(
    epilog="Example: llmprov lab ssh lab1 -- sudo systemctl status",
    context_settings={"ignore_unknown_options": True},
)
def ssh(
    name: Annotated[str, typer.Argument(help="The host.")],
    command: Annotated[list[str], typer.Argument(help="What to run there; nothing opens a shell.")] = [],  # noqa: B006
    prefix: Prefix = DEFAULT_PREFIX,
) -> None:
    """Log in to a host, or run a command on it."""
    argv = Fleet(prefix).ssh_command(name, tuple(command))
    sys.stdout.flush()
    os.execvp(argv[0], argv)


@app.command(epilog="Example: llmprov lab down --keep-base")
def down(
    prefix: Prefix = DEFAULT_PREFIX,
    keep_base: Annotated[bool, typer.Option("--keep-base", help="Keep the base tree for the next lab.")] = False,
) -> None:
    """Remove a lab and everything it made. Safe to repeat."""
    existed = Fleet(prefix).down(keep_base)
    _common.out().print(f"lab {prefix} is gone" if existed else f"there is no lab {prefix}")


def _show(rows: list[HostStatus], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("host", "address", "release", "state", "GPUs"):
        table.add_column(heading)
    for row in rows:
        table.add_row(row.name, row.address, row.release, row.state, " ".join(row.gpus))
    _common.out().print(table if rows else "there is no such lab: `llmprov lab up` makes one")
