"""What the payload saw on a host: checks with their evidence, and measurements with their units."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(max_length=4000)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Value = bool | int | Finite | Text | None


class CheckStatus(StrEnum):
    """The outcome of one check. No evidence is never a pass."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Check(BaseModel):
    """One thing looked at: what was expected, what was found, the raw evidence, what to do."""

    model_config = ConfigDict(extra="ignore")

    id: Annotated[str, Field(pattern=r"^[a-z0-9_.:\-]{1,120}$")]
    status: CheckStatus
    summary: Text = ""
    measured: Value = None
    expected: Value = None
    unit: Annotated[str, Field(max_length=40)] = ""
    evidence: Text = ""
    remedy: Text = ""


class Measurement(BaseModel):
    """One figure. Its key carries the unit (`samples_per_s`, `step_time_ms`)."""

    model_config = ConfigDict(extra="ignore")

    key: Annotated[str, Field(pattern=r"^[a-z0-9_.]{1,120}$")]
    value: Finite
    unit: Annotated[str, Field(max_length=40)]
    samples: Annotated[list[Finite], Field(max_length=1000)] = []


class Verification(BaseModel):
    """The payload's document, after it passed the schema."""

    model_config = ConfigDict(extra="ignore")

    payload_version: Annotated[str, Field(max_length=40)]
    level: Annotated[str, Field(max_length=20)] = "quick"
    elapsed_s: Finite
    python: Annotated[str, Field(max_length=200)] = ""
    torch: Annotated[str, Field(max_length=200)] | None = None
    device: Annotated[str, Field(max_length=200)] = ""
    checks: Annotated[list[Check], Field(max_length=2000)]
    measurements: Annotated[list[Measurement], Field(max_length=2000)] = []
