"""Faults of hosts: how each is made and mended, and what a user is told of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from llmprov.lab.identity import USER

SITE = "/opt/llmprov/envs/llm/lib/python3.11/site-packages"

#: A connection of the last run may still be open, and would pass by what a new one meets.
LOG_OUT = f"pkill -f '[s]shd: {USER}' || true; sleep 0.2; "
#: Something to install, so that a run does more than look.
DRIFT = f"rm -rf {SITE}/PyYAML* {SITE}/pyyaml* {SITE}/yaml; "
LOCK = "import fcntl,time; f=open('/var/lib/dpkg/lock-frontend','w'); fcntl.lockf(f,fcntl.LOCK_EX); time.sleep(900)"


def sshd(line: str) -> str:
    return f"echo '{line}' > /etc/ssh/sshd_config.d/fault.conf; systemctl restart ssh; {LOG_OUT}"


SSHD_AGAIN = "rm -f /etc/ssh/sshd_config.d/fault.conf; systemctl restart ssh"


# What users read about exit codes (docs/report.md), copied by hand: no test computes them with llmprov's own function.
HARMLESS, STOPPED, OUT_OF_REACH, UNSOUND = 0, 3, 4, 5

#: Where several hold, the first of these is the exit code.
ORDER = (OUT_OF_REACH, STOPPED, UNSOUND)

#: Status of a host -> the exit code that it leads to; `fail` depends on what failed.
STATUS_CODES = {
    "unreachable": OUT_OF_REACH,
    "not_run": OUT_OF_REACH,
    "refused": STOPPED,
    "pending": STOPPED,
    "inconclusive": HARMLESS,
    "warn": HARMLESS,
    "pass": HARMLESS,
    "not_selected": HARMLESS,
}


def row_code(row: dict[str, Any]) -> int:
    """The exit code that one row of fleet.json leads to."""
    if row["status"] == "fail":
        return STOPPED if row["failures"] else UNSOUND
    return STATUS_CODES[row["status"]]


def first_code(codes: Iterable[int]) -> int:
    """The exit code of a run whose hosts lead to these."""
    found = set(codes)
    return next((code for code in ORDER if code in found), HARMLESS)


@dataclass(frozen=True)
class Fault:
    """One fault. `script` and `mend` run as root on the host; `variables` are the host's in the inventory."""

    script: str
    mend: str
    #: How its host may end.
    statuses: tuple[str, ...]
    #: The exit code of a run with this fault alone, as docs/bad-days.md states it.
    exit_code: int
    #: What its row must say, as a regular expression.
    words: str = ""
    #: What its row must advise.
    remedy: str = ""
    variables: dict[str, Any] = field(default_factory=dict)
    power_off: bool = False


FAULTS: dict[str, Fault] = {
    "dead host": Fault(
        "", "", ("unreachable",), OUT_OF_REACH, "timed out|No route to host", "host is up", power_off=True
    ),
    "refused key": Fault(
        f"mv /home/{USER}/.ssh/authorized_keys /root/; {LOG_OUT}",
        f"mv /root/authorized_keys /home/{USER}/.ssh/",
        ("unreachable",),
        OUT_OF_REACH,
        "Permission denied",
        "key",
    ),
    "changed host key": Fault(
        "cd /etc/ssh; cp -p ssh_host_ed25519_key /root/key; rm ssh_host_ed25519_key; "
        f"ssh-keygen -q -t ed25519 -N '' -f ssh_host_ed25519_key; systemctl restart ssh; {LOG_OUT}",
        "cp -p /root/key /etc/ssh/ssh_host_ed25519_key; systemctl restart ssh",
        ("unreachable",),
        OUT_OF_REACH,
        "IDENTIFICATION HAS CHANGED|Host key verification failed",
        "pin",
    ),
    "wrong sudo password": Fault(
        f"echo {USER}:right | chpasswd; echo '{USER} ALL=(ALL) ALL' > /etc/sudoers.d/{USER}; {LOG_OUT}",
        f"echo '{USER} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{USER}",
        ("fail",),
        STOPPED,
        "(?i)incorrect sudo password",
        "password",
        {"ansible_become_password": "wrong-sudo-password"},
    ),
    "no sudo password": Fault(
        f"echo {USER}:right | chpasswd; echo '{USER} ALL=(ALL) ALL' > /etc/sudoers.d/{USER}; {LOG_OUT}",
        f"echo '{USER} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{USER}",
        ("fail",),
        STOPPED,
        "(?i)password",
        "ask-become-pass",
    ),
    "sudo wants a terminal": Fault(
        f"echo 'Defaults requiretty' > /etc/sudoers.d/zz-tty; {LOG_OUT}",
        "rm /etc/sudoers.d/zz-tty",
        ("fail",),
        STOPPED,
        "tty",
        "requiretty",
    ),
    "banner": Fault(
        f'echo \'{{"banner": "of the house"}}\' > /etc/issue.house; {sshd("Banner /etc/issue.house")}',
        SSHD_AGAIN,
        ("pass", "warn"),
        HARMLESS,
    ),
    "profile that prints": Fault(
        f"cp /home/{USER}/.bashrc /root/; sed -i '1i echo welcome to {{the}} [house]' /home/{USER}/.bashrc; {LOG_OUT}",
        f"cp /root/.bashrc /home/{USER}/",
        ("pass", "warn"),
        HARMLESS,
    ),
    "profile that exits": Fault(
        f"cp /home/{USER}/.bashrc /root/; sed -i '1i exit 7' /home/{USER}/.bashrc; {LOG_OUT}",
        f"cp /root/.bashrc /home/{USER}/",
        ("fail",),
        STOPPED,
        "shell",
        "profile|bashrc",
    ),
    "noexec /tmp": Fault("mount -t tmpfs -o noexec tmpfs /tmp", "umount /tmp", ("pass", "warn"), HARMLESS),
    "read-only prefix": Fault(
        f"{DRIFT} mount --bind /opt/llmprov /opt/llmprov; mount -o remount,bind,ro /opt/llmprov",
        "umount /opt/llmprov",
        ("refused",),
        STOPPED,
        "(?i)read-only",
        "for writing",
    ),
    "one session a connection": Fault(f"{DRIFT}{sshd('MaxSessions 1')}", SSHD_AGAIN, ("pass", "warn"), HARMLESS),
    "forwarding forbidden": Fault(f"{DRIFT}{sshd('AllowTcpForwarding no')}", SSHD_AGAIN, ("pass", "warn"), HARMLESS),
    "broken python": Fault(
        "mv /usr/bin/python3 /usr/bin/python3.real; printf '#!/bin/sh\\necho oh no; exit 1\\n' > /usr/bin/python3; "
        "chmod 755 /usr/bin/python3",
        "mv /usr/bin/python3.real /usr/bin/python3",
        ("fail",),
        STOPPED,
        "oh no",
        "python3",
    ),
    "package lock for ever": Fault(
        f'{DRIFT}systemd-run -q --unit=holder python3 -c "{LOCK}"',
        "systemctl stop holder",
        ("fail",),
        STOPPED,
        "lock",
        "end it",
        {"preflight_lock_timeout_s": 2},
    ),
    "clock a day off": Fault(
        "apt-get -q -y install --no-install-recommends faketime >/dev/null; "
        "printf '#!/bin/sh\\nexec faketime -f +1d /usr/bin/python3 \"$@\"\\n' > /usr/local/bin/tomorrow; "
        "chmod 755 /usr/local/bin/tomorrow",
        "printf '#!/bin/sh\\nexec /usr/bin/python3 \"$@\"\\n' > /usr/local/bin/tomorrow",
        ("refused",),
        STOPPED,
        "clock",
        "clock",
        {"ansible_python_interpreter": "/usr/local/bin/tomorrow"},
    ),
    "package gone": Fault(DRIFT, "", ("pass", "warn"), HARMLESS),
    "package wrecked": Fault(
        # Another file in its place: uv links files from its cache, and one written over would be broken there, too.
        f"rm {SITE}/yaml/__init__.py; echo broken > {SITE}/yaml/__init__.py",
        DRIFT,
        ("fail",),
        UNSOUND,
        "yaml does not import",
        "",
    ),
}
