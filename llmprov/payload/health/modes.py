"""Modes that change what a card can do: persistence, MIG, compute mode."""

from __future__ import annotations

from typing import Any, Dict, List

from llmprov.payload.document import FAIL, PASS, WARN, check, not_reported
from llmprov.payload.health.cards import Card, Cards
from llmprov.payload.health.machine import Machine


def checks(machine: Machine, cards: Cards, declared: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Three checks a card."""
    found = []
    for card in cards:
        if card.element is not None:
            found += [_persistence(card), _mig(card, bool(declared.get("mig"))), _compute(card)]
    return found


def _persistence(card: Card) -> Dict[str, Any]:
    on, name = card.flag(r"persistence_mode"), card.id("persistence")
    if on is None:
        return not_reported(name, "the persistence mode of %s" % card.name)
    if not on:
        summary = "%s is not kept ready: each program waits for the driver to wake it" % card.name
        remedy = "`systemctl enable --now nvidia-persistenced`"
        return check(name, WARN, summary, "disabled", "enabled", remedy=remedy)
    return check(name, PASS, "%s is kept ready" % card.name, "enabled", "enabled")


def _mig(card: Card, wanted: bool) -> Dict[str, Any]:
    now, pending = card.flag(r"mig_mode/current_mig"), card.flag(r"mig_mode/pending_mig")
    name, words = card.id("mig"), {True: "enabled", False: "disabled"}
    if now is None:
        return not_reported(name, "the MIG mode of %s" % card.name, wanted)
    if pending is not None and pending != now:
        summary = "MIG of %s is %s and will be %s after a reset" % (card.name, words[now], words[pending])
        return check(name, WARN, summary, words[now], words[wanted], remedy="reset the GPU, or set MIG back")
    if now != wanted:
        summary = "MIG of %s is %s where it is declared %s" % (card.name, words[now], words[wanted])
        remedy = "`nvidia-smi -i %d -mig %d`, or correct verify_mig" % (card.index, wanted)
        return check(name, FAIL, summary, words[now], words[wanted], remedy=remedy)
    return check(name, PASS, "MIG of %s is %s" % (card.name, words[now]), words[now], words[wanted])


def _compute(card: Card) -> Dict[str, Any]:
    mode, name = card.text(r"compute_mode"), card.id("compute_mode")
    if mode is None:
        return not_reported(name, "the compute mode of %s" % card.name)
    remedy = "`nvidia-smi -i %d -c DEFAULT`" % card.index
    if "prohibited" in mode.lower():
        return check(name, FAIL, "%s lets nobody compute" % card.name, mode, "Default", remedy=remedy)
    if mode.lower() != "default":
        summary = "%s lets only one program compute at a time" % card.name
        return check(name, WARN, summary, mode, "Default", remedy=remedy)
    return check(name, PASS, "%s lets everybody compute" % card.name, mode, "Default")
