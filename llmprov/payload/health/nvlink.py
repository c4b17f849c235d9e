"""NVLink: every link up, and no errors on it, from `nvidia-smi nvlink`."""

from __future__ import annotations

import re
from typing import Any, Dict, List

from llmprov.payload.document import FAIL, PASS, WARN, check, not_reported
from llmprov.payload.health.cards import Card, Cards
from llmprov.payload.health.machine import Machine

REMEDY = "reset all GPUs of the host; if links stay down, have its NVLink bridge, baseboard or switch looked at"

#: Counters of errors that cost data or time; the others of `nvlink -e` count what was put right in passing.
SERIOUS = ("recovery", "replay", "fatal", "uncorrect", "link down")


def checks(machine: Machine, cards: Cards, declared: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Links and errors of every card that has NVLink, or should."""
    if not cards or cards.problem:
        return []
    links = by_card(machine.run("nvidia-smi", "nvlink", "--status") or "")
    errors = by_card(machine.run("nvidia-smi", "nvlink", "-e") or "")
    found = []
    for card in cards:
        found += _links(card, links.get(card.uuid or "", []), len(cards))
        found += _errors(card, errors.get(card.uuid or "", []))
    return found


def by_card(text: str) -> Dict[str, List[str]]:
    """UUID -> the lines below it; a line of a card is `GPU 0: NAME (UUID: GPU-…)`."""
    found: Dict[str, List[str]] = {}
    below: List[str] = []
    for line in text.splitlines():
        match = re.search(r"UUID:\s*(\S+?)\)", line)
        if match:
            below = found.setdefault(match.group(1), [])
        elif line.strip():
            below.append(line.strip())
    return found


def _links(card: Card, lines: List[str], count: int) -> List[Dict[str, Any]]:
    states = [match for line in lines for match in [re.match(r"Link (\d+):\s*(.+)", line)] if match]
    wanted = int(card.row.get("nvlinks") or 0)
    name = card.id("nvlink")
    if not states:
        if wanted and count > 1:
            summary = "%s has %d NVLinks, and none is reported" % (card.name, wanted)
            return [check(name, FAIL, summary, 0, wanted, "links", "\n".join(lines), REMEDY)]
        return [not_reported(name, "NVLink of %s" % card.name)]
    down = [match.group(1) for match in states if not re.match(r"[\d.]+ GB/s", match.group(2))]
    up = len(states) - len(down)
    evidence = "\n".join(lines[:20])
    if down or up < wanted:
        summary = "%s has %d NVLinks up of %d" % (card.name, up, max(wanted, len(states)))
        return [check(name, FAIL, summary, up, max(wanted, len(states)), "links", evidence, REMEDY)]
    return [check(name, PASS, "%s has all %d NVLinks up" % (card.name, up), up, up, "links", evidence)]


def _errors(card: Card, lines: List[str]) -> List[Dict[str, Any]]:
    counts = [match for line in lines for match in [re.match(r"Link (\d+):\s*(.+?):\s*(\d+)\s*$", line)] if match]
    if not counts:
        return []
    bad = [m for m in counts if int(m.group(3)) and any(word in m.group(2).lower() for word in SERIOUS)]
    evidence = "\n".join(match.group() for match in bad)
    total = sum(int(match.group(3)) for match in bad)
    if bad:
        summary = "%s counts %d serious errors on its NVLinks" % (card.name, total)
        return [check(card.id("nvlink_errors"), WARN, summary, total, 0, "errors", evidence, REMEDY)]
    return [check(card.id("nvlink_errors"), PASS, "no serious error on the NVLinks of %s" % card.name, 0, 0, "errors")]
