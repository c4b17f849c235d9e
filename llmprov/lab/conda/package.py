"""One conda package: a tree of files in, a `.conda` archive and its index entry out. The same input, the same bytes.

The format: a zip, stored, of `metadata.json`, `info-*.tar.zst` and `pkg-*.tar.zst`
(https://docs.conda.io/projects/conda/en/stable/user-guide/concepts/packages.html#conda-file-format).
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import zstandard
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

#: What stands in files for the environment's own path, as conda-build writes it: long, so that binaries have room.
PLACEHOLDER = "/opt/llmprov-lab-placeholder" + "_placehold" * 6

SITE_PACKAGES = "lib/python3.11/site-packages"


@dataclass(frozen=True)
class Entry:
    """One file of a package: its content, or where it points."""

    data: bytes = b""
    link: str | None = None
    executable: bool = False

    @property
    def has_placeholder(self) -> bool:
        """Whether the environment's path has to be written into it."""
        return self.link is None and PLACEHOLDER.encode() in self.data


@dataclass(frozen=True)
class Package:
    """A package's name, its dependencies and its files."""

    name: str
    version: str
    depends: tuple[str, ...]
    files: dict[str, Entry]
    build: str = "0"
    noarch: bool = False
    entry_points: tuple[str, ...] = ()

    @property
    def subdir(self) -> Literal["noarch", "linux-64"]:
        """The channel's folder that the package belongs in."""
        return "noarch" if self.noarch else "linux-64"

    @property
    def filename(self) -> str:
        """The archive's name."""
        return f"{self.name}-{self.version}-{self.build}.conda"

    def index(self) -> dict[str, Any]:
        """The content of info/index.json."""
        index: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "build": self.build,
            "build_number": 0,
            "depends": list(self.depends),
            "subdir": self.subdir,
            "timestamp": 1760000000000,
        }
        if self.noarch:
            index["noarch"] = "python"
        if self.name == "python":
            index["python_site_packages_path"] = SITE_PACKAGES
        return index

    def write(self, channel: Path) -> dict[str, Any]:
        """Write the archive into its folder of the channel and return its entry for repodata.json."""
        target = channel / self.subdir / self.filename
        target.parent.mkdir(parents=True, exist_ok=True)
        stem = self.filename.removesuffix(".conda")
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for name, data in (
                ("metadata.json", b'{"conda_pkg_format_version": 2}'),
                (f"pkg-{stem}.tar.zst", _tar_zst(self.files)),
                (f"info-{stem}.tar.zst", _tar_zst(self._info())),
            ):
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
        whole = target.read_bytes()
        digests = {"sha256": hashlib.sha256(whole).hexdigest(), "md5": hashlib.md5(whole).hexdigest()}
        return self.index() | digests | {"size": len(whole)}

    def _info(self) -> dict[str, Entry]:
        paths = [self._path(name, entry) for name, entry in sorted(self.files.items())]
        info = {
            "info/index.json": self.index(),
            "info/paths.json": {"paths": paths, "paths_version": 1},
            "info/about.json": {"summary": "repacked by llmprov's lab; not from a conda channel"},
        }
        if self.noarch:
            noarch = {"type": "python", "entry_points": list(self.entry_points)}
            info["info/link.json"] = {"noarch": noarch, "package_metadata_version": 1}
        files = {name: Entry(json.dumps(value, sort_keys=True).encode()) for name, value in info.items()}
        return files | {"info/files": Entry("".join(f"{name}\n" for name in sorted(self.files)).encode())}

    def _path(self, name: str, entry: Entry) -> dict[str, Any]:
        if entry.link is not None:
            return {"_path": name, "path_type": "softlink", "size_in_bytes": 0}
        found = {
            "_path": name,
            "path_type": "hardlink",
            "sha256": hashlib.sha256(entry.data).hexdigest(),
            "size_in_bytes": len(entry.data),
        }
        if entry.has_placeholder:
            mode = "binary" if b"\0" in entry.data else "text"
            found |= {"prefix_placeholder": PLACEHOLDER, "file_mode": mode}
        return found


def _tar_zst(files: dict[str, Entry]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, entry in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.mode = 0o755 if entry.executable else 0o644
            member.size = len(entry.data)
            if entry.link is not None:
                member.type, member.linkname = tarfile.SYMTYPE, entry.link
            archive.addfile(member, io.BytesIO(entry.data))
    # One thread: with more, the bytes would depend on the machine.
    return zstandard.ZstdCompressor(level=3).compress(plain.getvalue())


def from_wheel(wheel: Path, known: frozenset[str] | None = None) -> Package:
    """A wheel as a conda package; `known` limits its dependencies to those that the channel has."""
    name, version, _, tags = parse_wheel_filename(wheel.name)
    pure = all(tag.platform == "any" for tag in tags)
    top = "site-packages" if pure else SITE_PACKAGES
    files: dict[str, Entry] = {}
    metadata, scripts = "", ""
    with zipfile.ZipFile(wheel) as archive:
        for item in archive.infolist():
            path = PurePosixPath(item.filename)
            if item.is_dir() or path.name == "RECORD":
                continue
            data = archive.read(item)
            if path.name == "METADATA" and path.parent.name.endswith(".dist-info"):
                metadata = data.decode()
            if path.name == "entry_points.txt":
                scripts = data.decode()
            files[_place(path, top)] = Entry(data, executable=bool(item.external_attr >> 16 & 0o100))
    distribution = next(n for n in files if n.endswith(".dist-info/METADATA")).removesuffix("METADATA")
    # As conda-build leaves it: pip then says who installed the package, and does not touch it unasked.
    files[f"{distribution}INSTALLER"] = Entry(b"conda\n")
    files[f"{distribution}RECORD"] = Entry(_record(files, top))
    conda_name = {"torch": "pytorch"}.get(name, name)
    return Package(
        name=conda_name,
        version=str(version.public),
        build=f"{version.local}_py311_0" if version.local else ("pyhd8ed1ab_0" if pure else "py311_0"),
        depends=("python" if pure else "python >=3.11,<3.12", *_depends(metadata, known)),
        files=files,
        noarch=pure,
        entry_points=tuple(_console_scripts(scripts)),
    )


def _place(path: PurePosixPath, top: str) -> str:
    """Where a wheel's file goes: below site-packages, or what `.data` says."""
    if path.parts[0].endswith(".data"):
        folder, rest = path.parts[1], PurePosixPath(*path.parts[2:])
        below = {"scripts": "bin", "data": ".", "headers": "include"}.get(folder, top)
        return str(PurePosixPath(below) / rest)
    return str(PurePosixPath(top) / path)


def _record(files: dict[str, Entry], top: str) -> bytes:
    lines = [f"{name.removeprefix(top + '/')},," for name in sorted(files) if name.startswith(top + "/")]
    return ("\n".join(lines) + "\n").encode()


def _depends(metadata: str, known: frozenset[str] | None) -> list[str]:
    lines = HeaderParser().parsestr(metadata).get_all("Requires-Dist") or []
    environment = {"python_version": "3.11", "python_full_version": "3.11.2", "extra": "", "sys_platform": "linux"}
    wanted = [Requirement(line) for line in lines]
    kept = [r for r in wanted if r.marker is None or r.marker.evaluate(environment)]
    names = [(canonicalize_name(r.name), str(r.specifier)) for r in kept]
    return sorted(f"{name} {limits}".strip() for name, limits in names if known is None or name in known)


def _console_scripts(text: str) -> list[str]:
    found, here = [], False
    for line in text.splitlines():
        if line.startswith("["):
            here = line.strip() == "[console_scripts]"
        elif here and "=" in line:
            found.append(" ".join(line.split()))
    return found
