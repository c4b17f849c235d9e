"""Bring uv, environments and the conda installation of a host to their declaration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from llmprov.errors import UsageError
from llmprov.model import CondaPrefix, Environment, EnvironmentDeclaration, Kind, MinicondaVars
from llmprov.plan import by_hand, locked, specs
from llmprov.plan import conda as conda_plan
from llmprov.plan import environment as environment_plan
from llmprov.plan.environment import Change
from llmprov.run import delivery, environments, variables
from llmprov.run.actions.planned import Planned, Result, Variables, guarded, module_of
from llmprov.run.delivery import Delivery


@guarded
def uv(action: Any, task_vars: Variables) -> Result:
    """Make sure that uv of the wanted version lies on the host, or is gone."""
    args = dict(action._task.args)

    module = module_of(action, task_vars, "llmprov_uv", args)
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


@guarded
def environment(action: Any, task_vars: Variables) -> Result:
    """Bring one environment to its declaration: look, decide, resolve here, deliver, and let the host build."""
    planned = Planned.of(task_vars)
    try:
        declared = EnvironmentDeclaration.model_validate(action._task.args["declared"])
    except ValidationError as error:
        raise UsageError(f"the environment is wrongly declared: {error.errors()[0]['msg']}") from None
    spec, refused = specs.spec_of(declared, planned.desired, planned.plan.pytorch_variant)
    spec, not_locked = locked.pin(spec, planned.desired, planned.seen, planned.lock)
    refused += not_locked

    module = module_of(action, task_vars, "llmprov_environment", {"path": spec.path})
    looked = module()
    if "seen" not in looked:
        return looked
    there = Environment.model_validate(looked["seen"])
    work = action._task.args.get("work")
    if work:
        return _accept_or_revert(work, there, module, action._task.check_mode)
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


def _accept_or_revert(work: str, there: Environment, module: Callable[..., Result], check_mode: bool) -> Result:
    """After a rebuild: `accept` removes previous builds, `revert` has the previous one in use again."""
    undecided = there.record is not None and there.record.former in there.builds
    if not (undecided or (work == "accept" and len(there.builds) > 1)):
        return {"changed": False, "msg": f"{there.path} has no previous build"}
    if check_mode:
        return {"changed": True, "msg": f"{work} {there.path}"}
    return {**module(work=work), "seen": None}


@guarded
def conda(action: Any, task_vars: Variables) -> Result:
    """Bring the conda installation to its declaration."""
    planned = Planned.of(task_vars)
    wanted = variables.role_from(MinicondaVars, action._task.args)

    module = module_of(action, task_vars, "llmprov_conda", {"prefix": wanted.prefix})
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
