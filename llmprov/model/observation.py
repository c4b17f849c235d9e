"""What is on a host, as the observe module saw it. Everything here came from a host and is untrusted."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(max_length=500)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class HostRecord(BaseModel):
    """A record whose values a host sent: unknown keys are dropped, so that an older controller reads a newer host."""

    model_config = ConfigDict(extra="ignore")


class OperatingSystem(HostRecord):
    """From /etc/os-release and uname."""

    id: Text = ""
    version_id: Text = ""
    codename: Text = ""
    name: Text = ""
    architecture: Text = ""
    hostname: Text = ""
    package_manager: Literal["apt", "dnf", "none"] = "none"
    #: Version of the C library, which decides what wheels and conda packages run; empty where it is not glibc.
    glibc: Annotated[str, Field(pattern=r"^(\d+\.\d+)?$")] = ""
    kernel: Text = ""


class Kernel(HostRecord):
    """One installed kernel and whether an NVIDIA module was built for it."""

    release: Text
    running: bool = False
    #: Whether its image is in /boot, so that the host may boot it.
    bootable: bool = False
    nvidia_module: bool = False
    #: What DKMS says of the NVIDIA module for it: `added`, `built`, `installed`; empty where it says nothing.
    dkms: Text = ""
    headers: bool = False


def release_key(release: str) -> list[tuple[int, int, str]]:
    """Sorts kernel releases as boot loaders do: numbers as numbers, `6.1.0-9` before `6.1.0-40`."""
    parts = re.findall(r"\d+|[A-Za-z]+", release)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


class GpuDevice(HostRecord):
    """One NVIDIA device on the PCI bus."""

    address: Text
    device_id: Annotated[str, Field(pattern=r"^[0-9a-f]{4}$")]
    subsystem_id: Annotated[str, Field(pattern=r"^([0-9a-f]{4}:[0-9a-f]{4})?$")] = ""
    kind: Literal["gpu", "nvswitch"] = "gpu"


class Driver(HostRecord):
    """The three versions that must agree, and what else decides whether the driver works."""

    module_version: Text | None = None
    module_open: bool | None = None
    library_version: Text | None = None
    package_version: Text | None = None
    package_name: Text | None = None
    #: Whether llmprov installed it, and so may remove it.
    managed: bool = False
    #: Every package of the driver that is installed, by the system's package manager: name -> version.
    packages: Annotated[dict[Text, Text], Field(max_length=500)] = {}
    nouveau_loaded: bool = False
    #: Whether a modprobe file keeps nouveau from being loaded.
    nouveau_blacklisted: bool = False
    secure_boot: bool | None = None
    #: Whether the firmware knows the key that DKMS signs modules with; None where there is no such key, or no answer.
    module_key_enrolled: bool | None = None
    fabric_manager: Literal["running", "stopped", "absent"] = "absent"
    fabric_manager_version: Text | None = None
    persistence_daemon: Literal["running", "stopped", "absent"] = "absent"
    #: Packages of the driver that are held against upgrades.
    held: Annotated[list[Text], Field(max_length=200)] = []
    #: Programs that have an NVIDIA device open, as `NAME (PID)`, without NVIDIA's own daemons; None where not all of
    #: them could be looked at.
    users: Annotated[list[Text], Field(max_length=100)] | None = None


class EnvironmentRecord(HostRecord):
    """What llmprov left in an environment that it built: the declaration, and what it had put there."""

    declaration: dict[str, Any] = {}
    conda: Annotated[dict[Text, Text], Field(max_length=5000)] = {}
    packages: Annotated[dict[Text, Text], Field(max_length=5000)] = {}
    #: The build before, which is kept until this one is found good.
    former: Text | None = None


class AlteredFile(HostRecord):
    """A file of a package that is not as the package brought it."""

    package: Text
    path: Annotated[str, Field(max_length=4096)]
    how: Literal["altered", "missing"]


class Files(HostRecord):
    """Whether the files of packages are as these brought them; None where nobody looked."""

    altered: Annotated[list[AlteredFile], Field(max_length=200)] | None = None
    #: How many there are; not more than 200 are told.
    altered_count: int = 0


class Environment(Files):
    """One Python environment: a virtual environment, conda's, or a directory that is neither and not empty."""

    path: Text
    kind: Literal["venv", "conda", "other", "none"]
    python_version: Text | None = None
    python_works: bool = False
    #: Whether the host's other users can read and run it.
    readable: bool = True
    packages: Annotated[dict[Text, Text], Field(max_length=5000)] = {}
    #: Conda packages, name -> `version=build`; and the names of those distributions that conda brought.
    conda: Annotated[dict[Text, Text], Field(max_length=5000)] = {}
    from_conda: Annotated[list[Text], Field(max_length=5000)] = []
    #: None in an environment that llmprov did not build.
    record: EnvironmentRecord | None = None
    #: The names of its builds: the one in use, and others, former or half-made.
    builds: Annotated[list[Text], Field(max_length=1000)] = []
    #: Whether files that users had put into former builds lie beside it.
    kept: bool = False
    #: Its login script in /etc/profile.d, and what conda runs when it is activated.
    profile: Annotated[str, Field(max_length=20000)] | None = None
    activation: Annotated[str, Field(max_length=20000)] | None = None


class CondaPrefix(Files):
    """One conda installation, or a directory that is none (`other`) or nothing (`none`)."""

    path: Text
    kind: Literal["conda", "other", "none"] = "none"
    version: Text | None = None
    installer: Text | None = None
    works: bool = False
    readable: bool = True
    owner: Text | None = None
    #: The prefix's own .condarc, as text.
    condarc: Annotated[str, Field(max_length=20000)] | None = None
    terms: Annotated[list[Text], Field(max_length=100)] = []
    init: bool = False
    #: What its base environment has, and what it had when the installer ended (None where llmprov did not run it):
    #: name -> `version=build`.
    packages: Annotated[dict[Text, Text], Field(max_length=5000)] = {}
    base: Annotated[dict[Text, Text], Field(max_length=5000)] | None = None
    #: Files beside the prefix's own from which conda takes settings for every user.
    settings: Annotated[list[Text], Field(max_length=100)] = []


class Kernelspec(HostRecord):
    """One Jupyter kernel: where it is registered and what it starts."""

    path: Text
    name: Text
    python: Text | None = None
    #: What it says, where llmprov registered it.
    spec: dict[str, Any] | None = None


class JupyterService(HostRecord):
    """The service, as its unit says and as systemd sees it."""

    unit: Annotated[str, Field(max_length=20000)] | None = None
    config: Annotated[str, Field(max_length=20000)] | None = None
    token_there: bool = False
    enabled: bool = False
    active: bool = False


class Jupyter(HostRecord):
    """What Jupyter has on a host."""

    kernels: Annotated[list[Kernelspec], Field(max_length=200)] = []
    service: JupyterService = JupyterService()


class FoundEnvironment(HostRecord):
    """An environment that lies where environments do, declared or not."""

    path: Text
    kind: Literal["conda", "venv"]


class Disk(HostRecord):
    """The file system that the environment lies on."""

    path: Text
    free_gb: Number
    total_gb: Number
    read_only: bool = False


class Observation(HostRecord):
    """What is on a host. `python` is None where there is none yet; then little else could be observed."""

    python: Text | None = None
    python_version: Text | None = None
    os: OperatingSystem = OperatingSystem()
    kernels: Annotated[list[Kernel], Field(max_length=100)] = []
    devices: Annotated[list[GpuDevice], Field(max_length=200)] = []
    driver: Driver = Driver()
    conda: CondaPrefix | None = None
    jupyter: Jupyter = Jupyter()
    environments: Annotated[list[Environment], Field(max_length=50)] = []
    environments_there: Annotated[list[FoundEnvironment], Field(max_length=1000)] = []
    #: Packages that the system's package manager keeps from being upgraded.
    held: Annotated[list[Text], Field(max_length=1000)] = []
    uv_version: Text | None = None
    #: Whether llmprov put it there, and so may remove it.
    uv_ours: bool = False
    #: The environments in the directory beside uv's, by path: as long as there are any, uv stays.
    beside_uv: Annotated[list[Text], Field(max_length=1000)] = []
    disk: Disk | None = None
    memory_gb: Number | None = None
    cpu_count: int | None = None
    cpu_model: Text = ""
    clock_skew_s: Number | None = None
    clock_uncertainty_s: Number | None = None
    package_lock_held: bool | None = None
    #: Whether dpkg was stopped in the middle of its work, by a power cut say: it then refuses any other.
    packages_interrupted: bool = False
    reboot_pending: bool = False
    boot_id: Text | None = None

    @property
    def next_kernel(self) -> Kernel | None:
        """The kernel that a boot takes unless told otherwise: the newest that lies in /boot."""
        return max((k for k in self.kernels if k.bootable), key=lambda k: release_key(k.release), default=None)

    @property
    def gpus(self) -> list[GpuDevice]:
        """The NVIDIA GPUs, without switches."""
        return [device for device in self.devices if device.kind == "gpu"]

    def environment(self, path: str) -> Environment:
        """The environment observed at `path`; one of kind `none` where nothing was."""
        return next((e for e in self.environments if e.path == path), Environment(path=path, kind="none"))
