"""What stands between the controller and a host: one record a host, one step after the other."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class StepStatus(StrEnum):
    """How one step went."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


class ReachStep(BaseModel):
    """One step towards a host."""

    model_config = ConfigDict(frozen=True)

    #: inventory, dns, tcp, banner, key, login, shell, sudo, python.
    name: str
    status: StepStatus
    time_ms: float = 0.0
    says: str = ""
    remedy: str = ""


class Reach(BaseModel):
    """How far the controller came with a host, and why not further."""

    host: str
    address: str = ""
    steps: list[ReachStep] = []
    #: What OpenSSH said where it came to another end than the steps; its verdict stands.
    openssh: str = ""

    @property
    def failed(self) -> ReachStep | None:
        """The step that the host failed at; None for a host that can be provisioned."""
        return next((step for step in self.steps if step.status is StepStatus.FAIL), None)
