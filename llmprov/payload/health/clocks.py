"""What slows a card's clocks down right now, by the driver's own reasons."""

from __future__ import annotations

from typing import Any, Dict, List

from llmprov.payload.document import FAIL, PASS, WARN, check, not_reported
from llmprov.payload.health.cards import Card, Cards
from llmprov.payload.health.machine import Machine

#: The end of a reason's name -> how bad it is while active, and what to do. What is not named here (idle, an
#: application's own clocks, sync boost, a power cap under load) is how cards work.
#: Source of the names: NVML, `nvmlClocksEventReasons` and before it `nvmlClocksThrottleReasons`.
REASONS = {
    "hw_thermal_slowdown": (FAIL, "check fans, air flow and inlet temperature"),
    "hw_power_brake_slowdown": (FAIL, "check the power supplies and what the rack or chassis may draw"),
    "hw_slowdown": (FAIL, "check cooling and power supply"),
    "sw_thermal_slowdown": (WARN, "check fans, air flow and inlet temperature"),
}


def checks(machine: Machine, cards: Cards, declared: Dict[str, Any]) -> List[Dict[str, Any]]:
    """One check a card."""
    return [_reasons(card) for card in cards if card.element is not None]


def _reasons(card: Card) -> Dict[str, Any]:
    # `clocks_event_reason_X` since driver 535, `clocks_throttle_reason_X` before.
    fields = card.all(r"clocks_(?:event|throttle)_reasons/.*")
    name = card.id("clocks")
    if not fields:
        return not_reported(name, "what slows %s down" % card.name, bool(card.row))
    active = [path.rpartition("/")[2] for path, text in fields if text.lower() == "active"]
    short = [reason.split("_reason_")[-1] for reason in active]
    bad = [reason for reason in REASONS if reason in short]
    evidence = "active: %s; SM clock %s of %s MHz" % (
        ", ".join(short) or "none",
        card.number(r"clocks/sm_clock"),
        card.number(r"max_clocks/sm_clock"),
    )
    if bad:
        status, remedy = REASONS[bad[0]]
        summary = "%s is slowed down: %s" % (card.name, ", ".join(bad))
        return check(name, status, summary, ", ".join(bad), "none", "", evidence, remedy)
    return check(name, PASS, "nothing slows %s down" % card.name, ", ".join(short) or "none", "none", "", evidence)
