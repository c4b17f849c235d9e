"""What Ansible tells a run: one JSON line an event, through a channel that only the run's own processes can write to.

The channel is a named pipe in the run's folder (`lifetime`). Ansible's callback plugin writes to it, and so does a task
that has something to say before its end. Nothing that a terminal shows is ever read as an event.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: In the folder of a run: the pipe, and what a process locks while it writes a line.
CHANNEL, LOCK = "events", "events.lock"

#: What is kept of a task's result beside llmprov's own records, in characters each.
KEPT_TEXT = {"msg": 4000, "stderr": 1000, "stdout": 1000, "module_stderr": 1000, "module_stdout": 1000}
KEPT_RECORDS = ("llmprov", "plan", "observation", "verification", "refused", "components", "reboot")

#: Where a process of Ansible's finds the names of further records that its run wants.
MORE_RECORDS = "LLMPROV_RECORDS"


def send(event: Mapping[str, Any]) -> None:
    """Write one event, whole; without a run that listens, nothing happens."""
    folder = os.environ.get("LLMPROV_LIFETIME")
    if not folder:
        return
    line = json.dumps(event, ensure_ascii=True, default=str).encode("ascii") + b"\n"
    with (Path(folder) / LOCK).open("w") as lock:
        # A line may be longer than what the kernel writes in one piece, and forks write beside Ansible's first process.
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (Path(folder) / CHANNEL).open("wb", buffering=0) as channel:
            while line:
                line = line[channel.write(line) :]


def kept_result(result: Mapping[str, Any], records: tuple[str, ...] = KEPT_RECORDS) -> dict[str, Any]:
    """A task's result without what only Ansible needs."""
    kept: dict[str, Any] = {name: result[name] for name in records if "llmprov" in result and name in result}
    for name, limit in KEPT_TEXT.items():
        if result.get(name):
            text = result[name] if isinstance(result[name], str) else json.dumps(result[name], default=str)
            kept[name] = text[:limit] if name == "msg" else text[-limit:]
    difference = result.get("diff")
    if isinstance(difference, dict) and {"before", "after"} <= set(difference):
        kept["diff"] = {side: str(difference[side])[:20_000] for side in ("before", "after")}
    kept["changed"] = bool(result.get("changed"))
    kept["empty"] = not set(result) - {"_ansible_no_log", "changed"}
    return kept
