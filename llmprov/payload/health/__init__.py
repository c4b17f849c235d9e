"""What is wrong with this machine, told without torch: one file a subject, each with a function `checks`.

A subject is given the machine, the cards as nvidia-smi tells of them, and what was declared; it returns checks. What a
card or a driver does not report is named as such, never taken for healthy; it is inconclusive where the card's row in
the controller's tables says that it should report it.
"""

from __future__ import annotations

from typing import Any, Dict, List

from llmprov.payload.document import INCONCLUSIVE, check, say
from llmprov.payload.health import (
    clocks,
    cpu,
    disk,
    driver,
    ecc,
    fabric,
    gpus,
    memory,
    memory_repair,
    modes,
    network,
    numa,
    nvlink,
    pcie,
    power,
    processes,
    temperature,
    xid,
)
from llmprov.payload.health.cards import Cards
from llmprov.payload.health.machine import Machine

SUBJECTS = (
    gpus,
    driver,
    xid,
    ecc,
    memory_repair,
    nvlink,
    fabric,
    pcie,
    clocks,
    temperature,
    power,
    modes,
    processes,
    numa,
    disk,
    memory,
    cpu,
    network,
)


def look(machine: Machine, cards: Cards, declared: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Every health check of this machine; a subject that breaks is inconclusive and spoils no other."""
    say("looking at the machine's health")
    found = []
    for subject in SUBJECTS:
        name = subject.__name__.rpartition(".")[2]
        try:
            found += subject.checks(machine, cards, declared)
        except Exception as error:
            summary = "%s could not be looked at: %s: %s" % (name, type(error).__name__, str(error)[:200])
            found.append(check("health.%s" % name, INCONCLUSIVE, summary, remedy="report this with the evidence"))
    return found
