"""The base tree that the hosts of one Debian release share, built once by mmdebstrap."""

from __future__ import annotations

import hashlib
import shutil
from functools import cache
from pathlib import Path

from llmprov.errors import LabError, UsageError
from llmprov.lab import machine
from llmprov.lab.lock import held
from llmprov.lab.records import Tree

RELEASES = ("bookworm", "trixie")

#: A bare host as an administrator gets one: it boots, answers on SSH and has sudo. No Python.
PACKAGES = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "libpam-systemd",
    "openssh-server",
    "sudo",
    "systemd",
    "systemd-sysv",
    "udev",
)

NETWORK_UNITS = ("systemd-networkd.service", "ssh.service")


@cache
def _recipe(release: str) -> tuple[list[str], str, list[Path]]:
    """Everything that goes into a tree: apt sources, apt's proxy settings, certificates."""
    if release not in RELEASES:
        raise UsageError(f"a lab has hosts of {' or '.join(RELEASES)}, and {release!r} was asked for")
    return machine.apt_sources(release), machine.apt_proxy_settings(), machine.certificates()


def base_path(root: Path, release: str, packages: tuple[str, ...] = ()) -> Path:
    """Where the tree lies: named by a digest of its recipe, so that a changed machine gets a new one."""
    sources, proxies, certificates = _recipe(release)
    text = "\n".join([*sources, *PACKAGES, *packages, proxies, *(c.read_text("utf-8") for c in certificates)])
    return root / f"{release}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def ensure_base(root: Path, release: str, packages: tuple[str, ...] = ()) -> Path:
    """Build the base tree for `release`, with `packages` beside those of a bare host, unless it is there.

    Returns where it is.

    Raises:
        LabError: mmdebstrap failed; nothing half-built is left.
    """
    tree = base_path(root, release, packages)
    with held(root / f".{tree.name}.lock"):
        if not tree.exists():
            building = tree.with_suffix(".new")
            shutil.rmtree(building, ignore_errors=True)
            try:
                _build(building, release, packages)
                _finish(building, release)
                building.rename(tree)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    return tree


def _build(tree: Path, release: str, packages: tuple[str, ...]) -> None:
    machine.run(
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=minbase",
        "--skip=cleanup/apt/lists",  # hosts then install at once, as a machine in use does
        f"--include={','.join((*PACKAGES, *packages))}",
        release,
        str(tree),
        "-",
        stdin="\n".join(_recipe(release)[0]) + "\n",
        timeout_s=1200,
    )


def _finish(tree: Path, release: str) -> None:
    sources, proxies, certificates = _recipe(release)
    for key in (tree / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (tree / "etc/apt/sources.list").write_text("\n".join(sources) + "\n", encoding="utf-8")
    if proxies:
        (tree / "etc/apt/apt.conf.d/90machine").write_text(proxies, encoding="utf-8")
    for certificate in certificates:
        shutil.copy(certificate, tree / "usr/local/share/ca-certificates" / certificate.name)
    if certificates:
        machine.run("chroot", str(tree), "update-ca-certificates")
    (tree / "etc/machine-id").write_text("", encoding="utf-8")
    machine.run("systemctl", f"--root={tree}", "--quiet", "enable", *NETWORK_UNITS)
    # Waiting for "online" delays every boot and no lab host needs it.
    machine.run("systemctl", f"--root={tree}", "--quiet", "mask", "systemd-networkd-wait-online.service")


def ensure_base_of(root: Path, tree: Tree) -> None:
    """Build the base tree that `tree` names unless it is there.

    Raises:
        LabError: it is gone, and cannot be built again as it was.
    """
    if (root / tree.base).exists():
        return
    # A base tree built today may have other versions of packages, and layers hold dpkg's records of the old ones.
    if tree.layers or base_path(root, tree.release, tuple(tree.packages)).name != tree.base:
        raise LabError(
            f"the base tree {root / tree.base} is gone, and cannot be built again as it was: take the lab down with "
            "`llmprov lab down`"
        )
    ensure_base(root, tree.release, tuple(tree.packages))


def remove_bases(root: Path, keep: set[str]) -> None:
    """Remove every base tree but `keep`; the caller knows that no host uses the others."""
    for path in root.glob("*"):
        name = path.name.removeprefix(".").removesuffix(".lock")
        if name not in keep:
            path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
    if not keep:
        shutil.rmtree(root, ignore_errors=True)
