"""The role `preflight`."""

from __future__ import annotations

from pydantic import Field

from llmprov.model.desired.types import RoleVars


class PreflightVars(RoleVars):
    """What a host must be before anything is installed on it."""

    role = "preflight"
    summary = "Make sure a host can be provisioned, and give it Python."

    min_free_gb: float = Field(
        3.0,
        ge=0,
        description="Free space, in GB, that the file system of the environment must have before installing.",
    )
    max_clock_skew_s: float = Field(
        60.0,
        gt=0,
        description="Largest difference, in seconds, between the host's clock and the controller's; "
        "a wrong clock breaks certificates and timings.",
    )
    lock_timeout_s: int = Field(
        300,
        ge=0,
        description="How long, in seconds, to wait for another package manager on the host to finish.",
    )
    run_timeout_s: int = Field(
        0,
        ge=0,
        description="How long, in seconds, to wait for another run of llmprov that holds the host; `--wait` sets it.",
    )
    allow_unsupported: bool = Field(
        False,
        description="Go on where the operating system or the architecture is not among the supported ones.",
    )
