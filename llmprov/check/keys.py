"""Host keys: what known_hosts says of a host, read by OpenSSH's own tools, and pinning what is new."""

from __future__ import annotations

import base64
import hashlib
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko

from llmprov.check.steps import Stop

if TYPE_CHECKING:
    from llmprov.check.target import Target


@dataclass(frozen=True)
class Known:
    """One line of a known_hosts file that is about a host."""

    kind: str
    base64: str
    #: `@revoked`, `@cert-authority` or nothing.
    marker: str
    file: str


def family(kind: str) -> str:
    """`rsa-sha2-512` and `ssh-rsa` are the same key."""
    return "ssh-rsa" if kind.startswith("rsa-sha2") else kind


def name_of(target: Target) -> str:
    """How known_hosts calls a host: `[host]:2222` away from port 22."""
    alias = target.first("hostkeyalias", "")
    if alias:
        return alias
    host = target.first("hostname", target.alias)
    return host if target.port == 22 else f"[{host}]:{target.port}"


def files_of(target: Target) -> list[Path]:
    """The user's and the system's known_hosts files."""
    names = [*target.first("userknownhostsfile").split(), *target.first("globalknownhostsfile").split()]
    return [Path(name).expanduser() for name in names]


def known(target: Target) -> list[Known]:
    """Every line about a host, hashed ones too."""
    found = []
    for path in files_of(target):
        if not path.is_file():
            continue
        argv = ["ssh-keygen", "-F", name_of(target), "-f", str(path)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            words = line.split()
            marker = words.pop(0) if words and words[0].startswith("@") else ""
            if len(words) >= 3 and not line.startswith("#"):
                found.append(Known(words[1], words[2], marker, str(path)))
    return found


def fingerprint(key: paramiko.PKey) -> str:
    """As OpenSSH prints it: `SHA256:...`."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")


def judge(target: Target, lines: list[Known], key: paramiko.PKey) -> str:
    """What is said of a key that is known; raises where it is not, or is another."""
    told = f"{key.get_name()} {fingerprint(key)}"
    same = [line for line in lines if line.base64 == key.get_base64()]
    if any(line.marker == "@revoked" for line in same):
        raise Stop(f"the host's key is revoked: {told}", f"the host must not be trusted; see {same[0].file}")
    if any(not line.marker for line in same):
        return told
    if any(line.marker == "@cert-authority" for line in lines):
        return f"{told}, to be judged by OpenSSH and its certificate authority"
    plain = [line for line in lines if not line.marker]
    if plain:
        says = f"THE HOST'S KEY HAS CHANGED: it is {told}, and {plain[0].file} has another"
        remedy = "ask who rebuilt the host; if it was, compare this fingerprint at its console and then "
        raise Stop(says, remedy + f"`ssh-keygen -R '{name_of(target)}' -f {plain[0].file}`, and pin it: --pin")
    if target.first("stricthostkeychecking") in ("no", "off", "false", "accept-new"):
        return f"{told}, new and taken unseen: StrictHostKeyChecking is off"
    raise Stop(f"the host's key is not known: {told}", "compare it with the host's, then pin it: `llmprov check --pin`")


def offered(target: Target) -> paramiko.PKey | None:
    """The key that a host shows; None where it cannot be reached."""
    sock: object
    try:
        if target.proxy:
            sock = paramiko.ProxyCommand(target.proxy)
        else:
            where = (target.first("hostname", target.alias), target.port)
            sock = socket.create_connection(where, timeout=target.timeout_s)
        with paramiko.Transport(sock) as transport:
            transport.start_client(timeout=2 * target.timeout_s)
            return transport.get_remote_server_key()
    except (OSError, paramiko.SSHException, EOFError):
        return None
