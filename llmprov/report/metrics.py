"""metrics.prom: for the textfile collector of Prometheus' node exporter, on the controller.

Series are a host's status, its counts of checks, and the figures that hosts are compared by, one a host: single devices
would be a series for each of a hundred thousand cards. A label is a host's inventory name, never what a host sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmprov.knowledge import FIGURES
from llmprov.model import CheckStatus, FleetReport, Status
from llmprov.report import figures
from llmprov.text import plain

_BAD = (CheckStatus.FAIL, CheckStatus.WARN, CheckStatus.INCONCLUSIVE)


def render(fleet: FleetReport) -> str:
    """The metrics of one run."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fleet(fleet))
    return generate_latest(registry).decode("utf-8")


class _Fleet(Collector):
    def __init__(self, fleet: FleetReport) -> None:
        self.fleet = fleet

    def collect(self) -> Iterable[Metric]:
        yield from self._run()
        yield from self._hosts()
        yield from self._figures()

    def _run(self) -> Iterable[Metric]:
        run = self.fleet.run
        if run.finished:
            name = "llmprov_run_finished_timestamp_seconds"
            yield GaugeMetricFamily(name, "When the last run finished.", run.finished.timestamp())
        yield GaugeMetricFamily("llmprov_run_exit_code", "Exit code of the last run.", self.fleet.exit_code)
        hosts = GaugeMetricFamily("llmprov_hosts", "Hosts of the inventory by status.", labels=["status"])
        for status in Status:
            hosts.add_metric([status.value], self.fleet.counts.get(status, 0))
        yield hosts

    def _hosts(self) -> Iterable[Metric]:
        state = GaugeMetricFamily("llmprov_host_status", "1 for the status that a host has.", labels=["host", "status"])
        checks = GaugeMetricFamily(
            "llmprov_host_checks", "Checks of a host that did not pass.", labels=["host", "outcome"]
        )
        for row in self.fleet.hosts:
            state.add_metric([plain(row.host), row.status.value], 1)
            counts = Counter(check.status for check in row.checks)
            for outcome in _BAD:
                checks.add_metric([plain(row.host), outcome.value], counts[outcome])
        yield state
        yield checks

    def _figures(self) -> Iterable[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for row in self.fleet.hosts:
            for key, (value, unit) in figures.compared(row).items():
                if key not in families:
                    told = f"{FIGURES[key].name}, {unit}; the median of the host's devices.".capitalize()
                    families[key] = GaugeMetricFamily("llmprov_" + key.replace(".", "_"), told, labels=["host"])
                families[key].add_metric([plain(row.host)], value)
        yield from families.values()
