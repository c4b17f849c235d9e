"""How a host ended and how a run ended: from what the ledger holds to a status, a sentence and an exit code."""

from __future__ import annotations

import hashlib
import re

from llmprov.model import Check, CheckStatus, HostReport, Kind, Plan, Status
from llmprov.run.entry import Entry

#: Worst first.
SEVERITY = [CheckStatus.FAIL, CheckStatus.INCONCLUSIVE, CheckStatus.WARN, CheckStatus.PASS]

Judgement = tuple[Status, str, str]

#: Checks of what is not there before the driver's module is loaded: they say nothing of a host that waits for a reboot.
UNTIL_REBOOT = ("declared.nvidia_driver", "driver.", "torch.cuda", "gpu", "fabric.")

#: What ssh, sudo and others say -> what to do. Searched in order; the first that stands in the message wins.
REMEDIES = (
    ("Failed to fetch", "mend the package sources of the host (/etc/apt/sources.list), then run again"),
    ("Unable to locate package", "mend the package sources of the host (/etc/apt/sources.list), then run again"),
    ("has no installation candidate", "mend the package sources of the host (/etc/apt/sources.list), then run again"),
    (
        "Host key verification failed",
        "compare the host's key with the pinned one; if the host was rebuilt, pin it anew",
    ),
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "compare the host's key with the pinned one before you trust it",
    ),
    ("Permission denied", "check ansible_user, the key and the password for this host"),
    ("Connection refused", "start sshd on the host, or correct ansible_port"),
    ("timed out", "check that the host is up and that its address and the firewall let you reach it"),
    ("No route to host", "check that the host is up and its address is right"),
    ("Could not resolve hostname", "correct ansible_host, or the name service"),
    ("Name or service not known", "correct ansible_host, or the name service"),
    ("Missing sudo password", "give the sudo password with --ask-become-pass, or allow this user sudo without one"),
    ("Incorrect sudo password", "give this host's sudo password: --ask-become-pass, or ansible_become_password"),
    (
        "must have a tty",
        "take requiretty out of the host's sudoers; or set ansible_pipelining: false for it: then sudo has a terminal",
    ),
    ("login shell ended", "look for `exit` in the login user's shell profile (~/.bashrc, ~/.profile, /etc/profile.d)"),
    ("printed no result", "make sure that the host's python3 works: `ssh HOST python3 --version`"),
    ("held the package lock", "let it finish or end it, then run again"),
    ("No space left on device", "make room on the file system that the sentence names, then run again"),
    ("Read-only file system", "mount it for writing, or install elsewhere (llm_env_path)"),
)


def judge(entry: Entry, checks: list[Check], verify_wanted: bool) -> Judgement:
    """The status of one host, one sentence why, and what to do next."""
    if not entry.selected:
        return Status.NOT_SELECTED, "outside --limit or --retry", ""
    if entry.unreachable is not None:
        lost = next((f for f in entry.failures if f.stage == "reboot"), None)
        if lost:
            remedy = "look at its console: it did not come back from the reboot, or not in time"
            return Status.UNREACHABLE, f"lost in its reboot: {lost.message}", remedy
        remedy = remedy_for(entry.unreachable) or "try `ssh` to the host by hand with the same user and key"
        return Status.UNREACHABLE, entry.unreachable, remedy
    if entry.plan and entry.plan.refusals:
        conflicts = "; ".join(refusal.conflict() for refusal in entry.plan.refusals)
        return Status.REFUSED, conflicts, "; ".join(refusal.remedy for refusal in entry.plan.refusals)
    if entry.held:
        said, _, remedy = entry.held.rpartition(": ")
        return Status.REFUSED, said, remedy
    if entry.failures:
        # A host that fails twice in a stage was rescued, and by a task that tells why it failed.
        told = [failure for failure in entry.failures if failure.stage == entry.failures[0].stage][-1]
        return (
            Status.FAIL,
            f"{told.task}: {told.message}",
            told.remedy or remedy_for(told.message) or "mend what the sentence names and run again",
        )
    return _by_checks(entry, checks, verify_wanted)


def remedy_for(message: str) -> str:
    """What to do about a message, where it is known."""
    return next((remedy for sign, remedy in REMEDIES if sign.lower() in message.lower()), "")


def _by_checks(entry: Entry, checks: list[Check], verify_wanted: bool) -> Judgement:
    if entry.plan is None:
        return (
            Status.NOT_RUN,
            "the run ended before its turn came",
            "run again, with --limit if only for this host",
        )
    # What was planned last: a driver that was installed meanwhile waits only now.
    reboot = [a for a in (entry.verified_plan or entry.plan).actions if a.kind is Kind.REBOOT]
    if not verify_wanted:
        return Status.INCONCLUSIVE, "not verified, as asked", "verify it: `llmprov verify -i INVENTORY`"
    if entry.verification is None:
        return (
            Status.NOT_RUN,
            "the run ended before it was verified",
            "verify it: `llmprov verify -i INVENTORY`",
        )
    if reboot:
        checks = [c for c in checks if not c.id.startswith(UNTIL_REBOOT)]
    worst = [c for c in checks if c.status == min((c.status for c in checks), key=SEVERITY.index)]
    status = Status(worst[0].status.value) if worst else Status.INCONCLUSIVE
    if reboot and status is not Status.FAIL:
        waits, kept = f"waits for a reboot: {reboot[0].why}", entry.kept_from_reboot
        if kept:
            return Status.PENDING, f"{waits}; not rebooted: {kept}", "mend that, then allow the reboot again"
        return Status.PENDING, waits, "allow the reboot: `llmprov provision -i INVENTORY --reboot`, one host at a time"
    if status is Status.PASS:
        return status, "", ""
    summary = "; ".join(check.summary or check.id for check in worst[:3])
    more = f" and {len(worst) - 3} more" if len(worst) > 3 else ""
    if entry.reverted:
        more += "; the previous environments are in use again"
    return status, summary + more, next((c.remedy for c in worst if c.remedy), "")


def check_id(text: str) -> str:
    """The id of a check about a place: `declared.venv /srv/a` is `declared.venv:srv:a`.

    Where a path has more than an id may have, a digest keeps it apart from others that come to the same.
    """
    plain = text.replace(" /", ":").replace(":/", ":").replace("/", ":")
    if re.fullmatch(r"[a-z0-9_.:\-]{1,120}", plain):
        return plain
    told = re.sub(r"[^a-z0-9_.:\-]+", "-", plain.lower())[:100]
    return f"{told}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def declared_checks(plan: Plan | None) -> list[Check]:
    """Whether each component was as declared when it was verified; one check a component."""
    if plan is None:
        return []
    found = []
    for action in plan.actions:
        same = action.kind is Kind.NONE
        found.append(
            Check(
                id=check_id(f"declared.{action.component}"),
                status=CheckStatus.PASS if same else CheckStatus.FAIL,
                summary=f"{action.component} is as declared" if same else f"{action.component}: {action.why}",
                measured=action.before,
                expected=action.after,
                remedy="" if same else "run `llmprov provision -i INVENTORY`",
            )
        )
    return found


def finding_checks(plan: Plan | None) -> list[Check]:
    """What the observation found wrong with the driver, now or at the next boot; one check a finding."""
    return [
        Check(id=check_id(f.id), status=CheckStatus.WARN, summary=f.says, evidence=f.evidence, remedy=f.remedy)
        for f in (plan.findings if plan else [])
    ]


def exit_code(hosts: list[HostReport], strict: bool = False) -> int:
    """The exit code of a run whose rows are `hosts`; where several hold, the first of 4, 3, 5."""
    statuses = {row.status for row in hosts}
    if statuses & {Status.UNREACHABLE, Status.NOT_RUN}:
        return 4
    stopped = any(row.status is Status.FAIL and row.failures for row in hosts)
    if statuses & {Status.REFUSED, Status.PENDING} or stopped:
        return 3
    if Status.FAIL in statuses or (strict and Status.INCONCLUSIVE in statuses):
        return 5
    return 0
