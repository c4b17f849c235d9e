"""Which NVIDIA driver a host should have: branch, kernel modules and repository, or the pair that does not fit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from packaging.version import Version

from llmprov.knowledge import BRANCHES, Branch, DriverSource, Gpu, driver_sources, fabric_needs, gpu_by_id
from llmprov.model import Observation, Refusal
from llmprov.plan.driver import upstream

#: Long support before short; what is new before what is old; what has ended last of all.
KINDS = ("lts", "production", "new-feature")


@dataclass(frozen=True)
class Wanted:
    """What is asked of the driver; `auto` leaves it to the tables."""

    branch: str = "auto"
    flavour: str = "auto"
    repository: str = "auto"
    #: The version below which what shall run on it does not; empty where nothing is asked.
    floor: str = ""
    #: An exact version, of that branch; empty where any will do.
    version: str = ""


@dataclass(frozen=True)
class Choice:
    """A driver that fits every GPU of a host."""

    branch: str
    flavour: str
    repository: str

    def sentence(self) -> str:
        """In words."""
        where = "NVIDIA's repository" if self.repository == "nvidia" else "the distribution's archive"
        return f"branch {self.branch} with the {self.flavour} kernel modules, from {where}"


def choose(wanted: Wanted, seen: Observation) -> Choice | Refusal | None:
    """The driver for a host; None for a host without an NVIDIA GPU, or with one that the tables do not know.

    What is installed and fits stays. Else open modules are taken where both would do: they are NVIDIA's own choice
    since 560, and the only ones from 620 on.
    """
    known = [gpu_by_id(device.device_id) for device in seen.gpus]
    gpus = [gpu for gpu in known if gpu is not None]
    if not gpus or len(gpus) < len(known):
        return None
    fitting = [choice for choice in _offered(wanted, seen) if _problem(choice, gpus, wanted, seen) is None]
    there = installed(seen)
    if there in fitting:
        return there
    return fitting[0] if fitting else _refusal(wanted, seen, gpus)


def sources(seen: Observation) -> list[DriverSource]:
    """The repositories for a host's system; none for one, or a machine, that the tables do not know."""
    if seen.os.architecture not in ("x86_64", "aarch64"):
        return []
    version = seen.os.version_id if seen.os.id == "ubuntu" else seen.os.version_id.split(".")[0]
    return driver_sources(seen.os.id, version)


def source_of(choice: Choice, seen: Observation) -> DriverSource:
    """The repository that a choice comes from."""
    return next(s for s in sources(seen) if s.repository == choice.repository and choice.branch in s.branches)


def installed(seen: Observation) -> Choice | None:
    """The driver that is installed by packages; None where there is none, or one that no repository has."""
    for source in sources(seen):
        for branch, flavours in source.branches.items():
            for flavour in flavours:
                choice = Choice(branch, flavour, source.repository)
                if installed_version(choice, source, seen).partition(".")[0] == branch:
                    return choice
    return None


def installed_version(choice: Choice, source: DriverSource, seen: Observation) -> str:
    """The version of a choice's packages that are installed; empty where they are not.

    Told by the modules' package; where the distribution signs them, by the libraries': modules bear a kernel's version.
    """
    name = (source.libraries if source.signed else source.modules[choice.flavour])[0]
    return upstream(seen.driver.packages.get(fill(name, choice), ""))


def has_fabric(seen: Observation) -> bool:
    """Whether GPUs are joined by switches, which need a fabric manager of the driver's version."""
    return any(device.kind == "nvswitch" for device in seen.devices) or bool(fabric_packages(seen))


def fabric_packages(seen: Observation) -> list[str]:
    """What a fabric manager needs beside itself, for GPUs whose switches are no PCI devices of NVIDIA's."""
    known = [gpu_by_id(device.device_id) for device in seen.gpus]
    needs = {fabric_needs(gpu.arch) for gpu in known if gpu and gpu.nvlinks}
    return sorted(need for need in needs if need)


def fill(name: str, choice: Choice, **about: str) -> str:
    """A package's name with its branch, its kind of modules and what else stands in it."""
    return name.format(branch=choice.branch, open="-open" if choice.flavour == "open" else "", **about)


def _offered(wanted: Wanted, seen: Observation, free: bool = False) -> Iterable[Choice]:
    """Every driver that a repository has and that is asked for, the best first; `free` of what was asked for."""
    found = [
        Choice(branch.name, flavour, source.repository)
        for source in sources(seen)
        for branch in _best_first(BRANCHES[name] for name in source.branches)
        for flavour in ("open", "proprietary")
        if flavour in source.branches[branch.name]
    ]
    # A branch whose support has ended is taken last, wherever it lies. A repository may have its branches in two rows.
    order = [choice.repository for choice in found]
    found.sort(key=lambda c: (BRANCHES[c.branch].ended, order.index(c.repository), _rank(BRANCHES[c.branch])))
    asked = {"branch": wanted.branch, "flavour": wanted.flavour, "repository": wanted.repository}
    return [c for c in found if free or all(value in ("auto", getattr(c, name)) for name, value in asked.items())]


def _best_first(branches: Iterable[Branch]) -> list[Branch]:
    return sorted(branches, key=_rank)


def _rank(branch: Branch) -> tuple[int, int]:
    return KINDS.index(branch.kind), -int(branch.name)


def _problem(choice: Choice, gpus: Iterable[Gpu], wanted: Wanted, seen: Observation) -> tuple[str, str] | None:
    """The two things that do not fit, or None."""
    number = int(choice.branch)
    for gpu in gpus:
        if choice.flavour not in gpu.flavours:
            return (
                f"the {choice.flavour} kernel modules",
                f"the GPU {gpu.name}, which only the {gpu.flavours[0]} ones drive",
            )
        if gpu.last_branch is not None and number > gpu.last_branch:
            return f"the driver branch {number}", f"the GPU {gpu.name}, whose last branch is {gpu.last_branch}"
        if gpu.first_branch is not None and number < gpu.first_branch:
            return f"the driver branch {number}", f"the GPU {gpu.name}, whose first branch is {gpu.first_branch}"
    if has_fabric(seen) and not source_of(choice, seen).fabric_manager:
        return (
            "a driver from the distribution's archive",
            "the host's NVSwitches, whose fabric manager it does not have",
        )
    # A branch is as new as its last release: without a version only its number can be held against the floor.
    too_old = Version(wanted.version) < Version(wanted.floor) if wanted.version and wanted.floor else False
    if too_old or (wanted.floor and number < Version(wanted.floor).major):
        told = f"version {wanted.version}" if too_old else f"branch {number}"
        return f"the driver {told}", f"CUDA programs that need a driver of {wanted.floor} or later"
    return None


def _refusal(wanted: Wanted, seen: Observation, gpus: list[Gpu]) -> Refusal:
    if not sources(seen):
        return Refusal(
            component="nvidia_driver",
            this="a driver that llmprov installs",
            that=f"{seen.os.name or seen.os.id}, for which its tables have no repository",
            remedy="install the driver by hand, and leave nvidia_driver_state at `unmanaged`",
        )
    free = Wanted(floor=wanted.floor)
    nearest = next((c for c in _offered(free, seen, free=True) if _problem(c, gpus, free, seen) is None), None)
    remedy = (
        f"take {nearest.sentence()}" if nearest else "no driver fits all of it: part the GPUs, or want an older CUDA"
    )
    offered = list(_offered(wanted, seen))
    # Modules that nobody asked for are not what does not fit.
    asked = next((c for c in offered if all(c.flavour in gpu.flavours for gpu in gpus)), next(iter(offered), None))
    if asked is None:
        told = ", ".join(v for v in (wanted.branch, wanted.flavour, wanted.repository) if v != "auto")
        this, that = f"the driver that is asked for ({told})", "what the repositories have for this system"
    else:
        problem = _problem(asked, gpus, wanted, seen)
        assert problem is not None
        this, that = problem
    return Refusal(component="nvidia_driver", this=this, that=that, remedy=remedy)
