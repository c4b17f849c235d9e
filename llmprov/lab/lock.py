"""Lock files: one process at a time, and the lock ends with its process."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, waiting for it; whoever holds it may delete it."""
    with contextlib.ExitStack() as stack:
        while not _locked(path, stack):
            pass
        yield


def _locked(path: Path, stack: contextlib.ExitStack) -> bool:
    """Take the lock; False if another process deleted the folder or the file meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = stack.enter_context(path.open("w"))
        fcntl.flock(handle, fcntl.LOCK_EX)
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False
