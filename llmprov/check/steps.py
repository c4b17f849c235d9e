"""The steps towards one host: each with its time, and the one that ends the walk with its cause."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from llmprov.model.reach import ReachStep, StepStatus
from llmprov.text import plain


class Stop(Exception):  # noqa: N818 - an end, not a fault of ours
    """A step failed: what is said, and what to do."""

    def __init__(self, says: str, remedy: str) -> None:
        super().__init__(says)
        self.says, self.remedy = says, remedy


class Trail:
    """The steps of one host so far."""

    def __init__(self) -> None:
        self.steps: list[ReachStep] = []
        self.note = ""
        self.status = StepStatus.PASS

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step; a Stop in it is its failure, and goes on to end the walk."""
        began = time.monotonic()
        self.note, self.status = "", StepStatus.PASS
        try:
            yield
        except Stop as stop:
            self._add(name, StepStatus.FAIL, began, stop.says, stop.remedy)
            raise
        self._add(name, self.status, began, self.note)

    def _add(self, name: str, status: StepStatus, began: float, says: str, remedy: str = "") -> None:
        spent = round(1000 * (time.monotonic() - began), 1)
        self.steps.append(ReachStep(name=name, status=status, time_ms=spent, says=plain(says, 500), remedy=remedy))

    def skip(self, name: str, says: str) -> None:
        """Note a step that this way does not have."""
        self.steps.append(ReachStep(name=name, status=StepStatus.SKIPPED, says=says))
