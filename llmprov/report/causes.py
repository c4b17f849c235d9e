"""From findings to one cause and one next step for each host, by the rules in knowledge/causes.yml."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from fnmatch import fnmatchcase

from llmprov.knowledge import CAUSES, XIDS, CauseRule
from llmprov.model import Check, CheckStatus, HostReport, RunInfo, Status
from llmprov.model.report import Cause, Step
from llmprov.text import plain

#: Hosts that did not get as far as their checks: what stopped them is the cause.
STOPPED = {
    Status.UNREACHABLE: ("unreachable", Step.CONNECT),
    Status.NOT_RUN: ("not_run", Step.VERIFY),
    Status.REFUSED: ("refused", Step.CONFIGURE),
    Status.PENDING: ("pending", Step.ALLOW),
}

#: A finding of speed, by id: what other findings may explain.
SLOW = ("cohort.*", "baseline.*", "*.limit.*", "*.soak.pace")

#: The lock that a command takes where it names none.
LOCK = "llmprov.lock"

#: The next step where a finding names none.
READ = "read the evidence of the finding"


def find(row: HostReport, run: RunInfo) -> Cause | None:
    """The cause of a host's state, or None for one that passed or was not selected."""
    if row.status in STOPPED:
        name, step = STOPPED[row.status]
        command = _allowing(row, run) if row.status is Status.PENDING else ""
        return Cause(id=name, says=row.summary or name, step=step, what=row.remedy, command=command)
    if row.failures:
        return Cause(id="task_failed", says=row.summary, step=Step.PROVISION, what=row.remedy)
    bad = [check for check in row.checks if check.status in (CheckStatus.FAIL, CheckStatus.WARN)]
    slow = any(_is_slow(check) for check in bad)
    for rule in CAUSES:
        said = [check for check in bad if _speaks(rule, check)] if slow or not rule.slow else []
        if said:
            return _told(rule, said, row, run)
    return _unexplained(row)


def _inventory(run: RunInfo) -> str:
    """The inventory as a command names it; of a run without one, a word to be filled in."""
    return run.inventory[0] if run.inventory else "INVENTORY"


def _allowing(row: HostReport, run: RunInfo) -> str:
    """The command that allows a waiting host its reboot."""
    return _command(["llmprov", "provision", "-i", _inventory(run), "--reboot", "--limit", plain(row.host)], run)


def _command(words: Sequence[str], run: RunInfo) -> str:
    """A command as it is typed; one of llmprov's holds hosts against the lock of the run."""
    locked = ["--locked"] if run.lock and words and words[0] == "llmprov" else []
    named = ["--lock", run.lock] if locked and run.lock and run.lock != LOCK else []
    return shlex.join([*words, *locked, *named])


def _unexplained(row: HostReport) -> Cause | None:
    """The worst finding as its own cause, where no rule knows a better one; None for a host that passed."""
    if row.status in (Status.PASS, Status.NOT_SELECTED):
        return None
    for status in (CheckStatus.FAIL, CheckStatus.INCONCLUSIVE, CheckStatus.WARN):
        check = next((check for check in row.checks if check.status is status), None)
        if check:
            step = Step.VERIFY if status is CheckStatus.INCONCLUSIVE else Step.INSPECT
            name = re.sub(r"^gpu\d+\.", "gpu.", check.id)
            return Cause(
                id=name, says=check.summary or check.id, step=step, what=check.remedy or READ, checks=[check.id]
            )
    return Cause(id="not_verified", says=row.summary or row.status.value, step=Step.VERIFY, what=row.remedy)


def _is_slow(check: Check) -> bool:
    return any(fnmatchcase(check.id, pattern) for pattern in SLOW)


def _speaks(rule: CauseRule, check: Check) -> bool:
    return any(_matches(finding, check) for finding in rule.any)


def _matches(finding: dict[str, object], check: Check) -> bool:
    if "xid" in finding:
        match = re.search(r"xid\.(?:.*\.)?(\d+)$", check.id)
        row = XIDS.get(match.group(1), {}) if match else {}
        return (row.get("action") or row.get("investigate")) in finding["xid"]  # type: ignore[operator]
    if "status" in finding and check.status.value not in finding["status"]:  # type: ignore[operator]
        return False
    texts = {"check": check.id, "measured": str(check.measured), "evidence": check.evidence}
    return all(fnmatchcase(texts[key], str(finding[key])) for key in texts.keys() & finding.keys())


def _told(rule: CauseRule, said: Sequence[Check], row: HostReport, run: RunInfo) -> Cause:
    label = next((m.group() for check in said if (m := re.search(r"\bgpu\d+\b", check.id))), "")
    device = next((device for device in row.devices if device.label == label), None)
    # A value that does not fill its place stands as what is to be put there.
    words = {
        "host": plain(row.host),
        "inventory": _inventory(run),
        "device": f"GPU {label[3:]}" if label else "the host",
        "index": label[3:] or "INDEX",
        "address": plain(device.address) if device and device.address else label[3:] or "INDEX",
    }
    return Cause(
        id=rule.id,
        says=rule.says.format(**words),
        step=Step(rule.step),
        what=rule.what.format(**words),
        command=_command([word.format(**words) for word in rule.command], run),
        drain=rule.drain,
        checks=[check.id for check in said],
    )
