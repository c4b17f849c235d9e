"""Python environments: the roles `venv` and `conda_env`, further environments, profiles."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from llmprov.model.desired.types import (
    ENV_PATH,
    PYTHON_VERSION,
    SHARED_ENV_PATH,
    AbsolutePath,
    Channel,
    CondaSpec,
    Manager,
    Package,
    PackageName,
    RoleVars,
    State,
    VariableName,
    VariableValue,
    shared,
    version,
)


class ProfileDefinition(BaseModel):
    """A profile of the user's own: packages under one name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    packages: list[Package] = []
    conda_packages: list[CondaSpec] = []


class EnvironmentVars(RoleVars):
    """What every Python environment has, whichever tool makes it."""

    role = ""
    summary = ""

    state: State = Field("present", description="Whether the environment is there; `absent` removes it whole.")
    path: AbsolutePath = Field(ENV_PATH, description="Directory of the environment.", json_schema_extra=SHARED_ENV_PATH)
    python: str = Field(
        "",
        pattern=PYTHON_VERSION,
        description="Python version of the environment, such as `3.11`; empty takes the host's own python3 for a "
        "virtual environment, and the newest that fits for a conda environment.",
        json_schema_extra=shared("llm_python"),
    )
    packages: list[Package] = Field(
        [],
        description="Packages that must be there, each a requirement such as `numpy>=2,<3`; PyTorch has its own role.",
        json_schema_extra=shared("llm_packages"),
    )
    packages_absent: list[PackageName] = Field(
        [], description="Packages that must not be there.", json_schema_extra=shared("llm_packages_absent")
    )
    profiles: list[str] = Field(
        [],
        description="Sets of packages by name: `llm`, `jupyter`, `tensorflow`, `jax`, or one of "
        "`llm_profile_definitions`.",
        json_schema_extra=shared("llm_profiles"),
    )
    variables: dict[VariableName, VariableValue] = Field(
        {},
        description="Environment variables for the host's users, and for the payload; no secrets: every user reads "
        "them.",
        json_schema_extra=shared("llm_env_variables"),
    )
    on_path: bool = Field(
        False,
        description="Put the environment's programs on the PATH of the host's users at login.",
        json_schema_extra=shared("llm_env_on_path"),
    )


class VenvVars(EnvironmentVars):
    """A Python virtual environment made by uv."""

    role = "venv"
    summary = "Make a virtual environment with the declared Python and packages, by uv."

    uv_version: Annotated[str, AfterValidator(version)] = Field(
        "0.13.9", description="Version of uv that the controller fetches and puts on hosts."
    )
    uv_path: AbsolutePath = Field("/opt/llmprov/bin/uv", description="Where uv lies on the host.")


class CondaEnvVars(EnvironmentVars):
    """A conda environment."""

    role = "conda_env"
    summary = "Make a conda environment with the declared Python, conda packages and pip packages."

    conda_packages: list[CondaSpec] = Field(
        [], description="Conda packages that must be there, each as conda writes it: `numpy>=2,<3`, `cuda-nvcc=12.8`."
    )
    channels: list[Channel] = Field(
        [], description="Channels to take them from; empty takes those of the installation (`miniconda_channels`)."
    )
    file: str = Field(
        "",
        description="An environment.yml on the controller, whose channels, dependencies and variables are added to the "
        "others; its `name` and `prefix` are not read.",
    )
    lock_timeout_s: int = Field(
        900, ge=0, description="How long, in seconds, to wait for another conda on the host to finish."
    )


class EnvironmentDeclaration(BaseModel):
    """One further environment, of `llm_environments`; what is not said is as the role's own default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    manager: Manager | None = None
    path: AbsolutePath
    state: State = "present"
    python: Annotated[str, Field(pattern=PYTHON_VERSION)] = ""
    packages: list[Package] = []
    packages_absent: list[PackageName] = []
    profiles: list[str] = []
    variables: dict[VariableName, VariableValue] = {}
    on_path: bool = False
    conda_packages: list[CondaSpec] = []
    channels: list[Channel] = []
    file: str = ""
