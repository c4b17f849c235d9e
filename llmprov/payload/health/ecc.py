"""ECC: whether it is on, errors since the driver was loaded (volatile) and in the card's life (aggregate)."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

from llmprov.payload.document import FAIL, PASS, WARN, check, not_reported
from llmprov.payload.health.cards import Card, Cards
from llmprov.payload.health.machine import Machine

RESET = "drain the host and reset the GPU; if it comes again, have the card replaced"


def checks(machine: Machine, cards: Cards, declared: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Mode and both counts of every card."""
    found = []
    for card in cards:
        if card.element is not None:
            found += [_mode(card), _volatile(card), _aggregate(card)]
    return found


def _mode(card: Card) -> Dict[str, Any]:
    current, pending = card.flag(r"ecc_mode/current_ecc"), card.flag(r"ecc_mode/pending_ecc")
    has = bool(card.row.get("ecc"))
    if current is None:
        return not_reported(card.id("ecc_mode"), "the ECC mode of %s" % card.name, has)
    words = {True: "on", False: "off", None: "not reported"}
    if pending is not None and pending != current:
        summary = "ECC of %s is %s and will be %s after a reboot" % (card.name, words[current], words[pending])
        return check(card.id("ecc_mode"), WARN, summary, words[current], words[pending], remedy="reboot the host")
    if has and not current:
        remedy = "switch it on: `nvidia-smi -i %d -e 1`, then reboot" % card.index
        return check(card.id("ecc_mode"), WARN, "ECC of %s is off" % card.name, "off", "on", remedy=remedy)
    return check(card.id("ecc_mode"), PASS, "ECC of %s is %s" % (card.name, words[current]), words[current])


def _volatile(card: Card) -> Dict[str, Any]:
    wrong, corrected, evidence = _errors(card, "volatile")
    if wrong is None:
        return not_reported(card.id("ecc_volatile"), "volatile ECC errors of %s" % card.name, _should(card))
    if wrong:
        summary = "%s has had %d uncorrectable memory errors since its driver was loaded" % (card.name, wrong)
        return check(card.id("ecc_volatile"), FAIL, summary, wrong, 0, "errors", evidence, RESET)
    summary = "%s has had no uncorrectable memory error, %d corrected" % (card.name, corrected or 0)
    return check(card.id("ecc_volatile"), PASS, summary, 0, 0, "errors", evidence)


def _aggregate(card: Card) -> Dict[str, Any]:
    wrong, _, evidence = _errors(card, "aggregate")
    if wrong is None:
        return not_reported(card.id("ecc_aggregate"), "aggregate ECC errors of %s" % card.name, _should(card))
    if card.flag(r"sram_threshold_exceeded"):
        summary = "%s has had more SRAM errors than its maker allows" % card.name
        remedy = "drain the host and have the card replaced"
        return check(card.id("ecc_aggregate"), FAIL, summary, wrong, 0, "errors", evidence, remedy)
    if wrong:
        summary = "%s has had %d uncorrectable memory errors in its life" % (card.name, wrong)
        return check(card.id("ecc_aggregate"), WARN, summary, wrong, 0, "errors", evidence, "watch whether they grow")
    return check(card.id("ecc_aggregate"), PASS, "%s never had one" % card.name, 0, 0, "errors", evidence)


def _should(card: Card) -> bool:
    """Counts are reported only where ECC is on."""
    return bool(card.row.get("ecc")) and card.flag(r"ecc_mode/current_ecc") is not False


def _errors(card: Card, kind: str) -> Tuple[Optional[int], Optional[int], str]:
    """Uncorrectable and corrected errors. Up to schema 10 `double_bit` and `single_bit`, with a total each."""
    fields = [(path, text) for path, text in card.all(r"ecc_errors/%s/.*" % kind) if text.isdecimal()]
    if not fields:
        return None, None, ""
    # A total stands beside its parts: with one, only the totals count.
    totals = [(path, text) for path, text in fields if path.endswith("/total")] or fields
    wrong = sum(int(text) for path, text in totals if "uncorrect" in path or "double_bit" in path)
    corrected = sum(int(text) for path, text in totals if "uncorrect" not in path and "double_bit" not in path)
    evidence = ", ".join("%s=%s" % (path.split("ecc_errors/")[1], text) for path, text in fields if text != "0")
    return wrong, corrected, evidence or "all %s counts are 0" % kind
