"""Rows into one fleet report: cohorts by what hosts are, not by their names; what stands out, why, what to do."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from llmprov.knowledge import gpu_by_id
from llmprov.model import Check, FleetReport, HostReport, RunInfo, Status
from llmprov.model.report import Cohort, Step
from llmprov.report import EFFECT, causes, compare, digests

#: Statuses that a finding of the comparison may still change.
VERIFIED = (Status.FAIL, Status.PENDING, Status.INCONCLUSIVE, Status.WARN, Status.PASS)


@dataclass(frozen=True)
class Judged:
    """Rows with everything that only shows when they stand side by side; the worst first."""

    rows: list[HostReport]
    cohorts: list[Cohort]


def judge(
    run: RunInfo, rows: list[HostReport], effect: float = EFFECT, baseline: compare.Baseline | None = None
) -> Judged:
    """Form cohorts, compare, find causes, sort. Rows keep their order within a status and a next step.

    Args:
        run: Whose inventory the commands for next steps name.
        rows: One a host.
        effect: The least deviation that matters, as a fraction.
        baseline: An earlier run whose figures the hosts are held against, too.
    """
    described = {row.host: describe(row) for row in rows}
    members: dict[str, list[HostReport]] = {}
    for row in rows:
        if text := described[row.host]:
            members.setdefault(text, []).append(row)
    found, cohorts = compare.Findings(), []
    for text, own in members.items():
        here = compare.within(own, effect)
        for more in (digests.vote(own), *([compare.against(own, _id(text), baseline, effect)] if baseline else [])):
            here.notes += more.notes
            for host, checks in more.checks.items():
                here.checks[host] += checks
        found.checks |= here.checks
        hosts = [row.host for row in own]
        cohorts.append(Cohort(id=_id(text), describes=text, hosts=hosts, figures=here.figures, notes=here.notes))
    placed = [_row(row, described[row.host], found.checks.get(row.host, []), run) for row in rows]
    order, steps = list(Status), list(Step)
    placed.sort(key=lambda row: (order.index(row.status), -steps.index(row.cause.step) if row.cause else 0))
    return Judged(placed, sorted(cohorts, key=lambda cohort: -len(cohort.hosts)))


def _row(row: HostReport, described: str | None, more: list[Check], run: RunInfo) -> HostReport:
    update: dict[str, object] = {"cohort": _id(described) if described else None}
    if more:
        update["checks"] = row.checks + more
    if more and row.status in VERIFIED and not row.failures:
        worst = min((Status(check.status.value) for check in more), key=VERIFIED.index)
        update["status"] = min(row.status, worst, key=VERIFIED.index)
    told = row.model_copy(update=update)
    told.cause = causes.find(told, run)
    if told.cause and told.cause.checks:
        told.remedy = told.cause.what
    if more:
        _explain(told, more)
    return told


def _explain(row: HostReport, slow: list[Check]) -> None:
    """The finding beside its cause: `31 % slower: held back by the power brake`."""
    first = next((check for check in slow if check.status.value == "fail"), slow[0])
    others = len(slow) - 1
    told = first.summary + (f", and {others} more figure{'s' * (others > 1)} likewise" if others else "")
    cause = row.cause
    if cause and cause.says not in told:
        told = f"{told}; {cause.says}"
    if cause and row.summary and row.status is not Status.WARN and first.status.value != "fail":
        told = f"{row.summary}; {told}"
    row.summary = told


def fleet(
    run: RunInfo,
    rows: list[HostReport],
    exit_code: Callable[[list[HostReport]], int],
    errors: list[str],
    effect: float = EFFECT,
    baseline: compare.Baseline | None = None,
) -> FleetReport:
    """The report of a run from its rows; `exit_code` is asked once their statuses are final."""
    judged = judge(run, rows, effect, baseline)
    counts = Counter(row.status for row in judged.rows)
    return FleetReport(
        run=run,
        exit_code=exit_code(judged.rows),
        counts={status: counts[status] for status in Status if counts[status]},
        hosts=judged.rows,
        cohorts=judged.cohorts,
        baseline=baseline.run if baseline else None,
        errors=errors,
    )


def again(
    fleet: FleetReport, exit_code: Callable[[list[HostReport]], int], effect: float, baseline: compare.Baseline | None
) -> FleetReport:
    """A finished report judged anew, with another effect or another baseline."""
    told = judge(fleet.run, [_unjudged(row) for row in fleet.hosts], effect, baseline)
    counts = Counter(row.status for row in told.rows)
    update = {"hosts": told.rows, "cohorts": told.cohorts, "exit_code": exit_code(told.rows)}
    update |= {"counts": {status: counts[status] for status in Status if counts[status]}}
    return fleet.model_copy(update={**update, "baseline": baseline.run if baseline else None})


def _unjudged(row: HostReport) -> HostReport:
    """A row as it was before it was compared: a status that only comparing gave it is taken back."""
    checks = [check for check in row.checks if not check.id.startswith(("cohort.", "baseline."))]
    if len(checks) == len(row.checks):
        return row
    worst = min((Status(check.status.value) for check in checks), key=VERIFIED.index, default=Status.PASS)
    status = row.status if row.failures or row.status is Status.PENDING else worst
    first = next((check for check in checks if check.status.value == status.value), None)
    told = {"summary": first.summary, "remedy": first.remedy} if first and status is not Status.PASS else {}
    return row.model_copy(update={"checks": checks, "status": status, "summary": "", "remedy": "", **told})


def describe(row: HostReport) -> str | None:
    """What a host's figures depend on; hosts that agree in all of it are a cohort. None where it was not measured."""
    seen = row.observation
    if seen is None or row.torch is None:
        return None
    names = Counter(known.name if (known := gpu_by_id(g.device_id)) else f"10de:{g.device_id}" for g in seen.gpus)
    gpus = " + ".join(f"{count} x {name}" for name, count in sorted(names.items()))
    cpu = f"{seen.cpu_count} x {seen.cpu_model or seen.os.architecture}"
    driver = f"driver {(seen.driver.module_version or 'none').split('.')[0]}" if gpus else ""
    return " · ".join(filter(None, [gpus or cpu, driver, f"torch {row.torch}", row.level or ""]))


def _id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
