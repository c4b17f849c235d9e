"""Hold a host for this run, so that no other run works on it meanwhile."""

from __future__ import annotations

from typing import Any

from llmprov.run import events
from llmprov.run import hold as holding
from llmprov.run.actions.planned import Planned, Result, Variables


def hold(action: Any, task_vars: Variables) -> Result:
    """Hold the host for this run until it ends, unless all hosts are given back meanwhile: then this is done again."""
    if action._task.check_mode or not holding.wanted():
        return {"changed": False, "msg": "only llmprov's own commands hold a host, and not in check mode"}
    planned, number = Planned.of(task_vars), int(action._task.args["round"])
    return _take(action, task_vars, planned, planned.desired.preflight.run_timeout_s, number)


def hold_alone(action: Any, task_vars: Variables, planned: Planned, wait_s: int = 0) -> Result:
    """Hold the host for this run, which does nothing on other hosts while it waits for another run on this one."""
    while (held := _take(action, task_vars, planned, wait_s, holding.rounds())).get("given_back"):
        pass
    return held


def _take(action: Any, task_vars: Variables, planned: Planned, wait_s: int, number: int) -> Result:
    """Whether the host is held, and another run was waited for; a failing result where another run still holds it."""

    def tell(by: str) -> None:
        # A task says nothing before its end, but here a person waits with it.
        events.send({"event": "waiting", "host": task_vars["inventory_hostname"], "by": by})

    holds = holding.take(action._connection, planned.seen.python or "python3", wait_s, number, tell)
    if not holds.by:
        told = {"held": holds.held, "waited": holds.waited or number > 0, "given_back": holds.given_back}
        return {**told, "msg": holds.why or ("given back" if holds.given_back else "held")}
    waited = f", waited for {wait_s} s" if wait_s else ""
    msg = f"this host is held by {holds.by}{waited}: let that run end, or wait for it with --wait SECONDS"
    return {"failed": True, "msg": msg, "llmprov": {"kind": "held"}}
