"""How many GPUs there are and which, against the declared; whether the driver knows each; lost cards."""

from __future__ import annotations

from typing import Any, Dict, List

from llmprov.payload.document import FAIL, INCONCLUSIVE, PASS, WARN, check, not_reported
from llmprov.payload.health.cards import Card, Cards
from llmprov.payload.health.machine import Machine

LOST = "drain the host and reboot it; if the card stays away, reseat it, then have it replaced"

#: What the driver recommends of itself (`gpu_recovery_action`, `gpu_reset_status`): words -> what to do.
RECOVERY = {
    "reset": "drain the host and reset the GPU: `nvidia-smi --gpu-reset`",
    "reboot": "drain the host and reboot it",
    "drain p2p": "end what uses the GPUs, then reset the GPU",
    "drain and reset": "end what uses the GPU, then reset it",
}


def checks(machine: Machine, cards: Cards, declared: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Counts, models, and each card's own word on whether it needs to be recovered."""
    found = _count(cards, declared)
    if not cards:
        return found
    loaded = machine.read("/proc/driver/nvidia/version") or machine.read("/sys/module/nvidia/version")
    if cards.problem and not loaded:
        return found  # the subject `driver` says so
    if cards.problem:
        status = FAIL if declared.get("cuda") == "required" else INCONCLUSIVE
        remedy = "look at the driver: `nvidia-smi`, then `dmesg | grep -i nvrm`"
        found.append(check("gpu.nvidia_smi", status, cards.problem, evidence=cards.problem, remedy=remedy))
        return found
    for card in cards:
        found.append(_known(card))
        if card.element is not None:
            found.append(_recovery(card))
    return found


def _count(cards: Cards, declared: Dict[str, Any]) -> List[Dict[str, Any]]:
    found = []
    wanted, count = declared.get("expected_gpu_count"), len(cards)
    evidence = ", ".join("%s %s" % (card.address, card.device_id) for card in cards)
    if wanted is not None:
        right = count == wanted
        summary = "%d GPUs are there" % count if right else "%d GPUs are there where %d are declared" % (count, wanted)
        remedy = "" if right else LOST
        found.append(check("gpu.count", PASS if right else FAIL, summary, count, wanted, "GPUs", evidence, remedy))
    elif cards:
        found.append(check("gpu.count", PASS, "%d GPUs are there" % count, count, None, "GPUs", evidence))
    model = declared.get("expected_gpu_model")
    if model:
        others = [card for card in cards if card.row.get("name") != model]
        names = ", ".join("%s is %s" % (c.name, c.row.get("name") or c.device_id) for c in others)
        if others:
            remedy = "correct verify_gpu_model, or see who changed the host's cards"
            found.append(check("gpu.model", FAIL, names, others[0].row.get("name"), model, "", evidence, remedy))
        elif cards:
            found.append(check("gpu.model", PASS, "every GPU is %s" % model, model, model, "", evidence))
    return found


def _known(card: Card) -> Dict[str, Any]:
    if card.element is None:
        summary = "%s is on the PCI bus and its driver does not know it" % card.name
        return check(card.id("present"), FAIL, summary, False, True, remedy=LOST)
    evidence = "%s %s" % (card.text("product_name"), card.uuid)
    return check(card.id("present"), PASS, "%s is there" % card.name, True, True, evidence=evidence)


def _recovery(card: Card) -> Dict[str, Any]:
    required = card.flag(r"reset_required")
    drain = card.flag(r"drain_and_reset_recommended")
    said = next((text for path, text in card.fields() if path.endswith("gpu_recovery_action")), None)
    action = (said or "").strip().lower()
    if required or drain or action in RECOVERY:
        wanted = action if action in RECOVERY else "reset" if required else "drain and reset"
        summary = "%s asks for recovery: %s" % (card.name, wanted)
        return check(card.id("recovery"), FAIL, summary, wanted, "none", remedy=RECOVERY[wanted])
    if required is None and drain is None and action in ("", "n/a"):
        return not_reported(card.id("recovery"), "whether %s needs a reset" % card.name)
    if action not in ("", "none", "n/a"):
        remedy = "look the word up in the driver's documentation"
        return check(card.id("recovery"), WARN, "%s asks for %s" % (card.name, action), action, "none", remedy=remedy)
    return check(card.id("recovery"), PASS, "%s needs no reset" % card.name, "none", "none")
