"""What a driver consists of on one host: its repositories, and its packages by name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llmprov.knowledge import (
    BRANCHES,
    DriverSource,
    Repository,
    container_toolkit,
    gpu_by_id,
    hardware_enablement,
    nvidia_repository,
)
from llmprov.model import NvidiaDriverVars, Observation
from llmprov.plan.driver_choice import Choice, fabric_packages, fill, has_fabric

#: What a kernel's release ends with, by system: `6.1.0-40-cloud-amd64`, `6.12.48+deb13-amd64`, `6.8.0-60-generic`.
KINDS = {"debian": r"(?:^|[-+])((?:cloud-|rt-)?(?:amd64|arm64)(?:-16k)?)$", "ubuntu": r"-([a-z][a-z0-9-]*)$"}
DEFAULT_KINDS = {
    "debian": {"x86_64": "amd64", "aarch64": "arm64"},
    "ubuntu": {"x86_64": "generic", "aarch64": "generic"},
}

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


def driver(wanted: NvidiaDriverVars, choice: Choice, source: DriverSource, seen: Observation) -> Driver:
    """A driver with everything that belongs to it, for one host."""
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
        """The fabric manager of a host with NVSwitches, and what that needs; nothing for others."""
        if not has_fabric(self.seen):
            return []
        before = int(self.choice.branch) < 580 and self.source.fabric_manager_before_580
        return [fill(before or self.source.fabric_manager, self.choice), *fabric_packages(self.seen)]

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
        newest = min([BRANCHES[choice.branch].cuda or "", *last_cuda(seen)], key=numbers)
        version = newest if wanted.cuda_toolkit == "auto" else wanted.cuda_toolkit
        names.append(source.cuda_toolkit.format(toolkit=version.replace(".", "-")))
    if wanted.container_toolkit:
        package, repository = container_toolkit(source.manager, seen.os.architecture)
        names.append(package)
        repositories.append(repository)
    return names, repositories


def last_cuda(seen: Observation) -> list[str]:
    """The newest CUDA of each GPU of the host that has one."""
    known = [gpu_by_id(device.device_id) for device in seen.gpus]
    return [gpu.last_cuda for gpu in known if gpu and gpu.last_cuda]


def numbers(version: str) -> list[int]:
    """A version as its numbers, to be compared."""
    return [int(part) for part in version.split(".") if part]
