"""What the sub-commands share: consoles, Ansible's own options, the end of a run."""

from __future__ import annotations

import functools
import getpass
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from llmprov.errors import UsageError
from llmprov.report import EFFECT
from llmprov.run import LOCK_NAME
from llmprov.run.options import Options
from llmprov.text import plain

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from llmprov.model import FleetReport
    from llmprov.run.progress import ProgressFactory
    from llmprov.run.reporting import Judging
    from llmprov.run.session import Work

Function = TypeVar("Function", bound=Callable[..., Any])

RUNS = Path("runs")

RunsOption = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Where run directories are kept.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the fleet report as JSON, and nothing else, on stdout.")
]
BaselineOption = Annotated[
    str | None,
    typer.Option("--baseline", metavar="RUN", help="Hold figures against those of an earlier run, too."),
]
EffectOption = Annotated[
    float,
    typer.Option("--effect", metavar="PERCENT", min=0.5, max=50, help="The least deviation of a figure that matters."),
]
HistoryOption = Annotated[
    str | None,
    typer.Option(
        "--history",
        metavar="FILE|URL|off",
        help="Where runs are remembered: $LLMPROV_HISTORY, else a file in your data directory.",
    ),
]
RetryOption = Annotated[
    str | None,
    typer.Option("--retry", metavar="RUN", help="Only the hosts that did not pass in an earlier run."),
]
WaitOption = Annotated[
    int | None,
    typer.Option("--wait", metavar="SECONDS", min=0, help="Wait for another run that holds a host; else refuse it."),
]
LockedOption = Annotated[
    bool, typer.Option("--locked", help="Install exactly what the lock says; refuse what is declared otherwise.")
]
LockOption = Annotated[Path, typer.Option("--lock", metavar="FILE", help="Where the lock is.")]
LOCK = Path(LOCK_NAME)
EFFECT_PERCENT = 100 * EFFECT
StrictOption = Annotated[bool, typer.Option("--strict", help="Exit with 5 for inconclusive hosts too.")]


def out() -> Console:
    """Standard output: results. Never cut or wrapped where it is no terminal."""
    from rich.console import Console

    return Console(soft_wrap=not sys.stdout.isatty(), highlight=False, width=None if sys.stdout.isatty() else 160)


def err() -> Console:
    """Standard error: progress and complaints."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def complain(sentence: str) -> None:
    """One sentence on standard error."""
    sys.stderr.write(f"llmprov: {plain(sentence, 4000)}\n")


def takes(name: str, given: Callable[..., Any]) -> Callable[[Function], Function]:
    """Give a command the options that `given` has as parameters, in the place of its parameter `name`.

    That parameter is what `given` makes of them.
    """

    def decorated(function: Function) -> Function:
        theirs = list(inspect.signature(given, eval_str=True).parameters.values())

        @functools.wraps(function)
        def command(**values: Any) -> Any:
            made = given(**{parameter.name: values.pop(parameter.name) for parameter in theirs})
            return function(**{name: made}, **values)

        merged: list[inspect.Parameter] = []
        for own in inspect.signature(function, eval_str=True).parameters.values():
            merged += theirs if own.name == name else [own]
        merged = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in merged]
        command.__signature__ = inspect.Signature(merged)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in merged}
        return command  # type: ignore[return-value]

    return decorated


def _ansible_options(
    inventory: Annotated[
        list[str],
        typer.Option("-i", "--inventory", metavar="INV", help="Inventory, of any kind Ansible reads."),
    ] = [],  # noqa: B006 - typer reads the default, nobody changes it
    limit: Annotated[
        str | None, typer.Option("-l", "--limit", help="Only the hosts that this pattern matches.")
    ] = None,
    tags: Annotated[str | None, typer.Option("-t", "--tags", help="Only tasks with these tags.")] = None,
    skip_tags: Annotated[str | None, typer.Option("--skip-tags", help="No tasks with these tags.")] = None,
    check: Annotated[bool, typer.Option("-C", "--check", help="Change nothing; tell what would change.")] = False,
    diff: Annotated[bool, typer.Option("-D", "--diff", help="Show what changes in packages.")] = False,
    extra_vars: Annotated[
        list[str],
        typer.Option("-e", "--extra-vars", metavar="VARS", help="Variables: key=value, JSON, or @FILE."),
    ] = [],  # noqa: B006
    forks: Annotated[int | None, typer.Option("-f", "--forks", min=1, help="Hosts at once; default by memory.")] = None,
    user: Annotated[str | None, typer.Option("-u", "--user", help="Log in as this user.")] = None,
    private_key: Annotated[
        str | None, typer.Option("--private-key", metavar="FILE", help="Log in with this key.")
    ] = None,
    become: Annotated[bool, typer.Option("-b", "--become", help="Use sudo on hosts.")] = False,
    ask_pass: Annotated[bool, typer.Option("-k", "--ask-pass", help="Ask for the SSH password.")] = False,
    ask_become_pass: Annotated[
        bool, typer.Option("-K", "--ask-become-pass", help="Ask for the sudo password.")
    ] = False,
    ask_vault_pass: Annotated[bool, typer.Option("-J", "--ask-vault-pass", help="Ask for the vault password.")] = False,
    vault_password_file: Annotated[
        list[str],
        typer.Option("--vault-password-file", metavar="FILE", help="File with the vault password."),
    ] = [],  # noqa: B006
    vault_id: Annotated[list[str], typer.Option("--vault-id", metavar="ID", help="Vault identity.")] = [],  # noqa: B006
) -> Options:
    """Ansible's own options; they mean what they mean to Ansible."""
    flags, passwords = _ask(ask_pass, ask_become_pass, ask_vault_pass)
    return Options(
        inventory=tuple(inventory),
        limit=limit,
        tags=tags,
        skip_tags=skip_tags,
        check=check,
        diff=diff,
        become=become,
        extra_vars=tuple(extra_vars),
        forks=forks,
        vault_password_files=tuple(vault_password_file),
        vault_ids=tuple(vault_id),
        user=user,
        private_key=private_key,
        passwords=passwords,
        password_flags=flags,
    )


ansible_options = takes("options", _ansible_options)


@dataclass(frozen=True)
class RunOptions:
    """What every command that makes a run takes beside Ansible's own options."""

    runs: RunsOption = RUNS
    locked: LockedOption = False
    lock: LockOption = LOCK
    strict: StrictOption = False
    retry: RetryOption = None
    wait: WaitOption = None
    baseline: BaselineOption = None
    effect: EffectOption = EFFECT_PERCENT
    history: HistoryOption = None
    as_json: JsonOption = False

    def on(self, options: Options) -> Options:
        """Ansible's options with what these add: the lock, and how long another run is waited for."""
        return with_variables(with_lock(options, self.locked, self.lock), preflight_run_timeout_s=self.wait)


run_options = takes("run", RunOptions)


def _ask(ssh: bool, become: bool, vault: bool) -> tuple[tuple[str, ...], dict[str, str]]:
    """Ask for the passwords wanted; ansible-runner answers Ansible's prompts with them."""
    flags, answers = [], {}
    for wanted, flag, ours, prompt in (
        (vault, "--ask-vault-pass", "Vault password: ", r"Vault password:\s*?$"),
        (ssh, "--ask-pass", "SSH password: ", r"SSH password:\s*?$"),
        (become, "--ask-become-pass", "BECOME password: ", r"BECOME password.*:\s*?$"),
    ):
        if wanted:
            flags.append(flag)
            answers[prompt] = getpass.getpass(ours)
    return tuple(flags), answers


def judging(baseline: str | None, effect: float, history: str | None) -> Judging:
    """The options of judging as one record."""
    from llmprov.run.reporting import Judging
    from llmprov.store.address import address

    return Judging(effect=effect / 100, baseline=baseline, history=address(history))


def with_lock(options: Options, locked: bool, path: Path) -> Options:
    """The options with the lock that hosts are installed from.

    Raises:
        UsageError: it was named and is not used, or is not there.
    """
    if not locked:
        if path != LOCK:
            raise UsageError(f"--lock names {path}, and only --locked uses it: add --locked")
        return options
    from llmprov.run import lock_file

    lock_file.read(path)
    return replace(options, lock=str(path))


def with_variables(options: Options, **values: Any) -> Options:
    """The options with variables added, as if by `-e`; those that are None are left out."""
    more = {name: value for name, value in values.items() if value is not None}
    return replace(options, extra_vars=(*options.extra_vars, json.dumps(more))) if more else options


def write_json(fleet: FleetReport) -> None:
    """The whole report on standard output, as fleet.json has it."""
    from llmprov.report import document

    for piece in document.render(fleet):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def progress(quiet: bool) -> ProgressFactory:
    """Progress as it fits where standard error goes."""
    from llmprov.run.progress import progress_for

    console = err()
    return lambda ledger: progress_for(console, ledger, quiet)


def run_and_show(
    work: Work,
    options: Options,
    asked: RunOptions,
    show: Callable[[FleetReport], RenderableType] | None = None,
    keep: bool = True,
) -> None:
    """Run, print the result, and exit with the run's code; without `keep` no run directory is made."""
    from llmprov.report import terminal
    from llmprov.run import session

    if asked.retry is not None and options.limit is not None:
        raise UsageError("--retry chooses the hosts by itself: leave --limit out")
    judge = judging(asked.baseline, asked.effect, asked.history)
    done = session.run(
        work,
        options,
        progress(quiet=asked.as_json),
        asked.runs if keep else None,
        asked.strict,
        judge,
        asked.retry,
    )
    fleet = done.fleet
    for text in done.complaints:
        complain(text)
    if fleet.run.outcome == "cancelled":
        complain("cancelled; the report says how far each host came")
    if asked.as_json:
        write_json(fleet)
    else:
        out().print((show or terminal.fleet_table)(fleet))
        if done.path is not None:
            out().print(f"report: {done.path / 'report.html'}", soft_wrap=True)
    raise typer.Exit(fleet.exit_code)
