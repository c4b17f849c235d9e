"""What a card did about bad memory: pages retired (up to Turing), rows remapped (from Ampere), repairs due."""

from __future__ import annotations

from typing import Any, Dict, List

from llmprov.payload.document import FAIL, PASS, WARN, check, not_reported
from llmprov.payload.health.cards import Card, Cards
from llmprov.payload.health.machine import Machine

#: Retired pages from which a board is returned. Source: NVIDIA, "Dynamic Page Retirement", RMA criteria.
RETIRED_PAGES_LIMIT = 60

REPLACE = "drain the host and have the card replaced"
RESET = "reset the GPU at the next opportunity, so that the repair takes effect"


def checks(machine: Machine, cards: Cards, declared: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Two checks a card at most: it retires pages, or remaps rows; and repairs of other kinds."""
    found = []
    for card in cards:
        if card.element is None:
            continue
        told = [_rows(card), _pages(card)]
        # A card has one of the two; what the other says is no news.
        told = [one for one in told if one["status"] != "not_reported"] or told[:1]
        if told[0]["status"] == "not_reported" and card.row.get("ecc"):
            told = [not_reported(card.id("row_remap"), "row remapping of %s" % card.name, True)]
        found += told + _repairs(card)
    return found


def _rows(card: Card) -> Dict[str, Any]:
    name = card.id("row_remap")
    failure = card.flag(r"remapped_rows?_failure", r"remapped_rows/\w*fail\w*")
    pending = card.flag(r"remapped_rows?_pending", r"remapped_rows/\w*pend\w*")
    wrong = card.number(r"remapped_rows?_unc\w*", r"remapped_rows/\w*unc\w*")
    corrected = card.number(r"remapped_rows?_corr?\w*", r"remapped_rows/\w*corr\w*")
    if failure is None and pending is None and wrong is None:
        return not_reported(name, "row remapping of %s" % card.name)
    evidence = "uncorrectable=%s corrected=%s pending=%s failure=%s" % (wrong, corrected, pending, failure)
    if failure:
        return check(name, FAIL, "%s could not remap a bad row" % card.name, True, False, "", evidence, REPLACE)
    if pending:
        summary = "%s will remap a bad row when it is reset" % card.name
        return check(name, WARN, summary, True, False, "", evidence, RESET)
    summary = "%s remapped %d rows, none is waiting" % (card.name, (wrong or 0) + (corrected or 0))
    return check(name, PASS, summary, (wrong or 0) + (corrected or 0), None, "rows", evidence)


def _pages(card: Card) -> Dict[str, Any]:
    name = card.id("retired_pages")
    counts = [
        int(text) for _, text in card.all(r"retired_pages/.*(?:retired_count|retired_page_count)") if text.isdecimal()
    ]
    pending = card.flag(r"pending_retirement", r"pending_blacklist")
    if not counts:
        return not_reported(name, "retired pages of %s" % card.name)
    total = sum(counts)
    if total >= RETIRED_PAGES_LIMIT:
        summary = "%s has retired %d pages" % (card.name, total)
        return check(name, FAIL, summary, total, RETIRED_PAGES_LIMIT - 1, "pages", "", REPLACE)
    if pending:
        summary = "%s will retire a page at the next reboot" % card.name
        return check(name, WARN, summary, total, RETIRED_PAGES_LIMIT - 1, "pages", "pending", RESET)
    return check(name, PASS, "%s has retired %d pages" % (card.name, total), total, RETIRED_PAGES_LIMIT - 1, "pages")


def _repairs(card: Card) -> List[Dict[str, Any]]:
    found = []
    if card.flag(r"unrepairable_memory"):
        summary = "%s has memory that cannot be repaired" % card.name
        found.append(check(card.id("unrepairable_memory"), FAIL, summary, True, False, remedy=REPLACE))
    for field, what in (("channel_repair_pending", "a memory channel"), ("tpc_repair_pending", "a processing cluster")):
        if card.flag(field):
            summary = "%s will repair %s when it is reset" % (card.name, what)
            found.append(check(card.id(field), WARN, summary, True, False, remedy=RESET))
    return found
