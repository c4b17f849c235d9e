"""Work that needs torch runs in processes of its own: one that crashes or hangs is a finding, and no more.

The payload's own process needs the standard library only. Each stage gets a question as JSON on its standard input and
writes its answer to a file; what it prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from llmprov.payload.document import EVIDENCE_LIMIT, FAIL, check

#: Where the package lies: a folder, or the zipapp itself.
HOME = str(Path(__file__).resolve().parents[2])

START = "import sys; sys.path.insert(0, sys.argv[1]); from llmprov.payload.tasks import main; main(sys.argv[2:])"

#: How long an OpenMP thread spins for the others before it sleeps. By default it is so long that hosts which share
#: processors hold each other up: three at once trained at a tenth of their rate, with this at a quarter; alone nothing
#: is lost by it.
POLITE = {"GOMP_SPINCOUNT": "10000"}

#: How long a stage that was asked to stop has for it, in seconds.
STOP_S = 30.0


def command(*argv: str) -> List[str]:
    """The command line that runs a task of this package under this Python, isolated from users' settings."""
    return [sys.executable, "-I", "-c", START, HOME, *argv]


class Stage:
    """One started stage."""

    running: "List[Stage]" = []

    def __init__(
        self, task: str, label: str, question: Dict[str, Any], environment: Optional[Dict[str, str]] = None
    ) -> None:
        self.task, self.label = task, label
        self.folder = tempfile.TemporaryDirectory(prefix="llmprov-stage-")
        self.path = os.path.join(self.folder.name, "answer.json")
        self.process = subprocess.Popen(
            command(task, self.path),
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**POLITE, **os.environ, **(environment or {})},
        )
        self.said = b""
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(question).encode())
            self.process.stdin.close()
        except OSError:
            pass  # it ended before it read: `finish` tells how
        Stage.running.append(self)

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said = (self.said + line)[-2 * EVIDENCE_LIMIT :]
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()

    def stop(self) -> None:
        """Ask it to end with what it has."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def finish(self, deadline: float) -> Dict[str, Any]:
        """Its answer, with a failing check where it crashed or was not done by `deadline` (of `time.monotonic`)."""
        problem = ""
        try:
            code = self.process.wait(timeout=max(deadline - time.monotonic(), 1.0))
            if code:
                problem = _ending(code)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            problem = "did not finish in time"
        Stage.running.remove(self)
        # What it started dies with it; whoever still holds its standard error is not waited for.
        self._listener.join(timeout=2)
        if self.process.stderr is not None and not self._listener.is_alive():
            self.process.stderr.close()
        answer = self._answer()
        if problem:
            name = "payload.%s" % self.task + (".%s" % self.label if self.label else "")
            summary = "the stage `%s`%s %s" % (self.task, " on %s" % self.label if self.label else "", problem)
            evidence = self.said.decode("utf-8", "replace")
            remedy = "read the evidence; look at the kernel's log for what happened then"
            answer["checks"].append(check(name, FAIL, summary, evidence=evidence, remedy=remedy))
        self.folder.cleanup()
        return answer

    def _answer(self) -> Dict[str, Any]:
        empty: Dict[str, Any] = {"checks": [], "measurements": [], "digests": {}}
        try:
            with open(self.path, encoding="utf-8") as handle:
                return {**empty, **json.load(handle)}
        except (OSError, ValueError):
            return empty


def _ending(code: int) -> str:
    if code > 0:
        return "ended with exit code %d" % code
    try:
        return "was killed by %s" % signal.Signals(-code).name
    except ValueError:
        return "was killed by signal %d" % -code
