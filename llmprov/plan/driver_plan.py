"""What is to be done about the NVIDIA driver: packages, kernel modules, holds, and the reboot that loads it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from packaging.version import Version

from llmprov.knowledge import BRANCHES, DriverSource, gpu_by_id
from llmprov.model import Action, Kind, NvidiaDriverVars, Observation, Refusal
from llmprov.plan.driver_choice import Choice, Wanted, choose, installed, installed_version, source_of
from llmprov.plan.driver_packages import Driver, driver, last_cuda, numbers

COMPONENT = "nvidia_driver"

#: Kind of a branch -> in words.
SUPPORT = {"lts": "long support", "production": "production support", "new-feature": "short support"}


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
    choice = choose(asked(wanted, floor), seen)
    if choice is None:
        return None, None, [_unknown(seen)]
    if isinstance(choice, Refusal):
        return None, None, [choice]
    source = source_of(choice, seen)
    problems = [*_secure_boot(source, seen), *_by_hand(seen), *_toolkit(wanted, choice, source, seen)]
    if problems:
        return None, None, problems
    told = driver(wanted, choice, source, seen)
    return _action(told, seen), told, []


def asked(wanted: NvidiaDriverVars, floor: str) -> Wanted:
    """The declaration as a question to the tables: an exact version asks for its branch."""
    version = wanted.branch if "." in wanted.branch else ""
    branch = wanted.branch.partition(".")[0]
    return Wanted(branch, wanted.flavour, wanted.repository, floor, version)


def _toolkit(wanted: NvidiaDriverVars, choice: Choice, source: DriverSource, seen: Observation) -> Iterable[Refusal]:
    """A toolkit of a version that the repository does not have, or that the driver does not run."""
    version, newest = wanted.cuda_toolkit, BRANCHES[choice.branch].cuda
    if version not in ("", "auto") and source.repository == "distribution":
        yield Refusal(
            component=COMPONENT,
            this=f"the CUDA toolkit {version}",
            that="a driver from the distribution's archive, which has one toolkit of its own version",
            remedy="set nvidia_driver_cuda_toolkit to `auto`, or nvidia_driver_repository to `nvidia`",
        )
    elif version not in ("", "auto") and newest and int(version.split(".")[0]) > int(newest.split(".")[0]):
        yield Refusal(
            component=COMPONENT,
            this=f"the CUDA toolkit {version}",
            that=f"the driver branch {choice.branch}, which runs CUDA {newest} and older",
            remedy=f"set nvidia_driver_cuda_toolkit to {newest} or `auto`, or choose a newer branch",
        )
    elif version not in ("", "auto") and any(numbers(version) > numbers(last) for last in last_cuda(seen)):
        last = min(last_cuda(seen), key=numbers)
        yield Refusal(
            component=COMPONENT,
            this=f"the CUDA toolkit {version}",
            that=f"a GPU of the host that no toolkit after {last} compiles for",
            remedy=f"set nvidia_driver_cuda_toolkit to {last} or `auto`",
        )


def _action(told: Driver, seen: Observation) -> Action:
    where = "NVIDIA's repository" if told.choice.repository == "nvidia" else "the distribution's archive"
    after = f"{told.version}, {told.choice.flavour} modules, {where}"
    action = _difference(told, after, seen)
    if action.kind in (Kind.NONE, Kind.REBOOT):
        return action
    return action.model_copy(update={"details": _details(told, seen)})


def _details(told: Driver, seen: Observation) -> list[str]:
    """What is installed from where, and what comes after it, a line each."""
    known = [gpu_by_id(device.device_id) for device in seen.gpus]
    names = Counter(gpu.name for gpu in known if gpu)
    branch = BRANCHES[told.choice.branch]
    support = SUPPORT[branch.kind] + (", which has ended" if branch.ended else "")
    lines = [f"{branch.name} ({support}) for " + ", ".join(f"{count} x {name}" for name, count in names.items())]
    lines.append(f"packages {', '.join(told.packages)}" + ("; held against upgrades" if told.held else ""))
    lines += [f"headers {', '.join(told.headers)}"] if told.headers else []
    lines += [f"toolkits {', '.join(told.extras)}"] if told.extras else []
    lines += [f"from {repository.url}" for repository in told.repositories]
    if any("fabric" in name for name in told.packages):
        lines.append("the fabric manager is of the driver's version, as NVSwitches need it")
    return [*lines, "a reboot loads it"]


def _difference(told: Driver, after: str, seen: Observation) -> Action:
    there = installed(seen)
    before = installed_version(there, source_of(there, seen), seen) if there else None
    if before is None and seen.driver.package_name:
        named = f"{seen.driver.package_name} {seen.driver.package_version}"
        return _of(Kind.REPAIR, named, after, f"{seen.driver.package_name} is another driver")
    if before is None:
        return _of(Kind.INSTALL, None, after, "no driver is installed")
    if not f"{before}.".startswith(f"{told.version}."):
        newer = Version(before) < Version(told.version)
        return _of(Kind.UPGRADE if newer else Kind.DOWNGRADE, before, after, f"{before} is installed")
    if there != told.choice:
        return _of(Kind.REPAIR, before, after, f"{there.sentence() if there else 'another driver'} is installed")
    bare = [re.sub(r"-\d{3}\.[\d.*]+$", "", name) for name in (*told.packages, *told.extras)]
    missing = [name for name in bare if name not in seen.driver.packages]
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


def _secure_boot(source: DriverSource, seen: Observation) -> Iterable[Refusal]:
    """A module that DKMS builds is signed with a key that the firmware must know."""
    if seen.driver.secure_boot and not seen.driver.module_key_enrolled and not source.signed:
        yield Refusal(
            component=COMPONENT,
            this="a kernel module that is built on the host",
            that="Secure Boot, whose firmware does not know the key that the host would sign it with",
            remedy="enrol the key first (docs/drivers.md), or switch Secure Boot off",
        )


def _by_hand(seen: Observation) -> Iterable[Refusal]:
    """Packages laid over the files of NVIDIA's own installer make a driver of two versions."""
    if seen.driver.library_version and not seen.driver.packages:
        yield Refusal(
            component=COMPONENT,
            this="a driver from packages",
            that=f"the driver {seen.driver.library_version} that is there and belongs to no package",
            remedy="remove it first (`nvidia-uninstall`), or leave nvidia_driver_state at `unmanaged`",
        )
