"""Environments that nobody declared: found by one plan, so that they can be shown before they go."""

from __future__ import annotations

from llmprov.plan import drift
from llmprov.plan.specs import declarations
from llmprov.run import session
from llmprov.run.options import Options
from llmprov.run.progress import ProgressFactory

#: Under this name the plays of a rebuild are told: host -> what may go.
VARIABLE = "__llmprov_prune"

Found = dict[str, list[dict[str, str]]]


def undeclared(options: Options, progress: ProgressFactory) -> Found:
    """Host -> its environments that nobody declared, each with `path` and `manager`.

    Raises:
        UsageError: a declaration is wrong.
    """
    asked = session.Session(session.PLAN, options, progress, records=("desired",))
    asked.execute(None)
    found: Found = {}
    for entry in asked.ledger.entries.values():
        if entry.selected and entry.desired and entry.observation and not (entry.plan and entry.plan.refusals):
            paths = [declared.path for declared in declarations(entry.desired)]
            mine = [{"path": there.path, "manager": there.kind} for there in drift.undeclared(paths, entry.observation)]
            found |= {entry.host: mine} if mine else {}
    return found
