"""What vendors publish about GPUs, drivers and wheels, written by hand: what the product's tables and functions must agree with.

Sources, read 2026-11: NVIDIA's data-centre driver documentation (architectures, branches, kernel modules), CUDA compatibility
guide (lowest drivers), supported-gpus.json (device ids), listings of download.pytorch.org/whl and PyTorch's release notes.
"""

from __future__ import annotations

#: Architecture -> the PCI device ids of its cards that the product knows.
CARDS = {
    "Volta": {"1db1", "1db4", "1db5", "1db6"},
    "Turing": {"1eb8"},
    "Ampere": {"20b0", "20b2", "20b5", "20f1", "2204", "2230", "2235", "2236", "2237"},
    "Ada": {"2684", "26b5", "26b9", "26f5", "27b8"},
    "Hopper": {"2321", "2330", "2331", "2335", "233b"},
    "Grace Hopper": {"2342", "2345", "2348"},
    "Blackwell": {"2901", "2b85", "3182"},
}
ARCHITECTURE = {device: name for name, devices in CARDS.items() for device in devices}

#: The kernel modules that drive an architecture.
MODULES = {name: {"open", "proprietary"} for name in CARDS}
MODULES |= {"Volta": {"proprietary"}, "Grace Hopper": {"open"}, "Blackwell": {"open"}}

#: The first and the last driver branch of an architecture, where there is one.
FIRST_BRANCH = {"Grace Hopper": 570, "Blackwell": 570}
LAST_BRANCH = {"Volta": 580}

#: Major version of CUDA -> the lowest driver that runs it.
LOWEST_DRIVER = {11: (450, 80, 2), 12: (525, 60, 13), 13: (580, 65, 6)}

#: Release of PyTorch -> the CUDA versions that it has wheels for.
WHEELS = {
    "2.4.1": {"cu118", "cu121", "cu124"},
    "2.11.0": {"cu126", "cu128", "cu129", "cu130"},
    "2.12.0": {"cu126", "cu130", "cu132"},
    "2.13.0": {"cu126", "cu130", "cu132"},
    "2.14.0": {"cu126", "cu130", "cu132"},
}


def lowest_driver(tag: str) -> tuple[int, ...]:
    """The lowest driver for wheels of a CUDA version: `cu126` is CUDA 12.6."""
    return LOWEST_DRIVER[int(tag.removeprefix("cu")[:2])]


def runs(tag: str, device: str) -> bool:
    """Whether wheels of a CUDA version have code for a card, from PyTorch 2.11 on.

    Those of CUDA 12.6 end with Hopper. Those of CUDA 12.8 and later begin with Turing; CUDA 13 has no compiler for older cards.
    """
    if tag == "cu126":
        return ARCHITECTURE[device] != "Blackwell"
    return ARCHITECTURE[device] != "Volta"
