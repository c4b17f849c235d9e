"""PCIe: link width and speed against what card and slot are capable of, and errors that the bus counted (AER)."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional

from llmprov.payload.document import FAIL, PASS, WARN, check, not_reported
from llmprov.payload.health.cards import Card, Cards
from llmprov.payload.health.machine import Machine

RESEAT = "drain the host and reseat the card; then try another slot or riser"

#: GT/s -> PCIe generation. Source: PCI Express base specifications 1.0 to 6.0.
GENERATIONS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}

#: Corrected errors since boot that are worth a look: a sound link has few or none. Our judgement, not a standard's.
CORRECTED_LIMIT = 1000


def checks(machine: Machine, cards: Cards, declared: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Width, generation and errors of every card."""
    found = []
    for card in cards:
        folder = "/sys/bus/pci/devices/%s" % card.address
        found += [_width(machine, card, folder), _generation(machine, card, folder), _errors(machine, card, folder)]
    return found


def _width(machine: Machine, card: Card, folder: str) -> Dict[str, Any]:
    now = card.number(r"current_link_width") or machine.number(folder + "/current_link_width")
    most = card.number(r"max_link_width") or machine.number(folder + "/max_link_width")
    # A slot may have fewer lanes than the card: then it can be no wider.
    slot = _upstream(machine, folder, "max_link_width")
    limit = min(width for width in (most, slot) if width) if most or slot else None
    name = card.id("pcie_width")
    if not now or not limit:
        return not_reported(name, "the PCIe width of %s" % card.name)
    if now < limit:
        summary = "%s runs on %d PCIe lanes of %d" % (card.name, now, limit)
        return check(name, FAIL, summary, now, limit, "lanes", "", RESEAT)
    if most and now < most:
        summary = "%s has a slot of %d lanes and could use %d" % (card.name, now, most)
        return check(name, WARN, summary, now, most, "lanes", "", "put it into a wider slot, if data must come faster")
    return check(name, PASS, "%s runs on all %d PCIe lanes" % (card.name, now), now, limit, "lanes")


def _generation(machine: Machine, card: Card, folder: str) -> Dict[str, Any]:
    now = card.number(r"current_link_gen") or _speed(machine.read(folder + "/current_link_speed"))
    device = card.number(r"max_device_link_gen") or _speed(machine.read(folder + "/max_link_speed"))
    host = card.number(r"max_host_link_gen") or _upstream(machine, folder, "max_link_speed")
    limit = min(g for g in (device, host) if g) if device or host else card.number(r"max_link_gen")
    name = card.id("pcie_generation")
    if not now or not limit:
        return not_reported(name, "the PCIe generation of %s" % card.name)
    state = card.text(r"performance_state") or "not reported"
    evidence = "performance state %s, card up to %s, slot up to %s" % (state, device, host)
    if now < limit and state.upper() == "P0":
        summary = "%s runs PCIe generation %d under load, and could run %d" % (card.name, now, limit)
        return check(name, WARN, summary, now, limit, "generation", evidence, RESEAT)
    # An idle card slows its link down: the sampler looks at it again while the card works.
    summary = "%s runs PCIe generation %d of %d%s" % (card.name, now, limit, "" if now == limit else ", idle")
    return check(name, PASS, summary, now, limit, "generation", evidence)


def _errors(machine: Machine, card: Card, folder: str) -> Dict[str, Any]:
    counts: Dict[str, Optional[int]] = {}
    for kind in ("fatal", "nonfatal", "correctable"):
        text = machine.read("%s/aer_dev_%s" % (folder, kind))
        match = re.search(r"TOTAL_ERR\w*\s+(\d+)", text or "")
        counts[kind] = int(match.group(1)) if match else None
    replays = card.number(r"pci/replay_counter", r"replay_counter")
    name = card.id("pcie_errors")
    evidence = ", ".join("%s %s" % item for item in counts.items()) + ", replays %s" % replays
    if all(count is None for count in counts.values()) and replays is None:
        return not_reported(name, "PCIe errors of %s" % card.name)
    serious = (counts["fatal"] or 0) + (counts["nonfatal"] or 0)
    if serious:
        summary = "%s has had %d uncorrected PCIe errors since boot" % (card.name, serious)
        return check(name, FAIL, summary, serious, 0, "errors", evidence, RESEAT)
    corrected = max(counts["correctable"] or 0, int(replays or 0))
    if corrected > CORRECTED_LIMIT:
        summary = "%s has had %d corrected PCIe errors since boot" % (card.name, corrected)
        return check(name, WARN, summary, corrected, CORRECTED_LIMIT, "errors", evidence, RESEAT)
    return check(
        name, PASS, "no PCIe error to speak of on %s" % card.name, corrected, CORRECTED_LIMIT, "errors", evidence
    )


def _upstream(machine: Machine, folder: str, name: str) -> Optional[float]:
    """What the port above the card is capable of: sysfs nests a device in its port's folder."""
    port = machine.real(folder).rpartition("/")[0]
    text = machine.read("%s/%s" % (port, name))
    return _speed(text) if name.endswith("speed") else _plain(text)


def _speed(text: Optional[str]) -> Optional[float]:
    number = _plain(text)
    return GENERATIONS.get(number) if number else None


def _plain(text: Optional[str]) -> Optional[float]:
    match = re.match(r"\d+(?:\.\d+)?", text or "")
    # 0 and 255 are what the kernel says of a link that it does not know.
    return float(match.group()) if match and match.group() not in ("0", "255") else None
