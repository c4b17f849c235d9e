"""report.html: one file that opens without a network, with everything in it that a morning's questions need.

The page is a template with the summary written into it, and data that its script unpacks: the table of hosts at once,
the panels of hosts in chunks when one is opened, the chart library when the charts come into view. Everything that a
host sent is data to the page, never markup: the template escapes, the script makes text nodes, and a content security
policy lets only the page's own scripts run.
"""

from __future__ import annotations

import base64
import json
import math
import re
import secrets
import zlib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from llmprov.knowledge import FIGURES
from llmprov.model import Check, CheckStatus, FleetReport, HostReport, Status
from llmprov.model.report import Step
from llmprov.report import figures
from llmprov.text import number, plain

#: Hosts whose panels are unpacked together: a chunk of this size opens without a wait.
CHUNK = 200

#: Stands in a column for what a host does not have; no host's own text is just this character.
ABSENT = "\x00"

#: Longest text of one finding in the page; the host's own file has the whole.
TEXT_LIMIT = 1500


def render(fleet: FleetReport) -> str:
    """The page."""
    nonce = secrets.token_urlsafe(16)
    chunks = [fleet.hosts[start : start + CHUNK] for start in range(0, len(fleet.hosts), CHUNK)]
    page: str = _template().render(
        fleet=fleet,
        run=fleet.run,
        nonce=nonce,
        sentence=figures.sentence(fleet),
        took=figures.took(fleet),
        groups=figures.groups(fleet),
        names={status.value: status.value.replace("_", " ") for status in Status},
        figure_names={key: figure.name for key, figure in FIGURES.items()},
        table=packed(_table(fleet)),
        chunks=[packed(_panels(chunk)) for chunk in chunks],
        chunk_size=CHUNK,
        script=_own("page.js"),
        style=_own("page.css"),
        table_style=_asset("itables", "html/dt_bundle.css").replace("</", "<\\/"),
        table_script=_library("itables", "html/dt_bundle.js"),
        chart_script=_library("plotly", "package_data/plotly.min.js"),
    )
    return page


def _template() -> Any:
    loader = PackageLoader("llmprov.report", "page")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plain"] = plain
    environment.filters["number"] = number
    return environment.get_template("page.html.j2")


def _own(name: str) -> str:
    return _asset("llmprov.report", f"page/{name}")


def _asset(package: str, path: str) -> str:
    return resources.files(package).joinpath(path).read_text("utf-8")


@cache
def _library(package: str, path: str) -> str:
    """A library's script, packed: a third of its size, and not parsed before it is needed."""
    return _deflated(resources.files(package).joinpath(path).read_bytes(), level=3)


def packed(value: object) -> str:
    """A value as the page's script unpacks it: JSON, deflated, in base64 (which holds nothing that HTML would read)."""
    return _deflated(json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode(), level=6)


def _deflated(data: bytes, level: int) -> str:
    return base64.b64encode(zlib.compress(data, level)).decode("ascii")


def _short(value: object) -> object:
    """A value for a panel: four digits of a figure, no text without end."""
    if isinstance(value, float):
        return rounded(value, 4)
    return plain(value, TEXT_LIMIT) if isinstance(value, str) else value


def rounded(value: float, digits: int) -> float:
    """A figure of so many digits: more are noise, and pack badly."""
    short = float(f"{value:.{digits}g}")
    return short if math.isfinite(short) else value


# -- the table -----------------------------------------------------------------------------------------------------


def _table(fleet: FleetReport) -> dict[str, Any]:
    """Columns of the host table, and the figures that the charts show; a value a host each."""
    rows = fleet.hosts
    values = [figures.compared(row) for row in rows]
    cohorts = {cohort.id: number for number, cohort in enumerate(fleet.cohorts)}
    return {
        "host": [plain(row.host) for row in rows],
        "status": [list(Status).index(row.status) for row in rows],
        "statuses": [status.value.replace("_", " ") for status in Status],
        "what": [plain(row.summary, 300) for row in rows],
        "step": [list(Step).index(row.cause.step) if row.cause else 0 for row in rows],
        "steps": [step.value for step in Step],
        "cohort": [cohorts.get(row.cohort or "", -1) for row in rows],
        "cohorts": [plain(cohort.describes) for cohort in fleet.cohorts],
        "groups": [[plain(group) for group in row.groups] for row in rows],
        "torch": [plain(row.torch or "", 40) for row in rows],
        "since": [row.since.date().isoformat() if row.since else "" for row in rows],
        "figures": {key: [_digits(of.get(key)) for of in values] for key in _measured(fleet)},
        "names": {key: figure.name for key, figure in FIGURES.items()},
        "units": {figure.key: figure.unit for cohort in fleet.cohorts for figure in cohort.figures},
        "medians": [{figure.key: figure.median for figure in cohort.figures} for cohort in fleet.cohorts],
        "slow": _slow(fleet),
    }


def _measured(fleet: FleetReport) -> list[str]:
    return [key for key in FIGURES if any(f.key == key for cohort in fleet.cohorts for f in cohort.figures)]


def _digits(figure: tuple[float, str] | None) -> float | None:
    return rounded(figure[0], 5) if figure else None


def _slow(fleet: FleetReport) -> dict[str, list[tuple[int, float, str]]]:
    """Key -> what stands out by it, the worst first: place of the host, part of what it was held against, device or "".

    A single device is held against the others of its host, a host against its cohort.
    """
    found: dict[str, list[tuple[int, float, str]]] = {}
    for place, row in enumerate(fleet.hosts):
        for check in row.checks:
            if check.status is CheckStatus.PASS:
                continue
            told = re.fullmatch(r"cohort\.(?:(gpu\d+)\.)?(.+)", check.id)
            now, usual = check.measured, check.expected
            if told and told.group(2) in FIGURES and isinstance(now, int | float) and isinstance(usual, int | float):
                found.setdefault(told.group(2), []).append((place, round(now / usual, 4), told.group(1) or ""))
    return {key: sorted(slow, key=lambda one: one[1]) for key, slow in found.items()}


# -- the panels ----------------------------------------------------------------------------------------------------


def _panels(rows: Sequence[HostReport]) -> dict[str, Any]:
    """Everything about a chunk of hosts. What most of them have in common stands in columns, which pack well."""
    passed = [[check for check in row.checks if check.status is CheckStatus.PASS] for row in rows]
    figures_of = [[m for m in row.measurements if not m.key.endswith((".p5", ".p95"))] for row in rows]
    return {
        "facts": _columns([_facts(row) for row in rows]),
        "passed": _columns([{check.id: _short(check.measured) for check in of} for of in passed]),
        "expected": _columns([{check.id: _short(check.expected) for check in of} for of in passed]),
        "passed_units": {check.id: plain(check.unit) for of in passed for check in of},
        # Four digits: a figure is far from the largest number that there is, so that none of them becomes infinite.
        "figures": _columns([{f"{m.key}@{m.device}": float(f"{m.value:.4g}") for m in of} for of in figures_of]),
        "units": {f"{m.key}@{m.device}": plain(m.unit) for of in figures_of for m in of},
        "found": [[_finding(check) for check in _worst_first(row.checks)] for row in rows],
        "cause": [_cause(row) for row in rows],
        "devices": [[[plain(str(value)) for value in _device(device)] for device in row.devices] for row in rows],
        "drift": [[plain(figures.action_line(action), TEXT_LIMIT) for action in row.drift] for row in rows],
        "done": [[plain(name, 300) for name in row.converged.changed] for row in rows],
        "failures": [
            [[f.stage, plain(f.task, 300), plain(f.message, TEXT_LIMIT)] for f in row.failures] for row in rows
        ],
        "silent": [[plain(text, 300) for text in row.not_reported] for row in rows],
    }


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[object]]:
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: [row.get(key, ABSENT) for row in rows] for key in keys}


def _facts(row: HostReport) -> dict[str, object]:
    facts: dict[str, object] = {"groups": ", ".join(row.groups), "PyTorch": row.torch, "Python": row.python}
    facts |= {"device": row.device, "measured at level": row.level}
    seen = row.observation
    if seen:
        facts |= {
            "operating system": f"{seen.os.name or seen.os.id} {seen.os.version_id} {seen.os.architecture}",
            "kernel": seen.os.kernel,
            "driver": seen.driver.module_version,
            "driver libraries": seen.driver.library_version,
            "processors": f"{seen.cpu_count} x {seen.cpu_model}" if seen.cpu_model else seen.cpu_count,
            "memory": f"{seen.memory_gb:.0f} GB" if seen.memory_gb else None,
            "conda": seen.conda.version if seen.conda else None,
        }
    facts |= {f"seconds of {stage}": seconds for stage, seconds in row.elapsed_s.items()}
    return {name: _short(value) for name, value in facts.items() if value not in (None, "")}


def _worst_first(checks: Iterable[Check]) -> list[Check]:
    order = [CheckStatus.FAIL, CheckStatus.INCONCLUSIVE, CheckStatus.WARN]
    return sorted((c for c in checks if c.status in order), key=lambda check: order.index(check.status))


def _finding(check: Check) -> list[object]:
    texts = [plain(text, TEXT_LIMIT) for text in (check.summary, check.evidence, check.remedy)]
    return [check.id, check.status.value, _short(check.measured), _short(check.expected), plain(check.unit), *texts]


def _cause(row: HostReport) -> list[str] | None:
    cause = row.cause
    if cause is None:
        return None
    texts = (cause.says, cause.step.value, cause.what, cause.command, figures.drain(row))
    return [plain(text, TEXT_LIMIT) for text in texts]


def _device(device: Any) -> Sequence[object]:
    return device.label, device.name, device.address, device.serial, device.uuid
