"""The role `jupyter`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from llmprov.model.desired.types import ENV_PATH, SHARED_ENV_PATH, AbsolutePath, RoleVars, State


class JupyterVars(RoleVars):
    """JupyterLab or Notebook, and environments as kernels."""

    role = "jupyter"
    summary = "Put Jupyter into an environment, register environments as kernels, and serve it where asked."

    state: State = Field("absent", description="Whether Jupyter, its kernels and its service are there.")
    env_path: AbsolutePath = Field(
        ENV_PATH, description="Directory of the environment.", json_schema_extra=SHARED_ENV_PATH
    )
    interface: Literal["lab", "notebook"] = Field("lab", description="JupyterLab, or the classic Notebook.")
    kernels: list[AbsolutePath] = Field(
        [], description="Environments to register as kernels; empty registers the one that Jupyter is in."
    )
    kernel_user: Annotated[str, Field(pattern=r"^([a-z_][a-z0-9_-]*)?$")] = Field(
        "", description="User for whom the kernels are registered; empty registers them for every user."
    )
    service: bool = Field(False, description="Serve Jupyter on the host's own loopback address, started at boot.")
    service_user: Annotated[str, Field(pattern=r"^([a-z_][a-z0-9_-]*)?$")] = Field(
        "", description="User under whom the service runs; needed for the service, and never root."
    )
    port: int = Field(8888, ge=1, le=65535, description="Port of the service on 127.0.0.1.")
    notebook_dir: str = Field(
        "", pattern=r"^(/[^\n]*)?$", description="Directory that the service shows; empty takes the user's home."
    )
    token: SecretStr = Field(
        SecretStr(""),
        description="Token that the service asks for; keep it in a vault. Empty makes one on the host, in a file that "
        "only root reads.",
    )
