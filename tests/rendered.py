"""The tasks of role nvidia_driver as Ansible would run them on a host: for systems that cannot be booted where tests run.

`python -m tests.rendered` writes down what they are now; the test compares with what was written down and read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from llmprov.model import Desired, Observation
from tests.unit.builders import desired, gpu, observed

ROLE = Path(__file__).parents[1] / "roles" / "nvidia_driver"
RECORDED = Path(__file__).parent / "fixtures" / "driver" / "tasks.yml"
SWITCH = {"address": "0000:05:00.0", "device_id": "22a3", "kind": "nvswitch"}


def _host(system: str, version: str, release: str, device: str = "2330", **more: Any) -> Observation:
    machine = more.pop("machine", "x86_64")
    devices = [gpu(device), *more.pop("devices", [])]
    kernels = [{"release": release, "running": True, "bootable": True}]
    about = {"id": system, "version_id": version, "architecture": machine, "package_manager": "apt"}
    return observed(devices=devices, os=about, kernels=kernels, **more)


#: Name -> (host, declaration of the driver).
CASES: dict[str, tuple[Observation, dict[str, Any]]] = {
    "Debian 12, its own archive": (_host("debian", "12", "6.1.0-40-amd64"), {"repository": "distribution"}),
    "Debian 13, its own archive, V100": (
        _host("debian", "13", "6.12.48+deb13-cloud-amd64", "1db1"),
        {"repository": "distribution", "cuda_toolkit": "auto", "hold": False},
    ),
    "Debian 12, H100 with NVSwitches": (_host("debian", "12", "6.1.0-40-amd64", devices=[SWITCH]), {}),
    "Debian 13, an exact version, both toolkits": (
        _host("debian", "13", "6.12.48+deb13-amd64"),
        {"branch": "580.95.05", "cuda_toolkit": "12.8", "container_toolkit": True},
    ),
    "Ubuntu 24.04, signed modules": (_host("ubuntu", "24.04", "6.8.0-60-generic"), {}),
    "Ubuntu 22.04, newer kernel, V100, Secure Boot": (
        _host("ubuntu", "22.04", "6.8.0-60-generic", "1db1", driver={"secure_boot": True}),
        {},
    ),
    "Ubuntu 24.04, NVIDIA's repository, B200 with its switches": (
        _host("ubuntu", "24.04", "6.8.0-60-generic", "2901"),
        {"repository": "nvidia", "branch": "595", "container_toolkit": True},
    ),
    "Ubuntu 22.04, NVIDIA's repository, V100": (
        _host("ubuntu", "22.04", "5.15.0-130-generic", "1db1"),
        {"repository": "nvidia"},
    ),
    "RHEL 9, open modules": (_host("rhel", "9.4", "5.14.0-427.el9.x86_64", devices=[SWITCH]), {}),
    "Rocky 9, V100": (_host("rocky", "9.4", "5.14.0-427.el9.x86_64", "1db1"), {"cuda_toolkit": "auto"}),
    "AlmaLinux 10 on aarch64, an exact version": (
        _host("almalinux", "10.0", "6.12.0-55.el10.aarch64", machine="aarch64"),
        {"branch": "580.95.05", "container_toolkit": True},
    ),
    "RHEL 10, from a mirror": (
        _host("rhel", "10.0", "6.12.0-55.el10.x86_64"),
        {"mirror": "https://mirror.example.org/nvidia"},
    ),
}


def rendered(seen: Observation, declared: dict[str, Any]) -> list[dict[str, Any]]:
    """Every task that would run on the host, with its arguments as Ansible fills them in."""
    # Ansible is imported only now: torch._dynamo, which other tests import, does not survive its patch of sys.intern.
    from llmprov.run import actions

    wanted: Desired = desired(nvidia_driver={"state": "present", **declared}, pytorch={"variant": "cpu"})
    plan = {"nvidia_driver": actions.driver(wanted, seen), "observation": seen.model_dump(mode="json")}
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


def record() -> dict[str, Any]:
    """Every case's tasks."""
    return {name: rendered(*case) for name, case in CASES.items()}


if __name__ == "__main__":
    RECORDED.parent.mkdir(exist_ok=True)
    RECORDED.write_text("---\n" + yaml.safe_dump(record(), sort_keys=False, width=110, allow_unicode=True))
