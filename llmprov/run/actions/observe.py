"""Observe a host and plan what is to be done there."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from llmprov.errors import UsageError
from llmprov.model import Desired, Observation
from llmprov.plan import decide, reboot, specs, to_build
from llmprov.plan import jupyter as jupyter_plan
from llmprov.plan.decide import planned_driver
from llmprov.run import environment_file, lock_file, programs, variables
from llmprov.run.actions.planned import Result, Variables


def plan(action: Any, task_vars: Variables) -> Result:
    """Observe the host and plan, in one task and one round trip."""
    try:
        variables.refuse_unknown(task_vars)
        values = variables.declared_values(task_vars, action._templar.template)
        desired = environment_file.read_into(variables.desired_from(values, task_vars))
        lock = lock_file.of(desired)
    except UsageError as error:
        return {"failed": True, "msg": str(error), "llmprov": {"kind": "usage"}}
    rebuild = bool(task_vars.get("__llmprov_rebuild"))
    # A run that only converges has no use for the files of packages: what it verifies is observed again.
    files = "all" if rebuild else str(task_vars.get("__llmprov_files", "quick"))
    seen, problem = observed(action, task_vars, desired, files)
    if seen is None:
        return problem
    planned = decide(desired, seen, lock, rebuild)
    declared = {d.path: d.model_dump(mode="json") for d in specs.declarations(desired)}
    return {
        "changed": False,
        "components": planned.components(),
        "environments": [declared[spec.path] for spec in to_build(desired, planned)],
        "declared": declared,
        "needs_uv": any(d["state"] == "present" for d in declared.values()),
        "nvidia_driver": driver(desired, seen),
        "reboot": {"due": reboot.due(desired, seen), "kept": reboot.kept(desired, seen)},
        "jupyter": jupyter_plan.files(desired),
        "refused": [refusal.sentence() for refusal in planned.refusals],
        "rebuild": rebuild,
        "desired": desired.model_dump(mode="json"),
        "plan": planned.model_dump(mode="json"),
        "observation": seen.model_dump(mode="json"),
        "llmprov": {"kind": "plan"},
    }


def driver(desired: Desired, seen: Observation) -> Result:
    """What the role nvidia_driver is told; nothing where there is nothing to install."""
    _, chosen, _ = planned_driver(desired, seen)
    # Through JSON: Ansible's variables know lists, and no tuples.
    told: Result = {} if chosen is None else json.loads(json.dumps(asdict(chosen)))
    return told


#: How Ansible begins to tell that a module's output is none, by version.
NO_RESULT = ("Module result deserialization failed", "MODULE FAILURE", "Task failed: Module failed")


#: The program that looks at a host. Ansible loads this once, before it forks for each host.
PROGRAM = programs.packed("observe", "llmprov_host", "llmprov_files")


def observe(action: Any, task_vars: Variables, **asked: Any) -> Result:
    """What a host's own Python sees there, as it says it; what is asked beyond the system is in `asked`."""
    arguments = programs.arguments_of(PROGRAM, asked)
    answer: Result = action._execute_module(module_name="llmprov_program", module_args=arguments, task_vars=task_vars)
    return answer


def observed(
    action: Any, task_vars: Variables, desired: Desired, files: str = "none"
) -> tuple[Observation | None, Result]:
    """What is on the host; where it cannot be observed, None and the failing result of the task."""
    paths = [declared.path for declared in specs.declarations(desired)]
    folders = [str(PurePosixPath(path).parent) for path in paths]
    if specs.uses_conda(desired):
        folders += [*desired.miniconda.envs_dirs, f"{desired.miniconda.prefix}/envs"]
    user = desired.jupyter.kernel_user
    args = {
        "env_paths": list(dict.fromkeys([*paths, desired.pytorch.env_path, desired.verify.env_path])),
        "conda_prefix_path": desired.miniconda.prefix if specs.uses_conda(desired) else "",
        "uv_path": desired.venv.uv_path,
        "kernel_folders": [jupyter_plan.kernel_folder(user)],
        "env_folders": list(dict.fromkeys(folders)),
        "files": files,
    }
    asked = time.time()
    answer = observe(action, task_vars, **args)
    answered = time.time()
    if "observation" not in answer:
        if _lacks_python(answer):
            return _observe_without_python(action), {}
        return None, _unobserved(answer)
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


def _unobserved(answer: Result) -> Result:
    """Why a host could not be observed, in its own words where it said any."""
    said = str(answer.get("msg", ""))
    if answer.get("unreachable") or (answer.get("failed") and not said.startswith(NO_RESULT)):
        return answer
    printed = " ".join(f"{answer.get('module_stderr', '')} {answer.get('module_stdout', '')}".split())
    code = answer.get("rc")
    if printed or not code:
        said = f"the host's Python printed no result: {printed[-600:] or 'it printed nothing'}"
    else:
        said = f"the login shell ended with exit code {code} before anything ran"
    return {**answer, "failed": True, "msg": said}


def _lacks_python(answer: Result) -> bool:
    said = f"{answer.get('msg', '')} {answer.get('module_stderr', '')}"
    return answer.get("rc") == 127 or ("interpreter" in said and "not found" in said)


def _observe_without_python(action: Any) -> Observation:
    """What a shell can tell of a host without Python: enough to plan `install python`."""
    script = "cat /etc/os-release; echo ARCHITECTURE=$(uname -m); echo KERNEL=$(uname -r); "
    script += "echo $(getconf GNU_LIBC_VERSION); command -v apt-get; command -v dnf; true"
    told = action._low_level_execute_command(script, sudoable=False).get("stdout", "")
    fields = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    fields = {name: value.strip('"')[:200] for name, value in fields.items()}
    glibc = re.search(r"^glibc (\d+\.\d+)$", told, re.M)
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
                "glibc": glibc[1] if glibc else "",
                "kernel": re.split(r"[^0-9.]", fields.get("KERNEL", ""))[0],
            }
        }
    )
