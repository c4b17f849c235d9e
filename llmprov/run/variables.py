"""From Ansible variables to the desired state, and the sentence for each mistake on the way."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleError
from pydantic import SecretStr, ValidationError

from llmprov.errors import UsageError
from llmprov.knowledge import GPUS
from llmprov.model import ROLES, SITE, Desired, MinicondaVars
from llmprov.model.desired import SHARED, role_default, shared_name, variable_names

PREFIXES = tuple(f"{role.role}_" for role in (*ROLES, *SITE))

#: Variables of the role venv that concern every environment: uv installs the wheels of conda environments too.
FOR_EVERY_MANAGER = ("venv_uv_version", "venv_uv_path")


def refuse_unknown(task_vars: Mapping[str, Any]) -> None:
    """Raise for a variable that carries one of llmprov's prefixes and is none of its own: most are misspelt.

    Raises:
        UsageError: names the variable, where it was set, and the nearest that exists.
    """
    known = {*variable_names(), *SHARED}
    unknown = sorted(name for name in task_vars if name.startswith(PREFIXES) and name not in known)
    if unknown:
        name = unknown[0]
        near = difflib.get_close_matches(name, known, n=1)
        advice = f"did you mean `{near[0]}`?" if near else "docs/variables.md lists the known ones"
        raise UsageError(f"unknown variable `{name}`{origin(task_vars[name])}: {advice}")


def declared_values(task_vars: Mapping[str, Any], fill_in: Callable[[Any], Any]) -> dict[str, Any]:
    """What is declared of a host: each of llmprov's variables that is set, or the shared one that stands in for it.

    Secrets are left out, as no plan needs one. Only what is set is filled in: filling in a template for every variable
    there is took longer than all else that the controller does for a host.

    Args:
        task_vars: the host's variables, as Ansible hands them to an action.
        fill_in: fills in the templates of a value.

    Raises:
        UsageError: a value's template cannot be filled in.
    """
    found = {}
    for name, role in variable_names().items():
        field = name.removeprefix(f"{role.role}_")
        source = name if name in task_vars else shared_name(role, field) or name
        if source not in task_vars or isinstance(role.model_fields[field].default, SecretStr):
            continue
        try:
            value = fill_in(task_vars[source])
        except AnsibleError as error:
            where = origin(task_vars[source])
            raise UsageError(f"variable `{source}`{where} cannot be filled in: {error.message}") from None
        if value is not task_vars.get("omit", ...):
            found[name] = value
    return found


def desired_from(values: Mapping[str, Any], task_vars: Mapping[str, Any]) -> Desired:
    """The desired state from values named as Ansible variables (`venv_path`).

    Raises:
        UsageError: names the variable, where it was set, its value and what it should be.
    """
    _refuse_the_other_managers(values, task_vars)
    by_role: dict[str, dict[str, Any]] = {}
    for name, role in variable_names().items():
        if name in values:
            by_role.setdefault(role.role, {})[name.removeprefix(f"{role.role}_")] = values[name]
    try:
        desired = Desired.model_validate(by_role)
    except ValidationError as error:
        first = error.errors()[0]
        name = _as_set("_".join(str(part) for part in first["loc"][:2]), task_vars)
        item = f" (item {first['loc'][2]})" if len(first["loc"]) > 2 else ""
        reason = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        given = "" if first["msg"].startswith("Value error") else f", and is {first['input']!r}"
        raise UsageError(f"variable `{name}`{item}{origin(task_vars.get(name))} is wrong: {reason}{given}") from None
    _refuse_unknown_gpu(desired.verify.gpu_model, task_vars)
    return desired


def _refuse_unknown_gpu(model: str, task_vars: Mapping[str, Any]) -> None:
    known = {gpu.name for gpu in GPUS.values()}
    if model and model not in known:
        begin = sorted(name for name in known if name.lower().startswith(model.lower()))
        near = begin or difflib.get_close_matches(model, known, n=1)
        advice = f"did you mean `{near[0]}`?" if near else f"it should be one of {', '.join(sorted(known))}"
        name = "verify_gpu_model"
        raise UsageError(f"variable `{name}`{origin(task_vars.get(name))} is wrong: no GPU is `{model}`: {advice}")


def _as_set(name: str, task_vars: Mapping[str, Any]) -> str:
    """The variable that a value came from: the shared one, where the role's own was not set."""
    role = variable_names().get(name)
    shared = shared_name(role, name.removeprefix(f"{role.role}_")) if role else None
    return shared if shared in task_vars and shared and name not in task_vars else name


def _refuse_the_other_managers(values: Mapping[str, Any], task_vars: Mapping[str, Any]) -> None:
    """A variable of the manager that is not used would be passed over in silence."""
    manager = str(values.get("llm_env_manager", "conda"))
    other, role = ("venv", "conda_env") if manager == "conda" else ("conda_env", "venv")
    for name, owner in variable_names().items():
        if owner.role != other or name in FOR_EVERY_MANAGER or name not in task_vars:
            continue
        # A play that lists the other role has its defaults, too: they are nobody's wish.
        if task_vars[name] != role_default(owner, name.removeprefix(f"{other}_")):
            general = name.replace(f"{other}_", "llm_", 1)
            instead = f"`{general}` or " if general in SHARED else ""
            raise UsageError(
                f"variable `{name}`{origin(task_vars[name])} is set, and llm_env_manager is {manager}: set "
                f"{instead}`{name.replace(other, role, 1)}`, or llm_env_manager"
            )


def role_from(role: type[MinicondaVars], values: Mapping[str, Any]) -> MinicondaVars:
    """One role's variables from a task's arguments, named without the role.

    Raises:
        UsageError: one of them is wrong.
    """
    try:
        return role.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"variable `{role.role}_{first['loc'][0]}` is wrong: {first['msg']}") from None


def origin(value: Any) -> str:
    """Where Ansible read a value, as ` (file:line)`; empty where it does not say.

    ansible-core 2.19 and later tag values with their origin; the tag's class is not public, so its absence is no error.
    """
    try:
        from ansible._internal._datatag._tags import Origin

        found = Origin.get_tag(value)
    except (ImportError, AttributeError, TypeError):
        return ""
    if found is None or not found.path:
        return ""
    return f" ({found.path}:{found.line_num})" if found.line_num else f" ({found.path})"
