"""What a fleet should be. The one place where a variable has its name, type, default and sentence.

A field `x` of the role `r` is the Ansible variable `r_x`. Role defaults, argument specs, the arguments of the plan and
the tables in the docs are generated from here (`make generate`).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from pydantic.config import JsonDict

State = Literal["present", "absent"]

#: Where the environment lives unless told otherwise; `llm_env_path` moves it for every role at once.
ENV_PATH = "/opt/llmprov/envs/llm"

#: Where conda lives unless told otherwise.
CONDA_PREFIX = "/opt/miniconda3"


def _shared(name: str) -> JsonDict:
    return {"shared": name}


SHARED_ENV_PATH = _shared("llm_env_path")


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


def _location(text: str) -> str:
    if not re.fullmatch(r"(https?|file)://[^\s]+|/[^\n]+", text):
        raise ValueError(f"{text!r} is neither a URL (https, http, file) nor an absolute path on the controller")
    return text if "://" in text else f"file://{text}"


def _conda_spec(text: str) -> str:
    # Not at the top: it takes a tenth of a second, and most commands and declarations have no use for it.
    from rattler import MatchSpec

    shape = r"(?:[A-Za-z0-9._/-]+::)?[A-Za-z0-9_][A-Za-z0-9._-]*(?:[ =<>!~,|*.A-Za-z0-9_+-]*)"
    try:
        # The shape first: py-rattler reads more than conda does.
        if re.fullmatch(shape, text) and MatchSpec(text).name:
            return text
    except Exception:  # py-rattler's errors have no common class; the sentence below says what is wrong
        pass
    raise ValueError(f"{text!r} is not a conda package like `numpy>=2,<3` or `python=3.11`")


def _channel(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*|(https?|file)://[^\s]+", text):
        raise ValueError(f"{text!r} is neither a channel's name like conda-forge nor its URL")
    return text.rstrip("/")


Package = Annotated[str, AfterValidator(_requirement)]
PackageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
Location = Annotated[str, AfterValidator(_location)]
CondaSpec = Annotated[str, AfterValidator(_conda_spec)]
Channel = Annotated[str, AfterValidator(_channel)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
VariableValue = Annotated[str, Field(pattern=r"^[^\n\x00]*$")]
Manager = Literal["conda", "venv"]
PYTHON_VERSION = r"^(\d+\.\d+(\.\d+)?)?$"
SHA256 = r"^([0-9a-f]{64})?$"


class ProfileDefinition(BaseModel):
    """A profile of the user's own: packages under one name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    packages: list[Package] = []
    conda_packages: list[CondaSpec] = []


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
        json_schema_extra=_shared("llm_python"),
    )
    packages: list[Package] = Field(
        [],
        description="Packages that must be there, each a requirement such as `numpy>=2,<3`; PyTorch has its own role.",
        json_schema_extra=_shared("llm_packages"),
    )
    packages_absent: list[PackageName] = Field(
        [], description="Packages that must not be there.", json_schema_extra=_shared("llm_packages_absent")
    )
    profiles: list[str] = Field(
        [],
        description="Sets of packages by name: `llm`, `jupyter`, `tensorflow`, `jax`, or one of "
        "`llm_profile_definitions`.",
        json_schema_extra=_shared("llm_profiles"),
    )
    variables: dict[VariableName, VariableValue] = Field(
        {},
        description="Environment variables for the host's users, and for the payload; no secrets: every user reads "
        "them.",
        json_schema_extra=_shared("llm_env_variables"),
    )
    on_path: bool = Field(
        False,
        description="Put the environment's programs on the PATH of the host's users at login.",
        json_schema_extra=_shared("llm_env_on_path"),
    )


class VenvVars(EnvironmentVars):
    """A Python virtual environment made by uv."""

    role = "venv"
    summary = "Make a virtual environment with the declared Python and packages, by uv."

    uv_version: Annotated[str, AfterValidator(_version)] = Field(
        "0.13.9", description="Version of uv that the controller fetches and puts on hosts."
    )
    uv_path: AbsolutePath = Field("/opt/llmprov/bin/uv", description="Where uv lies on the host.")


class MinicondaVars(RoleVars):
    """A conda installation: Miniconda, Miniforge or Anaconda."""

    role = "miniconda"
    summary = "Install conda for every user of the host, from the official installer, checked."

    state: State = Field(
        "present", description="Whether conda is there; `absent` removes it whole, its environments with it."
    )
    prefix: AbsolutePath = Field(CONDA_PREFIX, description="Directory of the installation.")
    installer: str = Field(
        "Miniconda3-py313_26.5.3-1",
        pattern=r"^(Miniconda3|Miniforge3|Anaconda3)-[A-Za-z0-9_.+-]+$",
        description="The installer, by the official name without platform and ending (`Miniconda3-py313_26.5.3-1`, "
        "`Miniforge3-26.5.3-0`, `Anaconda3-2026.06-1`), or the whole name without ending.",
    )
    url: str = Field(
        "",
        description="Where the installer comes from: its URL, a mirror's folder ending in `/`, or a file on the "
        "controller; empty takes the publisher's own place.",
    )
    sha256: str = Field(
        "", pattern=SHA256, description="The installer's sha256; needed where the tables do not know the installer."
    )
    owner: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]*\$?$")] = Field(
        "root", description="User who owns the installation; the host's other users may read and run it."
    )
    channels: list[Channel] = Field(
        ["conda-forge"], description="Channels set for the installation, first one first.", min_length=1
    )
    channel_priority: Literal["strict", "flexible", "disabled"] = Field(
        "strict", description="How conda chooses between channels."
    )
    envs_dirs: list[AbsolutePath] = Field(
        ["/opt/llmprov/envs"],
        description="Directories whose environments every user can name: `conda activate llm` for the one at "
        "/opt/llmprov/envs/llm.",
    )
    accept_terms: bool = Field(
        False,
        description="Accept the terms of service of Anaconda's channels on behalf of the host's users; needed where "
        "one is among the channels. Organisations of 200 people and more need a paid licence for them.",
    )
    init: bool = Field(
        False, description="Give the `conda` command, activate included, to every user's shell at login."
    )


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
        description="Wheel index with one folder a build; empty takes the wheel from the usual package indexes.",
    )
    source: Literal["wheel", "conda"] = Field(
        "wheel",
        description="Where PyTorch comes from: its wheel, or `pytorch` of the environment's conda channels.",
    )


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


#: Limits outside of these percents of a datasheet are mistakes: nothing reaches more, nothing sound reaches less.
LEAST_LIMIT, MOST_LIMIT = 40.0, 100.0

LimitKey = Literal["bandwidth_gb_s", "tflops_bf16", "tflops_fp16", "tflops_tf32", "tflops_fp32"]


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
    timeout_s: int = Field(
        600, gt=0, description="How long, in seconds, the payload may run on a host; a soak's minutes come on top."
    )
    level: Literal["quick", "standard", "soak"] = Field(
        "quick",
        description="How much is measured: `quick` (under a minute), `standard` (some minutes: compiled training, the "
        "input pipeline, fine-tuning, all GPUs together), `soak` (`quick`, then training for verify_soak_minutes).",
    )
    soak_minutes: float = Field(60, gt=0, le=10080, description="How long a soak trains, in minutes.")
    stop: bool = Field(False, description="End the soak that runs on the host, and take what it measured.")
    gpu_count: int = Field(-1, ge=-1, description="How many GPUs the host must have; -1 is any number.")
    gpu_model: str = Field(
        "", description="Which GPU the host must have, by its name in llmprov's tables (`H100 PCIe`); empty: any."
    )
    mig: bool = Field(False, description="Whether the GPUs are to be in MIG mode.")
    model_size: Literal["auto", "1b", "large", "medium", "small", "mini", "tiny"] = Field(
        "auto", description="Which transformer is trained; `auto` takes the largest that fits the device."
    )
    limits: dict[LimitKey, Annotated[float, Field(ge=LEAST_LIMIT, le=MOST_LIMIT)]] = Field(
        {},
        description="The least that GPUs must reach, in percent (40 to 100) of their datasheet, over llmprov's own: "
        "any of `bandwidth_gb_s`, `tflops_bf16`, `tflops_fp16`, `tflops_tf32`, `tflops_fp32`.",
    )
    min_link_gbit_s: float = Field(
        0, ge=0, description="The least speed, in Gbit/s, of Ethernet links that are up; 0 is any."
    )
    data_path: AbsolutePath = Field(
        "/var/tmp", description="Directory on the disk whose read rate and input pipeline `standard` measures."
    )


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


class Desired(BaseModel):
    """The desired state of one host: every role's variables."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preflight: PreflightVars = PreflightVars()
    llm: LlmVars = LlmVars()
    depot: DepotVars = DepotVars()
    miniconda: MinicondaVars = MinicondaVars()
    conda_env: CondaEnvVars = CondaEnvVars()
    venv: VenvVars = VenvVars()
    pytorch: PytorchVars = PytorchVars()
    jupyter: JupyterVars = JupyterVars()
    verify: VerifyVars = VerifyVars()


ROLES: tuple[type[RoleVars], ...] = (
    PreflightVars,
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
