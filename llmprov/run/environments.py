"""How one environment is brought to its declaration: what the host is to do, and the artifacts it needs for that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from packaging.utils import canonicalize_name

from llmprov.depot import conda, wheels
from llmprov.depot.conda import CondaTarget
from llmprov.depot.session import Session
from llmprov.depot.wheels import Target
from llmprov.errors import LlmprovError
from llmprov.knowledge import cuda_of_driver
from llmprov.model import Artifact, Desired, Environment, EnvironmentSpec, Kind, Observation
from llmprov.plan import environment, wheel
from llmprov.plan.environment import Change
from llmprov.run import delivery

#: Conda packages whose distribution has another name.
DISTRIBUTIONS = {"pytorch": "torch", "pytorch-cpu": "torch", "pytorch-gpu": "torch"}


@dataclass(frozen=True)
class Recipe:
    """The arguments of the module, and the artifacts that have to be on the host before it runs."""

    arguments: dict[str, Any]
    artifacts: list[Artifact] = field(default_factory=list)


def needed(
    spec: EnvironmentSpec, there: Environment, desired: Desired, variant: str | None
) -> tuple[Change, list[str]]:
    """What has to be done about an environment and PyTorch in it, and why."""
    change, why = environment.difference(spec, there)
    if spec.path != desired.pytorch.env_path or change >= Change.SUCCESSOR:
        return change, why
    torch = wheel.plan_pytorch(desired.pytorch, spec, there, False, variant)
    if torch.kind is Kind.NONE:
        return change, why
    return max(change, Change.PACKAGES), [*why, f"torch {torch.after or 'absent'} ({torch.why})"]


def difference(there: Environment, why: list[str]) -> dict[str, str]:
    """What check mode shows: what is there, and what would be done about it."""
    return {"before": f"{there.kind} {there.python_version or ''}\n", "after": "".join(f"{reason}\n" for reason in why)}


def recipe(spec: EnvironmentSpec, there: Environment, change: Change, desired: Desired, seen: Observation) -> Recipe:
    """What the host is to do; resolved on the controller, once for all hosts of a kind.

    Raises:
        LlmprovError: the declaration cannot be resolved for this host.
    """
    if change is Change.REMOVE:
        return Recipe({"work": "remove"})
    arguments: dict[str, Any] = {
        "work": {Change.SETTINGS: "settings", Change.PACKAGES: "packages", Change.SUCCESSOR: "build"}[change],
        "manager": spec.manager,
        "python": spec.python,
        "conda_prefix": desired.miniconda.prefix,
        "folder": desired.depot.host_path,
        "uv": desired.venv.uv_path,
        "declaration": spec.declaration(),
        "profile": spec.profile(),
        "activation": spec.activation(),
        "lock_timeout_s": desired.conda_env.lock_timeout_s,
        "packages_absent": _absent(spec, desired),
    }
    if change is Change.SETTINGS:
        return Recipe(arguments)
    shared = delivery.session(desired.depot)
    by_hand_conda, by_hand = environment.added_by_hand(spec, there)
    linked = _conda(spec, there, by_hand_conda, desired, seen, shared) if change is Change.SUCCESSOR else []
    if change is Change.SUCCESSOR:
        given = [(DISTRIBUTIONS.get(package.name, package.name), package.version) for package in linked]
    else:
        given = [(name, there.packages[name]) for name in there.from_conda if name in there.packages]
    python = _python(spec, there, change, linked, seen)
    found = _wheels(spec, there, by_hand, given, python, seen, shared)
    if change is Change.PACKAGES:
        # What is there already is neither brought nor touched.
        found = [w for w in found if there.packages.get(canonicalize_name(w.name)) != w.version]
    arguments |= {
        "conda_packages": [p.model_dump(include={"url", "sha256", "filename"}) for p in linked],
        "wheels": [w.model_dump(include={"name", "version", "sha256", "filename"}) for w in found],
    }
    return Recipe(arguments, [*linked, *found])


def _absent(spec: EnvironmentSpec, desired: Desired) -> list[str]:
    gone = [str(canonicalize_name(name)) for name in spec.packages_absent]
    torch = desired.pytorch.state == "absent" and desired.pytorch.env_path == spec.path
    return [*gone, "torch"] if torch else gone


def _conda(
    spec: EnvironmentSpec,
    there: Environment,
    by_hand: list[str],
    desired: Desired,
    seen: Observation,
    shared: Session,
) -> list[Artifact]:
    if spec.manager != "conda":
        return []
    driver = seen.driver.module_version or seen.driver.package_version
    target = CondaTarget(
        seen.os.architecture, seen.os.glibc, seen.os.kernel, cuda_of_driver(driver) if driver and seen.gpus else None
    )
    wanted = [*spec.conda_packages, *by_hand]
    kept = [f"{name}={has}" for name, has in there.conda.items()] if there.kind == "conda" else []
    priority = desired.miniconda.channel_priority
    question = ["conda", wanted, spec.channels, vars(target), priority, kept]
    return shared.once(_key(question), lambda: conda.solve(wanted, spec.channels, target, priority, kept))


def _python(
    spec: EnvironmentSpec, there: Environment, change: Change, linked: list[Artifact], seen: Observation
) -> str:
    """The Python version that the wheels are for."""
    if change is Change.PACKAGES:
        found = there.python_version
    elif spec.manager == "conda":
        found = next((package.version for package in linked if package.name == "python"), None)
    else:
        found = spec.python or seen.python_version
    if not found:
        raise LlmprovError(f"the Python version of {spec.path} is unknown, so no wheels can be chosen for it")
    return found


def _wheels(
    spec: EnvironmentSpec,
    there: Environment,
    by_hand: list[str],
    given: list[tuple[str, str]],
    python: str,
    seen: Observation,
    shared: Session,
) -> list[Artifact]:
    requirements = [*spec.packages, *spec.torch, *by_hand]
    if not requirements:
        return []
    brought = {name for name, _ in given}
    preferred = sorted((n, v) for n, v in there.packages.items() if n not in brought and n != "torch")
    return wheels_once(shared, requirements, wheel_target(seen, python), spec.torch_index, preferred, sorted(given))


def wheel_target(seen: Observation, python: str) -> Target:
    """The kind of host that wheels are chosen for.

    Raises:
        LlmprovError: its C library is not glibc.
    """
    if not seen.os.glibc:
        raise LlmprovError("this host has no glibc, and the packages' wheels need one: choose a host with glibc")
    return Target(python, seen.os.architecture, seen.os.glibc)


def wheels_once(
    shared: Session,
    requirements: Sequence[str],
    target: Target,
    index_url: str = "",
    preferred: Sequence[tuple[str, str]] = (),
    given: Sequence[tuple[str, str]] = (),
) -> list[Artifact]:
    """Resolve wheels, once in this session for all hosts that ask the same."""
    question = ["wheels", list(requirements), vars(target), index_url, list(preferred), list(given)]
    return shared.once(_key(question), lambda: wheels.resolve(requirements, target, index_url, preferred, given))


def _key(question: list[Any]) -> str:
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:32]
