"""A whole run: inventory, playbooks, ledger, report; whatever happens, every host has a row at the end."""

from __future__ import annotations

import secrets
import shutil
import signal
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from llmprov.errors import Cancelled, LlmprovError, UsageError
from llmprov.model import HostReport, RunInfo
from llmprov.report.compare import Baseline
from llmprov.run import outcome, reporting, retry
from llmprov.run.content import content_digest
from llmprov.run.directory import RunDirectory
from llmprov.run.entry import Stage
from llmprov.run.inventory import Inventory, inventory_from, load_inventory, require_hosts, require_sources
from llmprov.run.ledger import Ledger
from llmprov.run.lifetime import Lifetime
from llmprov.run.options import Options
from llmprov.run.playbook import PlaybookRun, default_forks, versions
from llmprov.run.progress import Progress, ProgressFactory
from llmprov.run.reporting import Finished, Judging


@dataclass(frozen=True)
class Work:
    """Which playbooks a command runs, in order, each with its stage."""

    command: str
    steps: tuple[tuple[Stage, str], ...]

    @property
    def verifies(self) -> bool:
        """Whether hosts are verified at the end."""
        return any(stage == "verify" for stage, _ in self.steps)

    def with_reboots(self) -> Work:
        """The same work, with the hosts rebooted that wait for it once all of them were converged."""
        number = next(i for i, (stage, _) in enumerate(self.steps) if stage == "converge")
        reboot: tuple[Stage, str] = ("reboot", "reboot.yml")
        return Work(self.command, (*self.steps[: number + 1], reboot, *self.steps[number + 1 :]))


PLAN = Work("plan", (("observe", "plan.yml"),))
PROVISION = Work("provision", (("converge", "converge.yml"), ("verify", "verify.yml")))
CONVERGE_ONLY = Work("provision", (("converge", "converge.yml"),))
VERIFY = Work("verify", (("verify", "verify.yml"),))
#: What each host's verification says of its new environments decides between the last two.
REBUILD = Work(
    "rebuild",
    (
        ("converge", "rebuild.yml"),
        ("verify", "verify.yml"),
        ("accept", "accept_or_revert.yml"),
        ("revert", "accept_or_revert.yml"),
    ),
)
REBUILD_CHECK = Work("rebuild", (("converge", "rebuild.yml"),))


class Session:
    """One run of one command over one inventory."""

    def __init__(
        self,
        work: Work,
        options: Options,
        progress: ProgressFactory,
        strict: bool = False,
        judging: Judging = Judging(),  # noqa: B008 - frozen
        baseline: Baseline | None = None,
        inventory: Inventory | None = None,
        records: tuple[str, ...] = (),
    ) -> None:
        #: What of tasks' results is read beside what every run needs; such a session keeps no events.
        self.records = records
        self.work, self.options, self.strict, self.judging, self.baseline = work, options, strict, judging, baseline
        self._progress_factory = progress
        self._current: PlaybookRun | None = None
        self._interrupts = 0
        require_sources(options)
        #: The hosts, and what is known of them; None until Ansible has read the inventory.
        self.inventory: Inventory | None = None
        self.ledger = Ledger({}, [])
        self._known = inventory
        self._progress: Progress | None = None
        self._directory: RunDirectory | None = None
        self.errors: list[str] = []
        self.info = RunInfo(
            id="",
            command=work.command,
            started=datetime.now(UTC),
            inventory=list(options.inventory),
            limit=options.limit,
            tags=(options.tags or "").split(",") if options.tags else [],
            check_mode=options.check,
            extra_vars=[_name_only(value) for value in options.extra_vars],
            strict=strict,
            lock=options.lock,
            versions=versions(),
            content_digest=content_digest(),
        )

    # -- running -------------------------------------------------------------------------------------------------

    def execute(self, directory: RunDirectory | None) -> Finished:
        """Run every step and return the report; with a directory, write everything into it.

        Raises:
            UsageError: a variable is wrong; no host was changed.
        """
        self.info = self.info.model_copy(update={"id": directory.id if directory else "unsaved"})
        if directory:
            directory.write_run(self.info)
            reporting.warm()
        self._directory = directory
        self._lifetime = Lifetime(directory.id if directory else secrets.token_hex(6), self.work.command)
        before = signal.signal(signal.SIGINT, self._interrupted)
        try:
            if self._known:
                self._begin(self._known)
            self._run_steps()
        finally:
            self._lifetime.end()
            signal.signal(signal.SIGINT, before)
            if self._progress:
                self._progress.close()
            if directory:
                directory.close_events()
        if self.ledger.usage_errors and not self._interrupts:
            raise UsageError(self._usage_sentence())
        return self._report(directory)

    def _begin(self, inventory: Inventory) -> None:
        """The hosts are known: each gets its entry, and progress can be shown."""
        self.inventory = inventory
        self.ledger = Ledger(inventory.hosts, inventory.selected)
        self._progress = self._progress_factory(self.ledger)
        if self._directory:
            self._directory.write(retry.FILE, retry.declared(inventory, self.options).model_dump_json() + "\n")

    def _run_steps(self) -> None:
        for number, (stage, playbook) in enumerate(self.work.steps):
            if self._interrupts or self.ledger.usage_errors:
                return
            limit = self.ledger.hosts_for(stage) if number else self._chosen()
            if number and not limit:
                continue
            began = time.monotonic()
            self._run_playbook(stage, playbook, limit)
            self.info.stages_s[stage] = round(time.monotonic() - began, 3)

    def _chosen(self) -> list[str] | None:
        """The hosts that a retry chose; None where Ansible's own --limit does it."""
        return self.inventory.selected if self.inventory else None

    def _run_playbook(self, stage: Stage, playbook: str, limit: list[str] | None) -> None:
        options = self.options
        if stage in ("accept", "revert"):
            options = replace(options, extra_vars=(*options.extra_vars, f'{{"__llmprov_work": "{stage}"}}'))
        forks = options.forks or default_forks()
        self._current = PlaybookRun(playbook, options, limit, forks, self._lifetime, self.records)
        if self.inventory:
            self._show_stage(stage, limit)
        for event in self._current:
            if event["event"] == "inventory":
                if self.inventory is None:
                    found = inventory_from(event)
                    require_hosts(found, options)
                    self._begin(found)
                    self._show_stage(stage, limit)
            elif not self._interrupts:  # what fails after that fails because it was stopped
                self._take(stage, event)
        if not self._interrupts:
            if self.inventory is None:
                # Ansible did not come as far as its hosts: where it is the inventory's fault, this says so.
                self._begin(load_inventory(self.options))
            problem = self._current.problem()
            if problem:
                self.errors.append(f"{stage}: Ansible did not finish: {problem}")
        self._current = None

    def _show_stage(self, stage: Stage, limit: list[str] | None) -> None:
        assert self._progress
        assert self.inventory
        self._progress.stage(stage, len(self.inventory.selected if limit is None else limit))

    def _take(self, stage: Stage, event: dict[str, Any]) -> None:
        entry = self.ledger.fold(stage, event)
        if entry is not None and self._progress:
            self._progress.event(stage, event, entry)
        if self._directory:
            self._directory.record_event(stage, event)

    def _interrupted(self, _signal: int, _frame: FrameType | None) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            if self._current:
                self._current.kill()
            raise Cancelled("stopped at once, without a report; hosts end what still runs by themselves")
        if self._current:
            self._current.cancel()

    # -- reporting -----------------------------------------------------------------------------------------------

    def _report(self, directory: RunDirectory | None) -> Finished:
        if self.inventory is None:
            raise Cancelled("cancelled")
        rows = self.ledger.reports(verify_wanted=self.work.verifies)
        info = self.info.model_copy(
            update={"finished": datetime.now(UTC), "outcome": "cancelled" if self._interrupts else "finished"}
        )
        return reporting.tell(info, rows, self._exit_code, self.errors, self.judging, self.baseline, directory)

    def _exit_code(self, rows: list[HostReport]) -> int:
        if self._interrupts:
            return Cancelled.exit_code
        return 1 if self.errors else outcome.exit_code(rows, self.strict and self.work.verifies)

    def _usage_sentence(self) -> str:
        first, *others = sorted(set(self.ledger.usage_errors))
        return first + (f" (and {len(others)} more)" if others else "")


def _name_only(value: str) -> str:
    """What of an `-e` may be kept: names and files, never values."""
    if value.startswith("@"):
        return value
    if value.lstrip().startswith(("{", "[")):
        return "(inline)"
    return " ".join(word.split("=")[0] for word in value.split() if "=" in word)


def run(
    work: Work,
    options: Options,
    progress: ProgressFactory,
    runs: Path | None,
    strict: bool = False,
    judging: Judging = Judging(),  # noqa: B008 - frozen
    again: str | None = None,
) -> Finished:
    """Run a command and return its report; without `runs` nothing is kept.

    With `again`, the name of an earlier run, only those hosts are taken up that did not pass in it.

    Raises:
        LlmprovError: of the kinds that `llmprov.errors` names.
    """
    baseline = reporting.find_baseline(judging, runs) if runs is not None else None
    inventory = None
    if again is not None and runs is not None:
        everything = load_inventory(options)
        inventory = replace(everything, selected=retry.left(again, runs, everything, options))
    session = Session(work, options, progress, strict, judging, baseline, inventory)
    directory = RunDirectory.create(runs) if runs is not None else None
    try:
        return session.execute(directory)
    except LlmprovError as error:
        # Where nothing ran on any host, a directory without a report would only be in the way.
        if directory and (isinstance(error, UsageError) or session.ledger.untouched()):
            shutil.rmtree(directory.path, ignore_errors=True)
        raise
    except OSError as error:
        raise LlmprovError(f"the run could not go on: {error}") from error
