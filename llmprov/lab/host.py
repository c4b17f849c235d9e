"""One lab host: its files, its start, its stop, its removal."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llmprov.errors import LabError
from llmprov.lab import machine
from llmprov.lab.machine import run
from llmprov.lab.network import remove_host_link

#: The account the inventory logs in with: no root login, password-less sudo, as on a cloud image.
USER = "admin"

#: How long a host may take to boot, in seconds; seen: 2 to 6 with nine at once on 2 cores.
BOOT_TIMEOUT_S = 60.0

#: systemd-nspawn's exit code for "the container asked for a reboot" (EXIT_FORCE_RESTART in its sources).
REBOOT_EXIT_CODE = 133


@dataclass(frozen=True)
class LabHost:
    """One host of a lab: where it lives and what it is made of."""

    name: str
    address: str
    gateway: str
    base: Path
    directory: Path
    cgroup: str
    binds: tuple[Path, ...] = ()
    gpus: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The host's root directory, as seen from the machine while it is mounted."""
        return self.directory / "merged"

    @property
    def host_key(self) -> Path:
        """The host's private key; the public one lies beside it."""
        return self.directory / "ssh_host_ed25519_key"

    # -- files -------------------------------------------------------------------------------------------------

    def create(self, authorized_key: str) -> None:
        """Make the host's files and mount its root; safe to repeat."""
        for part in ("upper", "work", "merged"):
            (self.directory / part).mkdir(parents=True, exist_ok=True)
        if not os.path.ismount(self.root):
            # A lab host's disk need not outlive the machine's power: without syncing apt is twice as fast, and so is
            # unmounting. The kernel marks such a tree as dirty, and mounts it again only without the mark.
            shutil.rmtree(self.directory / "work" / "work" / "incompat", ignore_errors=True)
            options = f"lowerdir={self.base},upperdir={self.directory}/upper,workdir={self.directory}/work,volatile"
            run("mount", "-t", "overlay", f"llmprov-lab-{self.name}", "-o", options, str(self.root))
        if not self.host_key.exists():
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", str(self.host_key))
            self._write_identity(authorized_key)

    def _write_identity(self, authorized_key: str) -> None:
        self._write("etc/hostname", f"{self.name}\n")
        self._write("etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n")
        self._write(
            "etc/systemd/network/10-lab.network",
            f"[Match]\nName=host0\n[Network]\nAddress={self.address}/24\nGateway={self.gateway}\n",
        )
        (self.root / "etc/resolv.conf").unlink(missing_ok=True)
        self._write("etc/resolv.conf", machine.resolv_conf())
        self._write("etc/ssh/ssh_host_ed25519_key", self.host_key.read_text("utf-8"), mode=0o600)
        run("chroot", str(self.root), "useradd", "--create-home", "--shell", "/bin/bash", USER)
        self._write(f"etc/sudoers.d/{USER}", f"{USER} ALL=(ALL) NOPASSWD: ALL\n", mode=0o440)
        self._write(f"home/{USER}/.ssh/authorized_keys", authorized_key, mode=0o600)
        run("chroot", str(self.root), "chown", "-R", f"{USER}:{USER}", f"/home/{USER}/.ssh")
        for name, text in self.files.items():
            self._write(name, text)
        if self.gpus:
            self._write_gpus()

    def _write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)

    def _write_gpus(self) -> None:
        """Give the host NVIDIA devices for tests of detection: a PCI tree bound over sysfs by a mount unit.

        systemd-nspawn mounts a sysfs of its own, so a bind passed to it would be hidden; a unit also survives a reboot.
        """
        for slot, identifier in enumerate(self.gpus, start=1):
            vendor, device = identifier.split(":")
            where = f"var/lib/llmprov-lab/pci/0000:{slot:02x}:00.0"
            values = {
                "vendor": vendor,
                "device": device,
                "subsystem_vendor": vendor,
                "subsystem_device": "0000",
            }
            for name, value in values.items():
                self._write(f"{where}/{name}", f"0x{value}\n")
            self._write(f"{where}/class", "0x030200\n")
        self._write(
            "etc/systemd/system/sys-bus-pci-devices.mount",
            "[Unit]\nDescription=PCI devices of this lab host\nDefaultDependencies=no\n"
            "[Mount]\nWhat=/var/lib/llmprov-lab/pci\nWhere=/sys/bus/pci/devices\nType=none\nOptions=bind\n"
            "[Install]\nWantedBy=local-fs.target\n",
        )
        run("systemctl", f"--root={self.root}", "--quiet", "enable", "sys-bus-pci-devices.mount")

    # -- life --------------------------------------------------------------------------------------------------

    def start(self, bridge: str) -> None:
        """Boot the host in the background unless it runs; `wait_ready` says when it answers."""
        if self.processes():
            return
        self.stop()  # what a crash left of it: an init without its loop cannot come back from a reboot
        script = self.directory / "supervise.sh"
        script.write_text(self._supervisor(bridge), encoding="utf-8")
        # By way of a shell that ends at once: the host is nobody's child, and outlives whoever started it.
        log = shlex.quote(str(self.directory / "console.log"))
        subprocess.run(
            ["sh", "-c", f"setsid sh {shlex.quote(str(script))} </dev/null >>{log} 2>&1 &"],
            check=True,
            cwd="/",
            env={"PATH": os.environ["PATH"], "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )

    def _supervisor(self, bridge: str) -> str:
        """A shell loop that boots the host again when it reboots, each time inside control groups of its own.

        Without its own groups every host of the machine would share one, and each systemd would manage the others'
        services.
        """
        nspawn = [
            "systemd-nspawn",
            "--quiet",
            "--boot",
            f"--directory={self.root}",
            f"--machine={self.name}",
            f"--hostname={self.name}",
            f"--network-bridge={bridge}",
            "--register=no",
            "--keep-unit",
            "--console=pipe",
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            *(f"--bind-ro={path}" for path in self.binds),
        ]
        enter = 'for group; do mkdir -p "$group" && echo $$ > "$group/cgroup.procs"; done; exec ' + shlex.join(nspawn)
        groups = shlex.join(str(group) for group in self._control_groups())
        return (
            f"while :; do\n  sh -c {shlex.quote(enter)} sh {groups}\n  [ $? -eq {REBOOT_EXIT_CODE} ] || exit 0\ndone\n"
        )

    def _control_groups(self) -> Iterator[Path]:
        for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines():
            left, right = line.split(" - ")
            kind, _, options = right.split(" ")[:3]
            if kind == "cgroup2" or (kind == "cgroup" and {"name=systemd", "cpu"} & set(options.split(","))):
                yield Path(left.split(" ")[4]) / self.cgroup

    def processes(self) -> list[int]:
        """The machine's processes that run this host (its loop, systemd-nspawn), told by the host's directory."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
                if any(self._owns(word) for word in words):
                    found.append(int(entry.name))
        return found

    def _members(self) -> list[int]:
        """Every process in the host's control groups, those inside the host too."""
        files = [p for group in self._control_groups() if group.is_dir() for p in group.rglob("cgroup.procs")]
        found: set[int] = set()
        for path in files:
            with contextlib.suppress(OSError):
                found |= set(map(int, path.read_text().split()))
        return sorted(found - {0, os.getpid()})

    def _owns(self, word: str) -> bool:
        return word in (str(self.directory / "supervise.sh"), f"--directory={self.root}") or (
            f"--directory={self.root} " in word
        )

    def leader(self) -> int | None:
        """The process id, on the machine, of the host's own init; None while it is down."""
        for pid in self.processes():
            with contextlib.suppress(OSError):
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                for child in map(int, children):
                    if Path(f"/proc/{child}/root").resolve() == Path("/") and _is_init(child):
                        return child
        return None

    def execute(self, *argv: str) -> str:
        """Run a program on the host as root, past its network and sshd.

        Raises:
            LabError: the host is down, or the program failed.
        """
        leader = self.leader()
        if leader is None:
            raise LabError(f"host {self.name} is down: start it with `llmprov lab up`")
        return run("nsenter", "--target", str(leader), "--all", "--", *argv)

    def wait_ready(self, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Return once the host's sshd shows the pinned key.

        Raises:
            LabError: it did not within `timeout_s`; names the console log.
        """
        expected = self.host_key.with_suffix(".pub").read_text("utf-8").split()[1]
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if _ssh_key(self.address) == expected:
                return
            if not self.processes():
                raise LabError(f"host {self.name} did not boot: {self._last_words()}")
            time.sleep(0.1)
        raise LabError(f"host {self.name} did not answer on SSH within {timeout_s:.0f} s: {self._last_words()}")

    def _last_words(self) -> str:
        path = self.directory / "console.log"
        lines = path.read_text("utf-8", "replace").strip().splitlines() if path.exists() else []
        return f"{' / '.join(lines[-3:]) or 'its console is silent'} ({path})"

    def stop(self) -> None:
        """Cut the host's power; safe when it is off."""
        deadline = time.monotonic() + 20
        while pids := [*self.processes(), *self._members()]:
            for pid in pids:
                # The loop first, so that nothing starts anew; then all that is inside.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise LabError(f"host {self.name} does not die: processes {pids}")
            time.sleep(0.05)
        remove_host_link(self.name)

    def remove(self) -> None:
        """Stop the host and remove everything of it; safe to repeat."""
        self.stop()
        with contextlib.suppress(OSError):
            # systemd-nspawn names its lock by the root directory's inode and leaves the file behind.
            about = self.root.stat()
            Path(f"/run/systemd/nspawn/locks/inode-{about.st_dev}:{about.st_ino}").unlink()
        while os.path.ismount(self.root):
            run("umount", str(self.root))
        for group in self._control_groups():
            _remove_group(group)
        with contextlib.suppress(OSError):
            Path(f"/run/systemd/nspawn/propagate/{self.name}").rmdir()
        shutil.rmtree(self.directory, ignore_errors=True)


def _is_init(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    inner = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
    return inner[-1] == "1" and len(inner) > 2


def _ssh_key(address: str) -> str | None:
    """The base64 ed25519 key that the sshd at `address` shows, or None while there is none."""
    # Not at the top: it takes a tenth of a second, which every llmprov command would pay.
    import paramiko

    try:
        with socket.create_connection((address, 22), timeout=2) as connection, paramiko.Transport(connection) as ssh:
            ssh.start_client(timeout=5)
            return ssh.get_remote_server_key().get_base64()
    except (OSError, paramiko.SSHException, EOFError):
        return None


def _remove_group(group: Path) -> None:
    """Remove a control group and those in it; the kernel lets go of one only when its last process is quite gone."""
    deadline = time.monotonic() + 5
    while group.is_dir() and time.monotonic() < deadline:
        for directory, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
        time.sleep(0.02)
    with contextlib.suppress(OSError):
        group.parent.rmdir()
