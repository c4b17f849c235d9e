"""What a driver consists of in each repository of each system, and where the repositories lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llmprov.knowledge.tables import table


@dataclass(frozen=True)
class DriverSource:
    """One row of `sources` in drivers.yml: names of packages, with `{branch}` and the like still to be filled in."""

    system: str
    versions: list[str]
    repository: Literal["distribution", "nvidia"]
    manager: Literal["apt", "dnf"]
    #: Branch -> kernel modules that can be had.
    branches: dict[str, list[str]]
    headers: list[str]
    kernel_headers: str
    modules: dict[str, list[str]]
    libraries: list[str]
    persistence: list[str]
    cuda_toolkit: str
    components: list[str] = field(default_factory=list)
    #: Of NVIDIA's repository: its folder for this system, and the file of its key there.
    folder: str = ""
    key: str = ""
    #: Whether the distribution signs the modules, so that nothing is built on the host; and the package of one kernel.
    signed: bool = False
    kernel_modules: str = ""
    fabric_manager: str = ""
    fabric_manager_before_580: str = ""
    #: Of apt: packages that must be of one version, as a preferences file names them.
    pin: list[str] = field(default_factory=list)
    #: Of dnf: kernel modules -> stream of the module; empty where there are no streams.
    stream: dict[str, str] = field(default_factory=dict)
    epel: str = ""


@dataclass(frozen=True)
class Repository:
    """One repository of packages that a host is given."""

    name: str
    url: str
    key: str


_SOURCES = tuple(DriverSource(**row) for row in table("drivers")["sources"])


def driver_sources(system: str, version: str) -> list[DriverSource]:
    """The rows for an operating system, the distribution's own first; `version` as in drivers.yml."""
    return [source for source in _SOURCES if source.system == system and version in source.versions]


def fabric_needs(arch: str) -> str | None:
    """What the fabric manager of a baseboard needs whose switches are no PCI devices of NVIDIA's; None for others."""
    row = table("drivers")["nvlink5"]
    return row["package"] if arch in row["arch"] else None


def nvidia_repository(source: DriverSource, machine: str, mirror: str = "") -> Repository:
    """NVIDIA's repository for a system and a machine (`x86_64`), or a mirror of it that is laid out alike."""
    about: Mapping[str, Any] = table("drivers")["nvidia"]
    base = (mirror or about["mirror"]).rstrip("/")
    url = f"{base}/{source.folder}/{about['machines'][machine]}/"
    return Repository("cuda", url, url + source.key)


def container_toolkit(manager: str, machine: str) -> tuple[str, Repository]:
    """The package of NVIDIA's container toolkit, and the repository that has it."""
    about: Mapping[str, Any] = table("drivers")["container_toolkit"]
    url = about["url"][manager].format(machine=machine, architecture=about["architectures"][machine])
    return about["package"], Repository("container-toolkit", url, about["key"])


def hardware_enablement(version: str, kernel: str) -> bool:
    """Whether a kernel (`6.8.0-60-generic`) is newer than the one its Ubuntu release came with."""
    came_with = table("drivers")["ubuntu_kernels"].get(version)
    return came_with is not None and not kernel.startswith(f"{came_with}.")
