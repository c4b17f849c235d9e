"""Programs that use a card while it should be free: what is measured beside them is not the card's."""

from __future__ import annotations

from typing import Any, Dict, List

from llmprov.payload.document import PASS, WARN, check
from llmprov.payload.health.cards import Card, Cards
from llmprov.payload.health.machine import Machine

#: Memory in use without any program that nvidia-smi names, in MiB: from another container, or left behind.
UNEXPLAINED_MIB = 1024


def checks(machine: Machine, cards: Cards, declared: Dict[str, Any]) -> List[Dict[str, Any]]:
    """One check a card."""
    return [_users(card) for card in cards if card.element is not None]


def _users(card: Card) -> Dict[str, Any]:
    found = [] if card.element is None else card.element.findall("processes/process_info")
    rows = [{field.tag: (field.text or "").strip() for field in process} for process in found]
    # G is a display server's graphics; C and C+G compute.
    computing = [row for row in rows if "C" in row.get("type", "C")]
    name = card.id("processes")
    if computing:
        told = ["%s %s (%s)" % (r.get("pid"), r.get("process_name"), r.get("used_memory")) for r in computing]
        summary = "%d programs use %s while it is measured" % (len(computing), card.name)
        remedy = "end them, or verify when the host is drained: `ps -fp %s`" % computing[0].get("pid")
        return check(name, WARN, summary, len(computing), 0, "programs", "\n".join(told[:10]), remedy)
    used = card.number(r"fb_memory_usage/used")
    if used is not None and used > UNEXPLAINED_MIB and not rows:
        summary = "%s has %d MiB in use by nobody that can be seen" % (card.name, used)
        remedy = "look for containers and for programs left behind: `fuser -v /dev/nvidia*`"
        return check(name, WARN, summary, used, UNEXPLAINED_MIB, "MiB", "", remedy)
    return check(name, PASS, "%s is free" % card.name, 0, 0, "programs")
