"""Small builders of records, so that a test says only what matters to it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from llmprov.model import Desired, EnvironmentSpec, HostReport, Observation, RunInfo, Status
from llmprov.plan import specs

ENV = "/opt/llmprov/envs/llm"

#: The forms of a report in a run directory, as docs/report.md lists them.
RENDERED = {"report.html", "report.md", "junit.xml", "metrics.prom"}


def desired(**roles: dict[str, Any]) -> Desired:
    """A desired state with a virtual environment, unless told otherwise."""
    return Desired.model_validate({"llm": {"env_manager": "venv"}} | roles)


def desired_conda(**roles: dict[str, Any]) -> Desired:
    return Desired.model_validate({"llm": {"env_manager": "conda"}} | roles)


def main_spec(wanted: Desired, variant: str = "cpu") -> EnvironmentSpec:
    """The main environment as it should be."""
    return specs.specs(wanted, variant)[0][0]


def observed(**changes: Any) -> Observation:
    """A bare Debian 12 host with Python, uv and no environment, changed as told."""
    plain = {
        "python": "/usr/bin/python3",
        "python_version": "3.11.2",
        "os": {"id": "debian", "version_id": "12", "architecture": "x86_64", "package_manager": "apt", "glibc": "2.36"},
        "disk": {"path": "/", "free_gb": 50.0, "total_gb": 100.0},
        "clock_skew_s": 0.01,
        "clock_uncertainty_s": 0.2,
        "uv_version": "0.13.9",
    }
    return Observation.model_validate(plain | changes)


def environment(**packages: str) -> dict[str, Any]:
    """An environment that works, with packages."""
    return {"path": ENV, "kind": "venv", "python_version": "3.11.2", "python_works": True, "packages": packages}


def gpu(device_id: str) -> dict[str, str]:
    return {"address": "0000:01:00.0", "device_id": device_id}


def row(host: str, status: Status, **values: Any) -> HostReport:
    return HostReport(host=host, status=status, **values)


def run_info() -> RunInfo:
    return RunInfo(id="20260101T000000Z-abcdef", command="provision", started=datetime(2026, 1, 1, tzinfo=UTC))
