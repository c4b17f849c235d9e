"""Requirements in, wheels out: resolved by uv on the controller, once for each kind of host."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from uv import find_uv_bin

from llmprov.depot.pip_config import PipConfig
from llmprov.errors import LlmprovError
from llmprov.model import Artifact

#: glibc versions that uv's --python-platform knows (its documentation), as minor versions of 2.
UV_GLIBC = (17, 28, *range(31, 41))

#: The lowest glibc minor version of any manylinux tag (PEP 600; manylinux1).
LOWEST_GLIBC = 5

#: Names that came before PEP 600's, by glibc minor version.
LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


@dataclass(frozen=True)
class Target:
    """A kind of host: Python's version (`3.11.2`), its architecture (`x86_64`) and its glibc (`2.36`)."""

    python: str
    architecture: str
    glibc: str

    @property
    def minor(self) -> str:
        """Python's version as `3.11`."""
        return ".".join(self.python.split(".")[:2])

    def uv_platform(self) -> str:
        """The platform in uv's words: the newest it knows that is not above the host's."""
        minor = int(self.glibc.split(".")[1])
        fitting = [known for known in UV_GLIBC if known <= minor]
        if not fitting:
            raise LlmprovError(f"wheels need glibc 2.17 or later, and the host has {self.glibc}")
        return f"{self.architecture}-manylinux_2_{max(fitting)}"

    def tags(self) -> dict[Tag, int]:
        """Every wheel tag that this host runs, the best first: tag -> rank."""
        minor = int(self.glibc.split(".")[1])
        platforms = []
        for version in range(minor, LOWEST_GLIBC - 1, -1):
            platforms.append(f"manylinux_2_{version}_{self.architecture}")
            if version in LEGACY:
                platforms.append(f"{LEGACY[version]}_{self.architecture}")
        platforms.append(f"linux_{self.architecture}")
        version_info = tuple(int(part) for part in self.minor.split("."))
        interpreter = f"cp{version_info[0]}{version_info[1]}"
        ordered = [
            *cpython_tags(version_info, platforms=platforms),
            *compatible_tags(version_info, interpreter=interpreter, platforms=platforms),
        ]
        return {tag: rank for rank, tag in reversed(list(enumerate(ordered)))}


def resolve(
    requirements: Sequence[str],
    target: Target,
    index_url: str = "",
    preferred: Sequence[tuple[str, str]] = (),
    given: Sequence[tuple[str, str]] = (),
) -> list[Artifact]:
    """The wheels that fulfil `requirements` on a kind of host, dependencies and all.

    Args:
        requirements: as pip takes them.
        target: the kind of host.
        index_url: a further index, looked at beside this machine's own.
        preferred: (name, version) of what is there already, kept where it may be.
        given: (name, version) of what conda brings: it stays as it is, and no wheel is taken for it.

    Raises:
        LlmprovError: they cannot be resolved, or one of them has no wheel or no digest.
    """
    with tempfile.TemporaryDirectory(prefix="llmprov-resolve-") as folder:
        lock = Path(folder) / "pylock.toml"
        constraints = Path(folder) / "given.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in given), encoding="utf-8")
        if preferred:
            lock.write_text(_preferences(preferred), encoding="utf-8")
        _compile(requirements, target, index_url, lock, constraints)
        resolved = tomllib.loads(lock.read_text("utf-8"))
    brought = {name for name, _ in given}
    tags = target.tags()
    return [_wheel(package, tags, target) for package in resolved.get("packages", []) if package["name"] not in brought]


def _preferences(preferred: Sequence[tuple[str, str]]) -> str:
    """An earlier result for uv to start from: it keeps the versions it finds there where it may."""
    packages = "".join(f'\n[[packages]]\nname = "{name}"\nversion = "{version}"\n' for name, version in preferred)
    return f'lock-version = "1.0"\ncreated-by = "llmprov"\n{packages}'


def _compile(requirements: Sequence[str], target: Target, index_url: str, lock: Path, constraints: Path) -> None:
    argv = [
        find_uv_bin(),
        "pip",
        "compile",
        "--quiet",
        "--no-header",
        "--format",
        "pylock.toml",
        "--python",
        sys.executable,
    ]
    argv += ["--python-version", target.minor, "--python-platform", target.uv_platform(), "--only-binary", ":all:"]
    argv += ["--constraint", str(constraints), "--output-file", str(lock), "-"]
    variables = dict(
        os.environ, UV_SYSTEM_CERTS="1", UV_NO_PROGRESS="1", **PipConfig.of_this_machine().as_uv_environment()
    )
    if index_url:
        # By the environment: an index URL may carry a password, and command lines are for all to see.
        variables["UV_INDEX"] = f"{index_url} {variables.get('UV_INDEX', '')}".strip()
        variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    variables.pop("VIRTUAL_ENV", None)
    done = subprocess.run(
        argv, input="\n".join(requirements), capture_output=True, text=True, env=variables, check=False
    )
    if done.returncode != 0:
        said = " ".join(done.stderr.replace("\u00d7", " ").replace("\u2570\u2500\u25b6", " ").split())
        raise LlmprovError(
            f"the packages cannot be resolved for Python {target.minor} on {target.architecture}: "
            f"{said[-1500:] or 'uv said nothing'}"
        )


def _wheel(package: dict[str, Any], tags: dict[Tag, int], target: Target) -> Artifact:
    name, version = package["name"], package.get("version", "")
    ranked = []
    for wheel in package.get("wheels", []):
        url = wheel.get("url") or Path(wheel["path"]).absolute().as_uri()
        filename = unquote(urlsplit(url).path.rsplit("/", 1)[-1])
        try:
            ranks = [tags[tag] for tag in parse_wheel_filename(filename)[3] if tag in tags]
        except InvalidWheelFilename:
            continue
        if ranks:
            ranked.append((min(ranks), filename, url, wheel))
    if not ranked:
        raise LlmprovError(
            f"{name} {version} has no wheel for Python {target.minor} on {target.architecture} with glibc "
            f"{target.glibc}: choose another version, or put a wheel of it into a folder that pip's find-links names"
        )
    _, filename, url, wheel = min(ranked, key=lambda row: row[:2])
    digest = wheel.get("hashes", {}).get("sha256")
    if digest is None:
        raise LlmprovError(
            f"the package index gives no sha256 for {filename}, so it cannot be checked: use another index"
        )
    return Artifact(filename=filename, url=url, sha256=digest, size_bytes=wheel.get("size"), name=name, version=version)
