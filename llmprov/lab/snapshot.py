"""Snapshots: saved files of a lab's hosts, which hosts of other labs start from.

A snapshot is a record that lists layers. Saving a lab copies and moves nothing: its hosts get new layers to write to,
and the ones they wrote to until then are only read from now on. Layers go when no lab and no snapshot lists them.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from llmprov.errors import LabError, UsageError
from llmprov.lab import base
from llmprov.lab.lock import held
from llmprov.lab.machine import run
from llmprov.lab.records import STATE, LabRecord, Snapshot, Tree, write_record

#: mount(2) takes 4096 bytes of options, a layer's path about 45 of them.
MAX_LAYERS = 64


class Snapshots:
    """The snapshots of this machine, and the layers and base trees that labs and snapshots share."""

    def __init__(self, state: Path = STATE) -> None:
        self.state = state
        self.directory = state / "snapshots"

    def lock(self) -> AbstractContextManager[None]:
        """Hold the lock of what all labs share: which layers and base trees are in use."""
        return held(self.state / "labs" / "..lock")

    # -- snapshots -----------------------------------------------------------------------------------------------

    def all(self) -> list[Snapshot]:
        """Every snapshot, the oldest first."""
        found = [Snapshot.model_validate_json(path.read_text("utf-8")) for path in self.directory.glob("[!.]*.json")]
        return sorted(found, key=lambda snapshot: snapshot.saved_at)

    def get(self, name: str) -> Snapshot:
        """The snapshot `name`.

        Raises:
            UsageError: there is none; says which there are.
        """
        found = {snapshot.name: snapshot for snapshot in self.all()}
        if name not in found:
            there = ", ".join(found) or "none: `llmprov lab save` makes one"
            raise UsageError(f"there is no snapshot {name!r}; this machine has {there}")
        return found[name]

    def require_free(self, name: str) -> None:
        """Raise unless a snapshot of that name can be made.

        Raises:
            UsageError: the name is none, or is taken.
        """
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,39}", name):
            raise UsageError(
                "a snapshot's name has up to 40 small letters, digits, dots, hyphens and underscores, and "
                f"{name!r} is not one"
            )
        if self._path(name).exists():
            raise UsageError(
                f"there is a snapshot {name} already: choose another name, or remove it with "
                f"`llmprov lab snapshots --remove {name}`"
            )

    def add(self, snapshot: Snapshot) -> None:
        """Write the record that makes its layers a snapshot; the caller holds the lock."""
        write_record(self._path(snapshot.name), snapshot)

    def trees(self, source: str, numbers: list[int]) -> dict[int, tuple[str, Tree]]:
        """For each new host by number, the saved host it starts from as SNAPSHOT/HOST, and its tree.

        The caller holds the lock until it has written down that it uses these layers.

        Raises:
            UsageError: `source` is no SNAPSHOT or SNAPSHOT/HOST of this machine, or does not fit the new hosts.
            LabError: files that the snapshot needs are gone.
        """
        name, slash, host = source.partition("/")
        snapshot = self.get(name)
        chosen = snapshot.choose(numbers, host if slash else None)
        for saved in set(chosen.values()):
            tree = snapshot.hosts[saved]
            if gone := [path for path in self.lower(tree) if not path.is_dir()]:
                raise LabError(
                    f"snapshot {name} needs {gone[0]}, which is gone: remove it with "
                    f"`llmprov lab snapshots --remove {name}` and save it again"
                )
        return {number: (f"{name}/{saved}", snapshot.hosts[saved]) for number, saved in chosen.items()}

    def remove(self, name: str, keep_base: bool = False) -> None:
        """Remove a snapshot, and the layers and base trees that nothing else needs.

        Raises:
            UsageError: there is no such snapshot.
            LabError: hosts of a lab were started from it; says which lab.
        """
        self.get(name)
        with self.lock():
            users = [prefix for prefix, lab in self._labs().items() if name in _sources(lab)]
            if users:
                raise LabError(
                    f"snapshot {name} is in use: hosts of lab {' and of lab '.join(users)} were started from it; "
                    f"`llmprov lab down --prefix {users[0]}` first"
                )
            self._path(name).unlink(missing_ok=True)
            remove_layers = self.remove_unused(keep_base)
        remove_layers()
        self.tidy()

    def size_bytes(self, snapshot: Snapshot) -> int:
        """How much disk the layers of a snapshot take; snapshots of one lab may share some."""
        layers = {str(self.layer(name)) for tree in snapshot.hosts.values() for name in tree.layers}
        return int(run("du", "--summarize", "--total", "--block-size=1", *layers).splitlines()[-1].split()[0])

    # -- layers and base trees -----------------------------------------------------------------------------------

    def layer(self, name: str) -> Path:
        """Where a layer lies."""
        return self.state / "layers" / name

    def lower(self, tree: Tree) -> tuple[Path, ...]:
        """The folders that a host of this tree reads from, topmost first; the last is the base tree."""
        return (*map(self.layer, tree.layers), self.state / "base" / tree.base)

    def remove_unused(self, keep_base: bool) -> Callable[[], None]:
        """Remove what no lab and no snapshot needs; the caller holds the lock.

        Base trees and the conda channel go with the last lab, unless `keep_base`. Returns what removes the layers:
        that takes seconds, and needs no lock, since nothing will ever use them again.
        """
        labs, snapshots = self._labs().values(), self.all()
        saved = [tree for snapshot in snapshots for tree in snapshot.hosts.values()]
        used = {name for tree in saved for name in tree.layers}
        used |= {name for lab in labs for host in lab.hosts.values() for name in host.frozen().layers}
        unused = [path for path in (self.state / "layers").glob("*") if path.name not in used]
        if not labs and not keep_base:
            base.remove_bases(self.state / "base", keep={tree.base for tree in saved})
            if not snapshots:
                shutil.rmtree(self.state / "conda", ignore_errors=True)
        # What a killed process left.
        for partial in self.directory.glob(".*.json"):
            partial.unlink()
        if not labs:
            (self.state / "labs" / "..lock").unlink()
        return lambda: _remove(unused)

    def tidy(self) -> None:
        """Remove the folders of the lab's state that are empty."""
        folders = (self.directory, self.state / "layers", self.state / "labs", self.state, self.state.parent)
        for folder in folders:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _path(self, name: str) -> Path:
        return self.directory / f"{name}.json"

    def _labs(self) -> dict[str, LabRecord]:
        paths = sorted((self.state / "labs").glob("*/lab.json"))
        return {path.parent.name: LabRecord.model_validate_json(path.read_text("utf-8")) for path in paths}


def _sources(lab: LabRecord) -> set[str]:
    return {host.snapshot.split("/")[0] for host in lab.hosts.values() if host.snapshot}


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
