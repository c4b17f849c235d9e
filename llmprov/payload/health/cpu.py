"""The processors: a governor that keeps them slow, throttling by heat, and a quota that a container puts on them."""

from __future__ import annotations

from collections import Counter
from typing import Any, Dict, List

from llmprov.payload.document import PASS, WARN, check, not_reported
from llmprov.payload.health.cards import Cards
from llmprov.payload.health.machine import Machine

#: Drivers whose governor `powersave` is only a name: the hardware chooses, by its energy preference.
BY_PREFERENCE = ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")


def checks(machine: Machine, cards: Cards, declared: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Governor, heat and quota."""
    return [_governor(machine), _heat(machine), _quota(machine)]


def _governor(machine: Machine) -> Dict[str, Any]:
    base = "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/"
    governors = Counter(machine.read(path) or "" for path in machine.find(base + "scaling_governor"))
    if not governors:
        return not_reported("cpu.governor", "the processors' governor")
    drivers = {machine.read(path) for path in machine.find(base + "scaling_driver")}
    preferences = Counter(machine.read(path) or "" for path in machine.find(base + "energy_performance_preference"))
    if drivers & set(BY_PREFERENCE) and preferences:
        slow = [name for name in preferences if name in ("power", "balance_power")]
        what, told = "energy preference", preferences
    else:
        slow = [name for name in governors if name in ("powersave", "conservative")]
        what, told = "governor", governors
    evidence = ", ".join("%s on %d" % item for item in told.most_common())
    if slow:
        summary = "the processors' %s is %s" % (what, slow[0])
        remedy = "`cpupower frequency-set -g performance`"
        return check("cpu.governor", WARN, summary, slow[0], "performance", "", evidence, remedy)
    name = told.most_common(1)[0][0]
    return check("cpu.governor", PASS, "the processors' %s is %s" % (what, name), name, None, "", evidence)


def _heat(machine: Machine) -> Dict[str, Any]:
    paths = machine.find("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/package_throttle_count")
    if not paths:
        return not_reported("cpu.heat", "whether heat slows the processors")
    count = max(int(machine.number(path) or 0) for path in paths)
    if count:
        summary = "heat has slowed the processors down %d times since boot" % count
        return check("cpu.heat", WARN, summary, count, 0, "times", "", "check fans, air flow and inlet temperature")
    return check("cpu.heat", PASS, "heat has not slowed the processors down", 0, 0, "times")


def _quota(machine: Machine) -> Dict[str, Any]:
    words = (machine.read("/sys/fs/cgroup/cpu.max") or "").split()
    if len(words) != 2 or words[0] == "max":
        return check("cpu.quota", PASS, "no quota holds the processors back", None, None, "processors")
    allowed = int(words[0]) / int(words[1])
    summary = "this host may use %.2f processors only" % allowed
    remedy = "raise the CPU quota of the container or virtual machine, if it is not meant so"
    return check("cpu.quota", WARN, summary, allowed, None, "processors", " ".join(words), remedy)
