"""File systems that training needs: room, file names left, and writable."""

from __future__ import annotations

import os
from typing import Any, Dict, List

from llmprov.payload.document import FAIL, INCONCLUSIVE, PASS, WARN, check
from llmprov.payload.health.cards import Cards
from llmprov.payload.health.machine import Machine

#: Below these parts of a file system it is nearly full; a checkpoint of a small model then fails. Our judgement.
WARN_FREE, FAIL_FREE = 0.05, 0.01


def checks(machine: Machine, cards: Cards, declared: Dict[str, Any]) -> List[Dict[str, Any]]:
    """One check a file system that has the environment, temporary files, or the root."""
    found, seen = [], set()
    for path in [declared.get("env_path") or "/", "/tmp", "/"]:
        try:
            about = os.stat(machine.root + path)
            usage = os.statvfs(machine.root + path)
        except OSError as error:
            if path == "/":
                summary = "the root file system could not be looked at: %s" % error
                found.append(check("disk.root", INCONCLUSIVE, summary, remedy="look at the disk: `dmesg`"))
            continue
        if about.st_dev not in seen:
            seen.add(about.st_dev)
            found.append(judge(path, usage))
    return found


def judge(path: str, usage: os.statvfs_result) -> Dict[str, Any]:
    """The check of one file system."""
    name = "disk.%s" % (path.strip("/").replace("/", "_").lower() or "root")
    blocks = usage.f_bavail / usage.f_blocks if usage.f_blocks else 1.0
    # File systems that make inodes as they are needed say that there are none.
    inodes = usage.f_favail / usage.f_files if usage.f_files else 1.0
    free_gb = usage.f_bavail * usage.f_frsize / 1e9
    evidence = "%.1f GB free (%.0f %%), %.0f %% of inodes free" % (free_gb, 100 * blocks, 100 * inodes)
    least = min(blocks, inodes)
    if usage.f_flag & os.ST_RDONLY:
        remedy = "look why it was mounted read-only: `dmesg | grep -i remount`"
        return check(name, FAIL, "%s is mounted read-only" % path, True, False, "", evidence, remedy)
    if least < WARN_FREE:
        status, part = FAIL if least < FAIL_FREE else WARN, "room" if blocks <= inodes else "file names"
        summary = "%s has %.1f %% of its %s left" % (path, 100 * least, part)
        return check(
            name, status, summary, least, WARN_FREE, "fraction", evidence, "remove what is not needed any more"
        )
    return check(name, PASS, "%s has %.1f GB free" % (path, free_gb), least, WARN_FREE, "fraction", evidence)
