"""One host's row, and the fleet's. `fleet.json` is a FleetReport."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from llmprov.model.observation import Observation
from llmprov.model.plan import Action, Plan
from llmprov.model.verification import Check, Device, Measurement


class Status(StrEnum):
    """How a host ended, the worst first."""

    UNREACHABLE = "unreachable"
    NOT_RUN = "not_run"
    REFUSED = "refused"
    FAIL = "fail"
    PENDING = "pending"
    INCONCLUSIVE = "inconclusive"
    WARN = "warn"
    PASS = "pass"
    NOT_SELECTED = "not_selected"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Failure(_Record):
    """Where a host failed to converge or to be reached, in the tool's own words and in ours."""

    stage: Literal["observe", "converge", "verify"]
    task: str = ""
    message: str
    remedy: str = ""


class Converged(_Record):
    """What the converge stage did on a host."""

    tasks: int = Field(0, description="Tasks that ran on the host, skipped ones not counted.")
    changed: list[str] = Field([], description="Names of the tasks that changed something.")


class HostReport(_Record):
    """Everything about one host of the inventory in one run."""

    host: str = Field(description="The inventory name; two hosts never share one.")
    status: Status
    summary: str = Field("", description="One sentence: why the host ended so.")
    remedy: str = Field("", description="What to do next; empty where nothing is to be done.")
    groups: list[str] = []
    cohort: str | None = Field(None, description="Id of the cohort the host was compared within.")
    observation: Observation | None = None
    plan: Plan | None = None
    converged: Converged = Converged()
    failures: list[Failure] = []
    checks: list[Check] = []
    measurements: list[Measurement] = []
    devices: list[Device] = []
    not_reported: list[str] = Field([], description="What devices and drivers do not tell: neither healthy nor ill.")
    digests: dict[str, str] = Field({}, description="SHA-256 of seeded computations, by device: a cohort must agree.")
    drift: list[Action] = Field([], description="What differed from the declaration when verified.")
    torch: str | None = None
    python: str | None = None
    device: str | None = None
    elapsed_s: dict[str, float] = Field({}, description="Seconds spent on the host, by stage.")


class Cohort(_Record):
    """Hosts that should give the same figures: same GPU model and count, driver branch, torch, payload."""

    id: str
    describes: str
    hosts: list[str]


class RunInfo(_Record):
    """What was run, by what, with what."""

    id: str = Field(description="Name of the run's directory.")
    command: str
    started: datetime
    finished: datetime | None = None
    outcome: Literal["running", "finished", "cancelled", "crashed"] = "running"
    inventory: list[str] = []
    limit: str | None = None
    tags: list[str] = []
    check_mode: bool = False
    extra_vars: list[str] = Field([], description="Names of the variables given with -e; never their values.")
    strict: bool = False
    versions: dict[str, str] = {}
    content_digest: str = Field("", description="sha256 over the playbooks and roles that ran.")
    stages_s: dict[str, float] = Field({}, description="Seconds of wall time, by stage.")


class FleetReport(_Record):
    """A whole run: one record for every host of the inventory, always.

    `schema_version` is raised by one when a reader of the last version could misread a file of the new one.
    """

    schema_version: Literal[1] = 1
    run: RunInfo
    exit_code: int
    counts: dict[Status, int]
    hosts: list[HostReport]
    cohorts: list[Cohort] = []
    baseline: str | None = Field(None, description="Run id of the stored baseline the figures were held against.")
    errors: list[str] = Field([], description="What went wrong that is no single host's.")
