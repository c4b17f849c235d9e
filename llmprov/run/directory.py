"""The directory of a run: made private, filled with files that are whole or not there."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from llmprov.errors import LlmprovError, UsageError
from llmprov.model import FleetReport, HostReport, RunInfo
from llmprov.report import document, files
from llmprov.text import plain

#: Longest file name that every common file system takes, less room for the ending.
NAME_LIMIT = 200


def encode_name(host: str) -> str:
    """A file name for an inventory name: reversible, without separators, apart where only case differs.

    Everything but lower-case letters, digits, `-` and `_` (and dots inside) becomes %XX of its UTF-8 bytes; a name that
    grows too long ends in a digest of the whole.
    """
    plain = b"abcdefghijklmnopqrstuvwxyz0123456789-_."
    text = "".join(chr(b) if b in plain else f"%{b:02X}" for b in host.encode("utf-8", "surrogatepass"))
    if text.startswith("."):
        text = "%2E" + text[1:]
    if len(text) > NAME_LIMIT:
        text = f"{text[: NAME_LIMIT - 17]}~{hashlib.sha256(host.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
    return text


class RunDirectory:
    """`runs/<UTC time>-<6 hex>/`, mode 0700."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._events: IO[str] | None = None

    @classmethod
    def create(cls, parent: Path, name: str = "") -> RunDirectory:
        """A new run directory under `parent`, named by the time unless it has a name already.

        Raises:
            UsageError: `parent` cannot be written to, or has a run of that name.
        """
        name = name or f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            (parent / name).mkdir(mode=0o700)
        except OSError as error:
            raise UsageError(
                f"the run directory {parent / name} cannot be made ({error.strerror}): "
                "name another place with --runs or --out"
            ) from None
        return cls(parent / name)

    @property
    def id(self) -> str:
        """The run's name."""
        return self.path.name

    def write(self, name: str, content: str | Iterable[bytes]) -> Path:
        """Write a file whole, from a text or from pieces: beside its place, then into it.

        Raises:
            LlmprovError: the disk refused; whatever stood at that name before still does.
        """
        target = self.path / name
        partial = target.with_name(f".{target.name}.partial")
        try:
            with partial.open("wb") as handle:
                handle.writelines(
                    [content.encode("utf-8", "backslashreplace")] if isinstance(content, str) else content
                )
            partial.replace(target)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise _unwritten(target, error) from None
        return target

    def write_run(self, run: RunInfo) -> None:
        """run.json: inputs, versions, outcome."""
        self.write("run.json", run.model_dump_json(indent=2) + "\n")

    def write_fleet(self, fleet: FleetReport) -> None:
        """Every host's file and fleet.json, then the other forms, then run.json, which says that all are complete."""

        hosts = self.path / ".hosts.partial"

        def host(row: HostReport, data: bytes) -> None:
            with open(f"{hosts}/{encode_name(row.host)}.json", "wb") as handle:  # noqa: PTH123 - ten thousand of them
                handle.write(data + b"\n")

        try:
            hosts.mkdir(mode=0o700)
            self.write("fleet.json", document.render(fleet, host))
            # The folder gets its name when all of it is there.
            hosts.rename(self.path / "hosts")
        except OSError as error:
            raise _unwritten(hosts, error) from None
        finally:
            shutil.rmtree(hosts, ignore_errors=True)
        for name, text in files.rendered(fleet):
            self.write(name, text)
        self.write_run(fleet.run)

    def record_event(self, stage: str, event: dict[str, Any]) -> None:
        """Append one event to the log, which gets its name only when the run ends."""
        if self._events is None:
            self._events = (self.path / ".events.jsonl.partial").open("w", encoding="utf-8", errors="backslashreplace")
        result = event.get("result") or {}
        kept = {name: event[name] for name in ("event", "host", "play", "task", "duration_s") if event.get(name)}
        kept |= {"stage": stage, "changed": result.get("changed", False)}
        if event["event"] in ("runner_on_failed", "runner_on_unreachable"):
            kept["message"] = result.get("msg", "")
        self._events.write(json.dumps(kept) + "\n")

    def close_events(self) -> None:
        """Give the log of events its name."""
        if self._events is not None:
            self._events.close()
            self._events = None
            (self.path / ".events.jsonl.partial").rename(self.path / "events.jsonl")


def _unwritten(path: Path, error: OSError) -> LlmprovError:
    return LlmprovError(f"{path} could not be written ({error.strerror}): make room and run again")


def find_run(name: str, parent: Path) -> RunDirectory:
    """The run directory that a user means: a path, a run's name, a beginning of one, or `latest`.

    Raises:
        UsageError: there is none or there are several.
    """
    if (Path(name) / "fleet.json").exists():
        return RunDirectory(Path(name))
    runs = sorted(p for p in parent.glob("*") if (p / "fleet.json").exists())
    matches = runs[-1:] if name == "latest" else [p for p in runs if p.name.startswith(name)]
    if len(matches) != 1:
        found = f"{len(matches)} runs" if matches else "no finished run"
        raise UsageError(f"{found} under {parent}/ named {name!r}: `ls {parent}` shows them; `latest` is the newest")
    return RunDirectory(matches[0])


#: No fleet's report is larger; what claims to be may come from anywhere.
REPORT_LIMIT = 2 << 30


def load_fleet(directory: RunDirectory) -> FleetReport:
    """The fleet report of a finished run.

    Raises:
        UsageError: its fleet.json is not one, or of a newer llmprov.
    """
    path = directory.path / "fleet.json"
    try:
        if path.stat().st_size > REPORT_LIMIT:
            raise ValueError(f"it is larger than {REPORT_LIMIT >> 30} GiB")
        with files.uncollected():
            return FleetReport.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        reason = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
    raise UsageError(f"{path} is no fleet report that this llmprov can read: {plain(reason, 300)}")
