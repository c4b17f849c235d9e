"""What is known of one host while a run goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llmprov.model import Desired, Observation, Plan, Verification
from llmprov.model.report import Converged, Failure

Stage = Literal["observe", "converge", "reboot", "verify", "accept", "revert"]


@dataclass
class Entry:
    """What is known of one host so far."""

    host: str
    groups: list[str]
    selected: bool
    observation: Observation | None = None
    plan: Plan | None = None
    #: What was declared; only a lock asks for it.
    desired: Desired | None = None
    verified_plan: Plan | None = None
    verification: Verification | None = None
    converged: Converged = field(default_factory=Converged)
    failures: list[Failure] = field(default_factory=list)
    unreachable: str | None = None
    #: Who else holds it, in a sentence.
    held: str = ""
    #: Why it was not rebooted, where reboots were allowed and it waits for one.
    kept_from_reboot: str = ""
    #: Whether a rebuild reverted to the previous environments.
    reverted: bool = False
    doing: str = ""
    elapsed_s: dict[str, float] = field(default_factory=dict)
