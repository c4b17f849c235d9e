"""What the payload saw on a host: checks with their evidence, and measurements with their units."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass

Text = Annotated[str, Field(max_length=4000)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
#: No figure of a machine is larger; medians and sums of such stay numbers.
Figure = Annotated[float, Field(allow_inf_nan=False, ge=-1e30, le=1e30)]
Value = bool | int | Finite | Text | None


class CheckStatus(StrEnum):
    """The outcome of one check. No evidence is never a pass."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(slots=True, kw_only=True, config=ConfigDict(extra="ignore"))
class Check:
    """One thing looked at: what was expected, what was found, the raw evidence, what to do.

    A dataclass with slots, like Measurement: large fleets have a million of them, at a quarter of a model's memory.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9_.:\-]{1,120}$")]
    status: CheckStatus
    summary: Text = ""
    measured: Value = None
    expected: Value = None
    unit: Annotated[str, Field(max_length=40)] = ""
    evidence: Text = ""
    remedy: Text = ""


@dataclass(slots=True, kw_only=True, config=ConfigDict(extra="ignore"))
class Measurement:
    """One figure. Its key carries the unit (`samples_per_s`, `step_time_ms`)."""

    key: Annotated[str, Field(pattern=r"^[a-z0-9_.]{1,120}$")]
    value: Figure
    unit: Annotated[str, Field(max_length=40)]
    samples: Annotated[list[Figure], Field(max_length=1000)] = Field(default_factory=list)
    #: What it was measured on: `cpu`, `gpu0`; empty for the host as a whole.
    device: Annotated[str, Field(pattern=r"^[a-z0-9]{0,20}$")] = ""


class Device(BaseModel):
    """One GPU, as the payload found it: what to call it, and what to write on the form when it is sent back."""

    model_config = ConfigDict(extra="ignore")

    label: Annotated[str, Field(pattern=r"^[a-z0-9]{1,20}$")]
    name: Annotated[str, Field(max_length=200)] = ""
    address: Annotated[str, Field(max_length=40)] = ""
    device_id: Annotated[str, Field(max_length=20)] = ""
    uuid: Annotated[str, Field(max_length=80)] = ""
    serial: Annotated[str, Field(max_length=80)] = ""


class Verification(BaseModel):
    """The payload's document, after it passed the schema."""

    model_config = ConfigDict(extra="ignore")

    payload_version: Annotated[str, Field(max_length=40)]
    level: Annotated[str, Field(max_length=20)] = "quick"
    elapsed_s: Finite
    python: Annotated[str, Field(max_length=200)] = ""
    torch: Annotated[str, Field(max_length=200)] | None = None
    device: Annotated[str, Field(max_length=200)] = ""
    #: At least one: a document without any is no evidence of anything.
    checks: Annotated[list[Check], Field(min_length=1, max_length=2000)]
    measurements: Annotated[list[Measurement], Field(max_length=2000)] = []
    #: The GPUs on the PCI bus, in the order of their addresses.
    devices: Annotated[list[Device], Field(max_length=64)] = []
    #: What the devices and their drivers do not tell: neither healthy nor ill.
    not_reported: Annotated[list[Text], Field(max_length=2000)] = []
    #: `gpu0.gradients` -> SHA-256 of a seeded computation: hosts of a kind must agree.
    digests: Annotated[dict[Annotated[str, Field(max_length=80)], Sha256], Field(max_length=1000)] = {}
