"""A card's temperature, and its memory's, against the card's own limits."""

from __future__ import annotations

from typing import Any, Dict, List

from llmprov.payload.document import FAIL, PASS, WARN, check, not_reported
from llmprov.payload.health.cards import Card, Cards
from llmprov.payload.health.machine import Machine

REMEDY = "check fans, air flow and inlet temperature"


def checks(machine: Machine, cards: Cards, declared: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Two checks a card."""
    found = []
    for card in cards:
        if card.element is not None:
            found += [_gpu(card), _memory(card)]
    return found


def _gpu(card: Card) -> Dict[str, Any]:
    now = card.number(r"temperature/gpu_temp")
    slow = card.number(r"gpu_temp_slow_threshold")
    most = card.number(r"gpu_temp_max_gpu_threshold", r"gpu_temp_max_threshold")
    left = card.number(r"gpu_temp_tlimit")
    name = card.id("temperature")
    if now is None:
        return not_reported(name, "the temperature of %s" % card.name, bool(card.row))
    evidence = "slows down at %s C, works up to %s C, %s C below its limit" % (slow, most, left)
    # From Hopper on the driver tells how far the card is from its limit, in place of the limit.
    if (slow is not None and now >= slow) or (left is not None and left <= 0):
        summary = "%s is at %d C and slows down" % (card.name, now)
        return check(name, FAIL, summary, now, slow, "C", evidence, REMEDY)
    if most is not None and now > most:
        summary = "%s is at %d C, above the %d C it is made for" % (card.name, now, most)
        return check(name, WARN, summary, now, most, "C", evidence, REMEDY)
    if slow is None and most is None and left is None:
        return not_reported(name, "the temperature limit of %s, which is at %d C," % (card.name, now))
    limit = slow if slow is not None else most
    return check(name, PASS, "%s is at %d C" % (card.name, now), now, limit, "C", evidence)


def _memory(card: Card) -> Dict[str, Any]:
    now, most = card.number(r"temperature/memory_temp"), card.number(r"gpu_temp_max_mem_threshold")
    name = card.id("memory_temperature")
    if now is None or most is None:
        return not_reported(name, "the memory temperature of %s" % card.name)
    if now > most:
        summary = "the memory of %s is at %d C, above the %d C it is made for" % (card.name, now, most)
        return check(name, WARN, summary, now, most, "C", "", REMEDY)
    return check(name, PASS, "the memory of %s is at %d C" % (card.name, now), now, most, "C")
