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
    branch: Annotated[str, Field(pattern=r"^(auto|\d{3})$")] = Field(
        "auto", description="Branch of the driver, such as `580`; `auto` takes the best that every GPU can have."
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
    lock_timeout_s: int = Field(
        600, ge=0, description="How long, in seconds, to wait for another package manager on the host to finish."
    )
