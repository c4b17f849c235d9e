"""The tables, loaded once and checked while loading."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml
from packaging.version import Version


@dataclass(frozen=True)
class Gpu:
    """One GPU model."""

    name: str
    ids: tuple[str, ...]
    arch: str


@dataclass(frozen=True)
class TorchRelease:
    """The builds of one PyTorch release: tag -> architectures; None where the tables do not say which it carries."""

    tags: dict[str, tuple[str, ...] | None]


@cache
def _table(name: str) -> dict[str, Any]:
    text = resources.files("llmprov.knowledge").joinpath(f"{name}.yml").read_text("utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    if not loaded.get("source"):
        raise ValueError(f"knowledge/{name}.yml does not say where it comes from")
    return loaded


@cache
def _gpus() -> dict[str, Gpu]:
    found: dict[str, Gpu] = {}
    for row in _table("gpus")["gpus"]:
        gpu = Gpu(row["name"], tuple(row["ids"]), row["arch"])
        for identifier in gpu.ids:
            if identifier in found:
                raise ValueError(f"knowledge/gpus.yml: id {identifier} stands twice")
            found[identifier] = gpu
    return found


GPUS = _gpus()

#: ID of /etc/os-release -> supported versions.
SUPPORTED_OS: dict[str, list[str]] = _table("hosts")["os"]
SUPPORTED_ARCHITECTURES: list[str] = _table("hosts")["architectures"]


def gpu_by_id(device_id: str) -> Gpu | None:
    """The GPU model of a PCI device id, or None where the tables do not know it."""
    return GPUS.get(device_id)


def torch_release(version: str, machine: str) -> TorchRelease | None:
    """The builds of the PyTorch release `version` for a machine (`x86_64`), or None where the tables do not know it."""
    table = _table("torch")
    wanted = Version(version)
    minor = f"{wanted.major}.{wanted.minor}"
    if minor not in table["releases"]:
        return None
    known = table["architectures"].get(machine, {}) if Version(minor) >= Version(table["architectures_since"]) else {}
    return TorchRelease({tag: tuple(known[tag]) if tag in known else None for tag in table["releases"][minor]})


def architecture_runs_on(code: str, gpu: str) -> bool:
    """Whether machine code for `code` runs on a GPU of `gpu`: same major version, minor not above the GPU's.

    Source: CUDA C++ programming guide, "binary compatibility".
    """
    code_major, code_minor = _split(code)
    gpu_major, gpu_minor = _split(gpu)
    return code_major == gpu_major and code_minor <= gpu_minor


def _split(architecture: str) -> tuple[int, int]:
    digits = architecture.removeprefix("sm_")
    return int(digits[:-1]), int(digits[-1])


def driver_floor(tag: str) -> str:
    """The lowest driver version under which code of a CUDA tag (`cu126`) runs.

    Raises:
        KeyError: the tables do not know that CUDA major version.
    """
    floor: str = _table("drivers")["minimum_driver_for_cuda"][tag.removeprefix("cu")[:2]]
    return floor
