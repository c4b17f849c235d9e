"""The child process that ansible-runner runs in: a spec on standard input; its outcome on standard output.

A process of its own because runner copies the whole environment of its process into an artifact and into Ansible, and
has no argument against it; this one is started with an allow-listed environment. ansible_runner.run() is bypassed for
the two classes under it, because it writes the passwords it is given into a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

#: Where Ansible finds the callback plugin that tells the run what happens.
CALLBACK = Path(__file__).parent / "callback"


def emit(record: dict[str, Any]) -> None:
    """One line on standard output; a parent that is gone is no reason to fail."""
    try:
        sys.stdout.write(json.dumps(record, ensure_ascii=True) + "\n")
        sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        return


def handle(event: dict[str, Any]) -> bool:
    """runner's event handler, which is given the lines that Ansible prints: those that begin an error are passed on.

    It never raises, as that would end the run, and returns False so that runner keeps no file of the event.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(event.get("stdout", "")))
    if re.match(r"\[?ERROR", text):
        emit({"event": "error", "message": text[:2000]})
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
    # In place of runner's own, which writes events between what the terminal shows.
    config.env |= {"ANSIBLE_CALLBACK_PLUGINS": str(CALLBACK), "ANSIBLE_STDOUT_CALLBACK": "llmprov_events"}
    config.suppress_ansible_output = True
    parent = Parent()
    runner = Runner(config, event_handler=handle, cancel_callback=parent.stop_asked)
    runner.run()
    if parent.gone:
        # Nobody else is left to do it.
        shutil.rmtree(spec["lifetime"], ignore_errors=True)
    emit({"event": "finished", "status": runner.status, "rc": runner.rc})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
