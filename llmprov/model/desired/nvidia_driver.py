"""The role `nvidia_driver`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmprov.model.desired.types import RoleVars


class NvidiaDriverVars(RoleVars):
    """The NVIDIA driver: kernel modules, libraries, and what keeps them together."""

    role = "nvidia_driver"
    summary = "Install the NVIDIA driver that fits every GPU of the host, with its kernel modules built."

    state: Literal["present", "absent", "unmanaged"] = Field(
        "unmanaged",
        description="Whether the driver is there; `unmanaged` looks at it and leaves it alone. On a host without an "
        "NVIDIA GPU `present` does nothing.",
    )
    branch: Annotated[str, Field(pattern=r"^(auto|\d{3}(\.\d{1,3}){0,2})$")] = Field(
        "auto",
        description="Branch of the driver, such as `580`, or an exact version, such as `580.95.05`; `auto` leaves a "
        "driver that fits as it is, and else takes the best that every GPU can have.",
    )
    flavour: Literal["auto", "open", "proprietary"] = Field(
        "auto", description="Kernel modules; `auto` takes the open ones where every GPU can have them."
    )
    repository: Literal["auto", "distribution", "nvidia"] = Field(
        "auto", description="Where packages come from: the distribution's own archive, or NVIDIA's repository."
    )
    hold: bool = Field(
        True, description="Hold the driver's packages, so that unattended upgrades cannot split module and libraries."
    )
    persistence: bool = Field(True, description="Run NVIDIA's persistence daemon, which keeps cards ready.")
    cuda_toolkit: Annotated[str, Field(pattern=r"^(auto|\d{2}\.\d)?$")] = Field(
        "",
        description="CUDA toolkit, with nvcc, to install beside the driver: a version, such as `12.8`, or `auto` for "
        "the newest that the driver runs. PyTorch needs none.",
    )
    container_toolkit: bool = Field(
        False,
        description="Install NVIDIA's container toolkit, which lets containers use GPUs, from its own repository.",
    )
    mirror: str = Field(
        "",
        description="Mirror of NVIDIA's repositories, laid out as "
        "`https://developer.download.nvidia.com/compute/cuda/repos`, for hosts that cannot reach that.",
        pattern=r"^(https?://\S+)?$",
    )
    reboot_busy: bool = Field(
        False, description="With `--reboot`: restart hosts whose GPUs are used by programs, too. Those are lost."
    )
    reboot_timeout_s: int = Field(
        1200, ge=10, description="With `--reboot`: how long, in seconds, a host may take to come back."
    )
    lock_timeout_s: int = Field(
        600, ge=0, description="How long, in seconds, to wait for another package manager on the host to finish."
    )
