"""fleet.json: the whole report, a host a line, so that `grep` finds one; made without holding all of it in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llmprov.model import FleetReport, HostReport


def row_json(row: HostReport) -> bytes:
    """One host's record, on one line."""
    return row.__pydantic_serializer__.to_json(row)


def render(fleet: FleetReport, seen: Callable[[HostReport, bytes], None] = lambda row, data: None) -> Iterator[bytes]:
    """The document in pieces; `seen` is given each host's record as it passes by."""
    frame = fleet.model_copy(update={"hosts": []}).model_dump_json()
    # What a host or a user wrote has its quotes escaped in JSON: this is the list itself.
    before, _, after = frame.partition('"hosts":[]')
    yield (before + '"hosts":[\n').encode()
    for number, row in enumerate(fleet.hosts):
        data = row_json(row)
        seen(row, data)
        yield b",\n" + data if number else data
    yield ("\n]" + after + "\n").encode()
