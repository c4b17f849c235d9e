"""The role `pytorch`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from llmprov.model.desired.types import ENV_PATH, SHARED_ENV_PATH, AbsolutePath, RoleVars, State
from llmprov.model.desired.types import version as a_version


class PytorchVars(RoleVars):
    """PyTorch in an environment, with the wheel that the host can run."""

    role = "pytorch"
    summary = "Put PyTorch into the environment: the wheel that the host's GPU and driver can run."

    state: State = Field("present", description="Whether PyTorch is in the environment.")
    env_path: AbsolutePath = Field(
        ENV_PATH, description="Directory of the environment.", json_schema_extra=SHARED_ENV_PATH
    )
    version: Annotated[str, AfterValidator(a_version)] = Field("2.13.0", description="Version, without a build tag.")
    variant: str = Field(
        "auto",
        pattern=r"^(auto|cpu|any|cu\d{3})$",
        description="Build of the wheel: `auto` chooses by the host's GPUs and driver, `cpu` or a tag such as `cu130` "
        "names it, `any` takes what the package index has under the plain version.",
    )
    index_url: str = Field(
        "https://download.pytorch.org/whl",
        description="Wheel index with one folder a build; empty takes the wheel from the usual package indexes.",
    )
    source: Literal["wheel", "conda"] = Field(
        "wheel",
        description="Where PyTorch comes from: its wheel, or `pytorch` of the environment's conda channels.",
    )
