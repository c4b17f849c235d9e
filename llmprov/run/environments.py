"""How one environment is brought to its declaration: what the host is to do, and the artifacts it needs for that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from packaging.utils import canonicalize_name

from llmprov.depot import conda, wheels
from llmprov.depot.conda import CondaTarget
from llmprov.depot.wheels import Target
from llmprov.errors import LlmprovError
from llmprov.model import Artifact, Desired, Environment, EnvironmentSpec, Kind, Observation
from llmprov.plan import environment, wheel
from llmprov.plan.environment import Change
from llmprov.plan.locked import cuda_of
from llmprov.run import delivery

#: Conda packages whose distribution has another name.
DISTRIBUTIONS = {"pytorch": "torch", "pytorch-cpu": "torch", "pytorch-gpu": "torch"}


class UnknownPythonError(LlmprovError):
    """Wheels cannot be chosen, as nobody knows yet for which Python."""


@dataclass(frozen=True)
class Recipe:
    """The arguments of the module, and the artifacts that have to be on the host before it runs."""

    arguments: dict[str, Any]
    artifacts: list[Artifact] = field(default_factory=list)


def needed(
    spec: EnvironmentSpec, there: Environment, desired: Desired, variant: str | None, rebuild: bool = False
) -> tuple[Change, list[str]]:
    """What has to be done about an environment and PyTorch in it, and why."""
    change, why = environment.difference(spec, there, rebuild)
    if spec.path != desired.pytorch.env_path or change >= Change.SUCCESSOR:
        return change, why
    torch = wheel.plan_pytorch(desired.pytorch, spec, there, False, variant)
    if torch.kind is Kind.NONE:
        return change, why
    # Its dependencies go with it, as they came.
    goes = torch.kind is Kind.REMOVE and there.record is not None
    least = Change.SUCCESSOR if goes or rebuild or spec.exact else Change.PACKAGES
    return max(change, least), [*why, f"torch {torch.after or 'absent'} ({torch.why})"]


def difference(there: Environment, why: list[str]) -> dict[str, str]:
    """What check mode shows: what is there, and what would be done about it."""
    return {"before": f"{there.kind} {there.python_version or ''}\n", "after": "".join(f"{reason}\n" for reason in why)}


def recipe(
    spec: EnvironmentSpec,
    there: Environment,
    change: Change,
    desired: Desired,
    seen: Observation,
    rebuild: bool = False,
) -> Recipe:
    """What the host is to do; resolved on the controller, once for all hosts of a kind, or taken from its lock.

    A rebuild takes nothing along that came by hand, keeps the versions that llmprov had chosen, and keeps the build
    before until the new one was found good.

    Raises:
        LlmprovError: the declaration cannot be resolved for this host.
    """
    if change is Change.REMOVE:
        return Recipe({"work": "remove"})
    arguments: dict[str, Any] = {
        "keep": rebuild,
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
    if spec.exact is not None:
        linked, found = spec.exact.conda, spec.exact.wheels
    else:
        linked, found = _resolved(spec, there, change, desired, seen, rebuild)
    if change is Change.PACKAGES:
        # What is there already is neither brought nor touched.
        found = [w for w in found if there.packages.get(canonicalize_name(w.name)) != w.version]
    arguments |= {
        "conda_packages": [p.model_dump(include={"url", "sha256", "filename"}) for p in linked],
        "wheels": [w.model_dump(include={"name", "version", "sha256", "filename"}) for w in found],
    }
    return Recipe(arguments, [*linked, *found])


def _resolved(
    spec: EnvironmentSpec, there: Environment, change: Change, desired: Desired, seen: Observation, rebuild: bool
) -> tuple[list[Artifact], list[Artifact]]:
    """Conda packages and wheels; what is there is kept where it may be, in a rebuild what llmprov had put there."""
    shared = delivery.session(desired.depot)
    more: tuple[list[str], list[str]] = ([], []) if rebuild else environment.added_by_hand(spec, there)
    noted = there.record if rebuild else None
    kept = PreferredVersions(noted.conda if noted else there.conda, noted.packages if noted else there.packages)
    if change is Change.SUCCESSOR:
        return resolve(spec, desired, seen, kept, shared.once, more)
    given = sorted((name, there.packages[name]) for name in there.from_conda if name in there.packages)
    if not there.python_version:
        raise UnknownPythonError(f"the Python version of {spec.path} is unknown, so no wheels can be chosen for it")
    return [], _wheels(spec, kept, more[1], given, wheel_target(seen, there.python_version), shared.once)


def _absent(spec: EnvironmentSpec, desired: Desired) -> list[str]:
    gone = [str(canonicalize_name(name)) for name in spec.packages_absent]
    torch = desired.pytorch.state == "absent" and desired.pytorch.env_path == spec.path
    return [*gone, "torch"] if torch else gone


@dataclass(frozen=True)
class PreferredVersions:
    """Versions that are kept where they may be: conda's (`version=build`) and wheels, by name."""

    conda: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)


#: The answer to a question, asked for once however many hosts want it.
Once = Callable[[str, Callable[[], list[Artifact]]], list[Artifact]]


def resolve(
    spec: EnvironmentSpec,
    desired: Desired,
    seen: Observation,
    kept: PreferredVersions,
    once: Once,
    more: tuple[list[str], list[str]] = ([], []),
) -> tuple[list[Artifact], list[Artifact]]:
    """Every conda package and every wheel of an environment on one kind of host.

    Args:
        spec: the environment.
        desired: the declaration it is part of.
        seen: a host of the kind.
        kept: versions to keep where they may be.
        once: keeps answers.
        more: conda packages and wheels that are wanted beside the declared ones.

    Raises:
        LlmprovError: they cannot be resolved.
    """
    linked = _conda(spec, kept, more[0], desired, seen, once)
    given = sorted((DISTRIBUTIONS.get(package.name, package.name), package.version) for package in linked)
    if spec.manager == "conda":
        python = next((package.version for package in linked if package.name == "python"), None)
    else:
        python = spec.python or seen.python_version
    if not python:
        raise UnknownPythonError(f"the Python version of {spec.path} is unknown, so no wheels can be chosen for it")
    return linked, _wheels(spec, kept, more[1], given, wheel_target(seen, python), once)


def _conda(
    spec: EnvironmentSpec, kept: PreferredVersions, more: list[str], desired: Desired, seen: Observation, once: Once
) -> list[Artifact]:
    if spec.manager != "conda":
        return []
    target = CondaTarget(seen.os.architecture, seen.os.glibc, seen.os.kernel, cuda_of(seen))
    wanted = [*spec.conda_packages, *more]
    held = [f"{name}={has}" for name, has in kept.conda.items()]
    priority = desired.miniconda.channel_priority
    question = ["conda", wanted, spec.channels, vars(target), priority, held]
    return once(_key(question), lambda: conda.solve(wanted, spec.channels, target, priority, held))


def _wheels(
    spec: EnvironmentSpec,
    kept: PreferredVersions,
    more: list[str],
    given: list[tuple[str, str]],
    target: Target,
    once: Once,
) -> list[Artifact]:
    requirements = [*spec.packages, *spec.torch, *more]
    if not requirements:
        return []
    brought = {name for name, _ in given}
    preferred = sorted((n, v) for n, v in kept.packages.items() if n not in brought and n != "torch")
    return wheels_once(once, requirements, target, spec.torch_index, preferred, given)


def uv_wheel(desired: Desired, seen: Observation, once: Once) -> Artifact:
    """The wheel of uv for a host."""
    target = wheel_target(seen, seen.python_version or "3.11")
    (wheel,) = wheels_once(once, [f"uv=={desired.venv.uv_version}"], target)
    return wheel


def wheel_target(seen: Observation, python: str) -> Target:
    """The kind of host that wheels are chosen for.

    Raises:
        LlmprovError: its C library is not glibc.
    """
    if not seen.os.glibc:
        raise LlmprovError("this host has no glibc, and the packages' wheels need one: choose a host with glibc")
    return Target(python, seen.os.architecture, seen.os.glibc)


def wheels_once(
    once: Once,
    requirements: Sequence[str],
    target: Target,
    index_url: str = "",
    preferred: Sequence[tuple[str, str]] = (),
    given: Sequence[tuple[str, str]] = (),
) -> list[Artifact]:
    """Resolve wheels, once in this session for all hosts that ask the same."""
    question = ["wheels", list(requirements), vars(target), index_url, list(preferred), list(given)]
    return once(_key(question), lambda: wheels.resolve(requirements, target, index_url, preferred, given))


def _key(question: list[Any]) -> str:
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:32]
