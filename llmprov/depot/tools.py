"""Tools that hosts are given, fetched once by the controller and kept in the user's cache."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from llmprov.errors import LlmprovError

#: glibc baselines that uv's wheels have been published for, newest first (its files on the package index).
PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014", "musllinux_1_1")


def cache_directory() -> Path:
    """Where fetched files are kept: $XDG_CACHE_HOME/llmprov, else ~/.cache/llmprov."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmprov"


def fetch_uv(version: str, architecture: str) -> Path:
    """The uv program of `version` for a Linux host, from this controller's own package indexes.

    Several processes may ask at once: one fetches, the others wait.

    Raises:
        LlmprovError: no index of this controller has it; ends with pip's own words.
    """
    directory = cache_directory() / "tools" / f"uv-{version}-{architecture}"
    program = directory / "uv"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not program.exists():
            _fetch(version, architecture, program)
    return program


def _fetch(version: str, architecture: str, program: Path) -> None:
    platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_{architecture}")]
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--only-binary=:all:",
                *platforms,
                "--dest",
                folder,
                f"uv=={version}",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip said nothing"]
            raise LlmprovError(f"uv {version} for {architecture} could not be fetched by this controller: {said[-1]}")
        with zipfile.ZipFile(wheels[0]) as archive:
            name = next(n for n in archive.namelist() if n.endswith("/scripts/uv"))
            partial = Path(folder) / "uv"
            partial.write_bytes(archive.read(name))
        partial.chmod(0o755)
        partial.rename(program)
