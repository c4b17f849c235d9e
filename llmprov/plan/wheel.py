"""PyTorch: which build a host can run (CPU, or the CUDA tag that its driver and every GPU can run), and what to do."""

from __future__ import annotations

from packaging.version import InvalidVersion, Version

from llmprov.knowledge import architecture_runs_on, driver_floor, gpu_by_id, torch_release
from llmprov.knowledge.tables import TorchRelease
from llmprov.model import Action, Environment, EnvironmentSpec, GpuDevice, Kind, Observation, PytorchVars, Refusal
from llmprov.plan import driver_choice


def choose(wanted: PytorchVars, seen: Observation) -> tuple[str | None, list[Refusal]]:
    """The build for this host (`cpu`, `cu130`, `any`), or None and why there is none."""
    if wanted.state == "absent":
        return None, []
    if wanted.variant in ("cpu", "any"):
        return wanted.variant, []
    gpus = seen.gpus
    if wanted.variant == "auto" and not gpus:
        return "cpu", []
    release = torch_release(wanted.version, seen.os.architecture)
    if release is None:
        return None, [
            _refuse(
                f"PyTorch {wanted.version}",
                "the tables of this llmprov, which do not know that release",
                "set pytorch_version to one they know, or name the build in pytorch_variant as `cpu` or `any`",
            )
        ]
    if wanted.variant == "auto":
        return _best(wanted, release, seen)
    return _named(wanted, release, seen)


def _named(wanted: PytorchVars, release: TorchRelease, seen: Observation) -> tuple[str | None, list[Refusal]]:
    tag = wanted.variant
    if tag not in release.tags:
        builds = ", ".join(["cpu", *release.tags])
        return None, [
            _refuse(f"the build {tag}", f"PyTorch {wanted.version}, published as {builds}", "choose one of those")
        ]
    problem = _misfit(tag, release, seen)
    return (tag, []) if problem is None else (None, [problem])


def _best(wanted: PytorchVars, release: TorchRelease, seen: Observation) -> tuple[str | None, list[Refusal]]:
    # A build whose architectures the tables do not list may run; `auto` chooses only what surely does.
    candidates = [tag for tag, architectures in release.tags.items() if architectures is not None]
    if not candidates:
        return None, [
            _refuse(
                f"`pytorch_variant: auto` for PyTorch {wanted.version}",
                "the tables, which list no GPU architectures for that release",
                "name the build in pytorch_variant, or choose a newer release",
            )
        ]
    problems = {tag: _misfit(tag, release, seen) for tag in candidates}
    fitting = [tag for tag, problem in problems.items() if problem is None]
    if fitting:
        return max(fitting), []
    newest = problems[max(candidates)]
    assert newest is not None
    return None, [newest]


def _misfit(tag: str, release: TorchRelease, seen: Observation) -> Refusal | None:
    """Why the build `tag` would not run on this host; None where nothing speaks against it."""
    architectures = release.tags[tag]
    for gpu in seen.gpus:
        problem = _gpu_misfit(tag, architectures, gpu)
        if problem:
            return problem
    return _driver_misfit(tag, seen)


def _gpu_misfit(tag: str, architectures: tuple[str, ...] | None, gpu: GpuDevice) -> Refusal | None:
    known = gpu_by_id(gpu.device_id)
    if known is None:
        return _refuse(
            f"the GPU 10de:{gpu.device_id} at {gpu.address}",
            "the tables of this llmprov, which do not know it",
            "name the build in pytorch_variant as `any`, and pytorch_index_url to take it from",
        )
    if architectures is None or any(architecture_runs_on(code, known.arch) for code in architectures):
        return None
    return _refuse(
        f"the GPU {known.name} ({known.arch})",
        f"the {tag} wheel, which has code for {', '.join(architectures)}",
        "choose another build in pytorch_variant or another pytorch_version",
    )


def _driver_misfit(tag: str, seen: Observation) -> Refusal | None:
    floor = driver_floor(tag)
    installed = seen.driver.module_version or seen.driver.package_version
    if installed is None:
        if not seen.gpus:
            return _refuse(f"the {tag} wheel", "a host without an NVIDIA GPU", "set pytorch_variant to `cpu` or `auto`")
        return _refuse(
            f"the {tag} wheel",
            "a host with an NVIDIA GPU and no NVIDIA driver",
            f"{_driver_for(floor, seen)}, or set pytorch_variant to `cpu`",
        )
    if _version(installed) < Version(floor):
        return _refuse(
            f"the {tag} wheel, which needs a driver of {floor} or later",
            f"the driver {installed}",
            f"{_driver_for(floor, seen)}, or choose a build for an older CUDA in pytorch_variant",
        )
    return None


def _driver_for(floor: str, seen: Observation) -> str:
    """What to do for a driver that would do: the role's variable, where the tables know one for this host."""
    choice = driver_choice.choose(driver_choice.Wanted(floor=floor), seen)
    if not isinstance(choice, driver_choice.Choice):
        return f"install a driver of version {floor} or later"
    return f"set nvidia_driver_state to `present` for a driver that would do ({choice.sentence()})"


def _version(text: str) -> Version:
    """A driver version of any packaging: `535.261.03-1~deb12u1` is 535.261.03."""
    try:
        return Version(text.split(":")[-1].split("-")[0])
    except InvalidVersion:
        return Version("0")


def _refuse(this: str, that: str, remedy: str) -> Refusal:
    return Refusal(component="pytorch", this=this, that=that, remedy=remedy)


def plan_pytorch(
    wanted: PytorchVars, spec: EnvironmentSpec | None, there: Environment, anew: bool, variant: str | None
) -> Action:
    """PyTorch in its environment, by version and build; an environment that goes, or is made anew, takes it along.

    Args:
        wanted: what is declared.
        spec: the environment it belongs in; None where that is not declared.
        there: that environment, as observed.
        anew: whether it is built again.
        variant: the build chosen for this host.
    """
    gone = spec is not None and spec.state == "absent"
    has = None if gone or anew else there.packages.get("torch")
    if wanted.state == "absent" or gone:
        if has is None:
            return Action(component="pytorch", kind=Kind.NONE)
        return Action(component="pytorch", kind=Kind.REMOVE, before=has, why="declared absent")
    local = "" if variant in (None, "any") else f"+{variant}"
    after = f"{wanted.version} by conda" if wanted.source == "conda" else f"{wanted.version}{local}"
    if has is None:
        return Action(component="pytorch", kind=Kind.INSTALL, after=after, why="not in the environment")
    by_conda = "torch" in there.from_conda
    if wanted.source == "conda" and by_conda and build_fits(wanted.version, None, has):
        # Its build is a conda spec of the environment, and held there.
        return Action(component="pytorch", kind=Kind.NONE, before=has, after=has)
    if wanted.source == "wheel" and not by_conda and build_fits(wanted.version, variant, has):
        return Action(component="pytorch", kind=Kind.NONE, before=has, after=has)
    if by_conda != (wanted.source == "conda"):
        why = f"it came by {'conda' if by_conda else 'wheel'}, and {wanted.source} is declared"
        return Action(component="pytorch", kind=Kind.UPGRADE, before=has, after=after, why=why)
    kind = Kind.DOWNGRADE if Version(wanted.version) < _version(has.split("+")[0]) else Kind.UPGRADE
    same = _version(has.split("+")[0]) == Version(wanted.version)
    why = "another build fits this host" if same else "another version is declared"
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
