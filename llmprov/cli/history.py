"""`llmprov history`: runs over time, trends, regressions."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from llmprov.cli import _common
from llmprov.errors import UsageError

app = typer.Typer(help="Runs over time: what changed, since when, what flaps.", no_args_is_help=False)


class FailOn(StrEnum):
    """What makes a difference an error."""

    REGRESSION = "regression"


JsonOption = Annotated[bool, typer.Option("--json", help="Print records as JSON.")]


@app.callback(invoke_without_command=True, epilog="Example: llmprov history --host gpu01")
def history(
    context: typer.Context,
    host: Annotated[str | None, typer.Option("--host", help="One host over its runs.")] = None,
    cohort: Annotated[str | None, typer.Option("--cohort", help="One cohort over its runs, by its id.")] = None,
    last: Annotated[int, typer.Option("--last", min=1, max=10_000, help="How many runs.")] = 20,
    past: _common.HistoryOption = None,
    runs: _common.RunsOption = _common.RUNS,
    as_json: JsonOption = False,
) -> None:
    """List runs, and the hosts that do not pass: since when, and whether they come and go."""
    context.obj = past
    if context.invoked_subcommand:
        return
    from llmprov.report import timeline
    from llmprov.run import reporting
    from llmprov.store import trends

    with _open(past) as known:
        reporting.catch_up(known, runs)
        if host is not None:
            _show(known.of_host(host, last), timeline.host, as_json, f"no recorded run verified a host named {host!r}")
        elif cohort is not None:
            _show(
                known.cohorts(cohort=cohort, last=last),
                timeline.cohort,
                as_json,
                f"no recorded cohort has the id {cohort!r}",
            )
        else:
            recorded, troubles = known.runs(last), trends.troubles(known)
            cohorts = known.cohorts(known.find("latest")) if any(run["verified"] for run in recorded) else []
            if as_json:
                told = [asdict(trouble) | {"flaps": trouble.flaps} for trouble in troubles]
                _json({"runs": recorded, "troubles": told, "cohorts": cohorts})
            else:
                _common.out().print(timeline.overview(known.name, recorded, troubles, cohorts))


@app.command("diff", epilog="Example: llmprov history diff latest~1 latest --fail-on regression")
def diff(
    context: typer.Context,
    before: Annotated[
        str, typer.Argument(help="The beginning of a run's name, `latest`, or `latest~1` for the one before.")
    ],
    after: Annotated[str, typer.Argument(help="The later run.")],
    fail_on: Annotated[
        FailOn | None, typer.Option("--fail-on", help="Exit with 5 where a host or a figure got worse.")
    ] = None,
    effect: _common.EffectOption = _common.EFFECT_PERCENT,
    past: _common.HistoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """What is otherwise in one run than in another: statuses, findings, versions, figures."""
    from llmprov.report import timeline
    from llmprov.store import trends

    with _open(past or context.obj) as known:
        told = trends.diff(known, known.find(before), known.find(after), effect / 100)
    if as_json:
        _json(told.document())
    else:
        _common.out().print(timeline.difference(told))
    raise typer.Exit(5 if fail_on and told.regressed else 0)


@app.command("import", epilog="Example: llmprov history import /mnt/other-controller/runs/2026*")
def take(
    context: typer.Context,
    directories: Annotated[list[Path], typer.Argument(help="Run directories, of this controller or another.")],
    past: _common.HistoryOption = None,
) -> None:
    """Record finished runs from their directories."""
    from llmprov.run.directory import find_run, load_fleet

    with _open(past or context.obj) as known:
        for path in directories:
            fleet = load_fleet(find_run(str(path), path.parent))
            done = "recorded" if known.record(fleet) else "was recorded before, or is forgotten by `history prune`"
            _common.out().print(f"{fleet.run.id}: {done}")


@app.command("prune", epilog="Example: llmprov history prune --keep-days 365")
def prune(
    context: typer.Context,
    keep_days: Annotated[
        float, typer.Option("--keep-days", min=0, max=100_000, help="Runs older than this are forgotten.")
    ],
    past: _common.HistoryOption = None,
) -> None:
    """Forget old runs; their directories stay."""
    with _open(past or context.obj) as known:
        gone = known.prune(keep_days)
        _common.out().print(f"{gone} run{'s' if gone != 1 else ''} forgotten; {len(known.runs())} left in {known.name}")


def _open(option: str | None) -> Any:
    """The history that the options name.

    Raises:
        UsageError: it is switched off.
    """
    from llmprov.run import reporting
    from llmprov.store.address import address

    where = address(option)
    if not where:
        raise UsageError("the history is switched off: there is nothing to look at")
    return reporting.open_history(where)


def _show(records: list[dict[str, Any]], render: Any, as_json: bool, nothing: str) -> None:
    if not records:
        raise UsageError(f"{nothing}: `llmprov history` lists runs")
    if as_json:
        _json(records)
    else:
        _common.out().print(render(records))


def _json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))
