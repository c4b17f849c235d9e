"""Variables of no role's own: the host as a whole, and the depot."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmprov.model.desired.environments import EnvironmentDeclaration, ProfileDefinition
from llmprov.model.desired.types import AbsolutePath, Manager, RoleVars


class LlmVars(RoleVars):
    """What concerns a host as a whole and no single role."""

    role = "llm"
    summary = "What concerns a host as a whole."

    env_manager: Manager = Field("conda", description="What makes the environment: `conda` or `venv` (by uv).")
    environments: list[EnvironmentDeclaration] = Field(
        [],
        description="Further environments, each with a `path` and any of `manager`, `state`, `python`, `packages`, "
        "`packages_absent`, `profiles`, `variables`, `on_path`, `conda_packages`, `channels`, `file`.",
    )
    lock: str = Field(
        "",
        description="A lock on the controller (`llmprov lock` writes it): environments are exactly what it says, and a "
        "declaration that differs from it is refused. `--locked` sets it.",
    )
    profile_definitions: dict[str, ProfileDefinition] = Field(
        {}, description="Profiles of your own: name -> `packages` and `conda_packages`."
    )


class DepotVars(RoleVars):
    """How artifacts come to the controller and from it to hosts."""

    role = "depot"
    summary = "How artifacts come to hosts."

    transport: Literal["auto", "forward", "sftp", "http", "internet"] = Field(
        "auto",
        description="How hosts get artifacts: through a forward in Ansible's own SSH connection, by SFTP, by HTTP from "
        "`depot_address`, or from the host's own internet; `auto` forwards, and takes SFTP where that is forbidden.",
    )
    address: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]*$")] = Field(
        "", description="Address of the controller that hosts can reach; for the transport `http`."
    )
    limit_gb: float = Field(50.0, gt=0, description="Size, in GB, that the controller's store is kept under.")
    host_path: AbsolutePath = Field("/opt/llmprov/depot", description="Where a host keeps artifacts.")
    host_limit_gb: float = Field(20.0, gt=0, description="Size, in GB, that a host's artifacts are kept under.")
