"""Ansible's callback plugin of a run: it tells `llmprov.run.events` what happens, and the terminal nothing."""

from __future__ import annotations

import os
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

from llmprov.run import events, listing

DOCUMENTATION = """
    name: llmprov_events
    type: stdout
    short_description: What happens on hosts, for the run of llmprov that Ansible works for.
    description: [One JSON line for each event, into the run's own pipe.]
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """One event for each thing that happens to a host or to the run."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "llmprov_events"

    def __init__(self) -> None:
        super().__init__()
        self._play = ""
        self._listed = False
        self._began: dict[str, float] = {}
        self._records = (*events.KEPT_RECORDS, *os.environ.get(events.MORE_RECORDS, "").split())

    # -- the run as a whole --------------------------------------------------------------------------------------

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Before the first play: which hosts there are."""
        if not self._listed:
            self._listed = True
            variables = play.get_variable_manager()
            events.send({"event": "inventory", **listing.listing(variables._inventory, variables)})
        self._play = play.get_name().strip()
        events.send({"event": "playbook_on_play_start", "play": self._play})

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """After the last play."""
        names = ("ok", "changed", "dark", "failures", "skipped", "processed", "rescued")
        events.send({"event": "playbook_on_stats", "stats": {name: getattr(stats, name) for name in names}})

    # -- hosts -----------------------------------------------------------------------------------------------------

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """A task begins on a host."""
        self._began[host.get_name()] = time.monotonic()
        self._tell("runner_on_start", host, task)

    def v2_runner_on_ok(self, result: Any) -> None:
        """A task ended well on a host."""
        self._tell_result("runner_on_ok", result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """A task failed on a host."""
        self._tell_result("runner_on_failed", result, ignored=ignore_errors)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """A host could not be reached."""
        self._tell_result("runner_on_unreachable", result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """A task was not for this host."""
        self._tell("runner_on_skipped", result._host, result._task)

    def _tell_result(self, kind: str, result: Any, ignored: bool = False) -> None:
        # Ansible hands out a result without what `no_log` hides.
        kept = events.kept_result(result._result, self._records)
        self._tell(kind, result._host, result._task, result=kept, ignored=ignored)

    def _tell(self, kind: str, host: Any, task: Any, **more: Any) -> None:
        began = self._began.get(host.get_name())
        events.send(
            {
                "event": kind,
                "play": self._play,
                "task": task.name or task.action,
                "host": host.get_name(),
                "action": task.action,
                "role": task._role._role_name if task._role else None,
                "duration_s": None if began is None or kind == "runner_on_start" else time.monotonic() - began,
                **more,
            }
        )
