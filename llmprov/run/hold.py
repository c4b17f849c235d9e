"""Holding a host for a run: a connection that lasts as long as the run, and a name on the host that goes with it.

The connection is one more session over the one that Ansible holds open, so that it needs no password; its standard
input is the pipe of the run (`lifetime`). What runs on the host is the role preflight's `files/hold.py`.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmprov.report.text import plain
from llmprov.run.content import roles_directory
from llmprov.run.lifetime import owner

#: How long a host may take to answer, in seconds, beside what it is told to wait.
ANSWER_S = 15.0


@dataclass(frozen=True)
class Holding:
    """Whether a host is held; if not, who holds it instead, or why it cannot be held."""

    held: bool
    #: Another run was here meanwhile.
    waited: bool = False
    by: str = ""
    why: str = ""


def wanted() -> bool:
    """Whether this Ansible belongs to a run of llmprov's."""
    return "LLMPROV_LIFETIME" in os.environ


def take(connection: Any, python: str, patience_s: float) -> Holding:
    """Hold the host until the run ends, waiting up to `patience_s` seconds for another run on it.

    Args:
        connection: Ansible's connection to the host.
        python: the host's Python.
        patience_s: how long to wait, in seconds.
    """
    if not wanted():
        return Holding(False, why="only llmprov's own commands hold a host")
    folder = os.environ["LLMPROV_LIFETIME"]
    about = (Path(folder) / "about.json").read_text("utf-8")
    script = (roles_directory() / "preflight/files/hold.py").read_text("utf-8")
    words = [python, "-I", "-S", "-c", script, about, str(patience_s), f"~/.ansible/tmp-{json.loads(about)['run']}"]
    argv = command(connection, words)
    if argv is None:
        return Holding(False, why=f"connections of the kind {connection.transport} cannot hold a host")
    answer = Path(folder) / "holding" / f"answer-{os.getpid()}"
    # Not waited for to be opened for writing, as the run may have ended meanwhile: then it is at its end at once.
    alive = os.open(f"{folder}/alive", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with answer.open("wb") as out:
            process = subprocess.Popen(argv, stdin=alive, stdout=out, stderr=out, start_new_session=True)
    finally:
        os.close(alive)
    (answer.parent / str(process.pid)).write_text(owner(process.pid), encoding="utf-8")
    return _answer(process, answer, patience_s)


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


def _answer(process: subprocess.Popen[bytes], path: Path, patience_s: float) -> Holding:
    deadline = time.monotonic() + patience_s + ANSWER_S
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        text = path.read_text("utf-8", "replace")
        line = next((line for line in text.splitlines(keepends=True) if line.startswith("{")), "")
        if line.endswith("\n"):
            return _read(line)
        if ended:
            return Holding(False, why=plain(" ".join(text.split()), 300) or "the host said nothing")
        # The answer comes into a file, which outlives this process as its reader does not.
        time.sleep(0.01)
    process.kill()
    return Holding(False, why=f"the host did not answer within {ANSWER_S:.0f} s")


def _read(line: str) -> Holding:
    try:
        told = json.loads(line)
        if told["held"] is True:
            return Holding(True, waited=told["waited"] is True)
        by = {name: plain(str(value), 100) for name, value in dict(told["by"]).items()}
        user = plain(str(told["user"]), 100)
    except (ValueError, KeyError, TypeError):
        return Holding(False, why="the host answered what makes no sense")
    if "run" not in by:
        return Holding(False, by=f"a program of the host's user {user}, which does not say for whom")
    who = f"{by.get('who')}@{by.get('from')}"
    return Holding(
        False, by=f"`{by.get('command')}` of {who} since {by.get('since')} (run {by['run']}, as {user} on the host)"
    )
