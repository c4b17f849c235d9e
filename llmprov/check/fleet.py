"""Many hosts at once, and OpenSSH's verdict on each."""

from __future__ import annotations

import contextlib
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llmprov.check import keys
from llmprov.check.probe import commands, door, openssh_runner, walk
from llmprov.check.steps import Stop, Trail
from llmprov.check.target import Target, settings, target
from llmprov.errors import UsageError
from llmprov.model.reach import Reach, ReachStep, StepStatus
from llmprov.run.options import Options
from llmprov.text import plain

#: Hosts at once. Each is a thread that waits for its host.
AT_ONCE = 200

#: Processes of OpenSSH at once; each is a program of its own, and wants a processor.
PROGRAMS = 32

#: Steps that OpenSSH does, too.
CONNECTING = ("dns", "tcp", "banner", "key", "login")


def check(options: Options) -> list[Reach]:
    """How far the controller comes with each selected host, in the inventory's order.

    Raises:
        UsageError: the inventory cannot be read, or is empty.
    """
    everything = settings(options)
    if not everything:
        raise UsageError("the inventory has no hosts: add some, or name another with -i")
    asked = {name: about for name, about in everything.items() if about.get("connection") in ("ssh", "smart", None)}
    with ThreadPoolExecutor(PROGRAMS) as programs, ThreadPoolExecutor(AT_ONCE) as walks:
        targets = dict(programs.map(lambda name: (name, _target(name, asked[name], options)), asked))
        ready = [found for found in targets.values() if isinstance(found, Target)]
        walked = dict(zip((t.name for t in ready), walks.map(walk, ready), strict=True))
        judged = programs.map(lambda one: (one.name, judge(one, walked[one.name])), ready)
        found = walked | dict(judged)
    found |= {name: _unread(name, str(targets[name])) for name in asked if name not in found}
    return [found.get(name) or _not_by_ssh(name, about) for name, about in everything.items()]


def _target(name: str, asked: dict[str, object], options: Options) -> Target | str:
    if "problem" in asked:
        return f"its variables cannot be read: {asked['problem']}"
    try:
        return target(name, asked, options)
    except UsageError as error:
        return str(error)


def _unread(name: str, says: str) -> Reach:
    step = ReachStep(name="inventory", status=StepStatus.FAIL, says=plain(says, 500), remedy="correct the inventory")
    return Reach(host=name, steps=[step])


def _not_by_ssh(name: str, about: dict[str, object]) -> Reach:
    says = f"it is not reached by SSH: ansible_connection is {about['connection']}"
    return Reach(host=name, steps=[ReachStep(name="inventory", status=StepStatus.SKIPPED, says=plain(says, 500))])


def judge(one: Target, ours: Reach) -> Reach:
    """Hold our end against OpenSSH's: where they differ, OpenSSH's stands."""
    if one.password:
        return ours  # it takes no password from a program
    failed = ours.failed
    if failed and failed.name not in CONNECTING:
        return ours
    said = _openssh(one)
    if failed is None and said:
        step = ReachStep(name="login", status=StepStatus.FAIL, says=f"OpenSSH: {said}", remedy="try `ssh` by hand")
        return ours.model_copy(update={"steps": [*ours.steps, step], "openssh": said})
    if failed is None or said:
        return ours
    trail = Trail()
    told = f"{failed.says}; OpenSSH gets through, and its verdict stands"
    trail.steps = [
        step.model_copy(update={"status": StepStatus.WARN, "says": told}) if step is failed else step
        for step in ours.steps
    ]
    with contextlib.suppress(Stop):
        commands(one, trail, openssh_runner(one))
    return ours.model_copy(update={"steps": trail.steps, "openssh": "gets through"})


def _openssh(one: Target) -> str:
    """What OpenSSH complains of; empty where it logs in."""
    wait = f"ConnectTimeout={int(one.timeout_s)}"
    argv = [one.executable, *one.arguments, "-o", "BatchMode=yes", "-o", wait, one.alias, "true"]
    try:
        with door(one):
            done = subprocess.run(
                argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=4 * one.timeout_s
            )
    except subprocess.TimeoutExpired:
        return "it came to no end"
    # 255 is OpenSSH's own; any other code is the host's shell's, which was reached.
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    return plain(lines[-1] if lines else "it failed without a word", 300) if done.returncode == 255 else ""


def pin(options: Options) -> list[tuple[str, str, str]]:
    """Write the keys of hosts that no known_hosts file names yet: (host, key's type and fingerprint, file)."""
    asked, pinned = settings(options), []
    for name, about in asked.items():
        one = _target(name, about, options)
        if isinstance(one, str) or keys.known(one):
            continue
        key = keys.offered(one)
        if key is None:
            continue
        path = keys.files_of(one)[0]
        _append(path, f"{keys.name_of(one)} {key.get_name()} {key.get_base64()}\n")
        pinned.append((name, f"{key.get_name()} {keys.fingerprint(key)}", str(path)))
    return pinned


def _append(path: Path, line: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as handle:
        handle.write(line)
