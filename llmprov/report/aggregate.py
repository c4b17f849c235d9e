"""Rows into one fleet report: counts, and cohorts by what hosts are, not by their names."""

from __future__ import annotations

import hashlib
from collections import Counter

from llmprov.knowledge import gpu_by_id
from llmprov.model import FleetReport, HostReport, RunInfo, Status
from llmprov.model.report import Cohort


def fleet(run: RunInfo, rows: list[HostReport], exit_code: int, errors: list[str]) -> FleetReport:
    """The report of a run from its rows, which keep their order."""
    described = {row.host: _describe(row) for row in rows}
    placed = [
        row.model_copy(update={"cohort": _cohort_id(text) if (text := described[row.host]) else None}) for row in rows
    ]
    cohorts: dict[str, list[str]] = {}
    for row in placed:
        if text := described[row.host]:
            cohorts.setdefault(text, []).append(row.host)
    counts = Counter(row.status for row in rows)
    return FleetReport(
        run=run,
        exit_code=exit_code,
        counts={status: counts[status] for status in Status if counts[status]},
        hosts=placed,
        cohorts=[Cohort(id=_cohort_id(text), describes=text, hosts=hosts) for text, hosts in cohorts.items()],
        errors=errors,
    )


def _describe(row: HostReport) -> str | None:
    """GPU model and count, driver branch, torch: hosts that agree in these should give the same figures."""
    seen = row.observation
    if seen is None or row.torch is None:
        return None
    names = Counter(known.name if (known := gpu_by_id(g.device_id)) else f"10de:{g.device_id}" for g in seen.gpus)
    gpus = " + ".join(f"{count} x {name}" for name, count in sorted(names.items()))
    cpu = f"{seen.cpu_count} CPUs, {seen.os.architecture}"
    driver = (seen.driver.module_version or "none").split(".")[0]
    return " · ".join([gpus or cpu, f"driver {driver}", f"torch {row.torch}"])


def _cohort_id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
