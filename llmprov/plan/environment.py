"""One environment: what differs from its declaration, and how that is mended."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from llmprov.model import Action, Environment, EnvironmentSpec, Kind, Observation, Refusal
from llmprov.plan import by_hand
from llmprov.plan.versions import older


class Change(IntEnum):
    """How an environment is brought to its declaration, the mildest that does it; a higher one does the lower's work.

    Adding wheels is done in place: uv checks everything before it touches the environment, and the programs that
    run from it go on. All else builds a successor beside it and switches, so that a failure or a power cut leaves the
    old one in use.
    """

    NONE = 0
    SETTINGS = 1
    PACKAGES = 2
    SUCCESSOR = 3
    REMOVE = 4


def refusals(spec: EnvironmentSpec, there: Environment) -> list[Refusal]:
    """Combinations of declarations, and of declaration and host, that can never hold."""
    found = [
        _refuse(
            spec, f"{name} among the packages", f"{name} among the packages_absent", "take it out of one of the two"
        )
        for name in sorted({_name(p) for p in spec.packages} & {canonicalize_name(p) for p in spec.packages_absent})
    ]
    if any(_name(p) == "torch" for p in spec.packages):
        found.append(
            _refuse(
                spec,
                "torch among the packages",
                "the role pytorch, which chooses the build by host",
                "take it out, and set pytorch_version",
            )
        )
    both = {_name(p) for p in spec.packages} & {canonicalize_name(conda_name(p)) for p in spec.conda_packages}
    found += [
        _refuse(spec, f"{name} as a conda package", f"{name} as a wheel", "take it out of one of the two")
        for name in sorted(both)
    ]
    if there.kind == "other":
        found.append(
            _refuse(
                spec,
                f"an environment at {spec.path}",
                "the files that are there and are no environment",
                "move them away, or choose another llm_env_path",
            )
        )
    if there.kind in ("venv", "conda") and there.kind != spec.manager and there.record is None:
        kinds = {"conda": "conda environment", "venv": "virtual environment"}
        found.append(
            _refuse(
                spec,
                f"a {kinds[spec.manager]} at {spec.path}",
                f"the {kinds[there.kind]} that is there and that llmprov did not make",
                "choose another llm_env_path, or remove that environment",
            )
        )
    if spec.state == "present" and there.kind == spec.manager and there.record is None:
        change, why = difference(spec, there)
        if change is Change.SUCCESSOR and there.python_works:
            found.append(
                _refuse(
                    spec,
                    f"the declaration of {spec.path} ({'; '.join(why)})",
                    "the environment there, which llmprov did not make and so will not replace",
                    "choose another llm_env_path, or remove that environment",
                )
            )
    return found


def _refuse(spec: EnvironmentSpec, this: str, that: str, remedy: str) -> Refusal:
    return Refusal(component=spec.component, this=this, that=that, remedy=remedy)


def _name(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)


def plan_uv(version: str, path: str, environments: list[EnvironmentSpec], seen: Observation) -> Action:
    """The tool that installs wheels; a host without any environment needs none."""
    needed = any(spec.state == "present" for spec in environments)
    if not needed and seen.uv_ours and not set(seen.beside_uv) - {spec.path for spec in environments}:
        return Action(component="uv", kind=Kind.REMOVE, before=seen.uv_version, why="no environment needs it")
    if not needed or seen.uv_version == version:
        return Action(component="uv", kind=Kind.NONE, before=seen.uv_version, after=seen.uv_version)
    if seen.uv_version is None:
        return Action(component="uv", kind=Kind.INSTALL, after=version, why=f"not at {path}")
    kind = Kind.UPGRADE if older(seen.uv_version, version) else Kind.DOWNGRADE
    return Action(component="uv", kind=kind, before=seen.uv_version, after=version, why="another version is declared")


def plan_environment(spec: EnvironmentSpec, there: Environment, rebuild: bool = False) -> Action:
    """The environment: its Python and its packages, PyTorch apart."""
    change, why = difference(spec, there, rebuild)
    if change is Change.NONE:
        both = _describe(there) if there.kind != "none" else None
        return Action(component=spec.component, kind=Kind.NONE, before=both, after=both)
    before = None if there.kind == "none" else _describe(there)
    if change is Change.REMOVE:
        return Action(component=spec.component, kind=Kind.REMOVE, before=before, why="declared absent")
    if there.kind == "none":
        return Action(component=spec.component, kind=Kind.INSTALL, after=_wanted(spec), why=why[0])
    if broken(there):
        return Action(
            component=spec.component, kind=Kind.REPAIR, before=before, after=_wanted(spec), why="; ".join(why)
        )
    newer = spec.python and not python_fits(spec.python, there.python_version)
    kind = Kind.DOWNGRADE if newer and older(there.python_version, spec.python) is False else Kind.UPGRADE
    after = _wanted(spec) if newer else "; ".join(why)
    reason = "another Python is declared" if newer else "the environment differs from the declaration"
    return Action(component=spec.component, kind=kind, before=before, after=after, why=reason)


def difference(spec: EnvironmentSpec, there: Environment, rebuild: bool = False) -> tuple[Change, list[str]]:
    """What has to be done about an environment, and a phrase for each reason.

    With `rebuild` it is made anew wherever anybody's hand was in it, and for any other package, too.
    """
    if spec.state == "absent":
        return (Change.NONE, []) if there.kind == "none" else (Change.REMOVE, ["declared absent"])
    if there.kind == "none":
        return Change.SUCCESSOR, [f"nothing is at {spec.path}"]
    reasons = _reasons_to_rebuild(spec, there)
    if not reasons and spec.exact is not None:
        reasons = by_hand.differences_from_lock(spec.exact, there)
    if not reasons and rebuild:
        reasons = by_hand.reasons(spec, there)
    if reasons:
        return Change.SUCCESSOR, reasons
    packages = package_differences(spec.packages, spec.packages_absent, there)
    if packages:
        return Change.SUCCESSOR if rebuild else Change.PACKAGES, packages
    return _settings(spec, there)


def broken(there: Environment) -> str:
    """Why an environment cannot be used as it is; empty where it can."""
    if not there.python_works:
        return "its Python does not run"
    if not there.readable:
        return "the host's other users cannot read it"
    return ""


def _reasons_to_rebuild(spec: EnvironmentSpec, there: Environment) -> list[str]:
    if broken(there):
        return [broken(there)]
    if there.kind != spec.manager:
        return [f"made by {there.kind}, and {spec.manager} is declared"]
    if not python_fits(spec.python, there.python_version):
        return [f"Python {spec.python} (is {there.python_version})"]
    found = [
        f"{text} ({f'is {there.conda[name]}' if name in there.conda else 'missing'})"
        for text in spec.conda_packages
        if not conda_satisfied(text, there.conda) and (name := conda_name(text))
    ]
    return [*found, *_dropped(spec, there)]


def _dropped(spec: EnvironmentSpec, there: Environment) -> list[str]:
    """What was declared when the environment was built and is not any more."""
    if there.record is None:
        return []
    was, found = there.record.declaration, []
    for key, name_of in (("packages", _name), ("conda_packages", conda_name)):
        now = {name_of(text) for text in getattr(spec, key)}
        found += [f"without {text}" for text in _texts(was.get(key)) if _safely(name_of, text) not in now]
    if spec.manager == "conda" and _texts(was.get("channels")) != spec.channels:
        found.append(f"channels {', '.join(spec.channels)}")
    return found


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _safely(name_of: Any, text: str) -> str | None:
    """The name in a requirement that a host sent, or None where it is none."""
    try:
        return str(name_of(text))
    except Exception:  # two libraries, each with errors of its own; what cannot be read is not among the declared
        return None


def _settings(spec: EnvironmentSpec, there: Environment) -> tuple[Change, list[str]]:
    found = []
    if there.profile != spec.profile():
        found.append("variables or PATH of the host's users")
    if there.activation != spec.activation():
        found.append("variables at activation")
    if there.record is not None and there.record.declaration != spec.declaration():
        found.append("the declaration's wording")
    return (Change.SETTINGS, found) if found else (Change.NONE, [])


def _wanted(spec: EnvironmentSpec) -> str:
    if spec.python:
        return f"Python {spec.python}"
    return "Python of the channels' choice" if spec.manager == "conda" else "the host's own Python"


def _describe(there: Environment) -> str:
    return f"Python {there.python_version or '?'}"


def python_fits(wanted: str, has: str | None) -> bool:
    """Whether a Python version such as 3.11.2 satisfies a declared `3.11`, `3.11.2` or nothing."""
    return not wanted or (has is not None and has.split(".")[: len(wanted.split("."))] == wanted.split("."))


def package_differences(packages: list[str], absent: list[str], there: Environment) -> list[str]:
    """One phrase for each package that is missing, of another version, or there and should not be."""
    found = []
    for text in packages:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"python_version": _minor(there)}):
            continue
        has = there.packages.get(canonicalize_name(requirement.name))
        if has is None:
            found.append(f"{text} (missing)")
        elif not _satisfies(requirement, has):
            found.append(f"{text} (is {has})")
    return found + [f"without {name}" for name in absent if canonicalize_name(name) in there.packages]


def _minor(there: Environment) -> str:
    return ".".join((there.python_version or "3.11").split(".")[:2])


def _satisfies(requirement: Requirement, version: str) -> bool:
    try:
        return requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def conda_name(text: str) -> str:
    """The package that a conda spec such as `conda-forge::numpy>=2` is about."""
    # Not at the top: it takes a tenth of a second, and environments without conda have no use for it.
    from rattler import MatchSpec

    return str(MatchSpec(text).name.normalized)


def conda_satisfied(text: str, conda: dict[str, str]) -> bool:
    """Whether the installed conda packages (name -> `version=build`) hold what a spec such as `numpy>=2` asks for."""
    from rattler import BuildString, MatchSpec, PackageRecord

    spec = MatchSpec(text.split("::")[-1])
    has = conda.get(spec.name.normalized)
    if has is None:
        return False
    version, _, build = has.partition("=")
    try:
        return bool(spec.matches(PackageRecord(spec.name.normalized, version, BuildString(build), 0, "linux-64")))
    except Exception:  # a version that is none, from a host
        return False


def added_by_hand(spec: EnvironmentSpec, there: Environment) -> tuple[list[str], list[str]]:
    """What users put into an environment that llmprov built, as requirements: conda packages, wheels.

    A successor takes these along; `llmprov rebuild` leaves them behind.
    """
    if there.record is None or there.kind != spec.manager:
        return [], []
    declared_conda = {conda_name(text) for text in spec.conda_packages}
    conda = [
        f"{name}={has.split('=')[0]}"
        for name, has in there.conda.items()
        if name not in there.record.conda and name not in declared_conda
    ]
    known = {*there.record.packages, *map(_name, [*spec.packages, *spec.torch]), *there.from_conda}
    unwanted = {canonicalize_name(name) for name in spec.packages_absent}
    dropped = {_safely(_name, text) for text in _texts(there.record.declaration.get("packages"))}
    wheels = [
        f"{name}=={version.split('+')[0]}"
        for name, version in there.packages.items()
        if name not in known and name not in unwanted and name not in dropped
    ]
    return conda, wheels
