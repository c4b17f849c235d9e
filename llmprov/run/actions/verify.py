"""Run the payload on a host and read what it found."""

from __future__ import annotations

import base64
import json
from typing import Any

from llmprov.model import Verification
from llmprov.run import payload_run, soak
from llmprov.run.actions.hold import hold_alone
from llmprov.run.actions.planned import Planned, Result, Variables, guarded, module_of


@guarded
def verify(action: Any, task_vars: Variables) -> Result:
    """Run the payload on the host and read its document; anything but a sound document fails the host."""
    planned = Planned.of(task_vars)
    wanted = planned.desired.verify
    arguments = payload_arguments(planned, wanted.level)
    module = module_of(action, task_vars, "llmprov_verify", {})
    if action._task.args.get("start"):
        return {**module(work="start", **arguments), "changed": False}
    held = hold_alone(action, task_vars, planned)
    if held.get("failed"):
        return held
    if wanted.stop:
        answer = module(work="stop")
    elif wanted.level == "soak":
        answer = soak.run(module, arguments, wanted)
    else:
        answer = module(**arguments)
    if answer.get("unreachable") or ("exit_code" not in answer and not answer.get("gone")):
        return {**answer, "llmprov": {"kind": "verify"}}
    return _verified(payload_run.read(answer, wanted))


def payload_arguments(planned: Planned, level: str) -> Result:
    """What the module that runs the payload is told."""
    wanted = planned.desired.verify
    declared = payload_run.declaration(planned.desired, planned.plan, planned.seen)
    return {
        "python": f"{wanted.env_path}/bin/python",
        "payload": base64.b64encode(payload_run.zipapp()).decode("ascii"),
        "declared": json.dumps(declared),
        "level": level,
        "minutes": wanted.soak_minutes if level == "soak" else 0,
        "timeout_s": wanted.timeout_s,
        "variables": payload_run.environment_variables(planned.desired),
    }


def _verified(verification: Verification) -> Result:
    failed = [check for check in verification.checks if check.status == "fail"]
    return {
        "changed": False,
        "failed": bool(failed),
        "msg": "; ".join(check.summary for check in failed) or "every check passed",
        "verification": verification.model_dump(mode="json"),
        "llmprov": {"kind": "verify"},
    }
