"""The environment and what is in it: what differs from the declaration."""

from __future__ import annotations

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from llmprov.model import Action, Environment, Kind, Observation, PytorchVars, Refusal, VenvVars


def refusals(wanted: VenvVars, seen: Observation) -> list[Refusal]:
    """Combinations of declarations, and of declaration and host, that can never hold."""
    found = []
    both = sorted({_name(p) for p in wanted.packages} & {canonicalize_name(p) for p in wanted.packages_absent})
    for name in both:
        found.append(
            Refusal(
                component="venv",
                this=f"{name} in venv_packages",
                that=f"{name} in venv_packages_absent",
                remedy="take it out of one of the two",
            )
        )
    if any(_name(p) == "torch" for p in wanted.packages):
        found.append(
            Refusal(
                component="venv",
                this="torch in venv_packages",
                that="the role pytorch, which chooses the build by host",
                remedy="take it out, and set pytorch_version",
            )
        )
    if seen.environment(wanted.path).kind == "other":
        found.append(
            Refusal(
                component="venv",
                this=f"a virtual environment at {wanted.path}",
                that="the files that are there and are no environment",
                remedy="move them away, or choose another llm_env_path",
            )
        )
    if seen.environment(wanted.path).kind == "conda":
        found.append(
            Refusal(
                component="venv",
                this=f"a virtual environment at {wanted.path}",
                that="the conda environment that is there",
                remedy="choose another llm_env_path, or remove that environment",
            )
        )
    return found


def _name(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)


def plan_uv(wanted: VenvVars, pytorch: PytorchVars, seen: Observation) -> Action:
    """The tool that makes environments; a host without any needs none."""
    needed = wanted.state == "present" or (pytorch.state == "present" and pytorch.env_path != wanted.path)
    if not needed or seen.uv_version == wanted.uv_version:
        return Action(component="uv", kind=Kind.NONE, before=seen.uv_version, after=seen.uv_version)
    if seen.uv_version is None:
        return Action(component="uv", kind=Kind.INSTALL, after=wanted.uv_version, why=f"not at {wanted.uv_path}")
    kind = Kind.UPGRADE if _older(seen.uv_version, wanted.uv_version) else Kind.DOWNGRADE
    return Action(
        component="uv", kind=kind, before=seen.uv_version, after=wanted.uv_version, why="another version is declared"
    )


def plan_venv(wanted: VenvVars, pytorch: PytorchVars, seen: Observation) -> Action:
    """The environment: its Python and its packages, PyTorch apart."""
    there = seen.environment(wanted.path)
    if wanted.state == "absent":
        if there.kind == "none":
            return Action(component="venv", kind=Kind.NONE)
        return Action(component="venv", kind=Kind.REMOVE, before=_describe(there), why="declared absent")
    after = f"Python {wanted.python}" if wanted.python else "the host's own Python"
    if there.kind == "none":
        return Action(component="venv", kind=Kind.INSTALL, after=after, why=f"nothing is at {wanted.path}")
    if not there.python_works:
        return Action(
            component="venv",
            kind=Kind.REPAIR,
            before=_describe(there),
            after=after,
            why="its Python does not run",
        )
    if not python_fits(wanted.python, there.python_version):
        kind = Kind.DOWNGRADE if _older(wanted.python, there.python_version) else Kind.UPGRADE
        return Action(
            component="venv",
            kind=kind,
            before=_describe(there),
            after=after,
            why="another Python is declared",
        )
    differences = package_differences(wanted, there)
    if differences:
        return Action(
            component="venv",
            kind=Kind.UPGRADE,
            after="; ".join(differences),
            why="packages differ from the declaration",
        )
    return Action(component="venv", kind=Kind.NONE, before=_describe(there), after=_describe(there))


def is_made_anew(wanted: VenvVars, there: Environment) -> bool:
    """Whether the environment has to be built again, because its Python is broken or another one is declared."""
    works = there.python_works and python_fits(wanted.python, there.python_version)
    return wanted.state == "present" and there.kind == "venv" and not works


def _describe(there: Environment) -> str:
    return f"Python {there.python_version or '?'}"


def python_fits(wanted: str, has: str | None) -> bool:
    """Whether a Python version such as 3.11.2 satisfies a declared `3.11`, `3.11.2` or nothing."""
    return not wanted or (has is not None and has.split(".")[: len(wanted.split("."))] == wanted.split("."))


def _older(wanted: str, has: str | None) -> bool:
    return bool(has) and Version(wanted) < Version(has or "0")


def package_differences(wanted: VenvVars, there: Environment) -> list[str]:
    """One phrase for each package that is missing, of another version, or there and should not be."""
    found = []
    for text in wanted.packages:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"python_version": _minor(there)}):
            continue
        has = there.packages.get(canonicalize_name(requirement.name))
        if has is None:
            found.append(f"{text} (missing)")
        elif not _satisfies(requirement, has):
            found.append(f"{text} (is {has})")
    for name in wanted.packages_absent:
        if canonicalize_name(name) in there.packages:
            found.append(f"without {name}")
    return found


def _minor(there: Environment) -> str:
    return ".".join((there.python_version or "3.11").split(".")[:2])


def _satisfies(requirement: Requirement, version: str) -> bool:
    try:
        return requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def plan_pytorch(wanted: PytorchVars, venv: VenvVars, variant: str | None, seen: Observation) -> Action:
    """PyTorch in its environment, by version and build."""
    there = seen.environment(wanted.env_path)
    # An environment that goes, or is made anew, takes its packages along.
    gone = venv.state == "absent" and venv.path == wanted.env_path
    anew = venv.path == wanted.env_path and is_made_anew(venv, there)
    has = None if gone or anew else there.packages.get("torch")
    if wanted.state == "absent" or gone:
        if has is None:
            return Action(component="pytorch", kind=Kind.NONE)
        return Action(component="pytorch", kind=Kind.REMOVE, before=has, why="declared absent")
    after = wanted.version if variant in (None, "any") else f"{wanted.version}+{variant}"
    if has is None:
        return Action(component="pytorch", kind=Kind.INSTALL, after=after, why="not in the environment")
    if build_fits(wanted.version, variant, has):
        return Action(component="pytorch", kind=Kind.NONE, before=has, after=has)
    kind = Kind.DOWNGRADE if Version(wanted.version) < Version(Version(has).public) else Kind.UPGRADE
    why = "another version is declared" if Version(has).public != wanted.version else "another build fits this host"
    return Action(component="pytorch", kind=kind, before=has, after=after, why=why)


def build_fits(version: str, variant: str | None, has: str) -> bool:
    """Whether an installed `2.13.0+cpu` is what a version and a build ask for; `any` takes every build."""
    try:
        installed = Version(has)
    except InvalidVersion:
        return False
    if Version(installed.public) != Version(version):
        return False
    return variant in (None, "any") or installed.local == variant
