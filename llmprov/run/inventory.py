"""The inventory, read as Ansible reads it, of any kind Ansible reads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from llmprov.errors import UsageError
from llmprov.run.options import Options, absolute_file, environment

#: What Ansible is told of inventories beside the user's own settings: one that cannot be read is an error.
STRICT = {"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "True", "ANSIBLE_LOCALHOST_WARNING": "False"}


@dataclass(frozen=True)
class Inventory:
    """Every host of the inventory in its order, the groups of each, and which of them were selected."""

    hosts: dict[str, list[str]]
    selected: list[str]
    #: Host -> its variables, as the inventory has them: not filled in, and vaulted ones still locked.
    variables: dict[str, dict[str, Any]] = field(default_factory=dict)


def inventory_from(told: Mapping[str, Any]) -> Inventory:
    """The inventory that `llmprov.run.listing` told."""
    return Inventory(told["hosts"], told["selected"], told["variables"])


def require_sources(options: Options) -> None:
    """Look at the files and values that the options name, before anything is started.

    Raises:
        UsageError: a file is not there, or a value of -e cannot be read.
    """
    for source in options.inventory:
        if "," not in source and not Path(source).exists():
            raise UsageError(f"there is no inventory at {source}: give an existing file or directory with -i")
    named = [("-e", value[1:]) for value in options.extra_vars if value.startswith("@")]
    named += [("--vault-password-file", name) for name in options.vault_password_files]
    named += [("--private-key", options.private_key)] if options.private_key else []
    for flag, name in named:
        if not Path(name).expanduser().exists():
            raise UsageError(f"there is no file {name}, which {flag} names: correct the path")
    for value in options.extra_vars:
        _require_readable(value)


def _require_readable(value: str) -> None:
    """Raise where a value of -e is neither JSON nor YAML: Ansible would call the inventory unreadable.

    Tags are not looked at, since Ansible has its own.
    """
    if not value.lstrip().startswith(("@", "{", "[")):
        return
    named = f"the file {value[1:]} of -e" if value.startswith("@") else "a value of -e"
    try:
        text = Path(value[1:]).expanduser().read_text("utf-8") if value.startswith("@") else value
        try:
            json.loads(text)
        except ValueError:
            for _ in yaml.parse(text, yaml.SafeLoader):
                pass
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise UsageError(f"{named} cannot be read: {' '.join(str(error).split())}") from None


def require_hosts(found: Inventory, options: Options) -> None:
    """Raise unless something was selected.

    Raises:
        UsageError: there is no inventory, it is empty, or the limit matches nothing.
    """
    if not found.hosts:
        where = ", ".join(options.inventory)
        if not where:
            raise UsageError("no inventory was given: name one with -i, such as `-i inventory/lab.yml`")
        raise UsageError(f"the inventory {where} has no hosts: add some, or name another with -i")
    if not found.selected:
        raise UsageError(
            f"--limit {options.limit} matches none of the {len(found.hosts)} hosts of the inventory: "
            f"they are {_some(list(found.hosts))}"
        )


def load_inventory(options: Options) -> Inventory:
    """Read the inventory in a process of its own, where hosts must be known before a playbook runs.

    Raises:
        UsageError: there is none, it is empty or broken, or the limit matches nothing.
    """
    require_sources(options)
    found = _list_inventory(options)
    require_hosts(found, options)
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _list_inventory(options: Options) -> Inventory:
    argv = [sys.executable, "-m", "llmprov.run.listing", *(w for i in options.inventory for w in ("-i", i))]
    argv += options.vault_arguments()
    argv += ["--limit", absolute_file(options.limit)] if options.limit else []
    env = environment() | STRICT
    secret = next((v for k, v in options.passwords.items() if "Vault" in k), "")
    if "--ask-vault-pass" in options.password_flags:
        # ansible-inventory would ask at the terminal a second time; a pipe is no file and no command line.
        argv += ["--vault-password-file", "/dev/stdin"]
    done = subprocess.run(argv, env=env, input=secret, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UsageError(_inventory_problem(done.stderr, options.inventory))
    return inventory_from(json.loads(done.stdout))


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
