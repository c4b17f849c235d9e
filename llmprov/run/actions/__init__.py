"""The controller's halves of llmprov's Ansible modules; the action plugins of the roles are doors to these.

Each takes the action plugin and the host's variables, and returns an Ansible result. What a host sent is read into a
record before anything uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from llmprov.run import lifetime

# Ansible loads its plugins in its first process, and this with them.
lifetime.tether()

#: Action plugin -> the module here that has it. An action's imports are its own, so that a plan does not load a depot.
MODULES = {
    "llmprov_plan": "observe",
    "llmprov_observe": "observe",
    "llmprov_hold": "hold",
    "llmprov_uv": "install",
    "llmprov_environment": "install",
    "llmprov_conda": "install",
    "llmprov_verify": "verify",
    "llmprov_gate": "gate",
}


def action_named(plugin: str) -> Callable[[Any, Mapping[str, Any]], dict[str, Any]]:
    """What the action plugin of this name does."""
    work: Callable[[Any, Mapping[str, Any]], dict[str, Any]]
    work = getattr(import_module(f"{__name__}.{MODULES[plugin]}"), plugin.removeprefix("llmprov_"))
    return work
