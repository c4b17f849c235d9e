"""NVSwitch fabrics: the fabric manager runs and is of the driver's version, and every card has joined the fabric."""

from __future__ import annotations

import re
from typing import Any, Dict, List

from llmprov.payload.document import FAIL, INCONCLUSIVE, PASS, check, not_reported
from llmprov.payload.health.cards import Card, Cards
from llmprov.payload.health.machine import Machine

RESTART = "install the fabric manager of the driver's version, then `systemctl restart nvidia-fabricmanager`"


def checks(machine: Machine, cards: Cards, declared: Dict[str, Any]) -> List[Dict[str, Any]]:
    """The manager where there are NVSwitches of its kind, and the state of every card that reports one."""
    found = _manager(machine, cards) if cards.switches else []
    for card in cards:
        if card.element is not None:
            found.append(_state(card, bool(cards.switches)))
    return found


def _manager(machine: Machine, cards: Cards) -> List[Dict[str, Any]]:
    said = machine.run("nv-fabricmanager", "--version") or ""
    match = re.search(r"(\d+\.\d+(?:\.\d+)?)", said)
    evidence = "%d NVSwitches; %s" % (len(cards.switches), " ".join(said.split())[:200])
    if not match:
        summary = "the machine has NVSwitches and no fabric manager"
        return [check("fabric.manager", FAIL, summary, None, cards.driver_version, "", evidence, RESTART)]
    version = match.group(1)
    if cards.driver_version and version != cards.driver_version:
        summary = "the fabric manager is %s and the driver %s" % (version, cards.driver_version)
        return [check("fabric.manager", FAIL, summary, version, cards.driver_version, "", evidence, RESTART)]
    done = machine.outcome("systemctl", "is-active", "nvidia-fabricmanager")
    if done is None:
        summary = "whether the fabric manager runs could not be told"
        return [check("fabric.manager", INCONCLUSIVE, summary, evidence=evidence, remedy=RESTART)]
    state = done.stdout.strip()
    if state != "active":
        summary = "the fabric manager is %s" % (state or "not running")
        return [check("fabric.manager", FAIL, summary, state, "active", "", evidence, RESTART)]
    return [check("fabric.manager", PASS, "the fabric manager %s runs" % version, version, version, "", evidence)]


def _state(card: Card, expected: bool) -> Dict[str, Any]:
    state, status = card.text(r"fabric/state"), card.text(r"fabric/status")
    name, evidence = card.id("fabric"), "state=%s status=%s" % (state, status)
    if state is None:
        return not_reported(name, "the fabric state of %s" % card.name, expected and bool(card.row.get("nvlinks")))
    summary = "%s has not joined the NVLink fabric: %s, %s" % (card.name, state, status or "no status")
    if state.lower() != "completed" or (status and status.lower() not in ("success", "ok")):
        return check(name, FAIL, summary, state, "Completed", "", evidence, RESTART)
    ill = [
        (path, text) for path, text in card.all(r"fabric/health/(?:bandwidth|route_unhealthy|incorrect_configuration)")
    ]
    bad = [path.rpartition("/")[2] for path, text in ill if text.lower() not in ("full", "false", "no", "none")]
    if bad:
        summary = "the NVLink fabric of %s is unwell: %s" % (card.name, ", ".join(bad))
        return check(name, FAIL, summary, state, "Completed", "", str(ill), RESTART)
    return check(name, PASS, "%s has joined the NVLink fabric" % card.name, state, "Completed", "", evidence)
