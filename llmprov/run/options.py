"""What the user gave of Ansible's options, and the environment that Ansible and everything under it gets."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llmprov.run.content import roles_directory

if TYPE_CHECKING:
    from llmprov.run.lifetime import Lifetime

#: Environment variables of the user's that reach Ansible; no other does, so none ends in an artifact.
ALLOWED = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "SSH_AUTH_SOCK",
    "KRB5CCNAME",
    "USER",
    "LOGNAME",
    "TERM",
    "TMPDIR",
)
ALLOWED_PREFIXES = ("ANSIBLE_", "XDG_")
PROXIES = (
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
)
#: How pip, which fetches tools on the controller, finds its indexes and certificates.
PIP = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")


@dataclass(frozen=True)
class Options:
    """What the user gave of Ansible's own options, with Ansible's meaning."""

    inventory: tuple[str, ...] = ()
    limit: str | None = None
    tags: str | None = None
    skip_tags: str | None = None
    check: bool = False
    diff: bool = False
    become: bool = False
    extra_vars: tuple[str, ...] = ()
    forks: int | None = None
    vault_password_files: tuple[str, ...] = ()
    vault_ids: tuple[str, ...] = ()
    user: str | None = None
    private_key: str | None = None
    #: Prompt (a regular expression) -> answer; goes to the child by its standard input and nowhere else.
    passwords: dict[str, str] = field(default_factory=dict, repr=False)
    password_flags: tuple[str, ...] = ()
    #: The lock that hosts are installed from, as the user named it.
    lock: str | None = None

    def arguments(self) -> list[str]:
        """The ansible-playbook command line for everything but inventory, limit and forks."""
        words = [*self.password_flags]
        words += [
            flag for flag, on in (("--check", self.check), ("--diff", self.diff), ("--become", self.become)) if on
        ]
        for flag, value in (
            ("--tags", self.tags),
            ("--skip-tags", self.skip_tags),
            ("--user", self.user),
            ("--private-key", self.private_key),
        ):
            words += [flag, value] if value else []
        words += [w for v in self.extra_vars for w in ("--extra-vars", absolute_file(v))]
        if self.lock:
            words += ["--extra-vars", json.dumps({"llm_lock": str(Path(self.lock).absolute())})]
        return words + self.vault_arguments()

    def selects(self, tag: str) -> bool:
        """Whether tasks with `tag` run, given --tags and --skip-tags."""
        only = set((self.tags or "all").split(","))
        return bool(only & {tag, "all", "tagged"}) and tag not in (self.skip_tags or "").split(",")

    def vault_arguments(self) -> list[str]:
        """The options that tell Ansible where vault passwords are."""
        words = [w for f in self.vault_password_files for w in ("--vault-password-file", str(Path(f).absolute()))]
        return words + [w for i in self.vault_ids for w in ("--vault-id", i)]


def absolute_file(value: str) -> str:
    """`@FILE` by its whole path, as Ansible runs in another directory; anything else as it is."""
    return f"@{Path(value[1:]).absolute()}" if value.startswith("@") else value


def environment() -> dict[str, str]:
    """The environment that Ansible and everything under it gets."""
    kept = {
        n: v for n, v in os.environ.items() if n in ALLOWED + PROXIES + PIP or n.startswith((*ALLOWED_PREFIXES, "PIP_"))
    }
    # ansible-playbook is found beside the running Python, whether or not its environment is active.
    here = str(Path(sys.executable).parent)
    kept["PATH"] = os.pathsep.join([here, os.environ.get("PATH", os.defpath)])
    kept.setdefault("ANSIBLE_HOST_KEY_CHECKING", "True")
    kept.setdefault("ANSIBLE_PIPELINING", "True")
    kept.setdefault("LANG", "C.UTF-8")
    roles = kept.get("ANSIBLE_ROLES_PATH", "")
    kept["ANSIBLE_ROLES_PATH"] = os.pathsep.join(filter(None, [str(roles_directory()), roles]))
    kept["ANSIBLE_NOCOLOR"] = "1"
    if not _is_set("interpreter_python", "ANSIBLE_PYTHON_INTERPRETER", kept):
        # Every supported system has it there; looking for it would cost each host a round trip. A host without it is
        # seen as one without Python.
        kept["ANSIBLE_PYTHON_INTERPRETER"] = "/usr/bin/python3"
    if not _is_set("ssh_args", "ANSIBLE_SSH_ARGS", kept):
        # Ansible's own default but for its compression: what hosts are sent is compressed already, and compressing it
        # again was two thirds of the time that eight hosts took. A host that lost its power is given up after a
        # minute; without being asked, ssh would wait for it a quarter of an hour.
        alive = "-o ServerAliveInterval=15 -o ServerAliveCountMax=4"
        kept["ANSIBLE_SSH_ARGS"] = f"-o ControlMaster=auto -o ControlPersist=60s {alive}"
    return {name: value for name, value in kept.items() if value}


def environment_of_run(lifetime: Lifetime) -> dict[str, str]:
    """The environment of the Ansible of one run, whose temporary files lie in the run's folder."""
    env = environment() | lifetime.environment()
    if not _is_set("local_tmp", "ANSIBLE_LOCAL_TEMP", env):
        env["ANSIBLE_LOCAL_TEMP"] = str(lifetime.directory)
    if not _is_set("remote_tmp", "ANSIBLE_REMOTE_TEMP", env) and "ANSIBLE_REMOTE_TMP" not in env:
        # A folder of the run's own on hosts: it can go with the run, whatever another Ansible does there.
        env["ANSIBLE_REMOTE_TEMP"] = f"~/.ansible/tmp-{lifetime.run}"
    return env


def _is_set(key: str, variable: str, kept: dict[str, str]) -> bool:
    """Whether the user's own configuration says something; Ansible reads the first file that exists."""
    if variable in kept:
        return True
    places = [kept.get("ANSIBLE_CONFIG", ""), "ansible.cfg", "~/.ansible.cfg", "/etc/ansible/ansible.cfg"]
    for path in (Path(place).expanduser() for place in places if place):
        if path.is_file():
            return key in path.read_text("utf-8", "replace")
    return False
