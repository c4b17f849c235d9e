"""The controller's halves of llmprov's Ansible modules; the action plugins beside the roles are doors to these.

Each takes the action plugin and the host's variables, and returns an Ansible result. What a host sent is read into a
record before anything uses it.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from llmprov.depot import tools
from llmprov.depot.pip_config import PipConfig
from llmprov.errors import LlmprovError, UsageError
from llmprov.model import Desired, Observation, Plan, Verification
from llmprov.plan import decide, wheel
from llmprov.run import payload_run, variables

Result = dict[str, Any]
Variables = Mapping[str, Any]


# -- observe and plan --------------------------------------------------------------------------------------------


def plan(action: Any, task_vars: Variables) -> Result:
    """Observe the host and plan, in one task and one round trip."""
    try:
        variables.refuse_unknown(task_vars)
        desired = variables.desired_from(action._task.args, task_vars)
    except UsageError as error:
        return {"failed": True, "msg": str(error), "llmprov": {"kind": "usage"}}
    seen, problem = _observe(action, task_vars, desired)
    if seen is None:
        return problem
    planned = decide(desired, seen)
    return {
        "changed": False,
        "components": planned.components(),
        "torch": wheel.installation(desired, planned.pytorch_variant),
        "refused": [refusal.sentence() for refusal in planned.refusals],
        "desired": desired.model_dump(mode="json"),
        "plan": planned.model_dump(mode="json"),
        "observation": seen.model_dump(mode="json"),
        "llmprov": {"kind": "plan"},
    }


def _observe(action: Any, task_vars: Variables, desired: Desired) -> tuple[Observation | None, Result]:
    args = {
        "env_paths": sorted({desired.venv.path, desired.pytorch.env_path, desired.verify.env_path}),
        "conda_prefixes": ["/opt/miniconda3", "/opt/miniforge3", "/opt/anaconda3"],
        "uv_path": desired.venv.uv_path,
    }
    asked = time.time()
    answer = action._execute_module(module_name="llmprov_observe", module_args=args, task_vars=task_vars)
    answered = time.time()
    if "observation" not in answer:
        if _lacks_python(answer):
            return _observe_without_python(action), {}
        # An unreachable or failed result is the connection's own word, and stays as it is.
        return None, answer if answer.get("failed") or answer.get("unreachable") else {
            **answer,
            "failed": True,
            "msg": "the observe module returned no observation: look for a shell profile or a wrapper that prints",
        }
    raw = dict(answer["observation"])
    clock = raw.pop("clock_unix_s", None)
    if isinstance(clock, int | float):
        raw["clock_skew_s"] = round(clock - (asked + answered) / 2, 3)
        raw["clock_uncertainty_s"] = round((answered - asked) / 2, 3)
    try:
        return Observation.model_validate(raw), {}
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return None, {
            "failed": True,
            "msg": f"the observation of this host makes no sense at {where}: {first['msg']}",
        }


def _lacks_python(answer: Result) -> bool:
    said = f"{answer.get('msg', '')} {answer.get('module_stderr', '')}"
    return answer.get("rc") == 127 or ("interpreter" in said and "not found" in said)


def _observe_without_python(action: Any) -> Observation:
    """What a shell can tell of a host without Python: enough to plan `install python`."""
    script = "cat /etc/os-release; echo ARCHITECTURE=$(uname -m); command -v apt-get; command -v dnf; true"
    told = action._low_level_execute_command(script, sudoable=False).get("stdout", "")
    fields = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    fields = {name: value.strip('"')[:200] for name, value in fields.items()}
    manager = "apt" if "/apt-get" in told else "dnf" if "/dnf" in told else "none"
    return Observation.model_validate(
        {
            "os": {
                "id": fields.get("ID", ""),
                "version_id": fields.get("VERSION_ID", ""),
                "codename": fields.get("VERSION_CODENAME", ""),
                "name": fields.get("PRETTY_NAME", ""),
                "architecture": fields.get("ARCHITECTURE", ""),
                "package_manager": manager,
            }
        }
    )


# -- uv and the environment --------------------------------------------------------------------------------------


def uv(action: Any, task_vars: Variables) -> Result:
    """Make sure that uv of the wanted version lies on the host, brought by the controller."""
    args = dict(action._task.args)
    asked: Result = action._execute_module(module_name="llmprov_uv", module_args=args, task_vars=task_vars)
    if asked.get("failed") or asked.get("unreachable") or asked.get("found") == args["version"]:
        return asked
    if action._task.check_mode:
        return {**asked, "changed": True}
    try:
        local = tools.fetch_uv(args["version"], asked["architecture"])
    except LlmprovError as error:
        return {"failed": True, "msg": str(error)}
    action._connection._shell.tmpdir = (
        action._make_tmp_path() if not action._connection._shell.tmpdir else action._connection._shell.tmpdir
    )
    remote = action._connection._shell.join_path(action._connection._shell.tmpdir, "uv")
    action._transfer_file(str(local), remote)
    action._fixup_perms2((action._connection._shell.tmpdir, remote))
    done: Result = action._execute_module(
        module_name="llmprov_uv", module_args={**args, "source": remote}, task_vars=task_vars
    )
    action._remove_tmp_path(action._connection._shell.tmpdir)
    return done


def venv(action: Any, task_vars: Variables) -> Result:
    """Run llmprov_venv on the host; on this machine itself, with this machine's own package indexes."""
    args = dict(action._task.args)
    if action._connection.transport == "local":
        args["environment"] = PipConfig.of_this_machine().as_uv_environment()
    done: Result = action._execute_module(module_name="llmprov_venv", module_args=args, task_vars=task_vars)
    return done


# -- verify ------------------------------------------------------------------------------------------------------


def verify(action: Any, task_vars: Variables) -> Result:
    """Run the payload on the host and read its document; anything but a sound document fails the host."""
    given = action._task.args["planned"]
    desired = Desired.model_validate(given["desired"])
    planned = Plan.model_validate(given["plan"])
    seen = Observation.model_validate(given["observation"])
    declared = payload_run.declaration(desired, planned, seen)
    answer = action._execute_module(
        module_name="llmprov_verify",
        module_args={
            "python": f"{desired.verify.env_path}/bin/python",
            "payload": base64.b64encode(payload_run.zipapp()).decode("ascii"),
            "declared": json.dumps(declared),
            "timeout_s": desired.verify.timeout_s,
        },
        task_vars=task_vars,
    )
    if answer.get("unreachable") or "exit_code" not in answer:
        return {**answer, "llmprov": {"kind": "verify"}}
    seen_there = payload_run.read(answer, desired.verify)
    return _verified(seen_there)


def _verified(verification: Verification) -> Result:
    failed = [check for check in verification.checks if check.status == "fail"]
    return {
        "changed": False,
        "failed": bool(failed),
        "msg": "; ".join(check.summary for check in failed) or "every check passed",
        "verification": verification.model_dump(mode="json"),
        "llmprov": {"kind": "verify"},
    }
