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

    stage: Literal["observe", "converge", "reboot", "verify", "accept", "revert"]
    task: str = ""
    message: str
    remedy: str = ""


class Converged(_Record):
    """What the converge stage did on a host."""

    tasks: int = Field(0, description="Tasks that ran on the host, skipped ones not counted.")
    changed: list[str] = Field([], description="Names of the tasks that changed something.")


class Step(StrEnum):
    """What a person does next about a host, by how much it takes."""

    NOTHING = "nothing"
    VERIFY = "verify"
    PROVISION = "provision"
    ALLOW = "allow"
    CONFIGURE = "configure"
    CONNECT = "connect"
    RESTART = "restart"
    RESET = "reset"
    REBOOT = "reboot"
    INSPECT = "inspect"
    RESEAT = "reseat"
    REPLACE = "replace"


class Cause(_Record):
    """Why a host is as it is, and the one next step. llmprov never takes the step by itself."""

    id: str = Field(description="Name of the rule in llmprov/knowledge/causes.yml that found it.")
    says: str = Field(description="The cause in one sentence.")
    step: Step
    what: str = Field(description="The next step in one sentence.")
    command: str = Field("", description="The exact command for it; empty where hands are needed.")
    drain: bool = Field(False, description="Whether work should leave the host first.")
    checks: list[str] = Field([], description="Ids of the checks that speak for it.")


class HostReport(_Record):
    """Everything about one host of the inventory in one run."""

    host: str = Field(description="The inventory name; two hosts never share one.")
    status: Status
    summary: str = Field("", description="One sentence: why the host ended so.")
    remedy: str = Field("", description="What to do next; empty where nothing is to be done.")
    cause: Cause | None = Field(None, description="The likeliest cause; None for hosts with nothing to be done.")
    since: datetime | None = Field(None, description="Since when it has not passed, as far as the history goes.")
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
    level: str | None = Field(None, description="How much was measured: quick, standard or soak.")
    torch: str | None = None
    python: str | None = None
    device: str | None = None
    elapsed_s: dict[str, float] = Field({}, description="Seconds spent on the host, by stage.")


class CohortFigure(_Record):
    """One figure over the hosts of a cohort; a host counts with the median of its devices."""

    key: str
    unit: str
    count: int = Field(description="Hosts that it was measured on.")
    median: float
    scale: float = Field(
        description="Standard deviation, made from the median absolute deviation; in the figure's unit."
    )
    lowest: float
    highest: float
    limit: float | None = Field(None, description="What is lower stands out; None where hosts were not judged.")
    unjudged: str = Field("", description="Why hosts were not held against each other; empty where they were.")


class Cohort(_Record):
    """Hosts that should give the same figures: same GPU model and count, driver branch, torch, payload."""

    id: str
    describes: str
    hosts: list[str]
    figures: list[CohortFigure] = []
    notes: list[str] = Field([], description="What concerns the cohort and no single host of it.")


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
    simulated: bool = Field(False, description="Whether the fleet does not exist: `llmprov report --simulate`.")
    extra_vars: list[str] = Field([], description="Names of the variables given with -e; never their values.")
    strict: bool = False
    lock: str | None = Field(None, description="The lock that hosts were held against, as it was named.")
    versions: dict[str, str] = {}
    content_digest: str = Field("", description="sha256 over the playbooks and roles that ran.")
    stages_s: dict[str, float] = Field({}, description="Seconds of wall time, by stage.")


class Change(_Record):
    """One host whose status is another than in the run before."""

    host: str
    before: Status | None = Field(None, description="None for a host that is new.")
    after: Status | None = Field(None, description="None for a host that is gone.")


class Changes(_Record):
    """What changed since the last recorded run over most of the same hosts."""

    run: str
    started: datetime
    worse: list[Change] = []
    better: list[Change] = []
    new: list[str] = []
    gone: list[str] = []


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
    changes: Changes | None = Field(None, description="None where no earlier run is known.")
    errors: list[str] = Field([], description="What went wrong that is no single host's.")
