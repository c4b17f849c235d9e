"""What is to be done about the NVIDIA driver: packages, kernel modules, holds, and the reboot that loads it."""

from __future__ import annotations

from dataclasses import dataclass

from llmprov.model import Action, Kind, NvidiaDriverVars, Observation, Refusal
from llmprov.plan import driver
from llmprov.plan.driver_choice import Choice, Wanted, choose

COMPONENT = "nvidia_driver"

#: Debian's own packages. Source: Debian's archive, section non-free/kernel and contrib, bookworm and trixie.
MODULES = {"open": "nvidia-open-kernel-dkms", "proprietary": "nvidia-kernel-dkms"}
ALWAYS = ("nvidia-driver-libs", "nvidia-smi")
PERSISTENCE = "nvidia-persistenced"

#: The metapackage that brings each kernel's headers, so that a new kernel gets its module when it comes.
HEADERS = {"x86_64": "linux-headers-amd64", "aarch64": "linux-headers-arm64"}


@dataclass(frozen=True)
class Driver:
    """What the role is told: the driver that was chosen, and its packages by name."""

    choice: Choice
    packages: tuple[str, ...]
    #: Those of them that are kept from being upgraded.
    held: tuple[str, ...]
    #: Packages that are held and should not be.
    released: tuple[str, ...]
    #: Those that must be of one version, and that the archive may have in several.
    of_one_version: tuple[str, ...]
    #: Kernels that may boot and have no module yet.
    kernels: tuple[str, ...]


def decide(
    wanted: NvidiaDriverVars, floor: str, seen: Observation
) -> tuple[Action | None, Driver | None, list[Refusal]]:
    """(what is done, with what, what is refused): nothing at all where the driver is left alone.

    Args:
        wanted: The declaration.
        floor: The lowest driver on which the declared PyTorch runs; empty where it asks for none.
        seen: The host.
    """
    if wanted.state == "unmanaged":
        return None, None, []
    if wanted.state == "absent":
        return _removal(seen), None, []
    if not seen.gpus:
        return Action(component=COMPONENT, kind=Kind.NONE, why="the host has no NVIDIA GPU"), None, []
    asked = Wanted(wanted.branch, wanted.flavour, wanted.repository, floor)
    choice = choose(asked, seen)
    if choice is None:
        return None, None, [_unknown(seen)]
    if isinstance(choice, Refusal):
        return None, None, [choice]
    problems = _unsupported(choice, seen) + _secure_boot(seen)
    if problems:
        return None, None, problems
    names = _packages(wanted, choice, seen)
    held = tuple(name for name in names if "nvidia" in name) if wanted.hold else ()
    of_one_version = (MODULES[choice.flavour], *ALWAYS)
    kernels = tuple(k.release for k in seen.kernels if k.bootable and not k.nvidia_module)
    released = tuple(name for name in seen.driver.held if name not in held)
    told = Driver(choice, names, held, released, of_one_version, kernels)
    return _action(told, seen), told, []


def _packages(wanted: NvidiaDriverVars, choice: Choice, seen: Observation) -> tuple[str, ...]:
    names = [HEADERS[seen.os.architecture], MODULES[choice.flavour], *ALWAYS]
    return tuple(names + ([PERSISTENCE] if wanted.persistence else []))


def _action(told: Driver, seen: Observation) -> Action:
    there = seen.driver.packages
    module = MODULES[told.choice.flavour]
    after = f"{told.choice.branch} ({told.choice.flavour})"
    before = driver.upstream(there.get(module, "")) or None
    missing = [name for name in told.packages if "nvidia" in name and name not in there]
    if module in missing:
        kind = Kind.INSTALL if not seen.driver.package_name else Kind.REPAIR
        return _of(kind, before, after, f"{module} is not installed")
    if missing:
        return _of(Kind.REPAIR, before, after, f"{', '.join(missing)} not installed")
    if told.kernels:
        return _of(Kind.REPAIR, before, after, f"no module is built for the kernel {', '.join(told.kernels)}")
    if set(told.held) != set(seen.driver.held):
        return _of(Kind.REPAIR, before, after, "the packages are not held as declared")
    if seen.driver.module_version != before:
        loaded = seen.driver.module_version or "no module"
        return _of(Kind.REBOOT, before, after, f"{loaded} is loaded, and the driver's is {before}")
    return _of(Kind.NONE, before, after, "")


def _of(kind: Kind, before: str | None, after: str, why: str) -> Action:
    return Action(component=COMPONENT, kind=kind, before=before, after=after, why=why)


def _removal(seen: Observation) -> Action:
    if not seen.driver.managed:
        return _of(Kind.NONE, seen.driver.package_version, "", "llmprov installed no driver here")
    return _of(Kind.REMOVE, seen.driver.package_version, "", "declared to be absent")


def _unknown(seen: Observation) -> Refusal:
    gpu = seen.gpus[0]
    return Refusal(
        component=COMPONENT,
        this=f"the GPU 10de:{gpu.device_id} at {gpu.address}",
        that="the tables of this llmprov, which do not know what drives it",
        remedy="install its driver by hand, and leave nvidia_driver_state at `unmanaged`",
    )


def _unsupported(choice: Choice, seen: Observation) -> list[Refusal]:
    if seen.os.id == "debian" and choice.repository == "distribution":
        return []
    remedy = (
        "set nvidia_driver_repository to `distribution` on Debian; elsewhere install the driver by hand, and leave "
    )
    return [
        Refusal(
            component=COMPONENT,
            this=f"the driver {choice.sentence()}, on {seen.os.name or seen.os.id}",
            that="what this llmprov can install, Debian's own archive",
            remedy=remedy + "nvidia_driver_state at `unmanaged`",
        )
    ]


def _secure_boot(seen: Observation) -> list[Refusal]:
    """A module that DKMS builds is signed with a key that the firmware must know."""
    if not seen.driver.secure_boot or seen.driver.module_key_enrolled:
        return []
    return [
        Refusal(
            component=COMPONENT,
            this="a kernel module that is built on the host",
            that="Secure Boot, whose firmware does not know the key that the host would sign it with",
            remedy="enrol the key first (docs/drivers.md), or switch Secure Boot off",
        )
    ]
