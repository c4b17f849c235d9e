"""Taking up what an earlier run left: which hosts, and whether they are still what they were declared to be.

A run keeps digests of what was declared, a variable each, so that a later one can say what has changed since. Values
are not kept, and of variables whose names speak of secrets not even digests: mending a password changes no declaration.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from llmprov.errors import UsageError
from llmprov.model import Status
from llmprov.run.directory import RunDirectory, find_run, load_fleet
from llmprov.run.inventory import Inventory
from llmprov.run.options import Options

FILE = "declared.json"

#: Statuses of hosts that a retry leaves alone.
DONE = (Status.PASS, Status.WARN, Status.NOT_SELECTED)

SECRET = re.compile(r"pass(word|wd|phrase)?|secret|token|credential|private_key$|_key$", re.I)

#: What is told at once, of each kind.
NAMED = 3


class Declared(BaseModel):
    """What hosts were declared to be, by digests. Hosts that share all of it share a set."""

    hosts: dict[str, int] = {}
    sets: list[dict[str, str]] = []


def declared(inventory: Inventory, options: Options) -> Declared:
    """The digests of an inventory and of the variables on the command line, which every host has."""
    given = _extra(options)
    sets: dict[str, int] = {}
    found = Declared()
    for host in inventory.hosts:
        own = {**inventory.variables.get(host, {}), **given}
        digests = {name: _digest(value) for name, value in own.items() if not SECRET.search(name)}
        key = json.dumps(digests, sort_keys=True)
        if key not in sets:
            sets[key] = len(found.sets)
            found.sets.append(digests)
        found.hosts[host] = sets[key]
    return found


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _extra(options: Options) -> dict[str, Any]:
    """The variables of every `-e`, by name; of one that cannot be told apart, the whole."""
    found: dict[str, Any] = {}
    for text in options.extra_vars:
        try:
            content = Path(text[1:]).read_text("utf-8") if text.startswith("@") else text
            read = yaml.safe_load(content) if text.startswith("@") or text.lstrip()[:1] in "{[" else None
        except (OSError, ValueError, yaml.YAMLError):
            read, content = None, text
        if isinstance(read, Mapping):
            found |= {str(name): value for name, value in read.items()}
        else:
            pairs = (word.partition("=") for word in content.split() if "=" in word)
            found |= {name: value for name, _, value in pairs}
    return found


def changes(before: Declared, after: Declared) -> list[str]:
    """What is declared otherwise than it was, in words; nothing where all is the same."""
    told = []
    gone, new = (sorted(a.hosts.keys() - b.hosts.keys()) for a, b in ((before, after), (after, before)))
    told += [f"without {_some(gone)}"] if gone else []
    told += [f"with {_some(new)}, new"] if new else []
    moved: dict[str, list[str]] = {}
    for host in before.hosts.keys() & after.hosts.keys():
        was, now = before.sets[before.hosts[host]], after.sets[after.hosts[host]]
        for name in was.keys() | now.keys():
            if was.get(name) != now.get(name):
                moved.setdefault(name, []).append(host)
    told += [f"`{name}` of {_some(sorted(hosts))}" for name, hosts in sorted(moved.items())]
    return told


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def left(name: str, runs: Path, inventory: Inventory, options: Options) -> list[str]:
    """The hosts that did not pass in an earlier run.

    Raises:
        UsageError: there is no such run, all of it passed, or something is declared otherwise since.
    """
    directory = find_run(name, runs)
    told = changes(_read(directory), declared(inventory, options))
    if told:
        more = f", and {len(told) - 5} more changes" if len(told) > 5 else ""
        raise UsageError(
            f"the declaration has changed since the run {directory.id}: {'; '.join(told[:5])}{more}: "
            "run again without --retry, which takes all of it up"
        )
    rows = load_fleet(directory).hosts
    hosts = {row.host for row in rows if row.status not in DONE}
    if not hosts:
        raise UsageError(f"every host of the run {directory.id} passed: there is nothing to take up")
    return [host for host in inventory.hosts if host in hosts]


def _read(directory: RunDirectory) -> Declared:
    try:
        return Declared.model_validate_json((directory.path / FILE).read_bytes())
    except (OSError, ValidationError):
        raise UsageError(
            f"the run {directory.id} did not keep what was declared ({directory.path / FILE}): "
            "run again without --retry"
        ) from None
