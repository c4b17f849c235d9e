"""Where the history is. Loads no database: every command asks."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from llmprov.errors import UsageError


def address(option: str | None) -> str:
    """Where the history is: the option, else $LLMPROV_HISTORY, else in the user's data directory; empty for `off`.

    Raises:
        UsageError: the option has a password in it.
    """
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    given = refuse_password(option) if option else os.environ.get("LLMPROV_HISTORY")
    return "" if given == "off" else given or str(data / "llmprov" / "history.db")


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
