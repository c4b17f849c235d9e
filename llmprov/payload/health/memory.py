"""The host's memory: what is free of it, and errors that its controllers counted (EDAC)."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional

from llmprov.payload.document import FAIL, INCONCLUSIVE, PASS, WARN, check, not_reported
from llmprov.payload.health.cards import Cards
from llmprov.payload.health.machine import Machine

#: Below this part of all memory, training that keeps its data there will be swapped or killed. Our judgement.
WARN_AVAILABLE = 0.1


def checks(machine: Machine, cards: Cards, declared: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Free memory and counted errors."""
    return [_available(machine), _errors(machine)]


def available_bytes(machine: Machine) -> Optional[int]:
    """Memory that programs may still take, in bytes: the kernel's MemAvailable."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", machine.read("/proc/meminfo") or "", re.M)
    return int(match.group(1)) * 1024 if match else None


def _available(machine: Machine) -> Dict[str, Any]:
    total = re.search(r"^MemTotal:\s+(\d+) kB", machine.read("/proc/meminfo") or "", re.M)
    free = available_bytes(machine)
    if free is None or not total:
        summary = "the kernel does not tell what memory is free"
        return check("memory.available", INCONCLUSIVE, summary, remedy="look at /proc/meminfo")
    part = free / (int(total.group(1)) * 1024)
    evidence = "%.1f of %.1f GB" % (free / 1e9, int(total.group(1)) * 1024 / 1e9)
    if part < WARN_AVAILABLE:
        summary = "only %s of memory is free" % evidence
        remedy = "look what has it: `ps aux --sort=-rss | head`"
        return check("memory.available", WARN, summary, part, WARN_AVAILABLE, "fraction", evidence, remedy)
    return check(
        "memory.available", PASS, "%s of memory is free" % evidence, part, WARN_AVAILABLE, "fraction", evidence
    )


def _errors(machine: Machine) -> Dict[str, Any]:
    folders = machine.find("/sys/devices/system/edac/mc/mc[0-9]*")
    if not folders:
        return not_reported("memory.ecc", "errors of the host's memory")
    wrong = sum(int(machine.number(folder + "/ue_count") or 0) for folder in folders)
    corrected = sum(int(machine.number(folder + "/ce_count") or 0) for folder in folders)
    evidence = "%d uncorrected, %d corrected" % (wrong, corrected)
    if wrong:
        summary = "the host's memory has had %d uncorrected errors since boot" % wrong
        remedy = "drain the host and have the memory module replaced"
        return check("memory.ecc", FAIL, summary, wrong, 0, "errors", evidence, remedy)
    if corrected:
        summary = "the host's memory has had %d corrected errors since boot" % corrected
        remedy = "watch whether they grow: one module that makes many should be replaced"
        return check("memory.ecc", WARN, summary, corrected, 0, "errors", evidence, remedy)
    return check("memory.ecc", PASS, "the host's memory has had no error since boot", 0, 0, "errors", evidence)
