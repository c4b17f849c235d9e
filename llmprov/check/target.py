"""Where a host is and how it is logged in to: what Ansible would say to OpenSSH, and what OpenSSH makes of it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from llmprov.errors import UsageError
from llmprov.run.options import Options, environment


@dataclass(frozen=True)
class Target:
    """One host as OpenSSH would connect to it."""

    name: str
    #: The host as given to ssh, and ssh's arguments before it.
    alias: str
    arguments: tuple[str, ...]
    executable: str
    #: What `ssh -G` says: key -> values, the first of which holds unless the key may stand several times.
    config: dict[str, list[str]]
    password: str | None
    become: bool
    become_user: str
    become_password: str | None
    python: str
    timeout_s: float

    def first(self, key: str, default: str = "") -> str:
        """The value of a key of ssh_config."""
        return self.config.get(key, [default])[0]

    @property
    def address(self) -> str:
        """Host and port, as OpenSSH resolved them."""
        return f"{self.first('hostname', self.alias)}:{self.port}"

    @property
    def port(self) -> int:
        """TCP port."""
        return int(self.first("port", "22"))

    @property
    def proxy(self) -> str:
        """The command that connects in place of TCP, by a jump host or by the user's own; empty where there is none."""
        command = self.first("proxycommand", "none")
        if command != "none":
            return command
        jump = self.first("proxyjump", "none")
        if jump == "none":
            return ""
        *through, last = jump.split(",")
        # As OpenSSH does it: the jump host is told the same file of settings, and nothing else.
        at = self.arguments.index("-F") if "-F" in self.arguments else None
        settings_file = self.arguments[at : at + 2] if at is not None else ()
        words = [self.executable, *settings_file, "-o", "BatchMode=yes"]
        words += ["-J", ",".join(through)] if through else []
        hostname = self.first("hostname", self.alias)
        return shlex.join([*words, "-W", f"[{hostname}]:{self.port}", last.removeprefix("ssh://")])


def settings(options: Options) -> dict[str, dict[str, Any]]:
    """How Ansible would connect to each selected host.

    Raises:
        UsageError: the inventory or a variable cannot be read.
    """
    argv = [sys.executable, "-m", "llmprov.check.variables", *(w for i in options.inventory for w in ("-i", i))]
    argv += [w for v in options.extra_vars for w in ("-e", v)] + options.vault_arguments()
    argv += ["--limit", options.limit] if options.limit else []
    env = environment() | {"ANSIBLE_LOCALHOST_WARNING": "False"}
    secret = next((v for k, v in options.passwords.items() if "Vault" in k), "")
    if secret:
        argv += ["--vault-password-file", "/dev/stdin"]
    done = subprocess.run(argv, env=env, input=secret, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = done.stderr.strip().splitlines()
        raise UsageError(f"the inventory cannot be read: {words[-1] if words else 'no reason was given'}")
    told: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return told


def target(name: str, asked: dict[str, Any], options: Options) -> Target:
    """One host, with OpenSSH's own reading of every ssh_config that concerns it.

    Raises:
        UsageError: OpenSSH refuses what it is told.
    """
    alias, executable = str(asked["host"]), str(asked["ssh_executable"] or "ssh")
    arguments = _arguments(asked, options)
    done = subprocess.run(
        [executable, "-G", *arguments, alias], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise UsageError(f"ssh refuses its own arguments for {name}: {done.stderr.strip()[:300]}")
    config: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        config.setdefault(key.lower(), []).append(value)
    answers = {prompt.split()[0]: text for prompt, text in options.passwords.items()}
    return Target(
        name=name,
        alias=alias,
        arguments=tuple(arguments),
        executable=executable,
        config=config,
        password=answers.get("SSH") or asked["password"],
        become=options.become or bool(asked["become"]),
        become_user=str(asked["become_user"] or "root"),
        become_password=answers.get("BECOME") or asked["become_pass"],
        python=str(asked["python"] or "/usr/bin/python3"),
        timeout_s=float(asked["timeout"] or 10),
    )


def _arguments(asked: dict[str, Any], options: Options) -> list[str]:
    """What Ansible's ssh plugin says to ssh, less its control sockets."""
    words = [w for key in ("ssh_args", "ssh_common_args", "ssh_extra_args") for w in shlex.split(asked[key] or "")]
    user, key = options.user or asked["remote_user"], options.private_key or asked["private_key_file"]
    words += ["-o", f"Port={asked['port']}"] if asked["port"] else []
    words += ["-o", f"User={user}"] if user else []
    words += ["-o", f'IdentityFile="{key}"'] if key else []
    return [*words, "-o", "ControlMaster=no", "-o", "ControlPath=none"]
