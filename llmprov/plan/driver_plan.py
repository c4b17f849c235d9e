"""What is to be done about the NVIDIA driver: packages, kernel modules, holds, and the reboot that loads it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from packaging.version import Version

from llmprov.knowledge import (
    BRANCHES,
    DriverSource,
    Repository,
    container_toolkit,
    fabric_needs,
    gpu_by_id,
    hardware_enablement,
    nvidia_repository,
)
from llmprov.model import Action, Kind, NvidiaDriverVars, Observation, Refusal
from llmprov.plan.driver_choice import Choice, Wanted, choose, fill, installed, installed_version, source_of

COMPONENT = "nvidia_driver"

#: What a kernel's release ends with, by system: `6.1.0-40-cloud-amd64`, `6.12.48+deb13-amd64`, `6.8.0-60-generic`.
KINDS = {"debian": r"(?:^|[-+])((?:cloud-|rt-)?(?:amd64|arm64)(?:-16k)?)$", "ubuntu": r"-([a-z][a-z0-9-]*)$"}
DEFAULT_KINDS = {
    "debian": {"x86_64": "amd64", "aarch64": "arm64"},
    "ubuntu": {"x86_64": "generic", "aarch64": "generic"},
}

#: Kind of a branch -> in words.
SUPPORT = {"lts": "long support", "production": "production support", "new-feature": "short support"}

#: Kernels whose names could be something else than a name are left alone: they come from a host.
RELEASE = re.compile(r"^[0-9][A-Za-z0-9.+~_-]*$")


@dataclass(frozen=True)
class Driver:
    """What the role is told: the driver that was chosen, its repositories, and its packages by name."""

    choice: Choice
    #: apt or dnf.
    manager: str
    #: What the version must begin with: the branch, or all of it.
    version: str
    repositories: tuple[Repository, ...]
    #: Of apt: components of the distribution's archive that must be offered.
    components: tuple[str, ...]
    epel: str
    #: Of dnf: the stream of the module; empty where there are none.
    stream: str
    #: Headers come first: a module without them ends in a long message that says something else.
    headers: tuple[str, ...]
    packages: tuple[str, ...]
    #: Toolkits that were asked for; they are of no branch.
    extras: tuple[str, ...]
    #: Those that are kept from being upgraded.
    held: tuple[str, ...]
    #: Packages that are held and should not be.
    released: tuple[str, ...]
    #: Of apt: packages that must be of one version, and that the archive may have in several; and what follows them.
    of_one_version: tuple[str, ...]
    pin: str
    #: Kernels that may boot and have no module yet, to be built by DKMS; none where the distribution builds them.
    kernels: tuple[str, ...]
    services: tuple[str, ...]


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
    told = _driver(wanted, choice, source, seen)
    return _action(told, seen), told, []


def asked(wanted: NvidiaDriverVars, floor: str) -> Wanted:
    """The declaration as a question to the tables: an exact version asks for its branch."""
    version = wanted.branch if "." in wanted.branch else ""
    branch = wanted.branch.partition(".")[0]
    return Wanted(branch, wanted.flavour, wanted.repository, floor, version)


def _driver(wanted: NvidiaDriverVars, choice: Choice, source: DriverSource, seen: Observation) -> Driver:
    names = _Names(choice, source, seen)
    beside = {fill(name, choice) for name in source.persistence} | {"nvlsm"}
    held_back = names.of_driver(wanted.persistence)
    # Signed modules are of one kernel each: held, they would keep the next kernel's from coming.
    held = [name for name in held_back if name.startswith(("nvidia", "libnvidia", "kmod"))] if wanted.hold else []
    extras, repositories = _extras(wanted, choice, source, seen)
    if source.repository == "nvidia":
        repositories = [nvidia_repository(source, seen.os.architecture, wanted.mirror), *repositories]
    version = wanted.branch if "." in wanted.branch else choice.branch
    exact = source.manager == "dnf" and ("." in version or not source.stream)
    fabric = names.fabric_manager()
    return Driver(
        choice=choice,
        manager=source.manager,
        version=version,
        repositories=tuple(repositories),
        components=tuple(source.components),
        epel=source.epel.format(major=seen.os.version_id.partition(".")[0]),
        stream=source.stream.get(choice.flavour, "").format(branch=choice.branch),
        headers=tuple(names.headers()),
        # apt's pin says which version; dnf is told it with each name.
        packages=tuple(_exact(n, version) if exact and n != "nvlsm" else n for n in held_back),
        extras=tuple(extras),
        held=tuple(held),
        released=tuple(name for name in seen.driver.held if name not in held),
        of_one_version=tuple(n for n in held_back if not n.startswith("linux-") and n not in beside),
        pin=" ".join(source.pin),
        kernels=() if source.signed else tuple(names.without_module()),
        services=tuple(
            (["nvidia-persistenced"] if wanted.persistence and source.persistence else [])
            + (["nvidia-fabricmanager"] if fabric else [])
        ),
    )


def _exact(name: str, version: str) -> str:
    """A package as dnf is asked for it: `nvidia-driver-cuda-580.95.05`, `nvidia-driver-cuda-580.*`."""
    return f"{name}-{version}" if "." in version else f"{name}-{version}.*"


class _Names:
    """The packages of a driver by name, for one host."""

    def __init__(self, choice: Choice, source: DriverSource, seen: Observation) -> None:
        self.choice, self.source, self.seen = choice, source, seen
        self.kernels = [k for k in seen.kernels if k.bootable and RELEASE.match(k.release)]

    def of_driver(self, persistence: bool) -> list[str]:
        """Modules, libraries, and what runs beside them."""
        names = [*self.source.modules[self.choice.flavour], *self.source.libraries]
        names += self.source.persistence if persistence else []
        filled = [fill(name, self.choice, kind=self._kind()) for name in names]
        if self.source.kernel_modules:
            kernels = [release for release in self.without_module() if release in self._in_use()]
            filled += [fill(self.source.kernel_modules, self.choice, kernel=kernel) for kernel in kernels]
        return filled + self.fabric_manager()

    def fabric_manager(self) -> list[str]:
        """The fabric manager of a host with NVSwitches; nothing for others, or where the repository has none."""
        known = [gpu_by_id(device.device_id) for device in self.seen.gpus]
        needs = [fabric_needs(gpu.arch) for gpu in known if gpu and gpu.nvlinks]
        switches = any(device.kind == "nvswitch" for device in self.seen.devices)
        before = int(self.choice.branch) < 580 and self.source.fabric_manager_before_580
        name = before or self.source.fabric_manager
        if not name or not (switches or any(needs)):
            return []
        return [fill(name, self.choice), *sorted({need for need in needs if need})]

    def headers(self) -> list[str]:
        """What brings the headers of every new kernel, and those of the kernels in use that have none yet."""
        names = [name.format(kind=self._kind()) for name in self.source.headers]
        missing = [k.release for k in self.kernels if not k.headers and k.release in self._in_use()]
        return [] if self.source.signed else names + [self.source.kernel_headers.format(kernel=k) for k in missing]

    def without_module(self) -> list[str]:
        """Kernels that may boot and have no module yet: of those that have, or will be given, headers."""
        return [k.release for k in self.kernels if not k.nvidia_module and (k.headers or k.release in self._in_use())]

    def _in_use(self) -> set[str]:
        after = self.seen.next_kernel
        return {k.release for k in self.kernels if k.running or (after and k.release == after.release)}

    def _kind(self) -> str:
        """What the metapackages of the kernel that boots next are called by: `amd64`, `generic-hwe-22.04`."""
        system, after = self.seen.os, self.seen.next_kernel
        release = after.release if after else ""
        found = re.search(KINDS[system.id], release) if system.id in KINDS else None
        kind = found.group(1) if found else DEFAULT_KINDS.get(system.id, {}).get(system.architecture, "")
        newer = system.id == "ubuntu" and kind == "generic" and release
        return f"{kind}-hwe-{system.version_id}" if newer and hardware_enablement(system.version_id, release) else kind


def _extras(
    wanted: NvidiaDriverVars, choice: Choice, source: DriverSource, seen: Observation
) -> tuple[list[str], list[Repository]]:
    """Toolkits that were asked for, and the repositories that have them."""
    names, repositories = [], []
    if wanted.cuda_toolkit:
        newest = min([BRANCHES[choice.branch].cuda or "", *_last_cuda(seen)], key=_numbers)
        version = newest if wanted.cuda_toolkit == "auto" else wanted.cuda_toolkit
        names.append(source.cuda_toolkit.format(toolkit=version.replace(".", "-")))
    if wanted.container_toolkit:
        package, repository = container_toolkit(source.manager, seen.os.architecture)
        names.append(package)
        repositories.append(repository)
    return names, repositories


def _last_cuda(seen: Observation) -> list[str]:
    """The newest CUDA of each GPU of the host that has one."""
    known = [gpu_by_id(device.device_id) for device in seen.gpus]
    return [gpu.last_cuda for gpu in known if gpu and gpu.last_cuda]


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part]


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
    elif version not in ("", "auto") and any(_numbers(version) > _numbers(last) for last in _last_cuda(seen)):
        last = min(_last_cuda(seen), key=_numbers)
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
