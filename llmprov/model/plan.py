"""What would be done on a host, and what is refused."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Kind(StrEnum):
    """What is to be done about one component."""

    NONE = "none"
    INSTALL = "install"
    UPGRADE = "upgrade"
    DOWNGRADE = "downgrade"
    REPAIR = "repair"
    REMOVE = "remove"
    REBOOT = "reboot"


class Action(BaseModel):
    """One component: what is there, what should be, and why that needs doing."""

    model_config = ConfigDict(frozen=True)

    component: str
    kind: Kind
    before: str | None = None
    after: str | None = None
    #: More about it, a line each.
    details: list[str] = []
    why: str = ""


class Refusal(BaseModel):
    """Two things that do not fit, and what the user can change; a refused host is changed in nothing."""

    model_config = ConfigDict(frozen=True)

    component: str
    this: str
    that: str
    remedy: str

    def sentence(self) -> str:
        """The refusal as one sentence, with what to do."""
        return f"{self.conflict()}: {self.remedy}"

    def conflict(self) -> str:
        """The two things that do not fit."""
        return f"{self.this} does not fit {self.that}"


class Finding(BaseModel):
    """Something that is wrong, or will be at the next boot, whatever is declared; told by `plan` and by `verify`."""

    model_config = ConfigDict(frozen=True)

    id: str
    says: str
    evidence: str = ""
    remedy: str


class Plan(BaseModel):
    """Every component's action. The plan of a host that is as declared has none but `none`."""

    actions: list[Action] = []
    refusals: list[Refusal] = []
    warnings: list[str] = []
    findings: list[Finding] = []
    #: The wheel build that `pytorch_variant: auto` came to on this host, such as `cpu` or `cu130`.
    pytorch_variant: str | None = None

    @property
    def pending(self) -> list[Action]:
        """The actions that change something."""
        return [action for action in self.actions if action.kind is not Kind.NONE]

    def components(self) -> list[str]:
        """The names of the components that a role would change, in order; a reboot is no role's."""
        return [action.component for action in self.pending if action.kind is not Kind.REBOOT]
