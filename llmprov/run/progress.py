"""Live progress on standard error: a table that moves on a terminal, plain lines elsewhere."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from llmprov.run.entry import Entry
from llmprov.run.ledger import Ledger, is_steering, message_of
from llmprov.text import plain


class Progress(Protocol):
    """What a run tells while it goes on."""

    def stage(self, name: str, hosts: int) -> None:
        """A stage begins on so many hosts."""

    def event(self, stage: str, event: dict[str, Any], entry: Entry) -> None:
        """Something happened on a host."""

    def close(self) -> None:
        """The run is over."""


class Lines:
    """One line for each thing that changed, failed or was verified."""

    WORDS = {"runner_on_failed": "FAILED", "runner_on_unreachable": "UNREACHABLE"}

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()

    def _say(self, text: str) -> None:
        seconds = time.monotonic() - self._began
        self._console.print(Text(f"{seconds:7.1f} s  {plain(text)}"), soft_wrap=True)

    def stage(self, name: str, hosts: int) -> None:
        """A stage begins."""
        self._say(f"{name}: {hosts} host{'s' if hosts != 1 else ''}")

    def event(self, stage: str, event: dict[str, Any], entry: Entry) -> None:
        """A line where there is something to say."""
        result, kind = event.get("result") or {}, event["event"]
        if kind == "waiting":
            self._say(f"{entry.host}: waits for {event.get('by')}")
        elif result.get("refused"):
            self._say(f"{entry.host}: refused: {'; '.join(map(str, result['refused']))}")
        elif kind in self.WORDS and not (entry.plan and entry.plan.refusals):
            # A mistake in the variables is the whole run's, and is told at its end.
            if (result.get("llmprov") or {}).get("kind") not in ("usage", "verify"):
                self._say(f"{entry.host}: {self.WORDS[kind]} {entry.doing}: {message_of(result)[:300]}")
            elif "verification" in result:
                self._say(f"{entry.host}: verified: FAILED")
        elif kind == "runner_on_ok" and result.get("changed") and not is_steering(event):
            self._say(f"{entry.host}: changed: {entry.doing}")
            for line in diff_lines(result):
                self._say(f"{entry.host}:   {line}")
        elif kind == "runner_on_ok" and "verification" in result:
            self._say(f"{entry.host}: verified")
        elif kind == "runner_on_ok" and "plan" in result and stage == "converge":
            components = ", ".join(result.get("components") or []) or "nothing to do"
            self._say(f"{entry.host}: planned: {components}")

    def close(self) -> None:
        """Nothing is left open."""


class Board:
    """A table with a row a host at work; at most a screenful, those at work first."""

    def __init__(self, console: Console, ledger: Ledger) -> None:
        self._console, self._ledger = console, ledger
        self._stage, self._began = "", time.monotonic()
        self._live = Live(console=console, refresh_per_second=4, transient=True, get_renderable=self._table)
        self._live.start()

    def _table(self) -> Table:
        entries = [e for e in self._ledger.entries.values() if e.selected]
        room = max(self._console.height - 6, 3)
        title = f"{self._stage} · {len(entries)} hosts · {time.monotonic() - self._began:.0f} s"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for name in ("host", "state", "doing"):
            table.add_column(name, no_wrap=True, overflow="ellipsis")
        for entry in entries[:room]:
            table.add_row(Text(plain(entry.host)), Text(_state(entry)), Text(plain(entry.doing), style="dim"))
        if len(entries) > room:
            table.add_row(Text(f"… {len(entries) - room} more"))
        return table

    def stage(self, name: str, hosts: int) -> None:
        """The title changes."""
        self._stage = name

    def event(self, stage: str, event: dict[str, Any], entry: Entry) -> None:
        """The table is redrawn by itself, from the ledger; what --diff asked for scrolls by above it."""
        for line in diff_lines(event.get("result") or {}):
            self._console.print(Text(plain(f"{entry.host}: {line}")), soft_wrap=True)

    def close(self) -> None:
        """Take the table off the screen."""
        self._live.stop()


def diff_lines(result: dict[str, Any]) -> list[str]:
    """What changed in a task's result, as the lines of a diff; Ansible sends it only with --diff."""
    difference = result.get("diff") or {}
    before, after = (str(difference.get(side, "")).splitlines() for side in ("before", "after"))
    return [
        line for line in difflib.unified_diff(before, after, n=0, lineterm="") if line[:2] not in ("--", "++", "@@")
    ]


def _state(entry: Entry) -> str:
    if entry.unreachable is not None:
        return "unreachable"
    if entry.plan and entry.plan.refusals:
        return "refused"
    if entry.failures:
        return "failed"
    if entry.verification:
        return "verified"
    if entry.plan is None:
        return "waiting"
    return "to do: " + ", ".join(entry.plan.components()) if entry.plan.pending else "as declared"


def progress_for(console: Console, ledger: Ledger, quiet: bool) -> Progress:
    """The progress that fits where standard error goes."""
    if quiet:
        return Silent()
    return Board(console, ledger) if console.is_terminal else Lines(console)


class Silent:
    """Says nothing."""

    def stage(self, name: str, hosts: int) -> None:
        """Nothing."""

    def event(self, stage: str, event: dict[str, Any], entry: Entry) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


ProgressFactory = Callable[[Ledger], Progress]
