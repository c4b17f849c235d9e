"""Holding a host for a run: a connection that lasts as long as the run, and a name on the host that goes with it.

The connection is one more session over the one that Ansible holds open, so that it needs no password; its standard
input is the pipe of the run (`lifetime`). What runs on the host is the role preflight's `files/hold.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmprov.run.content import roles_directory
from llmprov.run.lifetime import holders, owner
from llmprov.text import plain

#: How long a host may take to answer, in seconds, beside what it is told to wait.
ANSWER_S = 15.0

#: How often hosts are given back before nobody is waited for any more: one that says without end that another run has
#: it would keep a run from ever beginning. Each time an older run has ended, and there are not so many.
ROUNDS = 20


@dataclass(frozen=True)
class Holding:
    """Whether a host is held; if not, who holds it instead, or why it cannot be held."""

    held: bool
    #: Another run was here meanwhile.
    waited: bool = False
    #: A run was met that began before this one: all that this run holds is given back, and asked for again.
    given_back: bool = False
    by: str = ""
    why: str = ""


def wanted() -> bool:
    """Whether this Ansible belongs to a run of llmprov's."""
    return "LLMPROV_LIFETIME" in os.environ


def take(connection: Any, python: str, patience_s: float, number: int, tell: Callable[[str], object]) -> Holding:
    """Hold the host until the run ends, waiting up to `patience_s` seconds for another run on it.

    Args:
        connection: Ansible's connection to the host.
        python: the host's Python.
        patience_s: how long to wait, in seconds, since the first host was asked for.
        number: how often all hosts were given back before.
        tell: is told for whom this run waits, each time that it begins to.
    """
    if not wanted():
        return Holding(False, why="only llmprov's own commands hold a host")
    folder = Path(os.environ["LLMPROV_LIFETIME"])
    about = {**json.loads((folder / "about.json").read_text("utf-8")), "round": number}
    patience_s = _left(folder, patience_s, number)
    script = (roles_directory() / "preflight/files/hold.py").read_text("utf-8")
    words = [python, "-I", "-S", "-c", script, json.dumps(about), str(patience_s), f"~/.ansible/tmp-{about['run']}"]
    argv = command(connection, words)
    if argv is None:
        return Holding(False, why=f"connections of the kind {connection.transport} cannot hold a host")
    if returned(folder, number).exists():
        return Holding(False, given_back=True)
    process, answer = _begin(folder, argv, number)
    found = _answer(process, answer, patience_s, lambda: _give_back(folder, number, process.pid), tell)
    if returned(folder, number).exists() and not found.by:
        # What was held a moment ago may be taken by another run now.
        process.terminate()
        return Holding(False, given_back=True)
    return found


def rounds() -> int:
    """How often this run gave all its hosts back."""
    return len(list(Path(os.environ["LLMPROV_LIFETIME"]).glob("given-back-*"))) if wanted() else 0


def returned(folder: Path, number: int) -> Path:
    """The file that says that all hosts were given back once more."""
    return folder / f"given-back-{number}"


def _left(folder: Path, patience_s: float, number: int) -> float:
    """What is left of the patience, in seconds, once hosts were given back."""
    if not number or not patience_s:
        return patience_s
    waited_s = time.time() - returned(folder, 0).stat().st_mtime
    return max(patience_s - waited_s, 0.0) if number < ROUNDS else 0.0


def _begin(folder: Path, argv: list[str], number: int) -> tuple[subprocess.Popen[bytes], Path]:
    """The process that holds the host, and the file of its answer, which outlives this process as a pipe does not."""
    answer = folder / "holding" / f"answer-{os.getpid()}"
    # Not waited for to be opened for writing, as the run may have ended meanwhile: then it is at its end at once.
    alive = os.open(folder / "alive", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with answer.open("wb") as out:
            process = subprocess.Popen(argv, stdin=alive, stdout=out, stderr=out, start_new_session=True)
    finally:
        os.close(alive)
    (folder / "holding" / f"{number}-{process.pid}").write_text(owner(process.pid), encoding="utf-8")
    return process, answer


def _give_back(folder: Path, number: int, waiting: int) -> None:
    """Let go of all hosts; the process `waiting` has none, and goes on waiting for one."""
    try:
        returned(folder, number).touch(exist_ok=False)
    except FileExistsError:
        return
    for process in holders(folder):
        if process != waiting:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)


def command(connection: Any, words: list[str]) -> list[str] | None:
    """The command line for a command on the host, without a password; None for a connection of another kind."""
    if connection.transport == "local":
        return words
    if connection.transport != "ssh":
        return None
    executable = connection.get_option("ssh_executable")
    # Ansible's connection knows its host only once it was used, and here it need not have been.
    host = connection.get_option("host") or connection._play_context.remote_addr
    return without_password(connection, connection._build_command(executable, "ssh", host, shlex.join(words)))


def without_password(connection: Any, command: list[bytes | str]) -> list[str]:
    """A command line of Ansible's less the program that types a password: an open connection needs none."""
    words = [word.decode() if isinstance(word, bytes) else word for word in command]
    if words[0] == "sshpass":
        words = words[words.index(connection.get_option("ssh_executable")) :]
        for descriptor in getattr(connection, "sshpass_pipe", None) or ():
            os.close(descriptor)
        connection.sshpass_pipe = None
    return words


def _answer(
    process: subprocess.Popen[bytes],
    path: Path,
    patience_s: float,
    give_back: Callable[[], None],
    tell: Callable[[str], object],
) -> Holding:
    told, deadline = 0, time.monotonic() + patience_s + ANSWER_S
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        text = path.read_text("utf-8", "replace")
        said = [_read(line) for line in text.splitlines(keepends=True) if line.startswith("{") and line.endswith("\n")]
        # Without patience nobody waits, whatever a host says.
        waits = list(itertools.takewhile(lambda one: "held" not in one, said)) if patience_s else []
        if told < len(waits) <= ROUNDS:
            told = len(waits)
            tell(_holder(waits[-1]) or "another run")
        behind = any(one.get("behind") is True for one in waits)
        if behind:
            give_back()
        if len(said) > len(waits):
            return Holding(False, given_back=True) if behind else _holding(said[len(waits)])
        if ended:
            return Holding(False, why=plain(" ".join(text.split()), 300) or "the host said nothing")
        # The answer comes into a file, which outlives this process as its reader does not.
        time.sleep(0.01)
    process.kill()
    return Holding(False, why=f"the host did not answer within {ANSWER_S:.0f} s")


def _read(line: str) -> dict[str, Any]:
    """What a host says in a line; what makes no sense is no wait either."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        told = None
    return told if isinstance(told, dict) else {"held": None}


def _holding(told: dict[str, Any]) -> Holding:
    if told.get("held") is True:
        return Holding(True, waited=told.get("waited") is True)
    by = _holder(told)
    return Holding(False, by=by) if by else Holding(False, why="the host answered what makes no sense")


def _holder(told: dict[str, Any]) -> str:
    """Who holds the host, in words; nothing where a host does not say."""
    try:
        by = {name: plain(str(value), 100) for name, value in dict(told["by"]).items()}
        user = plain(str(told["user"]), 100)
    except (ValueError, KeyError, TypeError):
        return ""
    if "run" not in by:
        return f"a program of the host's user {user}, which does not say for whom"
    who = f"{by.get('who')}@{by.get('from')}"
    return f"`{by.get('command')}` of {who} since {by.get('since')} (run {by['run']}, as {user} on the host)"
