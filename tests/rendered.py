"""The tasks of role nvidia_driver as Ansible would run them on a host: for systems that cannot be booted where tests run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmprov.model import Desired, Observation
from tests.unit.builders import desired

ROLE = Path(__file__).parents[1] / "roles" / "nvidia_driver"


def rendered(seen: Observation, declared: dict[str, Any]) -> list[dict[str, Any]]:
    """Every task that would run on the host, with its arguments as Ansible fills them in."""
    # Ansible is imported only now: torch._dynamo, which other tests import, does not survive its patch of sys.intern.
    from llmprov.run.actions import observe

    wanted: Desired = desired(nvidia_driver={"state": "present", **declared}, pytorch={"variant": "cpu"})
    plan = {"nvidia_driver": observe.driver(wanted, seen), "observation": seen.model_dump(mode="json")}
    variables = {
        **{f"nvidia_driver_{name}": value for name, value in wanted.nvidia_driver.model_dump().items()},
        "__llmprov_plan": plan,
        "__nvidia_driver_nouveau": {"changed": True},
        "ansible_check_mode": False,
    }
    # Through JSON: Ansible's strings know where they came from, and YAML does not write such.
    tasks: list[dict[str, Any]] = json.loads(json.dumps(list(_tasks("present.yml", variables))))
    return tasks


def _tasks(file: str, variables: dict[str, Any]) -> Any:
    from ansible.parsing.dataloader import DataLoader

    loader = DataLoader()
    for task in loader.load_from_file(str(ROLE / "tasks" / file), trusted_as_template=True):
        yield from _task(task, loader, variables)


def _task(task: dict[str, Any], loader: Any, variables: dict[str, Any]) -> Any:
    from ansible.template import Templar

    templar = Templar(loader, variables=variables)
    conditions = [task["when"]] if isinstance(task.get("when"), str) else task.get("when", [])
    if not all(templar.evaluate_conditional(condition) for condition in conditions):
        return
    if "block" in task:
        for inner in task["block"]:
            yield from _task(inner, loader, variables)
        return
    module = next(key for key in task if "." in key or key.startswith("llmprov_"))
    items = templar.template(task["loop"]) if "loop" in task else [None]
    for item in items:
        args = Templar(loader, variables={**variables, "item": item}).template(task[module])
        if module.endswith("include_tasks"):
            yield from _tasks(args, variables)
        else:
            yield {"task": task["name"], module: args}
