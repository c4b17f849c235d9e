"""`llmprov lab`: a fleet of real hosts on this machine."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmprov.cli import _common
from llmprov.lab import DEFAULT_NETWORK, DEFAULT_PREFIX

if TYPE_CHECKING:
    from rich.table import Table

    from llmprov.lab.fleet import Fleet, HostStatus
    from llmprov.lab.snapshot import Snapshots

app = typer.Typer(help="A fleet of real Debian hosts on this machine.", no_args_is_help=True)

Prefix = Annotated[str, typer.Option("--prefix", help="Name of the lab, and the beginning of its hosts' names.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(epilog="Example: llmprov lab up -n 3 --gpu lab2=10de:2330*8")
def up(
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=200, help="How many hosts.")] = 3,
    release: Annotated[
        str | None,
        typer.Option("--release", help="bookworm or trixie, for hosts that are new; bookworm by default."),
    ] = None,
    gpu: Annotated[
        list[str],
        typer.Option("--gpu", metavar="[HOST=]ID[*COUNT]", help="PCI id that hosts show as an NVIDIA device."),
    ] = [],  # noqa: B006
    package: Annotated[
        list[str],
        typer.Option("--package", metavar="NAME", help="Debian package that new hosts have from the start."),
    ] = [],  # noqa: B006
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="SNAPSHOT[/HOST]",
            help="Start new hosts from saved ones: host number i from saved host number i. A snapshot of one host, or "
            "one saved host that you name, serves any number of new hosts.",
        ),
    ] = None,
    prefix: Prefix = DEFAULT_PREFIX,
    network: Annotated[
        str | None,
        typer.Option("--network", metavar="RANGE", help=f"Address range; {DEFAULT_NETWORK} by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring up hosts, each with its own systemd, sshd, apt and reboot. Safe to repeat."""
    fleet = _fleet(prefix)
    hosts = fleet.up(
        count,
        release,
        tuple(gpu),
        network,
        tuple(package),
        say=lambda text: sys.stderr.write(f"{text}\n"),
        from_snapshot=source,
    )
    _show(hosts, as_json)
    if not as_json:
        _common.out().print(f"inventory: {fleet.inventory}", soft_wrap=True)


@app.command(epilog="Example: llmprov lab save provisioned")
def save(
    name: Annotated[str, typer.Argument(help="Name of the new snapshot.")],
    prefix: Prefix = DEFAULT_PREFIX,
    as_json: Json = False,
) -> None:
    """Save the files of a lab's hosts as a snapshot. Hosts that run are restarted."""
    snapshot = _fleet(prefix).save(name)
    if as_json:
        _print_json(snapshot.model_dump(mode="json"))
        return
    _common.out().print(f"saved {', '.join(snapshot.hosts)} as snapshot {name}")
    _common.out().print(f"start hosts from it: llmprov lab up --from {name} --prefix OTHER --network RANGE")


@app.command(epilog="Example: llmprov lab snapshots --remove provisioned")
def snapshots(
    remove: Annotated[
        list[str], typer.Option("--remove", metavar="NAME", help="Remove this snapshot. May be repeated.")
    ] = [],  # noqa: B006
    keep_base: Annotated[bool, typer.Option("--keep-base", help="Keep the base trees of what is removed.")] = False,
    as_json: Json = False,
) -> None:
    """List the snapshots of this machine, or remove some."""
    known = _snapshots()
    for name in remove:
        known.remove(name, keep_base)
        sys.stderr.write(f"snapshot {name} is gone\n")
    rows = [
        {
            "name": snapshot.name,
            "hosts": list(snapshot.hosts),
            "releases": sorted({tree.release for tree in snapshot.hosts.values()}),
            "size_bytes": known.size_bytes(snapshot),
            "saved_at": snapshot.saved_at.isoformat(timespec="seconds"),
            "lab": snapshot.lab,
        }
        for snapshot in known.all()
    ]
    if as_json:
        _print_json(rows)
    elif rows or not remove:
        _show_snapshots(rows)


@app.command(epilog="Example: llmprov lab status --json")
def status(prefix: Prefix = DEFAULT_PREFIX, as_json: Json = False) -> None:
    """Show the hosts of a lab."""
    _show(_fleet(prefix).status(), as_json)


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
    argv = _fleet(prefix).ssh_command(name, tuple(command))
    sys.stdout.flush()
    os.execvp(argv[0], argv)


@app.command(epilog="Example: llmprov lab down --keep-base")
def down(
    prefix: Prefix = DEFAULT_PREFIX,
    keep_base: Annotated[bool, typer.Option("--keep-base", help="Keep the base tree for the next lab.")] = False,
) -> None:
    """Remove a lab and everything it made. Safe to repeat."""
    existed = _fleet(prefix).down(keep_base)
    _common.out().print(f"lab {prefix} is gone" if existed else f"there is no lab {prefix}")


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _table(*headings: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading)
    return table


def _show(rows: list[HostStatus], as_json: bool) -> None:
    if as_json:
        _print_json([asdict(row) for row in rows])
        return
    origin = any(row.snapshot for row in rows)
    table = _table("host", "address", "release", "state", "GPUs", *(["from"] if origin else []))
    for row in rows:
        cells = [row.name, row.address, row.release, row.state, " ".join(row.gpus)]
        table.add_row(*cells, *([row.snapshot or ""] if origin else []))
    _common.out().print(table if rows else "there is no such lab: `llmprov lab up` makes one")


def _show_snapshots(rows: list[dict[str, Any]]) -> None:
    table = _table("snapshot", "hosts", "release", "size", "saved", "lab")
    for row in rows:
        size = f"{row['size_bytes'] / 1e6:.0f} MB"
        when = f"{row['saved_at'][:16].replace('T', ' ')} UTC"
        table.add_row(row["name"], ", ".join(row["hosts"]), ", ".join(row["releases"]), size, when, row["lab"])
    _common.out().print(table if rows else "there is no snapshot: `llmprov lab save` makes one")


def _fleet(prefix: str) -> Fleet:
    from llmprov.lab.fleet import Fleet

    return Fleet(prefix)


def _snapshots() -> Snapshots:
    from llmprov.lab.snapshot import Snapshots

    return Snapshots()
