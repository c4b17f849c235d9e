"""A stand-in for NVIDIA's repository for Debian 12: its layout and its packages' names, signed, with nothing in them.

apt, dpkg, pins, holds and signatures are real. DKMS is a script that builds nothing, so that tests take seconds; the one
real build is in test_driver.py.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

KEY = "3bf863cc.pub"
PLACE = "debian12/x86_64"

#: Debian's, with a kernel that boots next.
RELEASE = "6.1.0-99-amd64"

DKMS = """#!/bin/sh
case "$1" in
autoinstall) mkdir -p /lib/modules/$3/updates/dkms && touch /lib/modules/$3/updates/dkms/nvidia.ko ;;
status) for d in /lib/modules/*/updates/dkms; do echo "nvidia/1, $(basename $(dirname $(dirname $d))), x86_64: installed"; done ;;
esac
"""

BUILD = """#!/bin/sh
for k in /lib/modules/*/build; do dkms autoinstall -k $(basename $(dirname $k)); done
"""

#: As DKMS leaves it when the compiler refuses; the words are those of a real one.
BROKEN = """#!/bin/sh
mkdir -p /var/lib/dkms/nvidia/610.10.01/build
cat > /var/lib/dkms/nvidia/610.10.01/build/make.log <<'END'
DKMS make.log for nvidia-610.10.01 for kernel 6.1.0-99-amd64 (x86_64)
  CC [M]  /var/lib/dkms/nvidia/610.10.01/build/nvidia/nv-pci.o
nvidia/nv-pci.c:411:9: error: too many arguments to function 'pci_resize_resource'
make[1]: *** [Makefile:82: modules] Error 2
END
exit 10
"""

UNIT = "[Service]\nType=oneshot\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"

#: (package, version) -> (fields, files); a file named `postinst` is dpkg's.
Package = tuple[str, str, dict[str, str], dict[str, str]]


def packages() -> list[Package]:
    """Everything the repository has: libraries are a release ahead of the modules, and one branch does not build."""
    found: list[Package] = [
        ("dkms", "99", {}, {"usr/sbin/dkms": DKMS}),
        ("linux-headers-amd64", "99", {"Depends": f"linux-headers-{RELEASE}"}, {}),
        (f"linux-headers-{RELEASE}", "99", {}, {f"lib/modules/{RELEASE}/build/.keep": ""}),
        ("cuda-toolkit-12-8", "12.8.1-1", {}, {}),
        ("nvidia-driver-cuda", "580.126.09-1", {}, {}),
    ]
    for version in ("580.95.05", "580.105.08", "595.45.04", "610.10.01"):
        modules = {"postinst": BROKEN if version.startswith("610") else BUILD}
        same = {"Depends": f"nvidia-kernel-open-dkms (= {version}-1)"}
        found += [
            ("nvidia-kernel-open-dkms", f"{version}-1", {"Depends": "dkms"}, modules),
            ("nvidia-driver-cuda", f"{version}-1", same, {}),
            ("nvidia-fabricmanager", f"{version}-1", {}, {"usr/lib/systemd/system/nvidia-fabricmanager.service": UNIT}),
            ("nvidia-persistenced", f"{version}-1", {}, {"usr/lib/systemd/system/nvidia-persistenced.service": UNIT}),
        ]
    return found


def build(root: Path, work: Path) -> None:
    """Write the repository under `root`, with its key; `work` is for what is needed only meanwhile."""
    place = root / PLACE
    place.mkdir(parents=True)
    index = "".join(_package(place, work, *package) for package in packages())
    (place / "Packages").write_text(index)
    digest = hashlib.sha256(index.encode()).hexdigest()
    about = f"Origin: NVIDIA\nLabel: NVIDIA CUDA\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n {digest} {len(index)} Packages\n"
    (work / "Release").write_text(about)
    home = work / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--yes", "--passphrase", ""]
    subprocess.run([*gpg, "--quick-gen-key", "stand-in", "ed25519", "sign"], check=True, capture_output=True)
    subprocess.run([*gpg, "--armor", "--output", str(place / KEY), "--export"], check=True)
    subprocess.run([*gpg, "--clearsign", "--output", str(place / "InRelease"), str(work / "Release")], check=True)
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)


def _package(place: Path, work: Path, name: str, version: str, more: dict[str, str], files: dict[str, str]) -> str:
    """Build one package and return its stanza in the index."""
    tree = work / f"{name}_{version}"
    about = {"Package": name, "Version": version, "Architecture": "amd64", "Maintainer": "A <a@example.org>"}
    about |= {**more, "Description": "stands in"}
    control = "".join(f"{key}: {value}\n" for key, value in about.items())
    for path, text in {"DEBIAN/control": control, **files}.items():
        file = tree / ("DEBIAN/postinst" if path == "postinst" else path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755 if text.startswith("#!") else 0o644)
    deb = place / f"{name}_{version}_amd64.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(tree), str(deb)], check=True, capture_output=True)
    data = deb.read_bytes()
    return f"{control}Filename: {deb.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n\n"
