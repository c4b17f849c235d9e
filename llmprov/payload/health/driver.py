"""The driver's three versions: the loaded module, the user-space library, and what nvidia-smi says."""

from __future__ import annotations

import re
from typing import Any, Dict, List

from llmprov.payload.document import FAIL, INCONCLUSIVE, PASS, check
from llmprov.payload.health.cards import Cards
from llmprov.payload.health.machine import Machine

REMEDY = "reboot, so that the module of the installed driver is loaded; hold the driver's packages against upgrades"


def checks(machine: Machine, cards: Cards, declared: Dict[str, Any]) -> List[Dict[str, Any]]:
    """One check; none on a machine without a GPU and without the driver."""
    about = machine.read("/proc/driver/nvidia/version") or ""
    match = re.search(r"(?:Kernel Module(?: for \S+)?)\s+(\d+\.\d+(?:\.\d+)?)", about)
    module = match.group(1) if match else machine.read("/sys/module/nvidia/version")
    if not cards and not module:
        return []
    if not module:
        summary = "the driver's module is not loaded"
        remedy = "provision the driver, or `modprobe nvidia` and read what it says"
        status = FAIL if declared.get("cuda") == "required" else INCONCLUSIVE
        return [check("driver.versions", status, summary, None, "loaded", remedy=remedy)]
    versions = {"module": module, "library": _library(machine), "nvidia-smi": cards.driver_version}
    told = {name: version for name, version in versions.items() if version}
    evidence = ", ".join("%s %s" % (name, version or "not reported") for name, version in versions.items())
    if len(set(told.values())) > 1:
        summary = "the driver's parts are of different versions: %s" % evidence
        return [check("driver.versions", FAIL, summary, evidence, module, evidence=evidence, remedy=REMEDY)]
    if len(told) < 2:
        summary = "only the module tells its version: %s" % evidence
        remedy = "see that libcuda and nvidia-smi of the module's version are installed"
        return [check("driver.versions", INCONCLUSIVE, summary, evidence, module, evidence=evidence, remedy=remedy)]
    return [check("driver.versions", PASS, "the driver is %s throughout" % module, module, module, "", evidence)]


def _library(machine: Machine) -> str:
    """The version in the name of the NVML library's file, newest first."""
    patterns = ["/usr/lib/*-linux-gnu/libnvidia-ml.so.*", "/usr/lib64/libnvidia-ml.so.*", "/usr/lib/libnvidia-ml.so.*"]
    patterns.append("/usr/lib/*-linux-gnu/nvidia/current/libnvidia-ml.so.*")
    names = [path for pattern in patterns for path in machine.find(pattern)]
    versions = {m.group(1) for name in names for m in [re.search(r"\.so\.(\d+\.\d+(?:\.\d+)?)$", name)] if m}
    return max(versions, key=lambda text: [int(part) for part in text.split(".")], default="")
