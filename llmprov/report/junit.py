"""junit.xml: what CI systems read. A suite a host, in it the host itself and each check that did not pass.

Checks that passed are counted in the suite's properties and not listed: a fleet has a million of them.
"""

from __future__ import annotations

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from llmprov.model import Check, CheckStatus, FleetReport, HostReport, Status
from llmprov.text import plain

_RESULTS = {
    Status.FAIL: Failure,
    Status.UNREACHABLE: Error,
    Status.NOT_RUN: Error,
    Status.REFUSED: Failure,
    Status.PENDING: Failure,
    Status.INCONCLUSIVE: Skipped,
    Status.NOT_SELECTED: Skipped,
}


def render(fleet: FleetReport) -> str:
    """The document; a warning is a passed case with the warning in its output."""
    document = JUnitXml(f"llmprov {fleet.run.command} {plain(fleet.run.id)}")
    for row in fleet.hosts:
        document.append(_suite(row, fleet.run.started.isoformat(timespec="seconds")))
    text = document.tostring()
    return text.decode("utf-8") if isinstance(text, bytes) else str(text)


def _suite(row: HostReport, started: str) -> TestSuite:
    suite = TestSuite(plain(row.host))
    suite.timestamp = started
    suite.add_property("status", row.status.value)
    suite.add_property("passed checks", str(sum(check.status is CheckStatus.PASS for check in row.checks)))
    if row.cohort:
        suite.add_property("cohort", row.cohort)
    suite.append(_host_case(row))
    suite.extend(_check_case(row, check) for check in row.checks if check.status is not CheckStatus.PASS)
    suite.update_statistics()
    return suite


def _host_case(row: HostReport) -> TestCase:
    case = TestCase("host", plain(row.host), sum(row.elapsed_s.values()))
    told = plain(row.summary, 1000)
    if row.status in _RESULTS:
        result = _RESULTS[row.status](told or row.status.value, row.status.value)
        result.text = f"next: {plain(row.remedy, 1000)}" if row.remedy else ""
        case.result = [result]
    elif told:
        case.system_out = told
    return case


def _check_case(row: HostReport, check: Check) -> TestCase:
    case = TestCase(check.id, plain(row.host))
    told = plain(check.summary, 1000)
    more = "\n".join(
        filter(None, [plain(check.evidence, 2000), f"next: {plain(check.remedy, 1000)}" if check.remedy else ""])
    )
    if check.status is CheckStatus.WARN:
        case.system_out = f"warning: {told}\n{more}"
    else:
        result = (Failure if check.status is CheckStatus.FAIL else Skipped)(told, check.status.value)
        result.text = more
        case.result = [result]
    return case
