"""What the history of runs has to say: hosts in trouble, and what is otherwise in one run than in another."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from llmprov.model.report import Change

#: Turns between passing and not passing, within the runs looked back on, that make a host one that comes and goes.
TURNS = 3


@dataclass(frozen=True)
class Trouble:
    """A host that does not pass, or that comes and goes; `since` is None for one that passes just now."""

    host: str
    status: str
    since: datetime | None
    turns: int

    @property
    def flaps(self) -> bool:
        """Whether it comes and goes rather than stays."""
        return self.turns >= TURNS


@dataclass
class Diff:
    """What is otherwise in run `after` than in run `before`."""

    before: str
    after: str
    worse: list[Change] = field(default_factory=list)
    better: list[Change] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    #: Host -> name -> (version before, version after).
    versions: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    #: Host -> id -> (status before, status after) of checks; "" where a check did pass.
    findings: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    #: Host -> key -> relative change of the median of its devices, where it matters.
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    #: Description of a cohort -> key -> relative change of its median, where it matters.
    cohorts: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def regressed(self) -> bool:
        """Whether anything got worse: a status, or a figure by more than matters."""
        slower = [change for moved in (*self.figures.values(), *self.cohorts.values()) for change in moved.values()]
        return bool(self.worse) or any(change < 0 for change in slower)

    def document(self) -> dict[str, Any]:
        """For machines."""
        plain = asdict(self)
        for kind in ("worse", "better"):
            plain[kind] = [change.model_dump(mode="json") for change in getattr(self, kind)]
        return {**plain, "regressed": self.regressed}
