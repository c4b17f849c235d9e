"""Settings of the machine's kernel that labs change, and that get their own values back with the last lab."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path

#: Below the folder of all labs: path of a setting -> what it was.
FILE = "kernel.json"

#: How many inotify instances one user may have. A lab host's systemd and its services take about seven of root's, and
#: the kernel's own limit is 128: from about the eighteenth host on, a host's systemd ends without a word.
INOTIFY, INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances"), 4096


def change(state: Path, values: Mapping[Path, str]) -> None:
    """Set values, and keep what was set before."""
    with (state / FILE).open("a+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        handle.seek(0)
        before: dict[str, str] = json.loads(handle.read() or "{}")
        for path in values:
            before.setdefault(str(path), path.read_text().strip())
        handle.seek(0)
        handle.truncate()
        json.dump(before, handle)
    for path, value in values.items():
        path.write_text(value)


def allow_many_hosts(state: Path) -> None:
    """Let the machine run as many hosts as a lab may have."""
    if int(INOTIFY.read_text()) < INSTANCES:
        change(state, {INOTIFY: str(INSTANCES)})


def restore(state: Path) -> None:
    """Give every setting its own value back; called when the last lab goes."""
    path = state / FILE
    if not path.exists():
        return
    for name, value in json.loads(path.read_text() or "{}").items():
        if Path(name).exists():
            Path(name).write_text(value)
    path.unlink()
