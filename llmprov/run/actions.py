"""The controller's halves of llmprov's Ansible modules; the action plugins beside the roles are doors to these.

Each takes the action plugin and the host's variables, and returns an Ansible result. What a host sent is read into a
record before anything uses it.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, TypeVar

import yaml
from ansible.utils.display import Display
from pydantic import ValidationError

from llmprov.errors import LlmprovError, UsageError
from llmprov.model import (
    CondaPrefix,
    Desired,
    Environment,
    EnvironmentDeclaration,
    Kind,
    MinicondaVars,
    Observation,
    Plan,
    Verification,
)
from llmprov.model.lock import Lock
from llmprov.plan import by_hand, decide, locked, reboot, specs, to_build
from llmprov.plan import conda as conda_plan
from llmprov.plan import environment as environment_plan
from llmprov.plan import jupyter as jupyter_plan
from llmprov.plan.decide import planned_driver
from llmprov.plan.environment import Change
from llmprov.run import delivery, environment_file, environments, lifetime, lock_file, payload_run, soak, variables
from llmprov.run import hold as holding
from llmprov.run.delivery import Delivery
from llmprov.run.worker import WAITING

Result = dict[str, Any]
Variables = Mapping[str, Any]

# Ansible loads its plugins in its first process, and this with them.
lifetime.tether()


# -- observe and plan --------------------------------------------------------------------------------------------


def plan(action: Any, task_vars: Variables) -> Result:
    """Observe the host and plan, in one task and one round trip."""
    try:
        variables.refuse_unknown(task_vars)
        desired = environment_file.read_into(variables.desired_from(action._task.args, task_vars))
        lock = lock_file.of(desired)
    except UsageError as error:
        return {"failed": True, "msg": str(error), "llmprov": {"kind": "usage"}}
    rebuild = bool(task_vars.get("__llmprov_rebuild"))
    # A run that only converges has no use for the files of packages: what it verifies is observed again.
    files = "all" if rebuild else str(task_vars.get("__llmprov_files", "quick"))
    seen, problem = _observe(action, task_vars, desired, files)
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


def _observe(
    action: Any, task_vars: Variables, desired: Desired, files: str = "none"
) -> tuple[Observation | None, Result]:
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
    answer = action._execute_module(module_name="llmprov_observe", module_args=args, task_vars=task_vars)
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


# -- one run a host ----------------------------------------------------------------------------------------------


def hold(action: Any, task_vars: Variables) -> Result:
    """Hold the host for this run until it ends, unless all hosts are given back meanwhile: then this is done again."""
    if action._task.check_mode or not holding.wanted():
        return {"changed": False, "msg": "only llmprov's own commands hold a host, and not in check mode"}
    planned, number = Planned.of(task_vars), int(action._task.args["round"])
    return _take(action, task_vars, planned, planned.desired.preflight.run_timeout_s, number)


def _hold_alone(action: Any, task_vars: Variables, planned: Planned, wait_s: int = 0) -> Result:
    """Hold the host for this run, which does nothing on other hosts while it waits for another run on this one."""
    while (held := _take(action, task_vars, planned, wait_s, holding.rounds())).get("given_back"):
        pass
    return held


def _take(action: Any, task_vars: Variables, planned: Planned, wait_s: int, number: int) -> Result:
    """Whether the host is held, and another run was waited for; a failing result where another run still holds it."""

    def tell(by: str) -> None:
        # A task says nothing before its end, but here a person waits with it.
        Display().display(WAITING + json.dumps({"host": task_vars["inventory_hostname"], "by": by}))

    holds = holding.take(action._connection, planned.seen.python or "python3", wait_s, number, tell)
    if not holds.by:
        told = {"held": holds.held, "waited": holds.waited or number > 0, "given_back": holds.given_back}
        return {**told, "msg": holds.why or ("given back" if holds.given_back else "held")}
    waited = f", waited for {wait_s} s" if wait_s else ""
    msg = f"this host is held by {holds.by}{waited}: let that run end, or wait for it with --wait SECONDS"
    return {"failed": True, "msg": msg, "llmprov": {"kind": "held"}}


# -- what hosts are given ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """What the plan of this host was made from, as an earlier task of the same play left it."""

    desired: Desired
    plan: Plan
    seen: Observation
    #: Whether what came or changed by hand has to go.
    rebuild: bool = False

    @classmethod
    def of(cls, task_vars: Variables) -> Planned:
        """Raises UsageError where no plan was made: the role was used without its own first task."""
        made = task_vars.get("__llmprov_plan")
        if not made or "desired" not in made:
            raise UsageError("this host was not planned: use the role as a whole, with the role preflight beside it")
        return cls(
            Desired.model_validate(made["desired"]),
            Plan.model_validate(made["plan"]),
            Observation.model_validate(made["observation"]),
            bool(made.get("rebuild")),
        )

    @cached_property
    def lock(self) -> Lock | None:
        """The lock that the host is installed from, if any."""
        return lock_file.of(self.desired)


def _module(action: Any, task_vars: Variables, name: str, given: Result) -> Callable[..., Result]:
    """A module of this host, to be called with what comes on top of the arguments `given`."""

    def call(**more: Any) -> Result:
        done: Result = action._execute_module(module_name=name, module_args={**given, **more}, task_vars=task_vars)
        return done

    return call


def _guarded(work: Callable[[Any, Variables], Result]) -> Callable[[Any, Variables], Result]:
    """An error of ours as a failed task with one sentence."""

    @functools.wraps(work)
    def guarded(action: Any, task_vars: Variables) -> Result:
        try:
            return work(action, task_vars)
        except LlmprovError as error:
            return {"failed": True, "msg": str(error)}
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            return {"failed": True, "msg": f"what this host told makes no sense at {where}: {first['msg']}"}

    return guarded


@_guarded
def uv(action: Any, task_vars: Variables) -> Result:
    """Make sure that uv of the wanted version lies on the host, or is gone."""
    args = dict(action._task.args)

    module = _module(action, task_vars, "llmprov_uv", args)
    asked = module()
    done = asked.get("failed") or asked.get("unreachable") or args.get("state") == "absent"
    if done or asked.get("found") == args["version"]:
        return asked
    if action._task.check_mode:
        return {**asked, "changed": True}
    planned = Planned.of(task_vars)
    depot = planned.desired.depot
    found = locked.locked_uv(planned.lock, planned.desired, planned.seen) if planned.lock else None
    wheel = (
        found.artifact()
        if found
        else environments.uv_wheel(planned.desired, planned.seen, delivery.session(depot).once)
    )
    problem = Delivery(action, task_vars, depot).bring([wheel])
    return problem or module(source=f"{depot.host_path}/{wheel.filename}")


@_guarded
def environment(action: Any, task_vars: Variables) -> Result:
    """Bring one environment to its declaration: look, decide, resolve here, deliver, and let the host build."""
    planned = Planned.of(task_vars)
    try:
        declared = EnvironmentDeclaration.model_validate(action._task.args["declared"])
    except ValidationError as error:
        raise UsageError(f"the environment is wrongly declared: {error.errors()[0]['msg']}") from None
    spec, refused = specs.one(declared, planned.desired, planned.plan.pytorch_variant)
    spec, not_locked = locked.pin(spec, planned.desired, planned.seen, planned.lock)
    refused += not_locked

    module = _module(action, task_vars, "llmprov_environment", {"path": spec.path})
    looked = module()
    if "seen" not in looked:
        return looked
    there = Environment.model_validate(looked["seen"])
    work = action._task.args.get("work")
    if work:
        return _ended(work, there, module, action._task.check_mode)
    there = _with_files(there, planned.seen.environment(spec.path))
    refused += environment_plan.refusals(spec, there)
    if refused:
        raise UsageError("; ".join(refusal.sentence() for refusal in refused))
    change, why = environments.needed(spec, there, planned.desired, planned.plan.pytorch_variant, planned.rebuild)
    if change is Change.NONE:
        return {"changed": False, "msg": f"{spec.path} is as declared"}
    if action._task.check_mode:
        return {"changed": True, "msg": "; ".join(why), "diff": environments.difference(there, why)}
    recipe = environments.recipe(spec, there, change, planned.desired, planned.seen, planned.rebuild)
    deliver = Delivery(action, task_vars, planned.desired.depot)
    problem = deliver.bring(recipe.artifacts) if recipe.artifacts else None
    return problem or {**module(**recipe.arguments), "seen": None}


Place = TypeVar("Place", Environment, CondaPrefix)


def _with_files(there: Place, planned: Place) -> Place:
    """What is there, with what the plan saw of its files: they are looked at once."""
    return there.model_copy(update={"altered": planned.altered, "altered_count": planned.altered_count})


def _ended(work: str, there: Environment, module: Callable[..., Result], check_mode: bool) -> Result:
    """After a rebuild: the build before is let go of, or gone back to; `work` is `settle` or `back`."""
    unsettled = there.record is not None and there.record.former in there.builds
    if not (unsettled or (work == "settle" and len(there.builds) > 1)):
        return {"changed": False, "msg": f"{there.path} is settled"}
    if check_mode:
        return {"changed": True, "msg": f"{there.path} would be settled"}
    return {**module(work=work), "seen": None}


@_guarded
def conda(action: Any, task_vars: Variables) -> Result:
    """Bring the conda installation to its declaration."""
    planned = Planned.of(task_vars)
    wanted = variables.role_from(MinicondaVars, action._task.args)

    module = _module(action, task_vars, "llmprov_conda", {"prefix": wanted.prefix})
    looked = module()
    if "seen" not in looked:
        return looked
    there = CondaPrefix.model_validate(looked["seen"])
    there = _with_files(there, planned.seen.conda or there)
    needed = conda_plan.action(wanted, there, planned.rebuild)
    if there.kind == "other" and wanted.state == "present":
        raise UsageError(f"{wanted.prefix} is there and is no conda installation: choose another miniconda_prefix")
    if needed.kind is Kind.NONE:
        return {"changed": False, "msg": f"{wanted.prefix} is as declared"}
    if action._task.check_mode:
        return {"changed": True, "msg": needed.why}
    if needed.kind is Kind.REMOVE:
        return module(work="remove")
    depot, arguments = planned.desired.depot, conda_arguments(wanted)
    anew = planned.rebuild and bool(by_hand.reasons_of_base(there))
    arguments["unwanted"] = by_hand.unwanted_in_base(there) if anew else []
    if anew or conda_plan.needs_installer(wanted, there):
        artifact = conda_plan.installer(wanted, planned.seen.os.architecture)
        problem = Delivery(action, task_vars, depot).bring([artifact])
        if problem:
            return problem
        arguments["script"] = f"{depot.host_path}/{artifact.filename}"
    done = module(work="ensure", lock=f"{depot.host_path}/.conda.lock", **arguments)
    return {**done, "seen": None}


def conda_arguments(wanted: MinicondaVars) -> Result:
    """What the module is told of the declaration."""
    return {
        "installer": wanted.installer,
        "owner": wanted.owner,
        "condarc": yaml.safe_dump(conda_plan.condarc(wanted), sort_keys=False),
        "terms": conda_plan.terms(wanted),
        "init": wanted.init,
    }


# -- verify ------------------------------------------------------------------------------------------------------


def verify(action: Any, task_vars: Variables) -> Result:
    """Run the payload on the host and read its document; anything but a sound document fails the host."""
    if action._task.args.get("gate"):
        return gate(action, task_vars)
    planned = Planned.of({"__llmprov_plan": action._task.args["planned"]})
    wanted = planned.desired.verify
    arguments = _payload(planned, wanted.level)
    module = _module(action, task_vars, "llmprov_verify", {})
    if action._task.args.get("start"):
        return {**module(work="start", **arguments), "changed": False}
    held = _hold_alone(action, task_vars, planned)
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


#: How long a driver has to be loaded after its host answers again, in seconds, and how often that is looked at.
GATE_WAIT_S, GATE_PAUSE_S = 60.0, 3.0


@_guarded
def gate(action: Any, task_vars: Variables) -> Result:
    """Whether a host came back whole from its reboot: its driver, all GPUs of before, a right product on each."""
    planned = Planned.of(task_vars)
    deadline = time.monotonic() + GATE_WAIT_S
    while True:
        seen, problem = _observe(action, task_vars, planned.desired)
        if seen is None:
            return problem
        wrong = reboot.problems(planned.desired, planned.seen, seen)
        if not wrong or time.monotonic() > deadline:
            break
        # sshd answers before all modules are loaded.
        time.sleep(GATE_PAUSE_S)
    # What held the host went with its reboot.
    held = _hold_alone(action, task_vars, planned, planned.desired.preflight.run_timeout_s)
    if held.get("failed"):
        return held
    if not wrong:
        arguments = _payload(planned, "gate")
        answer = _module(action, task_vars, "llmprov_verify", {})(**arguments)
        if "exit_code" not in answer:
            return answer
        document = payload_run.read(answer, planned.desired.verify)
        wrong = [check.summary for check in document.checks if check.status != "pass"]
    return {"changed": False, "failed": bool(wrong), "msg": "; ".join(wrong) or "the host came back whole"}


def _payload(planned: Planned, level: str) -> Result:
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
