"""The lab's conda channel: Debian's Python 3.11 and a few wheels, repacked."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

from llmprov.errors import LabError
from llmprov.lab import machine
from llmprov.lab.conda.package import PLACEHOLDER, SITE_PACKAGES, Entry, Package, from_wheel

#: What the channel has besides Python, by requirement; two of one name, so that an update can be tried.
WHEELS = ("pip==26.3", "setuptools==80.9.0", "six==1.16.0", "six==1.17.0", "numpy==2.4.6")

DEBIAN_PACKAGES = ("python3.11", "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib")

#: Debian's site module looks in dist-packages, and it is frozen into the interpreter; conda's packages are beside.
SITECUSTOMIZE = """\
import os
import site
import sys

site.addsitedir(os.path.join(sys.prefix, "lib", "python3.11", "site-packages"))
"""


def build(channel: Path, extra: Iterable[Package] = (), wheels: Iterable[str] = WHEELS) -> None:
    """Build the channel in the folder `channel`.

    Raises:
        LabError: Debian's packages or the wheels could not be fetched.
    """
    with tempfile.TemporaryDirectory(prefix="llmprov-channel-") as name:
        work = Path(name)
        packages = [python_package(work / "debian"), *wheel_packages(work / "wheels", wheels), *extra]
    write_index(channel, packages)


def write_index(channel: Path, packages: Iterable[Package]) -> None:
    """Write the archives and `repodata.json` of each folder."""
    entries: dict[str, dict[str, object]] = defaultdict(dict)
    for package in packages:
        entries[package.subdir][package.filename] = package.write(channel)
    for subdir in ("linux-64", "noarch"):
        index = {
            "info": {"subdir": subdir},
            "packages": {},
            "packages.conda": entries[subdir],
            "repodata_version": 1,
        }
        target = channel / subdir / "repodata.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(index, sort_keys=True), encoding="utf-8")


def wheel_packages(folder: Path, requirements: Iterable[str], dependencies: bool = False) -> list[Package]:
    """Wheels from this machine's own package indexes as conda packages, for Python 3.11."""
    batches = [[r] for r in requirements] if dependencies else one_of_each_name(requirements)
    for number, batch in enumerate(batches):
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
        argv += [
            "--python-version",
            "3.11",
            "--platform",
            "manylinux_2_28_x86_64",
            "--platform",
            "manylinux_2_17_x86_64",
        ]
        argv += [] if dependencies else ["--no-deps"]
        done = subprocess.run(
            [*argv, "--dest", str(folder / str(number)), *batch], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            said = (done.stderr.strip() or "pip said nothing").splitlines()[-1]
            raise LabError(f"{' '.join(batch)} for the lab's conda channel could not be fetched: {said}")
    found = sorted({path.name: path for path in folder.glob("*/*.whl")}.values())
    first = [from_wheel(path) for path in found]
    known = frozenset(package.name for package in first) | {"torch"}
    return [from_wheel(path, known) for path in found] if dependencies else [from_wheel(p, frozenset()) for p in found]


def one_of_each_name(requirements: Iterable[str]) -> list[list[str]]:
    """Requirements in as few batches as pip takes: it refuses two of one name in one call."""
    batches: list[dict[str, str]] = []
    for requirement in requirements:
        name = Requirement(requirement).name
        batch = next((batch for batch in batches if name not in batch), None)
        if batch is None:
            batches.append(batch := {})
        batch[name] = requirement
    return [list(batch.values()) for batch in batches]


def python_package(tree: Path) -> Package:
    """Debian's Python 3.11 as conda lays it out: everything below one prefix."""
    machine.run(
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=extract",
        f"--include={','.join(DEBIAN_PACKAGES)}",
        "bookworm",
        str(tree),
        "-",
        stdin="\n".join(machine.apt_sources("bookworm")) + "\n",
    )
    library = tree / "usr/lib/python3.11"
    files = {f"lib/python3.11/{path.relative_to(library)}": _entry(path) for path in _files(library)}
    for unwanted in ("EXTERNALLY-MANAGED", "sitecustomize.py"):
        files.pop(f"lib/python3.11/{unwanted}", None)
    files[f"{SITE_PACKAGES}/README.txt"] = Entry(b"Packages of this environment.\n")
    files["lib/python3.11/sitecustomize.py"] = Entry(SITECUSTOMIZE.encode())
    sysconfig = files["lib/python3.11/sysconfig.py"].data.decode()
    # Debian installs into local/lib unless told otherwise; conda's Python into the prefix itself.
    files["lib/python3.11/sysconfig.py"] = Entry(sysconfig.replace("= 'posix_local'", "= 'posix_prefix'").encode())
    program = (tree / "usr/bin/python3.11").read_bytes()
    files["bin/python3.11"] = Entry(program, executable=True)
    files |= {name: Entry(link="python3.11") for name in ("bin/python", "bin/python3")}
    files["bin/pydoc3"] = Entry(
        f"#!{PLACEHOLDER}/bin/python3.11\nimport pydoc\npydoc.cli()\n".encode(), executable=True
    )
    version = _version(tree)
    return Package("python", version, (), files, build="lab_0_cpython")


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if (p.is_file() or p.is_symlink()) and "__pycache__" not in p.parts)


def _entry(path: Path) -> Entry:
    if path.is_symlink():
        target = path.readlink()
        # An absolute link would lead out of the prefix, on whatever machine it is read.
        return Entry(b"") if target.is_absolute() else Entry(link=str(target))
    return Entry(path.read_bytes(), executable=bool(path.stat().st_mode & 0o100))


def _version(tree: Path) -> str:
    status = (tree / "var/lib/dpkg/status").read_text("utf-8") if (tree / "var/lib/dpkg/status").exists() else ""
    match = re.search(r"^Package: python3\.11\n(?:.+\n)*?Version: (\d+\.\d+\.\d+)", status, re.M)
    if match:
        return match[1]
    said = machine.run(str(tree / "usr/bin/python3.11"), "-I", "-S", "-c", "import sys; print(sys.version.split()[0])")
    return said.strip()
