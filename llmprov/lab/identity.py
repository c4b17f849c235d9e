"""What makes a host itself: its name, address, keys and devices. Written into its files before its first boot.

The files may come from a snapshot, where a host's root may have put links that lead anywhere. So one shell script does
everything inside the host's own container (`LabHost.run_offline`), where links cannot lead out.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Protocol

from llmprov.lab import machine


class Named(Protocol):
    """What of a host its identity is made of (`LabHost`)."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def address(self) -> str:
        """Its IPv4 address."""

    @property
    def gateway(self) -> str:
        """Its gateway's IPv4 address."""

    @property
    def lower(self) -> tuple[Path, ...]:
        """What its files are read from; more than one tree where it comes from a snapshot."""

    @property
    def gpus(self) -> tuple[str, ...]:
        """PCI ids of the NVIDIA devices that it shows."""

    @property
    def files(self) -> dict[str, str]:
        """Further files of its own: path -> text."""


#: The account the inventory logs in with: no root login, password-less sudo, as on a cloud image.
USER = "admin"

#: What a saved host knew only of itself. /run and /tmp are in memory, and went when it was shut down.
FORGET = """\
rm -rf /etc/ssh/ssh_host_* /var/lib/systemd/random-seed /var/lib/systemd/credential.secret /var/lib/dhcp/*
rm -rf /root/.ansible/tmp /root/.ansible/cp /home/*/.ansible/tmp /home/*/.ansible/cp
rm -rf /var/lib/llmprov-lab /etc/systemd/system/sys-bus-pci-devices.mount
rm -f /etc/systemd/system/local-fs.target.wants/sys-bus-pci-devices.mount
rm -rf /var/log/journal/*
find /var/log/ -type f -delete
find /var/tmp/ -mindepth 1 -delete
: > /etc/machine-id
"""

PUT = """\
umask 022
put() { mkdir -p "$(dirname "$2")"; rm -f "$2"; printf %s "$3" > "$2"; chmod "$1" "$2"; }
"""


def script(host: Named, authorized_key: str, host_key: str) -> str:
    """The shell script that writes the identity."""
    files = {
        "etc/hostname": f"{host.name}\n",
        "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {host.name}\n",
        "etc/systemd/network/10-lab.network": (
            f"[Match]\nName=host0\n[Network]\nAddress={host.address}/24\nGateway={host.gateway}\n"
        ),
        "etc/resolv.conf": machine.resolv_conf(),
        **host.files,
        **_gpu_files(host.gpus),
    }
    private = {
        "etc/ssh/ssh_host_ed25519_key": (0o600, host_key),
        f"etc/sudoers.d/{USER}": (0o440, f"{USER} ALL=(ALL) NOPASSWD: ALL\n"),
        f"home/{USER}/.ssh/authorized_keys": (0o600, authorized_key),
    }
    lines = [
        PUT,
        FORGET if len(host.lower) > 1 else "",
        f"id {USER} >/dev/null 2>&1 || useradd --create-home --shell /bin/bash {USER}",
        *(_put(name, 0o644, text) for name, text in files.items()),
        *(_put(name, mode, text) for name, (mode, text) in private.items()),
        f"chown -R {USER}:{USER} /home/{USER}/.ssh",
    ]
    if host.gpus:
        lines.append("systemctl --quiet enable sys-bus-pci-devices.mount")
    return "\n".join(lines) + "\n"


def _put(name: str, mode: int, text: str) -> str:
    return shlex.join(("put", f"{mode:o}", str(Path("/") / name), text))


def _gpu_files(gpus: tuple[str, ...]) -> dict[str, str]:
    """NVIDIA devices for tests of detection: a PCI tree bound over sysfs by a mount unit.

    systemd-nspawn mounts a sysfs of its own, so a bind passed to it would be hidden; a unit also survives a reboot.
    """
    files: dict[str, str] = {}
    for slot, identifier in enumerate(gpus, start=1):
        vendor, device = identifier.split(":")
        where = f"var/lib/llmprov-lab/pci/0000:{slot:02x}:00.0"
        values = {
            "vendor": vendor,
            "device": device,
            "subsystem_vendor": vendor,
            "subsystem_device": "0000",
        }
        files |= {f"{where}/{name}": f"0x{value}\n" for name, value in values.items()}
        files[f"{where}/class"] = "0x030200\n"
    if gpus:
        files["etc/systemd/system/sys-bus-pci-devices.mount"] = (
            "[Unit]\nDescription=PCI devices of this lab host\nDefaultDependencies=no\n"
            "[Mount]\nWhat=/var/lib/llmprov-lab/pci\nWhere=/sys/bus/pci/devices\nType=none\nOptions=bind\n"
            "[Install]\nWantedBy=local-fs.target\n"
        )
    return files
