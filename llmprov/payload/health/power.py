"""A card's power limit against the one it came with."""

from __future__ import annotations

from typing import Any, Dict, List

from llmprov.payload.document import PASS, WARN, check, not_reported
from llmprov.payload.health.cards import Card, Cards
from llmprov.payload.health.machine import Machine


def checks(machine: Machine, cards: Cards, declared: Dict[str, Any]) -> List[Dict[str, Any]]:
    """One check a card."""
    return [_limit(card) for card in cards if card.element is not None]


def _limit(card: Card) -> Dict[str, Any]:
    # The module's readings (GPU and its CPU together, on Grace) have fields of the same names.
    inside = r"(?:gpu_power_readings|power_readings)/"
    now = card.number(
        inside + r"current_power_limit",
        inside + r"enforced_power_limit",
        inside + r"power_limit",
        r"enforced_power_limit",
    )
    default = card.number(inside + r"default_power_limit", r"default_power_limit")
    name = card.id("power_limit")
    if now is None or default is None:
        return not_reported(name, "the power limit of %s" % card.name)
    if now < default:
        summary = "%s may draw %.0f W of its %.0f W, and is as slow as that" % (card.name, now, default)
        remedy = "set it back unless it is meant so: `nvidia-smi -i %d -pl %.0f`" % (card.index, default)
        return check(name, WARN, summary, now, default, "W", "", remedy)
    return check(name, PASS, "%s may draw %.0f W" % (card.name, now), now, default, "W")
