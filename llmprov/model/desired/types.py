"""What variables are made of: checked texts, and the base of every role's variables."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

State = Literal["present", "absent"]

#: Where the environment lives unless told otherwise; `llm_env_path` moves it for every role at once.
ENV_PATH = "/opt/llmprov/envs/llm"

#: Where conda lives unless told otherwise.
CONDA_PREFIX = "/opt/miniconda3"


def shared(name: str) -> JsonDict:
    """Marks a field: where it is not set, the variable `name` is taken."""
    return {"shared": name}


SHARED_ENV_PATH = shared("llm_env_path")


def _requirement(text: str) -> str:
    try:
        parsed = Requirement(text)
    except InvalidRequirement as error:
        raise ValueError(f"{text!r} is not a requirement like `numpy>=2,<3`: {error}") from None
    if parsed.url:
        raise ValueError(f"{text!r} names a URL; name a version, and let the package index say where it is")
    return text


def version(text: str) -> str:
    """A version without a build; raises ValueError for anything else."""
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


class RoleVars(BaseModel):
    """The variables of one role."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: ClassVar[str]
    summary: ClassVar[str]
