"""The stand-in for the Miniconda installer: a shell script with a prefix inside, and the installer's own options."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmprov.errors import LabError
from llmprov.lab.conda import channel
from llmprov.lab.conda.package import PLACEHOLDER, Entry, Package

#: Version that the stand-in's conda tells: the one whose output was recorded.
VERSION = "26.7.1"

#: What its base environment is made of, beside Python and the program.
BASE_WHEELS = ("py-rattler==0.28.0", "pyyaml==6.0.3", "pip==26.3")

SCRIPT = """\
#!/bin/sh
# llmprov's stand-in for the Miniconda installer. It takes the official one's -b -u -p, and is not the official one.
set -eu
PREFIX="$HOME/miniconda3" UPDATE=0
while getopts "bhup:" option; do
  case "$option" in
    b) ;;
    u) UPDATE=1 ;;
    p) PREFIX=$OPTARG ;;
    *) echo "usage: $0 -b [-u] -p PREFIX"; exit 2 ;;
  esac
done
if [ -e "$PREFIX" ] && [ "$UPDATE" = 0 ]; then
  echo "ERROR: File or directory already exists: '$PREFIX'"
  echo "If you want to update an existing installation, use the -u option."
  exit 1
fi
echo "PREFIX=$PREFIX"
mkdir -p "$PREFIX"
PREFIX=$(cd "$PREFIX" && pwd)
echo "Unpacking payload ..."
for name in @NAMES@; do rm -f "$PREFIX"/conda-meta/$name-[0-9]*.json; done
sed '1,/^__PAYLOAD__$/d' "$0" | tar -xzf - -C "$PREFIX" --no-same-owner --no-same-permissions
echo "Installing base environment..."
while read -r file; do sed -i "s|@PLACEHOLDER@|$PREFIX|g" "$PREFIX/$file"; done < "$PREFIX/.standin-prefix"
rm "$PREFIX/.standin-prefix"
mkdir -p "$PREFIX/pkgs" "$PREFIX/envs"
echo "installation finished."
exit 0
__PAYLOAD__
"""

PROFILE = """\
# The stand-in's `conda` as a shell function: activate and deactivate change this shell, all else is the program.
conda() {
  case "${1:-}" in
    activate) PATH="$2/bin:$PATH"; export PATH CONDA_PREFIX="$2"
      for script in "$2"/etc/conda/activate.d/*.sh; do [ -r "$script" ] && . "$script"; done ;;
    *) "@PLACEHOLDER@/bin/conda" "$@" ;;
  esac
}
"""


@dataclass(frozen=True)
class CondaKit:
    """What a lab needs for conda: a channel, and an installer with its digest."""

    channel: Path
    installer: Path
    sha256: str

    @property
    def channel_url(self) -> str:
        """The channel as a URL."""
        return self.channel.as_uri()

    def variables(self) -> dict[str, object]:
        """The Ansible variables that make roles use this kit."""
        return {
            "miniconda_installer": self.installer.name.removesuffix(".sh"),
            "miniconda_url": self.installer.as_uri(),
            "miniconda_sha256": self.sha256,
            "miniconda_channels": [self.channel_url],
        }


def ensure_kit(root: Path, say: Callable[[str], object] = lambda _: None, version: str = VERSION) -> CondaKit:
    """Build the channel and the installer below `root` unless they are there.

    Raises:
        LabError: what they are made of could not be fetched.
    """
    recipe = [*channel.WHEELS, *BASE_WHEELS, SCRIPT, PROFILE, channel.SITECUSTOMIZE]
    recipe += [path.read_text("utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))]
    digest = hashlib.sha256("".join(recipe).encode()).hexdigest()[:12]
    # One channel serves the installers of every version.
    packages, place = root / f"channel-{digest}", root / f"{version}-{digest}"
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not (packages.exists() and place.exists()):
            say("building a conda channel and a stand-in for the Miniconda installer, as no real one can be reached")
        _made(packages, channel.build)
        _made(place, lambda building: build(building, packages, version))
    (installer,) = place.glob("*.sh")
    return CondaKit(packages, installer, hashlib.sha256(installer.read_bytes()).hexdigest())


def _made(place: Path, make: Callable[[Path], object]) -> None:
    """Make a folder, unless it is there; it gets its name when all of it is."""
    if place.exists():
        return
    building = place.with_suffix(".new")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    try:
        make(building)
        building.rename(place)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def program_package(version: str) -> Package:
    """The stand-in's `conda` as a package of its base environment."""
    text = (Path(__file__).parent / "program.py").read_text("utf-8").replace("@VERSION@", version)
    script = f"#!{PLACEHOLDER}/bin/python3.11 -I\n{text}"
    files = {
        "bin/conda": Entry(script.encode(), executable=True),
        "condabin/conda": Entry(link="../bin/conda"),
        "etc/profile.d/conda.sh": Entry(PROFILE.replace("@PLACEHOLDER@", PLACEHOLDER).encode()),
    }
    return Package("conda", version, ("python", "py-rattler", "pyyaml"), files, build="standin_0")


def build(folder: Path, base_channel: Path, version: str = VERSION) -> Path:
    """Build the installer in `folder`, its Python from the channel."""
    with tempfile.TemporaryDirectory(prefix="llmprov-standin-") as name:
        work = Path(name)
        packages = [*channel.wheel_packages(work / "wheels", BASE_WHEELS), program_package(version)]
        for package in packages:
            package.write(work / "channel")
        archives = [*base_channel.glob("linux-64/python-3*.conda"), *work.glob("channel/*/*.conda")]
        prefix = work / "prefix"
        _link(archives, prefix)
        payload = _tar(prefix)
    names = " ".join(["python", *sorted(package.name for package in packages)])
    script = SCRIPT.replace("@NAMES@", names).replace("@PLACEHOLDER@", PLACEHOLDER)
    installer = folder / f"Miniconda3-standin-py311_{version}-1-Linux-x86_64.sh"
    installer.write_bytes(script.encode() + payload)
    installer.chmod(0o755)
    return installer


LINK = """
import asyncio, json, os, sys
import rattler
asked = json.load(sys.stdin)
async def link():
    records = [await rattler.RepoDataRecord.from_package_archive(path) for path in asked["archives"]]
    await rattler.install(records, asked["prefix"], cache_dir=asked["cache"], show_progress=False,
                          alternative_target_prefix=asked["placeholder"])
asyncio.run(link())
sys.stdout.flush()
os._exit(0)
"""


def _link(archives: list[Path], prefix: Path) -> None:
    """Link packages into a prefix whose files name the placeholder; apart, as py-rattler's threads may end it badly."""
    asked = {
        "archives": [str(path) for path in sorted(archives)],
        "prefix": str(prefix),
        "cache": str(prefix.parent / "cache"),
        "placeholder": PLACEHOLDER,
    }
    done = subprocess.run(
        [sys.executable, "-c", LINK], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise LabError(f"the stand-in's base environment could not be linked: {done.stderr.strip()[-300:]}")


def _readable(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """As the real installer leaves files: what the umask then forbids is its caller's doing."""
    member.mode |= 0o444 | (0o111 if member.isdir() else 0)
    return member


def _tar(prefix: Path) -> bytes:
    out = io.BytesIO()
    named = []
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as archive:
        for path in sorted(prefix.rglob("*")):
            if "__pycache__" in path.parts:
                continue
            name = str(path.relative_to(prefix))
            archive.add(path, name, recursive=False, filter=_readable)
            if path.is_file() and not path.is_symlink() and PLACEHOLDER.encode() in path.read_bytes():
                named.append(name)
        listing = "".join(f"{name}\n" for name in named).encode()
        member = tarfile.TarInfo(".standin-prefix")
        member.size = len(listing)
        archive.addfile(member, io.BytesIO(listing))
    return out.getvalue()
