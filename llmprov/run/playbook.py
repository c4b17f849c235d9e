"""A playbook's run in a child process: iterate over it for what Ansible tells."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llmprov.errors import UsageError
from llmprov.run import events
from llmprov.run.content import content_directory
from llmprov.run.inventory import STRICT
from llmprov.run.lifetime import Lifetime
from llmprov.run.options import Options, absolute_file, environment_of_run


def default_forks() -> int:
    """How many hosts to work on at once at most: as many as memory allows, and no more than 50.

    Measured on a controller: 206 MB of Ansible and ssh at 10 forks, 598 MB at 50; so about 10 MB a fork.
    """
    free_mb = 1024.0
    with contextlib.suppress(OSError, ValueError, AttributeError):
        match = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text("ascii"))
        free_mb = int(match[1]) / 1024 if match else free_mb
    return max(1, min(50, int((free_mb - 150) / 12)))


#: What is read of a pipe at once, in bytes.
READ_BYTES = 1 << 20


def _read(channel: int, to_the_end: bool) -> bytes:
    """What is in the run's channel now; it is not waited for."""
    pieces = []
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(channel, READ_BYTES):
            pieces.append(piece)
            if not to_the_end:
                break
    return b"".join(pieces)


class PlaybookRun:
    """One playbook in a child process; iterate over it for the events."""

    def __init__(
        self,
        playbook: str,
        options: Options,
        limit: list[str] | None,
        forks: int,
        lifetime: Lifetime,
        records: tuple[str, ...] = (),
    ) -> None:
        self._lifetime = lifetime
        self._private = Path(tempfile.mkdtemp(prefix="ansible-", dir=lifetime.directory))
        self._spec = {
            "private_data_dir": str(self._private),
            "working_directory": str(Path.cwd()),
            "playbook": str(content_directory() / playbook),
            "inventory": [i if "," in i else str(Path(i).absolute()) for i in options.inventory] or None,
            "limit": self._limit(options, limit),
            "forks": forks,
            "arguments": shlex.join(options.arguments()) or None,
            "passwords": options.passwords,
            "environment": {events.MORE_RECORDS: " ".join(records)},
            "lifetime": str(lifetime.directory),
        }
        self._process: subprocess.Popen[str] | None = None
        self.stats: dict[str, dict[str, int]] | None = None
        self.outcome: dict[str, Any] = {}
        self._errors: list[str] = []
        self._worked = False

    def _limit(self, options: Options, limit: list[str] | None) -> str | None:
        if limit is None:
            return absolute_file(options.limit) if options.limit else None
        # By file: names may hold what means something in a pattern, and command lines have an end.
        path = self._private / "limit"
        path.write_text("\n".join(limit) + "\n", encoding="utf-8")
        return f"@{path}"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self._events()
        finally:
            self.close()

    def _events(self) -> Iterator[dict[str, Any]]:
        # Errors go to a file: a pipe that nobody reads meanwhile would fill and stop the child.
        with (self._private / "stderr").open("w+") as errors, self._lifetime.channel() as channel:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "llmprov.run.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment_of_run(self._lifetime) | STRICT,
                text=True,
                start_new_session=True,
            )
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(self._spec) + "\n")
            self._process.stdin.flush()
            for line in self._lines(channel):
                event = json.loads(line)
                if event["event"] == "playbook_on_stats":
                    self.stats = event["stats"]
                elif event["event"] == "finished":
                    self.outcome = event
                elif event["event"] == "error":
                    self._errors.append(event["message"])
                else:
                    self._worked = self._worked or event["event"] != "inventory"
                    yield event
            self._process.wait()
            errors.seek(0)
            self._errors += errors.read().strip().splitlines()[-3:]

    def _lines(self, channel: int) -> Iterator[bytes]:
        """Lines of the child's standard output and of the run's channel, as they come, until the child has ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        begun = {channel: b"", output: b""}
        with selectors.DefaultSelector() as selector:
            for descriptor in begun:
                selector.register(descriptor, selectors.EVENT_READ)
            ended = False
            while not ended:
                ready = [key.fd for key, _ in selector.select()]
                # All that Ansible told is in the channel before the child's output ends.
                ended = output in ready and not (read := os.read(output, READ_BYTES))
                for descriptor in ready if not ended else [channel]:
                    more = read if descriptor == output else _read(channel, to_the_end=ended)
                    *whole, begun[descriptor] = (begun[descriptor] + more).split(b"\n")
                    yield from whole

    def problem(self) -> str | None:
        """Why the playbook as a whole did not run to its end, where that is no single host's fault.

        Raises:
            UsageError: it did not even begin, because of what Ansible was given.
        """
        if self.stats is not None or self.outcome.get("status") == "canceled":
            return None
        said = " ".join(" ".join(self._errors).split())
        if not self._worked and re.match(r"\[?ERROR", said):
            raise UsageError(re.sub(r"^\[?ERROR(\]:|!) ", "", said)[:600])
        return said[-1500:] or "Ansible ended without saying why"

    def cancel(self) -> None:
        """Ask the child to end Ansible: it starts no new task, and kills what runs on this machine."""
        if self._process and self._process.stdin and self._process.poll() is None:
            with contextlib.suppress(BrokenPipeError, ValueError):
                self._process.stdin.write("cancel\n")
                self._process.stdin.flush()

    def kill(self) -> None:
        """End the child at once; the kernel tells its Ansible, where it can."""
        if self._process:
            self._process.kill()

    def close(self) -> None:
        """End the child if it runs, and remove its directory."""
        process = self._process
        if process is not None:
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(BrokenPipeError, OSError):
                    if stream:
                        stream.close()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._private, ignore_errors=True)


def versions() -> dict[str, str]:
    """The versions of everything that decides what a run does."""
    names = ("llmprov", "ansible-core", "ansible-runner")
    return {name: version(name) for name in names} | {"python": ".".join(map(str, sys.version_info[:3]))}
