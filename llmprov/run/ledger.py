"""The ledger: events folded into one entry a host, and each entry into a row of the report."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from llmprov.model import Check, CheckStatus, Desired, HostReport, Observation, Plan, Status, Verification
from llmprov.model.report import Failure
from llmprov.run import outcome
from llmprov.run.entry import Entry, Stage

#: Checks that an environment can be at fault for; all others are of the machine.
OF_ENVIRONMENT = (
    "declared.conda_env",
    "declared.venv",
    "declared.pytorch",
    "payload.",
    "python.",
    "package.",
    "import.",
    "torch.",
    "train.",
    "transformers.",
)

#: Tasks that Ansible adds by itself or that only steer; they are no work on a host.
STEERING = {
    "include_role",
    "include_tasks",
    "import_role",
    "import_tasks",
    "group_by",
    "validate_argument_spec",
    "assert",
}


class Ledger:
    """One entry for every host of the inventory, from the start."""

    def __init__(self, hosts: dict[str, list[str]], selected: list[str]) -> None:
        chosen = set(selected)
        self.entries = {host: Entry(host, groups, host in chosen) for host, groups in hosts.items()}
        self.usage_errors: list[str] = []
        #: The host at which reboots were stopped, as it failed; and whether any were allowed.
        self.stopped_at: str | None = None
        self.reboots = False

    # -- folding -------------------------------------------------------------------------------------------------

    def fold(self, stage: Stage, event: dict[str, Any]) -> Entry | None:
        """Take in one event; returns the entry it touched. An event that makes no sense touches none."""
        entry = self.entries.get(event.get("host") or "")
        if entry is None:
            return None
        kind, result = event["event"], event.get("result") or {}
        if kind == "waiting":
            entry.doing = f"Wait for {event.get('by')}"
            return entry
        entry.doing = _task_name(event)
        self.reboots = self.reboots or stage == "reboot"
        if kind == "runner_on_start":
            return entry
        seconds = event.get("duration_s")
        if isinstance(seconds, int | float):
            entry.elapsed_s[stage] = round(entry.elapsed_s.get(stage, 0.0) + seconds, 3)
        if kind == "runner_on_unreachable":
            entry.unreachable = message_of(result)
            self._stopped(entry, stage)
        elif kind == "runner_on_failed" and not event.get("ignored"):
            self._failed(entry, stage, event, result)
        elif kind == "runner_on_ok":
            self._ok(entry, stage, event, result)
        return entry

    def _ok(self, entry: Entry, stage: Stage, event: dict[str, Any], result: dict[str, Any]) -> None:
        if result.get("empty") and not is_steering(event):
            # Runner says ok with nothing in it when a module died silently: that is no evidence of anything.
            failure = Failure(stage=stage, task=_task_name(event), message="the task returned nothing")
            entry.failures.append(failure)
            return
        self._records(entry, stage, result)
        if stage == "reboot" and isinstance(told := result.get("reboot"), dict):
            entry.kept_from_reboot = str(told.get("kept") or "") if told.get("due") else ""
        if not is_steering(event) and stage not in ("observe", "verify"):
            entry.converged.tasks += 1
            if result.get("changed"):
                entry.reverted = entry.reverted or stage == "revert"
                entry.converged.changed.append(_task_name(event))

    def _failed(self, entry: Entry, stage: Stage, event: dict[str, Any], result: dict[str, Any]) -> None:
        kind = (result.get("llmprov") or {}).get("kind")
        if stage == "reboot" and str(event.get("action", "")).endswith("assert"):
            return  # it was not touched, since another failed
        if kind == "usage":
            self.usage_errors.append(f"host {entry.host}: {message_of(result)}")
        elif kind == "held":
            entry.held = message_of(result)
        elif kind == "verify" and "verification" in result:
            self._records(entry, stage, result)
        elif not (entry.plan and entry.plan.refusals):
            observing = str(event.get("action", "")).endswith("llmprov_plan")
            where: Stage = "observe" if observing else stage
            entry.failures.append(Failure(stage=where, task=_task_name(event), message=message_of(result)))
            self._stopped(entry, stage)

    def _stopped(self, entry: Entry, stage: Stage) -> None:
        if stage == "reboot" and self.stopped_at is None:
            self.stopped_at = entry.host

    def _records(self, entry: Entry, stage: Stage, result: dict[str, Any]) -> None:
        try:
            if "observation" in result and "plan" in result:
                self._planned(entry, stage, Plan.model_validate(result["plan"]))
                entry.desired = Desired.model_validate(result["desired"]) if "desired" in result else None
                entry.observation = Observation.model_validate(result["observation"])
            if "verification" in result and stage == "verify":
                entry.verification = Verification.model_validate(result["verification"])
        except ValidationError as error:
            message = f"a record of this host makes no sense: {str(error).splitlines()[0]}"
            entry.failures.append(Failure(stage=stage, task=entry.doing, message=message))

    def _planned(self, entry: Entry, stage: Stage, plan: Plan) -> None:
        if stage == "verify":
            entry.verified_plan = plan
        if entry.plan is None:
            entry.plan = plan
        elif plan.refusals:
            entry.plan = entry.plan.model_copy(update={"refusals": plan.refusals})

    def untouched(self) -> bool:
        """Whether no task has begun on any host."""
        return not any(entry.doing for entry in self.entries.values())

    # -- reading -------------------------------------------------------------------------------------------------

    def reachable(self) -> list[str]:
        """Selected hosts that can still be verified: answered, and were not refused."""
        return [
            entry.host
            for entry in self.entries.values()
            if entry.selected and entry.unreachable is None and entry.plan
            if not entry.plan.refusals and not entry.held
        ]

    def hosts_for(self, stage: Stage) -> list[str]:
        """Selected hosts that the next stage is for.

        Only a host on which nothing has failed is rebooted. After a rebuild the new environments are accepted if the
        whole host passed, and reverted if they are at fault. If verification decided neither, both builds are kept.
        """
        hosts = self.reachable()
        if stage == "verify":
            return hosts
        hosts = [host for host in hosts if not self.entries[host].failures]
        if stage in ("accept", "revert"):
            hosts = [host for host in hosts if _has_builds(self.entries[host])]
        if stage == "accept":
            return [host for host in hosts if self._row(host).status in (Status.PASS, Status.WARN, Status.PENDING)]
        if stage == "revert":
            return [host for host in hosts if any(map(_of_environment, self._row(host).checks))]
        return hosts

    def _row(self, host: str) -> HostReport:
        return self._report(self.entries[host], verify_wanted=True)

    def reports(self, verify_wanted: bool) -> list[HostReport]:
        """One row for every host of the inventory, the worst first, then by the inventory's order."""
        order = list(Status)
        rows = [self._report(entry, verify_wanted) for entry in self.entries.values()]
        return sorted(rows, key=lambda row: order.index(row.status))

    def _report(self, entry: Entry, verify_wanted: bool) -> HostReport:
        verification = entry.verification
        checks = list(verification.checks) if verification else []
        checks += outcome.declared_checks(entry.verified_plan)
        if verification:
            checks += outcome.finding_checks(entry.verified_plan)
        if self.reboots and self.stopped_at and not entry.kept_from_reboot:
            entry.kept_from_reboot = f"{self.stopped_at} failed before its turn"
        status, summary, remedy = outcome.judge(entry, checks, verify_wanted)
        return HostReport(
            host=entry.host,
            status=status,
            summary=summary,
            remedy=remedy,
            groups=entry.groups,
            observation=entry.observation,
            plan=entry.plan,
            converged=entry.converged,
            failures=entry.failures,
            checks=_unique(checks),
            measurements=verification.measurements if verification else [],
            devices=verification.devices if verification else [],
            not_reported=verification.not_reported if verification else [],
            digests=verification.digests if verification else {},
            drift=entry.verified_plan.pending if entry.verified_plan else [],
            level=verification.level if verification else None,
            torch=verification.torch if verification else None,
            python=verification.python if verification else None,
            device=verification.device if verification else None,
            elapsed_s=entry.elapsed_s,
        )


def _has_builds(entry: Entry) -> bool:
    """Whether an environment has other builds than the one in use, as it was seen when it was verified."""
    return entry.observation is not None and any(len(there.builds) > 1 for there in entry.observation.environments)


def _of_environment(check: Check) -> bool:
    return check.status is CheckStatus.FAIL and check.id.startswith(OF_ENVIRONMENT)


def _unique(checks: list[Check]) -> list[Check]:
    """One check an id: a host that sends an id twice keeps its worse answer."""
    found: dict[str, Check] = {}
    for check in checks:
        kept = found.get(check.id)
        if kept is None or outcome.SEVERITY.index(check.status) < outcome.SEVERITY.index(kept.status):
            found[check.id] = check
    return list(found.values())


def _task_name(event: dict[str, Any]) -> str:
    return str(event.get("task") or event.get("action") or "")


def is_steering(event: dict[str, Any]) -> bool:
    """Whether the task only steers Ansible; modules are named in full or in short, as the task wrote them."""
    return str(event.get("action") or "").rsplit(".", 1)[-1] in STEERING


def _lines(printed: object) -> list[str]:
    """The lines with something in them, less what ssh says when it lets go."""
    return [line for line in str(printed or "").splitlines() if line.strip() and not line.startswith("Shared conn")]


def message_of(result: dict[str, Any]) -> str:
    """The tool's own words on one line, with the last lines of what it printed where it only says `non-zero`."""
    said = str(result.get("msg") or "").strip()
    if not said or said.startswith(("non-zero return code", "MODULE FAILURE", "Task failed: Module failed")):
        printed = (_lines(result.get(name)) for name in ("stderr", "module_stderr", "stdout", "module_stdout"))
        said = " ".join(filter(None, [said, *next(filter(None, printed), [])[-4:]]))
    said = re.sub(
        r"^(Task failed: )?(Data could not be sent to remote host \S+ Make sure this host can be reached over ssh: )?",
        "",
        said,
    )
    return " ".join(said.split())[:1500] or "no reason was given"
