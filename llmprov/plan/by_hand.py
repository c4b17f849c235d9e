"""What somebody's hand did to environments and to conda: packages that came, went or moved, altered files.

Held against what llmprov noted when it built an environment, or against a lock.
"""

from __future__ import annotations

from collections.abc import Sequence

from packaging.utils import canonicalize_name

from llmprov.model import Environment, EnvironmentSpec
from llmprov.model.environment import Exact
from llmprov.model.observation import CondaPrefix, Files

#: How many names a sentence has.
NAMED = 6


def some(names: Sequence[str]) -> str:
    """Names as a phrase that has an end."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def moved(was: dict[str, str], has: dict[str, str]) -> list[str]:
    """What of packages was added, removed and changed, a phrase each."""
    added = [f"{name} {has[name]}" for name in sorted(set(has) - set(was))]
    removed = [f"{name} {was[name]}" for name in sorted(set(was) - set(has))]
    changed = [f"{name} {was[name]} -> {has[name]}" for name in sorted(set(was) & set(has)) if was[name] != has[name]]
    groups = {"added": added, "removed": removed, "changed": changed}
    return [f"{word} {some(names)}" for word, names in groups.items() if names]


def packages(spec: EnvironmentSpec, there: Environment) -> list[str]:
    """What moved since llmprov was at work there; a lock says more, and is asked instead."""
    if there.record is None or there.kind != spec.manager or spec.exact is not None:
        return []
    # A package of conda's with metadata of Python's stands in both lists: it is told once, as conda's.
    by_conda = {*there.from_conda, *map(canonicalize_name, [*there.conda, *there.record.conda])}
    wheels = {name: has for name, has in there.packages.items() if name not in by_conda}
    noted = {name: has for name, has in there.record.packages.items() if name not in by_conda}
    return [*moved(there.record.conda, there.conda), *moved(noted, wheels)]


def files(there: Files) -> list[str]:
    """The files that are not as their packages brought them, a line each."""
    return [f"{row.path} ({row.package}): {row.how}" for row in there.altered or []]


def of_files(path: str, there: Files) -> str:
    """The same in one sentence; empty where there are none."""
    if not there.altered:
        return ""
    names = some(sorted({row.package for row in there.altered}))
    more = f" and {there.altered_count - 1} more" if there.altered_count > 1 else ""
    return f"files of {names} in {path} are not as these packages brought them: {there.altered[0].path}{more}"


def reasons(spec: EnvironmentSpec, there: Environment) -> list[str]:
    """Why `rebuild` builds an environment anew that is as declared; none where nobody's hand was in it.

    Nor for one that llmprov did not make: it is not replaced.
    """
    if there.record is None:
        return []
    return [*packages(spec, there), *filter(None, [of_files(spec.path, there)])]


def base(there: CondaPrefix) -> list[str]:
    """What moved in conda's base environment since its installer ended."""
    return moved(there.base, there.packages) if there.base is not None else []


def unwanted_in_base(there: CondaPrefix) -> list[str]:
    """The packages of the base environment that no installer brought."""
    return sorted(set(there.packages) - set(there.base)) if there.base is not None else []


def reasons_of_base(there: CondaPrefix) -> list[str]:
    """Why `rebuild` runs conda's installer again."""
    return [*base(there), *filter(None, [of_files(there.path, there)])]


def differences_from_lock(exact: Exact, there: Environment) -> list[str]:
    """What of an environment's packages is not as locked, in one phrase."""
    wheels = {name: has for name, has in there.packages.items() if name not in there.from_conda}
    locked = {artifact.name: artifact.version for artifact in exact.wheels}
    told = [*moved(exact.conda_versions(), there.conda), *moved(locked, wheels)]
    return [f"against the lock: {'; '.join(told)}"] if told else []
