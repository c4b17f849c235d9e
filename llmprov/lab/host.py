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
from llmprov.lab import identity
from llmprov.lab.machine import run
from llmprov.lab.network import remove_host_link

#: How long a host may take to boot, in seconds; seen: 2 to 6 with nine at once on 2 cores.
BOOT_TIMEOUT_S = 60.0

#: How long a host may take to end its services before its power is cut, in seconds; seen: 1 to 2.
SHUTDOWN_TIMEOUT_S = 20.0

#: The signal that makes systemd power its machine off (systemd(1), section Signals).
POWER_OFF = signal.SIGRTMIN + 4

#: systemd-nspawn's exit code for "the container asked for a reboot" (EXIT_FORCE_RESTART in its sources).
REBOOT_EXIT_CODE = 133


@dataclass(frozen=True)
class LabHost:
    """One host of a lab: where it lives and what it is made of."""

    name: str
    address: str
    gateway: str
    lower: tuple[Path, ...]
    """What its files are read from, topmost first; the last is the base tree."""
    upper: Path
    """What it writes goes here."""
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
        self.mount()
        if not self.host_key.exists():
            self._write_identity(authorized_key)

    def _write_identity(self, authorized_key: str) -> None:
        """Give the host its identity; it is complete when its key has its name."""
        key = self.directory / ".ssh_host_key"
        if key.exists():
            self.stop()  # a killed `up` may have left the script running
            key.unlink()
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", str(key))
        self.run_offline(identity.script(self, authorized_key, key.read_text("utf-8")))
        key.with_suffix(".pub").rename(self.host_key.with_suffix(".pub"))
        key.rename(self.host_key)

    def mount(self) -> None:
        """Mount the host's root, unless it is mounted."""
        if os.path.ismount(self.root):
            return
        if not self.upper.exists():
            self.upper.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.upper.mkdir()
            shutil.copymode(self.lower[0], self.upper)  # the mode of the host's own `/`
        # A lab host's disk need not outlive the machine's power: without syncing apt is twice as fast, and so is
        # unmounting. The kernel refuses to mount again with a work folder that was used so.
        shutil.rmtree(self.directory / "work", ignore_errors=True)
        for part in ("work", "merged"):
            (self.directory / part).mkdir(parents=True, exist_ok=True)
        lower = ":".join(map(str, self.lower))
        # redirect_dir: without it folders of a lower layer cannot be renamed, which conda and dpkg do.
        options = f"lowerdir={lower},upperdir={self.upper},workdir={self.directory}/work,redirect_dir=on,volatile"
        # By mount(2), which takes 4096 bytes of options; util-linux 2.39 and later use a call that takes 255.
        mount = ("env", "LIBMOUNT_FORCE_MOUNT2=always", "mount", "-t", "overlay", f"llmprov-lab-{self.name}")
        run(*mount, "-o", options, str(self.root))

    def unmount(self) -> None:
        """Unmount the host's root; it is down."""
        with contextlib.suppress(OSError):
            # systemd-nspawn names its lock by the root directory's inode and leaves the file behind.
            about = self.root.stat()
            Path(f"/run/systemd/nspawn/locks/inode-{about.st_dev}:{about.st_ino}").unlink()
        while os.path.ismount(self.root):
            run("umount", str(self.root))

    def run_offline(self, script: str) -> None:
        """Run a shell script as root in the host's files while the host is down, as confined as the host itself.

        Raises:
            LabError: the script failed.
        """
        run(*self._confined("--private-network", "sh", "-eu"), stdin=script)

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
        boot = self._confined(
            "--boot",
            f"--hostname={self.name}",
            f"--network-bridge={bridge}",
            *(f"--bind-ro={path}" for path in self.binds),
        )
        return f"while :; do\n  {shlex.join(boot)}\n  [ $? -eq {REBOOT_EXIT_CODE} ] || exit 0\ndone\n"

    def _confined(self, *arguments: str) -> list[str]:
        """The command line of systemd-nspawn for this host, inside the host's control groups."""
        nspawn = [
            "systemd-nspawn",
            "--quiet",
            f"--directory={self.root}",
            f"--machine={self.name}",
            "--register=no",
            "--keep-unit",
            "--console=pipe",
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            *arguments,
        ]
        enter = 'for group; do mkdir -p "$group" && echo $$ > "$group/cgroup.procs"; done; exec ' + shlex.join(nspawn)
        return ["sh", "-c", enter, "sh", *map(str, self._control_groups())]

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

    def shut_down(self, timeout_s: float = SHUTDOWN_TIMEOUT_S) -> None:
        """End the host's services, then the host; what does not end within `timeout_s` is killed."""
        leader = self.leader()
        if leader is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(leader, POWER_OFF)
            deadline = time.monotonic() + timeout_s
            while self.processes() and time.monotonic() < deadline:
                time.sleep(0.05)
        self.stop()

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
        self.unmount()
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
