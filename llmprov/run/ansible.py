"""Ansible as seen from here: its environment, its inventory, a playbook run in a child process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llmprov.errors import UsageError
from llmprov.run.content import content_directory, roles_directory
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
        words += [w for v in self.extra_vars for w in ("--extra-vars", _absolute_at(v))]
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


def _absolute_at(value: str) -> str:
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


def _environment_of(lifetime: Lifetime) -> dict[str, str]:
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


# -- inventory -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inventory:
    """Every host of the inventory in its order, the groups of each, and which of them were selected."""

    hosts: dict[str, list[str]]
    selected: list[str]
    #: Host -> its variables, as the inventory has them: not filled in, and vaulted ones still locked.
    variables: dict[str, dict[str, Any]] = field(default_factory=dict)


def load_inventory(options: Options) -> Inventory:
    """Read the inventory as Ansible reads it, of any kind Ansible reads.

    Raises:
        UsageError: there is none, it is empty or broken, or the limit matches nothing.
    """
    for source in options.inventory:
        if "," not in source and not Path(source).exists():
            raise UsageError(f"there is no inventory at {source}: give an existing file or directory with -i")
    _require_files(options)
    everything, variables = _list_inventory(options, None)
    if not everything:
        where = ", ".join(options.inventory)
        if not where:
            raise UsageError("no inventory was given: name one with -i, such as `-i inventory/lab.yml`")
        raise UsageError(f"the inventory {where} has no hosts: add some, or name another with -i")
    if options.limit is None:
        return Inventory(everything, list(everything), variables)
    selected = list(_list_inventory(options, _absolute_at(options.limit))[0])
    if not selected:
        raise UsageError(
            f"--limit {options.limit} matches none of the {len(everything)} hosts of the inventory: "
            f"they are {_some(list(everything))}"
        )
    return Inventory(everything, selected, variables)


def _require_files(options: Options) -> None:
    named = [("-e", value[1:]) for value in options.extra_vars if value.startswith("@")]
    named += [("--vault-password-file", name) for name in options.vault_password_files]
    named += [("--private-key", options.private_key)] if options.private_key else []
    for flag, name in named:
        if not Path(name).expanduser().exists():
            raise UsageError(f"there is no file {name}, which {flag} names: correct the path")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _list_inventory(options: Options, limit: str | None) -> tuple[dict[str, list[str]], dict[str, dict[str, Any]]]:
    """(host -> its groups, host -> its variables), in the inventory's order."""
    argv = [
        "ansible-inventory",
        "--list",
        *(w for i in options.inventory for w in ("-i", i)),
        *options.vault_arguments(),
    ]
    argv += ["--limit", limit] if limit else []
    env = environment() | {
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "True",
        "ANSIBLE_LOCALHOST_WARNING": "False",
    }
    flags = ["--ask-vault-pass"] if "--ask-vault-pass" in options.password_flags else []
    secret = next((v for k, v in options.passwords.items() if "Vault" in k), "")
    if flags:
        # ansible-inventory would ask at the terminal a second time; a pipe is no file and no command line.
        argv += ["--vault-password-file", "/dev/stdin"]
    done = subprocess.run(argv, env=env, input=secret, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UsageError(_inventory_problem(done.stderr, options.inventory))
    listing: dict[str, Any] = json.loads(done.stdout)
    variables = listing.pop("_meta", {}).get("hostvars", {})
    return _hosts_with_groups(listing), variables


def _inventory_problem(stderr: str, sources: tuple[str, ...]) -> str:
    """One sentence out of Ansible's pages: the first reason that names a place, else its last word."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", stderr)
    found = re.search(r"(YAML parsing failed[^\n]*)\nOrigin: ([^\s<][^\n]*)", text)
    if found:
        path, _, rest = found[2].partition(":")
        line = rest.split(":")[0]
        return f"the inventory {path} cannot be read, line {line}: {found[1].rstrip('.')}; mend it and run again"
    errors = re.findall(r"\[ERROR\]: ([^\n]+)", text) or [
        text.strip().splitlines()[-1] if text.strip() else "no reason"
    ]
    return f"the inventory {', '.join(sources)} cannot be read: {errors[0].rstrip('.')}; mend it and run again"


def _hosts_with_groups(listing: dict[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for group, content in listing.items():
        for host in content.get("hosts", []):
            found.setdefault(host, [])
            if group not in ("all", "ungrouped"):
                found[host].append(group)
    return found


# -- a playbook ----------------------------------------------------------------------------------------------------


def default_forks(hosts: int) -> int:
    """How many hosts to work on at once: all of them, as far as memory goes and at most 50.

    Measured on a controller: 206 MB of Ansible and ssh at 10 forks, 598 MB at 50; so about 10 MB a fork.
    """
    free_mb = 1024.0
    with contextlib.suppress(OSError, ValueError, AttributeError):
        match = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text("ascii"))
        free_mb = int(match[1]) / 1024 if match else free_mb
    return max(1, min(hosts, 50, int((free_mb - 150) / 12)))


class PlaybookRun:
    """One playbook in a child process; iterate over it for the events."""

    def __init__(
        self,
        playbook: str,
        options: Options,
        limit: list[str] | None,
        forks: int,
        lifetime: Lifetime,
        records: tuple[str, ...] = (),
    ) -> None:
        self._lifetime = lifetime
        self._private = Path(tempfile.mkdtemp(prefix="ansible-", dir=lifetime.directory))
        self._spec = {
            "private_data_dir": str(self._private),
            "working_directory": str(Path.cwd()),
            "playbook": str(content_directory() / playbook),
            "inventory": [i if "," in i else str(Path(i).absolute()) for i in options.inventory] or None,
            "limit": self._limit(options, limit),
            "forks": forks,
            "arguments": _quoted(options.arguments()),
            "passwords": options.passwords,
            "environment": {},
            "records": list(records),
            "lifetime": str(lifetime.directory),
        }
        self._process: subprocess.Popen[str] | None = None
        self.stats: dict[str, dict[str, int]] | None = None
        self.outcome: dict[str, Any] = {}
        self._errors: list[str] = []
        self._worked = False

    def _limit(self, options: Options, limit: list[str] | None) -> str | None:
        if limit is None:
            return _absolute_at(options.limit) if options.limit else None
        # By file: names may hold what means something in a pattern, and command lines have an end.
        path = self._private / "limit"
        path.write_text("\n".join(limit) + "\n", encoding="utf-8")
        return f"@{path}"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self._events()
        finally:
            self.close()

    def _events(self) -> Iterator[dict[str, Any]]:
        # Errors go to a file: a pipe that nobody reads meanwhile would fill and stop the child.
        with (self._private / "stderr").open("w+") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "llmprov.run.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_environment_of(self._lifetime),
                text=True,
                start_new_session=True,
            )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(self._spec) + "\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                event = json.loads(line)
                if event["event"] == "playbook_on_stats":
                    self.stats = event["stats"]
                elif event["event"] == "finished":
                    self.outcome = event
                elif event["event"] == "error":
                    self._errors.append(event["message"])
                else:
                    self._worked = True
                    yield event
            self._process.wait()
            errors.seek(0)
            self._errors += errors.read().strip().splitlines()[-3:]

    def problem(self) -> str | None:
        """Why the playbook as a whole did not run to its end, where that is no single host's fault.

        Raises:
            UsageError: it did not even begin, because of what Ansible was given.
        """
        if self.stats is not None or self.outcome.get("status") == "canceled":
            return None
        said = " ".join(" ".join(self._errors).split())
        if not self._worked and re.match(r"\[?ERROR", said):
            raise UsageError(re.sub(r"^\[?ERROR(\]:|!) ", "", said)[:600])
        return said[-1500:] or "Ansible ended without saying why"

    def cancel(self) -> None:
        """Ask the child to end Ansible: it starts no new task, and kills what runs on this machine."""
        if self._process and self._process.stdin and self._process.poll() is None:
            with contextlib.suppress(BrokenPipeError, ValueError):
                self._process.stdin.write("cancel\n")
                self._process.stdin.flush()

    def kill(self) -> None:
        """End the child at once; the kernel tells its Ansible, where it can."""
        if self._process:
            self._process.kill()

    def close(self) -> None:
        """End the child if it runs, and remove its directory."""
        process = self._process
        if process is not None:
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(BrokenPipeError, OSError):
                    if stream:
                        stream.close()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._private, ignore_errors=True)


def _quoted(words: list[str]) -> str | None:
    return shlex.join(words) or None


def versions() -> dict[str, str]:
    """The versions of everything that decides what a run does."""
    names = ("llmprov", "ansible-core", "ansible-runner")
    return {name: version(name) for name in names} | {"python": ".".join(map(str, sys.version_info[:3]))}
