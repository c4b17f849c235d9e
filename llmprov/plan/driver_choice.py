"""Which NVIDIA driver a host should have: branch, kernel modules and repository, or the pair that does not fit.

Used so far where a host's driver is missing or too old for the wheel that is wanted: the refusal names the nearest one
that would do. The role that will install it asks the same function.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from packaging.version import Version

from llmprov.knowledge import BRANCHES, Branch, Gpu, driver_repositories, gpu_by_id
from llmprov.model import Observation, Refusal

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

    Open modules are taken where both would do: they are NVIDIA's own choice since 560, and the only ones from 620 on.
    """
    known = [gpu_by_id(device.device_id) for device in seen.gpus]
    gpus = [gpu for gpu in known if gpu is not None]
    if not gpus or len(gpus) < len(known):
        return None
    fitting = [choice for choice in _offered(wanted, seen) if _problem(choice, gpus, wanted) is None]
    if fitting:
        return fitting[0]
    return _refusal(wanted, seen, gpus)


def _offered(wanted: Wanted, seen: Observation, free: bool = False) -> Iterable[Choice]:
    """Every driver that a repository has and that is asked for, the best first; `free` of what was asked for."""
    version = seen.os.version_id if seen.os.id == "ubuntu" else seen.os.version_id.split(".")[0]
    repositories = driver_repositories(seen.os.id, version)
    found = [
        Choice(branch.name, flavour, repository)
        for repository, offered in repositories.items()
        for branch in _best_first(BRANCHES[name] for name in offered)
        for flavour in ("open", "proprietary")
        if flavour in offered[branch.name]
    ]
    # A branch whose support has ended is taken last, wherever it lies.
    found.sort(key=lambda choice: BRANCHES[choice.branch].ended)
    asked = {"branch": wanted.branch, "flavour": wanted.flavour, "repository": wanted.repository}
    return [c for c in found if free or all(value in ("auto", getattr(c, name)) for name, value in asked.items())]


def _best_first(branches: Iterable[Branch]) -> list[Branch]:
    return sorted(branches, key=lambda branch: (KINDS.index(branch.kind), -int(branch.name)))


def _problem(choice: Choice, gpus: Iterable[Gpu], wanted: Wanted) -> tuple[str, str] | None:
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
    # A branch is as new as its last release: only its number can be held against the floor.
    if wanted.floor and number < Version(wanted.floor).major:
        return f"the driver branch {number}", f"CUDA programs that need a driver of {wanted.floor} or later"
    return None


def _refusal(wanted: Wanted, seen: Observation, gpus: list[Gpu]) -> Refusal:
    nearest = next((c for c in _offered(wanted, seen, free=True) if _problem(c, gpus, wanted) is None), None)
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
        problem = _problem(asked, gpus, wanted)
        assert problem is not None
        this, that = problem
    return Refusal(component="nvidia_driver", this=this, that=that, remedy=remedy)
