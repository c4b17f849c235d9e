"""The child process that ansible-runner runs in: a spec on standard input, one JSON line an event on standard output.

A process of its own because runner copies the whole environment of its process into an artifact and into Ansible, and
has no argument against it; this one is started with an allow-listed environment. ansible_runner.run() is bypassed for
the two classes under it, because it writes the passwords it is given into a file.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

#: Events that say something about a host or a stage; the rest is ansible-playbook's own chatter.
WANTED = {
    "playbook_on_stats",
    "playbook_on_play_start",
    "runner_on_start",
    "runner_on_ok",
    "runner_on_failed",
    "runner_on_unreachable",
    "runner_on_skipped",
    "error",
    "verbose",
}

#: How a task that waits for another run begins to say so, in a line of its own; JSON follows.
WAITING = "llmprov waits: "

#: What is kept of a task's result beside llmprov's own records, in characters each.
KEPT_TEXT = {"msg": 4000, "stderr": 1000, "stdout": 1000, "module_stderr": 1000, "module_stdout": 1000}
KEPT_RECORDS = ("llmprov", "plan", "observation", "verification", "refused", "components", "reboot")


def slim(event: dict[str, Any], records: tuple[str, ...] = KEPT_RECORDS) -> dict[str, Any] | None:
    """The part of a runner event that the ledger needs; None for an event it does not."""
    kind = event.get("event")
    if kind not in WANTED:
        return None
    data = event.get("event_data") or {}
    if kind in ("error", "verbose"):
        text = re.sub(r"\x1b\[[0-9;]*m", "", str(event.get("stdout", "")))
        if text.startswith(WAITING):
            return {"event": "waiting", **json.loads(text.removeprefix(WAITING))}
        # Ansible's own words outside any task; warnings and banners are no errors.
        return {"event": "error", "message": text[:2000]} if re.match(r"\[?ERROR", text) else None
    if kind == "playbook_on_stats":
        names = ("ok", "changed", "dark", "failures", "skipped", "processed", "rescued")
        return {"event": kind, "stats": {name: data.get(name) or {} for name in names}}
    slimmed = {"event": kind, "play": data.get("play"), "task": data.get("task"), "host": data.get("host")}
    slimmed |= {
        "action": data.get("task_action"),
        "role": data.get("role"),
        "duration_s": data.get("duration"),
    }
    result = data.get("res")
    if isinstance(result, dict):
        slimmed["result"] = slim_result(result, records)
        slimmed["ignored"] = bool(data.get("ignore_errors"))
    return slimmed


def slim_result(result: dict[str, Any], records: tuple[str, ...] = KEPT_RECORDS) -> dict[str, Any]:
    """A task's result without what only Ansible needs."""
    kept: dict[str, Any] = {name: result[name] for name in records if "llmprov" in result and name in result}
    for name, limit in KEPT_TEXT.items():
        if result.get(name):
            text = result[name] if isinstance(result[name], str) else json.dumps(result[name])
            kept[name] = text[:limit] if name == "msg" else text[-limit:]
    difference = result.get("diff")
    if isinstance(difference, dict) and {"before", "after"} <= set(difference):
        kept["diff"] = {side: str(difference[side])[:20_000] for side in ("before", "after")}
    kept["changed"] = bool(result.get("changed"))
    kept["empty"] = not set(result) - {"_ansible_no_log", "changed"}
    return kept


def emit(record: dict[str, Any]) -> None:
    """One line on standard output; a parent that is gone is no reason to fail."""
    try:
        sys.stdout.write(json.dumps(record, ensure_ascii=True) + "\n")
        sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        return


def handle(event: dict[str, Any], records: tuple[str, ...] = KEPT_RECORDS) -> bool:
    """runner's event handler: never raises, and returns False so that runner keeps no file of the event."""
    try:
        slimmed = slim(event, records)
        if slimmed is not None:
            emit(slimmed)
    except Exception as error:  # a raise here would end the whole run
        emit({"event": "error", "message": f"an event could not be read: {error}"})
    return False


#: How long Ansible has to end itself and what it started here, in seconds, before it is killed.
END_S = 2.0


class Parent:
    """The process that reads the events: it may say to stop, or be gone."""

    def __init__(self) -> None:
        self.stopped = self.gone = False

    def stop_asked(self) -> bool:
        """Whether to stop; Ansible is told so, once."""
        if not self.stopped and select.select([sys.stdin], [], [], 0)[0]:
            self.stopped, self.gone = True, not sys.stdin.readline()
            end_children()
        return self.stopped


def end_children() -> None:
    """Tell Ansible to end: it tells its forks, which lead process groups of their own, and they their ssh.

    runner alone kills the one group of Ansible's first process, and leaves forks and connections running.
    """
    listed = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
    rows = [line.split() for line in listed.splitlines()]
    children = [int(pid) for pid, parent in rows if int(parent) == os.getpid()]
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline and any(_runs(child) for child in children):
        time.sleep(0.02)


def _runs(child: int) -> bool:
    """Whether a child of ours has not ended; it is left to runner to take its code."""
    try:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def main() -> int:
    """Run one playbook as the spec on the first line of standard input says."""
    # ctrl-C reaches the whole process group; the parent decides, and says so on standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    spec = json.loads(sys.stdin.readline())
    from ansible_runner.config.runner import RunnerConfig
    from ansible_runner.runner import Runner

    config = RunnerConfig(
        private_data_dir=spec["private_data_dir"],
        project_dir=spec["working_directory"],
        ident="run",
        playbook=spec["playbook"],
        inventory=spec["inventory"],
        limit=spec["limit"],
        forks=spec["forks"],
        cmdline=spec["arguments"],
        passwords=spec["passwords"] or None,
        settings={"pexpect_timeout": 0.3, "pexpect_use_poll": True},
        envvars=spec["environment"],
        quiet=True,
    )
    config.suppress_output_file = True
    config.prepare()
    config.suppress_ansible_output = True
    parent = Parent()
    handler = functools.partial(handle, records=(*KEPT_RECORDS, *spec["records"]))
    runner = Runner(config, event_handler=handler, cancel_callback=parent.stop_asked)
    runner.run()
    if parent.gone:
        # Nobody else is left to do it.
        shutil.rmtree(spec["lifetime"], ignore_errors=True)
    emit({"event": "finished", "status": runner.status, "rc": runner.rc})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
