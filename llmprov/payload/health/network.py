"""Network links: Ethernet that is up and full duplex, InfiniBand ports that are active."""

from __future__ import annotations

from typing import Any, Dict, List

from llmprov.payload.document import FAIL, PASS, WARN, check
from llmprov.payload.health.cards import Cards
from llmprov.payload.health.machine import Machine


def checks(machine: Machine, cards: Cards, declared: Dict[str, Any]) -> List[Dict[str, Any]]:
    """One check an Ethernet device that is in use, and one an InfiniBand port."""
    found = []
    for folder in machine.find("/sys/class/net/*"):
        # Bridges, tunnels and containers' ends have no device below them.
        if machine.find(folder + "/device") and machine.read(folder + "/operstate") in ("up", "lowerlayerdown"):
            found.append(_ethernet(machine, folder, declared.get("min_link_gbit_s")))
    for folder in machine.find("/sys/class/infiniband/*/ports/*"):
        found.append(_infiniband(machine, folder))
    return found


def _ethernet(machine: Machine, folder: str, wanted: Any) -> Dict[str, Any]:
    device = folder.rpartition("/")[2]
    name = "network.%s" % device.lower()
    speed, duplex = machine.number(folder + "/speed"), machine.read(folder + "/duplex")
    evidence = "%s Mbit/s, %s duplex" % (speed, duplex)
    if duplex == "half":
        remedy = "let both ends negotiate, or change the cable"
        return check(name, FAIL, "%s runs half duplex" % device, duplex, "full", "", evidence, remedy)
    if speed is None or speed <= 0:
        return check(name, PASS, "%s is up; it does not tell its speed" % device, "up", "up", "", evidence)
    if wanted and speed / 1000 < wanted:
        summary = "%s runs at %g Gbit/s where %g are declared" % (device, speed / 1000, wanted)
        remedy = "check cable, transceiver and the switch's port"
        return check(name, FAIL, summary, speed / 1000, wanted, "Gbit/s", evidence, remedy)
    return check(name, PASS, "%s runs at %g Gbit/s" % (device, speed / 1000), speed / 1000, wanted, "Gbit/s", evidence)


def _infiniband(machine: Machine, folder: str) -> Dict[str, Any]:
    parts = folder.split("/")
    device, port = parts[-3], parts[-1]
    name = "network.%s.%s" % (device.lower(), port)
    # `4: ACTIVE`, `5: LinkUp`, `400 Gb/sec (4X NDR)`
    state = (machine.read(folder + "/state") or "").partition(":")[2].strip()
    physical = (machine.read(folder + "/phys_state") or "").partition(":")[2].strip()
    rate = machine.read(folder + "/rate") or "not reported"
    evidence = "state %s, physical %s, rate %s" % (state, physical, rate)
    down = machine.number(folder + "/counters/link_downed") or 0
    if state != "ACTIVE":
        status = WARN if physical in ("Disabled", "Polling", "") else FAIL
        summary = "%s port %s is %s" % (device, port, state.lower() or "silent")
        remedy = "check cable and switch port; a port that is not meant to be used may be disabled"
        return check(name, status, summary, state, "ACTIVE", "", evidence, remedy)
    if down:
        summary = "%s port %s has gone down %d times" % (device, port, down)
        remedy = "check cable and transceiver"
        return check(name, WARN, summary, down, 0, "times", evidence, remedy)
    return check(name, PASS, "%s port %s is active at %s" % (device, port, rate), state, "ACTIVE", "", evidence)
