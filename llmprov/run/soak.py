"""A soak on a host, from here: started once, asked after now and then, through connections that may come and go."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleConnectionFailure

from llmprov.model import VerifyVars

Result = dict[str, Any]

#: Seconds between two questions to a host.
PERIOD_S = 10.0

#: How long a host may be out of reach while it soaks, in seconds: a switch that restarts takes minutes.
PATIENCE_S = 600.0


def run(module: Callable[..., Result], arguments: Result, wanted: VerifyVars) -> Result:
    """Start a soak, or join the one that runs, and return what the module says once it has ended.

    The soak ends by itself, whatever becomes of this controller; a later run with the same level takes what it left.
    """
    begun = module(work="start", **arguments)
    if not begun.get("running"):
        return begun
    deadline = time.monotonic() + 60 * wanted.soak_minutes + wanted.timeout_s + PATIENCE_S
    heard = time.monotonic()
    answer: Result = {}
    while time.monotonic() < deadline:
        # A pause between two questions, not a wait for something that would tell.
        time.sleep(min(PERIOD_S, max(60 * wanted.soak_minutes / 20, 0.5)))
        answer = _ask(module)
        if not answer.get("unreachable"):
            heard = time.monotonic()
            if not answer.get("running"):
                return answer
        elif time.monotonic() - heard > PATIENCE_S:
            return answer
    return {**module(work="stop"), "timed_out": True}


def _ask(module: Callable[..., Result]) -> Result:
    try:
        return module(work="take")
    except AnsibleConnectionFailure as error:
        return {"unreachable": True, "msg": str(error)}
