"""What belongs to one run on this machine and ends with it, however it ends.

A pipe with a name stands for the run: this process alone can write to it, and never does. Whatever reads from it learns
of the run's end from the kernel, a killed run's too: the connections that hold the hosts (`hold`) do, and with them
ends what still runs there.
"""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from llmprov.depot.session import started
from llmprov.errors import LlmprovError
from llmprov.run import events

#: Names of the folders of runs, among the machine's temporary files.
PREFIX = "llmprov-run-"

#: From linux/prctl.h.
PR_SET_PDEATHSIG = 1

#: How long hosts may take to end what still runs on them, in seconds.
END_S = 3.0


class Lifetime:
    """A folder for the files of a run's processes, and the pipe that ends with this process.

    Raises:
        LlmprovError: there is no room for temporary files.
    """

    def __init__(self, run: str, command: str) -> None:
        sweep()
        self.run = run
        self.directory = Path(tempfile.mkdtemp(prefix=PREFIX))
        try:
            self._alive = self._begin(command)
        except OSError as error:
            shutil.rmtree(self.directory, ignore_errors=True)
            where = tempfile.gettempdir()
            raise LlmprovError(f"{where} takes no files ({error.strerror}): make room, or set TMPDIR") from None

    def _begin(self, command: str) -> int:
        """Fill the folder; returns the end of the pipe that this process alone has."""
        (self.directory / "owner").write_text(owner(os.getpid()), encoding="utf-8")
        about = {
            "run": self.run,
            "command": f"llmprov {command}",
            "who": _user(),
            "from": socket.gethostname(),
            "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        }
        (self.directory / "about.json").write_text(json.dumps(about), encoding="utf-8")
        (self.directory / "holding").mkdir()
        alive = self.directory / "alive"
        os.mkfifo(alive, 0o600)
        # Opening for writing waits for a reader, so there is one for that long.
        reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return os.open(alive, os.O_WRONLY)
        finally:
            os.close(reader)

    @contextlib.contextmanager
    def channel(self) -> Iterator[int]:
        """The reading end of the run's events, as a descriptor that never waits and never comes to an end."""
        path = self.directory / events.CHANNEL
        if not path.exists():
            os.mkfifo(path, 0o600)
        # Open for writing too: then it has no end, whoever else writes and stops.
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def environment(self) -> dict[str, str]:
        """What Ansible and its plugins are told: of the run, and to put files where they go with it."""
        return {
            "LLMPROV_RUN": self.run,
            "LLMPROV_LIFETIME": str(self.directory),
            "TMPDIR": str(self.directory),
        }

    def end(self) -> None:
        """Let the hosts go, wait until what still runs there has ended, and remove the folder."""
        with contextlib.suppress(OSError):
            os.close(self._alive)
        deadline = time.monotonic() + END_S
        while (left := holders(self.directory)) and time.monotonic() < deadline:
            # A process that is no child of ours tells nobody of its end.
            time.sleep(0.02)
        for process in left:
            # Its host is dead, or the network is: there is nothing to wait for.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)


def holders(directory: Path) -> list[int]:
    """The connections of the run of this folder that still hold a host, or wait for one, by process id."""
    notes = (directory / "holding").glob("[0-9]*-[0-9]*")
    return [int(note.name.rpartition("-")[2]) for note in notes if _runs(note.read_text("utf-8"))]


def owner(process: int) -> str:
    """A process, and when it began: with both it is named for good."""
    return f"{process} {started(process)}"


def _runs(named: str) -> bool:
    """Whether a process that `owner` named runs."""
    process, _, _ = named.partition(" ")
    return process.isdecimal() and _lives(int(process)) and owner(int(process)) == named


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def tether() -> None:
    """In Ansible's own process: end when the process that reads its events is killed. Of Linux only."""
    if "LLMPROV_LIFETIME" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def _lives(process: int) -> bool:
    """Whether a process runs; one that has ended and that nobody asked after does not."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:
        return True


def sweep() -> None:
    """Remove what runs left on this machine that were killed."""
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if directory.lstat().st_uid != os.geteuid():
                continue
            if not _runs((directory / "owner").read_text("utf-8")):
                shutil.rmtree(directory, ignore_errors=True)
