"""Where the history is. Loads no database: every command asks."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from llmprov.errors import UsageError


def default_address() -> str:
    """$LLMPROV_HISTORY, else a file in the user's data directory ($XDG_DATA_HOME, ~/.local/share)."""
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    return os.environ.get("LLMPROV_HISTORY") or str(data / "llmprov" / "history.db")


def is_path(address: str) -> bool:
    """Whether an address is a file's, and no URL."""
    return "://" not in address


def refuse_password(address: str) -> str:
    """An address from the command line, which everybody on the machine can read in the process list.

    Raises:
        UsageError: there is a password in it.
    """
    secret = not is_path(address) and (urlsplit(address).password or "password=" in address)
    if secret:
        raise UsageError(
            "everybody on this machine can read a password in --history: put it into ~/.pgpass, "
            "or the whole address into $LLMPROV_HISTORY"
        )
    return address
