"""Reports that no run of Ansible made just now: finished runs told again, and fleets that do not exist."""

from __future__ import annotations

from pathlib import Path

from llmprov.report import EFFECT, aggregate, simulate
from llmprov.report.files import uncollected
from llmprov.run import outcome, reporting
from llmprov.run.directory import RunDirectory, find_run, load_fleet
from llmprov.run.reporting import Finished, Judging


def again(name: str, judging: Judging, runs: Path, out: Path | None) -> Finished:
    """A finished run, judged anew where another baseline or effect is asked for, and written below `out`.

    Raises:
        UsageError: there is no such run, or `out` cannot be written to or has it already.
    """
    fleet = load_fleet(find_run(name, runs))
    if judging.baseline is not None or judging.effect != EFFECT:
        strict = fleet.run.strict
        baseline = reporting.find_baseline(judging, runs)
        fleet = aggregate.again(fleet, lambda rows: outcome.exit_code(rows, strict), judging.effect, baseline)
    done = Finished(fleet)
    if out is not None:
        done.path = _written(out, done)
    return done


def simulated(count: int, seed: int, judging: Judging, runs: Path, out: Path | None) -> Finished:
    """A fleet that does not exist, judged and told like any other; written below `out`, as far as that is given.

    Raises:
        UsageError: `out` cannot be written to, or has that fleet already; there is no such baseline.
    """
    baseline = reporting.find_baseline(judging, runs)
    with uncollected():
        made = simulate.fleet(count, seed)
    directory = RunDirectory.create(out, made.run.id) if out is not None else None
    return reporting.tell(made.run, made.rows, outcome.exit_code, [], judging, baseline, directory)


def _written(out: Path, done: Finished) -> Path:
    directory = RunDirectory.create(out, done.fleet.run.id)
    with uncollected():
        directory.write_fleet(done.fleet)
    return directory.path
