"""Whether a host came back whole from its reboot."""

from __future__ import annotations

import time
from typing import Any

from llmprov.plan import reboot
from llmprov.run import payload_run
from llmprov.run.actions.hold import hold_alone
from llmprov.run.actions.observe import observed
from llmprov.run.actions.planned import Planned, Result, Variables, guarded, module_of
from llmprov.run.actions.verify import payload_arguments

#: How long a driver has to be loaded after its host answers again, in seconds, and how often that is looked at.
GATE_WAIT_S, GATE_PAUSE_S = 60.0, 3.0


@guarded
def gate(action: Any, task_vars: Variables) -> Result:
    """Whether a host came back whole from its reboot: its driver, all GPUs of before, a right product on each."""
    planned = Planned.of(task_vars)
    deadline = time.monotonic() + GATE_WAIT_S
    while True:
        seen, problem = observed(action, task_vars, planned.desired)
        if seen is None:
            return problem
        wrong = reboot.problems(planned.desired, planned.seen, seen)
        if not wrong or time.monotonic() > deadline:
            break
        # sshd answers before all modules are loaded.
        time.sleep(GATE_PAUSE_S)
    # What held the host went with its reboot.
    held = hold_alone(action, task_vars, planned, planned.desired.preflight.run_timeout_s)
    if held.get("failed"):
        return held
    if not wrong:
        arguments = payload_arguments(planned, "gate")
        answer = module_of(action, task_vars, "llmprov_verify", {})(**arguments)
        if "exit_code" not in answer:
            return answer
        document = payload_run.read(answer, planned.desired.verify)
        wrong = [check.summary for check in document.checks if check.status != "pass"]
    return {"changed": False, "failed": bool(wrong), "msg": "; ".join(wrong) or "the host came back whole"}
