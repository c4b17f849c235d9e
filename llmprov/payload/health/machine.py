"""The machine as the health checks see it: files below a root, and what programs print."""

from __future__ import annotations

import glob
import os
import subprocess
from typing import List, Optional


class Machine:
    """Files below `root`, and programs found on `path`."""

    def __init__(self, root: str = "/", path: Optional[str] = None) -> None:
        self.root = root.rstrip("/")
        self.path = path or os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/bin"

    def read(self, path: str) -> Optional[str]:
        """The text of a file, stripped; None where it cannot be read, as many files of sysfs cannot."""
        try:
            with open(self.root + path, encoding="utf-8", errors="replace") as handle:
                return handle.read(4000000).strip()
        except OSError:
            return None

    def number(self, path: str) -> Optional[float]:
        """The number that a file begins with, or None."""
        words = (self.read(path) or "").split()
        try:
            return float(words[0]) if words else None
        except ValueError:
            return None

    def find(self, pattern: str) -> List[str]:
        """Paths that match, sorted, without the root."""
        return sorted(found[len(self.root) :] for found in glob.glob(self.root + pattern))

    def real(self, path: str) -> str:
        """Where a path leads, links followed, without the root."""
        found = os.path.realpath(self.root + path)
        return found[len(os.path.realpath(self.root or "/").rstrip("/")) :]

    def run(self, *argv: str, timeout_s: float = 30.0) -> Optional[str]:
        """What a program printed; None where it is not there, failed, or did not end in time."""
        done = self.outcome(*argv, timeout_s=timeout_s)
        return done.stdout if done is not None and done.returncode == 0 else None

    def outcome(self, *argv: str, timeout_s: float = 30.0) -> "Optional[subprocess.CompletedProcess[str]]":
        """The ended program; None where it is not there or did not end in time."""
        env = dict(os.environ, PATH=self.path, LC_ALL="C")
        for folder in self.path.split(":"):
            program = os.path.join(folder, argv[0])
            if folder and os.access(program, os.X_OK):
                break
        else:
            return None
        try:
            process = subprocess.Popen(
                [program, *argv[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=env,
                encoding="utf-8",
                errors="replace",
            )
        except OSError:
            return None
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            # Not waited for: a program that hangs inside a broken driver cannot be killed, and would hang us too.
            process.kill()
            return None
        return subprocess.CompletedProcess(argv, process.returncode, out, err)
