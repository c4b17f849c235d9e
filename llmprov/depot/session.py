"""What the forks of one Ansible share: resolutions made once, and one server of artifacts."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from llmprov.depot.store import Store
from llmprov.errors import LlmprovError
from llmprov.model import Artifact

#: How long the server may take to tell its port, in seconds.
START_S = 20.0


@dataclass(frozen=True)
class Endpoint:
    """Where the server listens, and the word without which it answers nobody."""

    port: int
    token: str


class Session:
    """The shared state of one Ansible process, in a directory of its own that only this user reads."""

    def __init__(self, store: Store, process: int) -> None:
        self.store = store
        self.directory = store.root / "sessions" / f"{process}-{started(process)}"
        if not self.directory.exists():
            _sweep(self.directory.parent)
            self.directory.mkdir(parents=True, exist_ok=True)
            self.directory.chmod(0o700)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self.directory / f".{name}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @contextmanager
    def users(self, name: str) -> Iterator[Callable[[Callable[[], object]], None]]:
        """Count in as a user of something shared; yields how to let go, which calls back only for the last user."""
        lock = self.directory / f".{hashlib.sha256(name.encode()).hexdigest()[:16]}.users"
        with lock.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH)

            def let_go(when_last: Callable[[], object]) -> None:
                with suppress(BlockingIOError):
                    # Not turned straight into an exclusive lock: two that try so at once would both fail.
                    fcntl.flock(handle, fcntl.LOCK_UN)
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    when_last()

            yield let_go

    def to_be_closed(self, name: str, command: list[str]) -> Callable[[], object]:
        """Note the command that closes something, for the server should this Ansible be killed; returns how."""
        note = self.directory / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.close"
        note.write_text(json.dumps(command), encoding="utf-8")

        def close() -> None:
            run_quietly(command)
            note.unlink(missing_ok=True)

        return close

    def once(self, key: str, work: Callable[[], list[Artifact]]) -> list[Artifact]:
        """The answer of `work`, asked for once in this session however many hosts want it; errors are not kept."""
        with self._locked(key):
            kept = self.directory / f"{key}.json"
            if not kept.exists():
                found = [artifact.model_dump(mode="json") for artifact in work()]
                partial = kept.with_suffix(".new")
                partial.write_text(json.dumps(found), encoding="utf-8")
                partial.rename(kept)
            return [Artifact.model_validate(row) for row in json.loads(kept.read_text("utf-8"))]

    def server(self, address: str = "127.0.0.1") -> Endpoint:
        """The server on `address`, started where it is not running; it ends with this session's Ansible.

        Raises:
            LlmprovError: it does not start.
        """
        with self._locked("server"):
            note = self.directory / f"server-{address}.json"
            if not (note.exists() and _alive(json.loads(note.read_text("utf-8"))["pid"])):
                note.unlink(missing_ok=True)
                self._start(address, note)
            about = json.loads(note.read_text("utf-8"))
            return Endpoint(about["port"], about["token"])

    def _start(self, address: str, note: Path) -> None:
        limit = str(self.store.limit_bytes / 1e9)
        argv = [sys.executable, "-m", "llmprov.depot.server", str(self.store.root), limit, str(note), address]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=START_S)
        if done.returncode != 0:
            said = (done.stderr.strip() or "it said nothing").splitlines()[-1]
            raise LlmprovError(f"the depot's server could not listen on {address}: {said}: correct depot_address")


def started(process: int) -> str:
    """When a process began, in the words of /proc or ps: with its id it names the process for good."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[19]
    said = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(process)], capture_output=True, text=True, check=False
    ).stdout
    return "".join(c for c in said if c.isalnum())


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def belongs_to_the_living(directory: Path) -> bool:
    """Whether the process that a session's directory is named after still runs."""
    process, _, begun = directory.name.partition("-")
    return process.isdigit() and _alive(int(process)) and started(int(process)) == begun


def _sweep(sessions: Path) -> None:
    """Remove what sessions left whose Ansible and server were killed together."""
    for directory in sessions.glob("*-*"):
        if not belongs_to_the_living(directory):
            remove(directory)


def remove(directory: Path) -> None:
    """Close what a session left open, and remove its directory."""
    for note in directory.glob("*.close"):
        with suppress(OSError, ValueError):
            run_quietly(json.loads(note.read_text("utf-8")))
    shutil.rmtree(directory, ignore_errors=True)


def run_quietly(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command that asks nothing; one that does not end is left after some seconds, and has failed."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=START_S
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 255, "", "it did not end")
