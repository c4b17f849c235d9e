"""`llmprov.lock` as text: YAML to read and to commit, a package a line so that a diff says what moved."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from llmprov.errors import LlmprovError, UsageError
from llmprov.model import Desired
from llmprov.model.lock import Lock, LockedEnvironment

HEAD = """\
# What every host of a fleet gets, to the digest, a package a line. Written by `llmprov lock`, to be committed;
# `llmprov provision --locked` installs exactly this.
"""


def of(desired: Desired) -> Lock | None:
    """The lock that a host is to be installed from, if any.

    Raises:
        UsageError: it is not there, or is none.
    """
    return read(Path(desired.llm.lock).expanduser()) if desired.llm.lock else None


def read(path: Path) -> Lock:
    """Read a lock.

    Raises:
        UsageError: it is not there, or is none.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise UsageError(f"there is no lock at {path}: write one with `llmprov lock -i INVENTORY`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the lock {path} cannot be read: {error}") from None
    try:
        content = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return Lock.model_validate(content)
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())[:200]
    except ValidationError as error:
        first = error.errors()[0]
        said = f"at {'.'.join(map(str, first['loc'])) or 'its top'}: {first['msg']}"
    raise UsageError(f"{path} is no lock of this llmprov ({said}): take it from your repository, or write it anew")


def render(lock: Lock) -> str:
    """The text of a lock; the same lock always gives the same text."""
    parts = [HEAD, f"version: {lock.version}\n"]
    parts += [_list("tools", lock.tools), _list("drivers", lock.drivers)]
    parts += ["environments:\n" if lock.environments else "environments: []\n", *map(_environment, lock.environments)]
    return "".join(parts)


def _list(name: str, rows: Iterable[BaseModel], indent: str = "") -> str:
    lines = [f"{indent}- {json.dumps(_plain(row), ensure_ascii=False)}\n" for row in rows]
    return f"{indent}{name}:\n{''.join(lines)}" if lines else f"{indent}{name}: []\n"


def _plain(row: BaseModel) -> dict[str, Any]:
    return {key: value for key, value in row.model_dump(mode="json").items() if value not in ("", None)}


def _environment(entry: LockedEnvironment) -> str:
    head = {"path": entry.path, "of": _plain(entry.of), "hosts": entry.hosts, "declaration": entry.declaration}
    text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=110)
    lines = "".join(f"  {line}\n" for line in text.splitlines())
    return f"- {lines[2:]}{_list('conda', entry.conda, '  ')}{_list('wheels', entry.wheels, '  ')}"


def summary(lock: Lock) -> str:
    """How much a lock holds, in words."""
    hosts = {name for entry in lock.environments for name in entry.hosts}
    conda = sum(len(entry.conda) for entry in lock.environments)
    wheels = sum(len(entry.wheels) for entry in lock.environments)
    return f"{len(hosts)} hosts, {len(lock.environments)} environments, {conda} conda packages, {wheels} wheels"


def write(path: Path, lock: Lock) -> None:
    """Write a lock whole or not at all.

    Raises:
        LlmprovError: it cannot be written there.
    """
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name}.", encoding="utf-8", delete=False
        ) as new:
            new.write(render(lock))
            os.fchmod(new.fileno(), 0o644)
        Path(new.name).replace(path)
    except OSError as error:
        raise LlmprovError(
            f"the lock cannot be written to {path}: {error.strerror}: name another place with --lock"
        ) from None
