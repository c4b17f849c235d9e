"""What a fleet should be. The one place where a variable has its name, type, default and sentence.

A field `x` of the role `r` is the Ansible variable `r_x`. Role defaults, argument specs, the arguments of the plan and
the tables in the docs are generated from here (`make generate`).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

State = Literal["present", "absent"]

#: Where the environment lives unless told otherwise; `llm_env_path` moves it for every role at once.
ENV_PATH = "/opt/llmprov/envs/llm"

SHARED_ENV_PATH: JsonDict = {"shared": "llm_env_path"}


def _requirement(text: str) -> str:
    try:
        parsed = Requirement(text)
    except InvalidRequirement as error:
        raise ValueError(f"{text!r} is not a requirement like `numpy>=2,<3`: {error}") from None
    if parsed.url:
        raise ValueError(f"{text!r} names a URL; name a version, and let the package index say where it is")
    return text


def _version(text: str) -> str:
    try:
        parsed = Version(text)
    except InvalidVersion:
        raise ValueError(f"{text!r} is not a version like 2.13.0") from None
    if parsed.local:
        raise ValueError(f"{text!r} names a build; give the version here and the build in pytorch_variant")
    return text


def _absolute(text: str) -> str:
    if not text.startswith("/") or "\n" in text or text.rstrip("/") == "":
        raise ValueError(f"{text!r} is not an absolute path below /")
    return text.rstrip("/")


Package = Annotated[str, AfterValidator(_requirement)]
PackageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]


class RoleVars(BaseModel):
    """The variables of one role."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: ClassVar[str]
    summary: ClassVar[str]


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
    allow_unsupported: bool = Field(
        False,
        description="Go on where the operating system or the architecture is not among the supported ones.",
    )


class VenvVars(RoleVars):
    """A Python virtual environment made by uv."""

    role = "venv"
    summary = "Make a virtual environment with the declared Python and packages, by uv."

    state: State = Field("present", description="Whether the environment is there; `absent` removes it whole.")
    path: AbsolutePath = Field(ENV_PATH, description="Directory of the environment.", json_schema_extra=SHARED_ENV_PATH)
    python: str = Field(
        "",
        pattern=r"^(\d+\.\d+(\.\d+)?)?$",
        description="Python version of the environment, such as `3.11`; empty takes the host's own python3.",
    )
    packages: list[Package] = Field(
        [],
        description="Packages that must be there, each a requirement such as `numpy>=2,<3`; PyTorch has its own role.",
    )
    packages_absent: list[PackageName] = Field([], description="Packages that must not be there.")
    uv_version: Annotated[str, AfterValidator(_version)] = Field(
        "0.13.9", description="Version of uv that the controller fetches and puts on hosts."
    )
    uv_path: AbsolutePath = Field("/opt/llmprov/bin/uv", description="Where uv lies on the host.")


class PytorchVars(RoleVars):
    """PyTorch in an environment, with the wheel that the host can run."""

    role = "pytorch"
    summary = "Put PyTorch into the environment: the wheel that the host's GPU and driver can run."

    state: State = Field("present", description="Whether PyTorch is in the environment.")
    env_path: AbsolutePath = Field(
        ENV_PATH, description="Directory of the environment.", json_schema_extra=SHARED_ENV_PATH
    )
    version: Annotated[str, AfterValidator(_version)] = Field("2.13.0", description="Version, without a build tag.")
    variant: str = Field(
        "auto",
        pattern=r"^(auto|cpu|any|cu\d{3})$",
        description="Build of the wheel: `auto` chooses by the host's GPUs and driver, `cpu` or a tag such as `cu130` "
        "names it, `any` takes what the package index has under the plain version.",
    )
    index_url: str = Field(
        "https://download.pytorch.org/whl",
        description="Wheel index with one folder a build; empty takes the wheel from the host's own package indexes.",
    )


class VerifyVars(RoleVars):
    """What a host must show before it counts as working."""

    role = "verify"
    summary = "Run the payload under the environment's own Python and return what it saw."

    env_path: AbsolutePath = Field(
        ENV_PATH, description="Directory of the environment.", json_schema_extra=SHARED_ENV_PATH
    )
    cuda: Literal["auto", "required", "absent"] = Field(
        "auto",
        description="Whether torch must see a GPU: `auto` requires one where a host has an NVIDIA GPU or the declared "
        "build is a CUDA one.",
    )
    imports: list[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$")]] = Field(
        [], description="Modules that must import, beside those of the declared packages."
    )
    min_accuracy: float = Field(
        0.95,
        gt=0.5,
        le=1,
        description="Held-out accuracy that the small classifier must reach, as a fraction.",
    )
    timeout_s: int = Field(600, gt=0, description="How long, in seconds, the payload may run on a host.")


class Desired(BaseModel):
    """The desired state of one host: every role's variables."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preflight: PreflightVars = PreflightVars()
    venv: VenvVars = VenvVars()
    pytorch: PytorchVars = PytorchVars()
    verify: VerifyVars = VerifyVars()


ROLES: tuple[type[RoleVars], ...] = (PreflightVars, VenvVars, PytorchVars, VerifyVars)

#: Variables without a role's name: what several roles share.
SHARED = {"llm_env_path": "Directory of the environment, for every role at once."}


def variable_names() -> dict[str, type[RoleVars]]:
    """Every Ansible variable that llmprov reads, with the role it belongs to."""
    return {f"{role.role}_{name}": role for role in ROLES for name in role.model_fields}


def shared_name(role: type[RoleVars], field: str) -> str | None:
    """The site-wide variable that stands in where `field` is not set, if any."""
    extra: Any = role.model_fields[field].json_schema_extra or {}
    name: str | None = extra.get("shared")
    return name
