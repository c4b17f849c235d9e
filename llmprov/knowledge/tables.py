"""The tables, loaded once and checked while loading."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml
from packaging.version import Version

from llmprov.model.desired import LEAST_LIMIT, MOST_LIMIT


@dataclass(frozen=True)
class Gpu:
    """One GPU model."""

    name: str
    ids: tuple[str, ...]
    arch: str
    #: Precision (`bf16`) -> TFLOP/s of the datasheet; empty where they were not found in the maker's own words.
    tflops: dict[str, float]
    #: GB/s of the datasheet; None likewise.
    bandwidth_gb_s: float | None
    #: Whether a sound driver reports ECC.
    ecc: bool
    #: NVLinks of a card on its baseboard; 0 where it has none, or a bridge that may be missing.
    nvlinks: int
    #: Key (`tflops_bf16`) -> the least that a sound card reaches, in percent of its datasheet.
    limits: dict[str, float]
    #: Kernel modules that drive it: `open`, `proprietary`.
    flavours: tuple[str, ...]
    #: The first and the last branch of the driver that knows it; None where there is no such end.
    first_branch: int | None
    last_branch: int | None
    #: The newest CUDA toolkit that compiles for it; None where there is no such end.
    last_cuda: str | None


@dataclass(frozen=True)
class Figure:
    """A figure that machines of one kind are held against each other by; higher is better."""

    key: str
    name: str
    #: The least deviation that matters, as a fraction; None for the default.
    effect: float | None
    #: Key of the figure that must have the same value for two readings to be comparable; empty where none must.
    size: str


@dataclass(frozen=True)
class CauseRule:
    """From findings to one cause and one next step; the first rule that holds names a host's cause."""

    id: str
    says: str
    step: str
    what: str
    command: tuple[str, ...]
    drain: bool
    #: Any of these findings is needed: keys `check` and `measured` (globs), `status`, `xid` (catalogue actions).
    any: tuple[dict[str, Any], ...]
    #: Whether the host must stand out as slow besides.
    slow: bool


@dataclass(frozen=True)
class Branch:
    """One branch of the NVIDIA driver."""

    name: str
    kind: str
    #: The newest CUDA version that it runs; None where that is not published yet.
    cuda: str | None
    #: Kernel modules that it comes with: `open`, `proprietary`.
    flavours: tuple[str, ...]
    #: Whether its support has ended.
    ended: bool


@dataclass(frozen=True)
class TorchRelease:
    """The builds of one PyTorch release: tag -> architectures; None where the tables do not say which it carries."""

    tags: dict[str, tuple[str, ...] | None]


@cache
def table(name: str) -> dict[str, Any]:
    """One table, as its file has it."""
    text = resources.files("llmprov.knowledge").joinpath(f"{name}.yml").read_text("utf-8")
    # The parser in C, where PyYAML was built with it: every command loads these tables.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loaded: dict[str, Any] = yaml.load(text, loader)
    if not loaded.get("source"):
        raise ValueError(f"knowledge/{name}.yml does not say where it comes from")
    return loaded


@cache
def _limits() -> dict[str, float]:
    found: dict[str, float] = table("gpus")["limits"]
    for key, percent in found.items():
        if not LEAST_LIMIT <= percent <= MOST_LIMIT:
            raise ValueError(f"knowledge/gpus.yml: a limit of {percent} % of the datasheet ({key}) makes no sense")
    return found


def _driver_needs(gpu: dict[str, Any]) -> dict[str, Any]:
    """What drives a GPU: by its own row, else by its architecture's."""
    rows = [row for row in table("drivers")["architectures"] if gpu["arch"] in row["arch"]]
    if len(rows) != 1:
        raise ValueError(
            f"knowledge/drivers.yml: the architecture {gpu['arch']} of {gpu['name']} stands {len(rows)} times"
        )
    row = {**rows[0], **gpu}
    ends = {name: row.get(name) for name in ("first_branch", "last_branch", "last_cuda")}
    return {"flavours": tuple(row["flavours"]), **ends}


@cache
def _gpus() -> dict[str, Gpu]:
    found: dict[str, Gpu] = {}
    for row in table("gpus")["gpus"]:
        sure = row.get("checked", True)
        gpu = Gpu(
            row["name"],
            tuple(row["ids"]),
            row["arch"],
            dict(row["tflops"]) if sure else {},
            row["bandwidth_gb_s"] if sure else None,
            row.get("ecc", False),
            row.get("nvlinks", 0),
            {key: percent for key, percent in _limits().items() if key != "tflops_bf16" or "record_bf16" in row},
            **_driver_needs(row),
        )
        for identifier in gpu.ids:
            if identifier in found:
                raise ValueError(f"knowledge/gpus.yml: id {identifier} stands twice")
            found[identifier] = gpu
    return found


GPUS = _gpus()

#: Branch of the driver -> what is known of it, the oldest first.
BRANCHES: dict[str, Branch] = {
    name: Branch(name, row["kind"], row.get("cuda"), tuple(row["flavours"]), row.get("ended", False))
    for name, row in table("drivers")["branches"].items()
}

#: XID -> its row in NVIDIA's catalogue: `mnemonic`, and `action` or `investigate`.
XIDS: dict[str, dict[str, str]] = {str(number): row for number, row in table("xid")["xids"].items()}

#: ID of /etc/os-release -> supported versions.
SUPPORTED_OS: dict[str, list[str]] = table("hosts")["os"]
SUPPORTED_ARCHITECTURES: list[str] = table("hosts")["architectures"]


def gpu_by_id(device_id: str) -> Gpu | None:
    """The GPU model of a PCI device id, or None where the tables do not know it."""
    return GPUS.get(device_id)


def torch_release(version: str, machine: str) -> TorchRelease | None:
    """The builds of the PyTorch release `version` for a machine (`x86_64`), or None where the tables do not know it."""
    rows = table("torch")
    wanted = Version(version)
    minor = f"{wanted.major}.{wanted.minor}"
    if minor not in rows["releases"]:
        return None
    known = rows["architectures"].get(machine, {}) if Version(minor) >= Version(rows["architectures_since"]) else {}
    return TorchRelease({tag: tuple(known[tag]) if tag in known else None for tag in rows["releases"][minor]})


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
    floor: str = table("drivers")["minimum_driver_for_cuda"][tag.removeprefix("cu")[:2]]
    return floor


def cuda_of_driver(driver: str) -> str | None:
    """The newest CUDA version that a driver (`580.95.05`) runs, or None for one older than the table."""
    number = int(driver.split(".")[0])
    fitting = [branch for branch in BRANCHES.values() if branch.cuda and int(branch.name) <= number]
    return max(fitting, key=lambda branch: int(branch.name)).cuda if fitting else None


def companion(name: str, torch_version: str) -> str | None:
    """The release (`0.28`) of torchvision, torchaudio or torchtext that pairs with a PyTorch version, or None."""
    wanted = Version(torch_version)
    found: str | None = table("torch")["companions"][name].get(f"{wanted.major}.{wanted.minor}")
    return found


def companion_newest(name: str) -> str:
    """The newest PyTorch release (`2.11`) that `name` pairs with."""
    newest: str = max(table("torch")["companions"][name], key=Version)
    return newest


#: Packages that pair with a PyTorch release.
COMPANIONS: tuple[str, ...] = tuple(table("torch")["companions"])

#: Name -> packages.
PROFILES: dict[str, list[str]] = table("profiles")["profiles"]


@dataclass(frozen=True)
class Installer:
    """A conda installer: its file, where its publisher has it, and its digest where the table knows it."""

    filename: str
    url: str
    sha256: str


def conda_installer(name: str, machine: str) -> Installer:
    """The installer `Miniconda3-py313_26.5.3-1` for a Linux machine (`x86_64`); a whole name is taken as it is."""
    rows = table("conda")
    filename = f"{name}.sh" if "-Linux-" in name else f"{name}-Linux-{machine}.sh"
    publisher, _, version = name.partition("-")
    base = rows["publishers"][publisher].format(version=version.split("-Linux-")[0])
    return Installer(filename, f"{base}{filename}", rows["sha256"].get(filename, ""))


def is_anacondas(channel: str) -> bool:
    """Whether a channel, by name or URL, is one of Anaconda's own, under their terms."""
    rows = table("conda")["anaconda"]
    if "://" not in channel:
        return channel in rows["names"] or channel.startswith("pkgs/")
    place = channel.split("://", 1)[1]
    return any(place == url or place.startswith(f"{url}/") for url in rows["urls"])


def channel_urls(channel: str) -> list[str]:
    """Where a channel lies: `conda-forge` by conda's alias, `defaults` as the channels it stands for."""
    rows = table("conda")
    if channel == "defaults":
        return list(rows["anaconda"]["defaults"])
    return [channel if "://" in channel else f"{rows['alias']}/{channel}"]


FIGURES: dict[str, Figure] = {
    key: Figure(key, row["name"], row["effect"] / 100 if "effect" in row else None, row.get("size", ""))
    for key, row in table("figures")["figures"].items()
}

CAUSES: tuple[CauseRule, ...] = tuple(
    CauseRule(
        id=row["id"],
        says=row["says"],
        step=row["step"],
        what=row["what"],
        command=tuple(row.get("command", ())),
        drain=row.get("drain", False),
        any=tuple(row["any"]),
        slow=row.get("slow", False),
    )
    for row in table("causes")["causes"]
)
