"""Whether the machine knows which processors are near each GPU."""

from __future__ import annotations

from typing import Any, Dict, List

from llmprov.payload.document import PASS, WARN, check, not_reported
from llmprov.payload.health.cards import Cards
from llmprov.payload.health.machine import Machine


def checks(machine: Machine, cards: Cards, declared: Dict[str, Any]) -> List[Dict[str, Any]]:
    """One check a card, on machines of several nodes."""
    nodes = machine.find("/sys/devices/system/node/node[0-9]*")
    if len(nodes) < 2:
        return []
    found = []
    for card in cards:
        node = machine.number("/sys/bus/pci/devices/%s/numa_node" % card.address)
        name = card.id("numa")
        if node is None:
            found.append(not_reported(name, "the NUMA node of %s" % card.name))
        elif node < 0:
            summary = "the firmware does not say which of %d NUMA nodes %s is at" % (len(nodes), card.name)
            remedy = "update the firmware, or switch its NUMA settings on; until then data may cross between nodes"
            found.append(check(name, WARN, summary, node, None, "node", "", remedy))
        else:
            found.append(check(name, PASS, "%s is at NUMA node %d" % (card.name, node), node, None, "node"))
    return found
