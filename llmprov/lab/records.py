"""What is kept on disk about labs and snapshots."""

from __future__ import annotations

import datetime
import secrets
from pathlib import Path

from pydantic import BaseModel

from llmprov.errors import UsageError
from llmprov.lab import DEFAULT_NETWORK

#: Labs belong to the machine, not to a user: bridges and mounts are the machine's too.
STATE = Path("/var/lib/llmprov/lab")


class Tree(BaseModel):
    """What a host's files are made of: a base tree and layers over it.

    A layer is a folder of `layers/` that the kernel wrote as the upper layer of a host's overlay. Once another host
    stands on it, nothing writes to it again.
    """

    release: str
    packages: list[str] = []
    base: str = ""
    layers: list[str] = []
    """The layers over the base tree that are only read, topmost first."""


class HostRecord(Tree):
    """What was asked for one host, and where its files are."""

    gpus: list[str] = []
    upper: str = ""
    """The layer that the host writes to."""
    snapshot: str | None = None
    """The saved host that it was started from, as SNAPSHOT/HOST."""

    def frozen(self) -> Tree:
        """The host's files as they are now: its own layer counts as one that is only read."""
        layers = [self.upper, *self.layers]
        return Tree(release=self.release, packages=self.packages, base=self.base, layers=layers)


class LabRecord(BaseModel):
    """What was asked for a lab; kept on disk from before the first host is made until after the last is gone."""

    network: str = DEFAULT_NETWORK
    hosts: dict[str, HostRecord] = {}


class Snapshot(BaseModel):
    """The saved files of a lab's hosts."""

    name: str
    lab: str
    saved_at: datetime.datetime
    hosts: dict[str, Tree]

    def choose(self, numbers: list[int], host: str | None = None) -> dict[int, str]:
        """Which saved host each new host starts from; hosts count from 1.

        Host number i starts from saved host number i. A snapshot of one host serves any number of new ones, and so does
        one saved host that was named.

        Raises:
            UsageError: no such saved host, or fewer saved hosts than new ones.
        """
        saved = list(self.hosts)
        if host is not None and host not in self.hosts:
            raise UsageError(f"snapshot {self.name} has no host {host!r}; it has {', '.join(saved)}")
        if host is not None or len(saved) == 1:
            return dict.fromkeys(numbers, host or saved[0])
        if missing := [number for number in numbers if number > len(saved)]:
            raise UsageError(
                f"snapshot {self.name} has {len(saved)} hosts, so there is none for host number {missing[0]}: ask for "
                f"fewer hosts, or start all new ones from one saved host with --from {self.name}/{saved[0]}"
            )
        return {number: saved[number - 1] for number in numbers}


def new_layer() -> str:
    """A name for a layer that no other layer has."""
    return secrets.token_hex(6)


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record whole or not at all, in a folder that only root reads."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}")
    partial.write_text(record.model_dump_json(indent=2), encoding="utf-8")
    partial.rename(path)
