"""What a fleet should be. The one place where a variable has its name, type, default and sentence; a file a role.

A field `x` of the role `r` is the Ansible variable `r_x`. Role defaults, argument specs, the arguments of the plan and
the tables in the docs are generated from here (`make generate`).
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, SecretStr

from llmprov.model.desired.environments import (
    CondaEnvVars,
    EnvironmentDeclaration,
    EnvironmentVars,
    ProfileDefinition,
    VenvVars,
)
from llmprov.model.desired.jupyter import JupyterVars
from llmprov.model.desired.miniconda import MinicondaVars
from llmprov.model.desired.nvidia_driver import NvidiaDriverVars
from llmprov.model.desired.preflight import PreflightVars
from llmprov.model.desired.pytorch import PytorchVars
from llmprov.model.desired.site import DepotVars, LlmVars
from llmprov.model.desired.types import Manager, RoleVars, State
from llmprov.model.desired.verify import LEAST_LIMIT, MOST_LIMIT, VerifyVars

__all__ = [
    "LEAST_LIMIT",
    "MOST_LIMIT",
    "ROLES",
    "SHARED",
    "SITE",
    "CondaEnvVars",
    "DepotVars",
    "Desired",
    "EnvironmentDeclaration",
    "EnvironmentVars",
    "JupyterVars",
    "LlmVars",
    "Manager",
    "MinicondaVars",
    "NvidiaDriverVars",
    "PreflightVars",
    "ProfileDefinition",
    "PytorchVars",
    "RoleVars",
    "State",
    "VenvVars",
    "VerifyVars",
    "role_default",
    "shared_name",
    "variable_names",
]


class Desired(BaseModel):
    """The desired state of one host: every role's variables."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preflight: PreflightVars = PreflightVars()
    llm: LlmVars = LlmVars()
    depot: DepotVars = DepotVars()
    nvidia_driver: NvidiaDriverVars = NvidiaDriverVars()
    miniconda: MinicondaVars = MinicondaVars()
    conda_env: CondaEnvVars = CondaEnvVars()
    venv: VenvVars = VenvVars()
    pytorch: PytorchVars = PytorchVars()
    jupyter: JupyterVars = JupyterVars()
    verify: VerifyVars = VerifyVars()


ROLES: tuple[type[RoleVars], ...] = (
    PreflightVars,
    NvidiaDriverVars,
    MinicondaVars,
    CondaEnvVars,
    VenvVars,
    PytorchVars,
    JupyterVars,
    VerifyVars,
)

#: Variables of no role's own.
SITE: tuple[type[RoleVars], ...] = (LlmVars, DepotVars)

#: Variables that stand in for those of several roles where these are not set.
SHARED = {
    "llm_env_path": "Directory of the environment.",
    "llm_python": "Python version of the environment.",
    "llm_packages": "Packages that must be in the environment.",
    "llm_packages_absent": "Packages that must not be in the environment.",
    "llm_profiles": "Sets of packages that must be in the environment.",
    "llm_env_variables": "Environment variables for the host's users.",
    "llm_env_on_path": "Whether the environment's programs are on the PATH of the host's users.",
}


def variable_names() -> dict[str, type[RoleVars]]:
    """Every Ansible variable that llmprov reads, with the role it belongs to."""
    return {f"{role.role}_{name}": role for role in (*ROLES, *SITE) for name in role.model_fields}


def shared_name(role: type[RoleVars], field: str) -> str | None:
    """The site-wide variable that stands in where `field` is not set, if any."""
    extra: Any = role.model_fields[field].json_schema_extra or {}
    name: str | None = extra.get("shared")
    return name


def role_default(role: type[RoleVars], name: str) -> Any:
    """What the role's `defaults/main.yml` says of a variable: its default, or a template that asks the shared one."""
    default, shared = role.model_fields[name].default, shared_name(role, name)
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    return f"{{{{ {shared} | default({default!r}) }}}}" if shared else default
