"""What every action has in common: the plan of its host, calls of its module, and how its errors are told."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from llmprov.errors import LlmprovError, UsageError
from llmprov.model import Desired, Observation, Plan
from llmprov.model.lock import Lock
from llmprov.run import lock_file

Result = dict[str, Any]
Variables = Mapping[str, Any]


@dataclass(frozen=True)
class Planned:
    """What the plan of this host was made from, as an earlier task of the same play left it."""

    desired: Desired
    plan: Plan
    seen: Observation
    #: Whether what came or changed by hand has to go.
    rebuild: bool = False

    @classmethod
    def of(cls, task_vars: Variables) -> Planned:
        """Raises UsageError where no plan was made: the role was used without its own first task."""
        made = task_vars.get("__llmprov_plan")
        if not made or "desired" not in made:
            raise UsageError("this host was not planned: use the role as a whole, with the role preflight beside it")
        return cls(
            Desired.model_validate(made["desired"]),
            Plan.model_validate(made["plan"]),
            Observation.model_validate(made["observation"]),
            bool(made.get("rebuild")),
        )

    @cached_property
    def lock(self) -> Lock | None:
        """The lock that the host is installed from, if any."""
        return lock_file.of(self.desired)


def module_of(action: Any, task_vars: Variables, name: str, given: Result) -> Callable[..., Result]:
    """A module of this host, to be called with what comes on top of the arguments `given`."""

    def call(**more: Any) -> Result:
        done: Result = action._execute_module(module_name=name, module_args={**given, **more}, task_vars=task_vars)
        return done

    return call


def guarded(work: Callable[[Any, Variables], Result]) -> Callable[[Any, Variables], Result]:
    """An error of ours as a failed task with one sentence."""

    @functools.wraps(work)
    def checked(action: Any, task_vars: Variables) -> Result:
        try:
            return work(action, task_vars)
        except LlmprovError as error:
            return {"failed": True, "msg": str(error)}
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            return {"failed": True, "msg": f"what this host told makes no sense at {where}: {first['msg']}"}

    return checked
