"""Every file of a report, by name; one renderer each."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from llmprov.model import FleetReport

#: File -> module that renders it; loaded when it is needed, as commands that render nothing should start at once.
RENDERERS = {"report.html": "html", "report.md": "markdown", "junit.xml": "junit", "metrics.prom": "metrics"}


def render(name: str, fleet: FleetReport) -> str:
    """The content of the file `name`."""
    content: str = import_module(f"llmprov.report.{RENDERERS[name]}").render(fleet)
    return content


def rendered(fleet: FleetReport) -> Iterator[tuple[str, str]]:
    """Name and content of each file beside fleet.json."""
    for name in RENDERERS:
        yield name, render(name, fleet)


@contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's search for cycles: records have none, and looking through millions takes a third of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
