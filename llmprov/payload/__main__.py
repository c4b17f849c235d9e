"""`python -m llmprov.payload`: run the checks and print the document."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from llmprov.payload import PAYLOAD_VERSION, health, packages
from llmprov.payload.document import INCONCLUSIVE, NOT_REPORTED, PASS, CleanStdout, check
from llmprov.payload.health.cards import Cards, read_cards
from llmprov.payload.health.machine import Machine
from llmprov.payload.measure.gpt import SIZES
from llmprov.payload.stages import Stage

#: What is looked at where nothing was declared, as when started by hand.
NOTHING_DECLARED: Dict[str, Any] = {
    "packages": [],
    "imports": [],
    "torch": None,
    "cuda": "any",
    "gpu_count": 0,
    "min_accuracy": 0.95,
    "timeout_s": 3600,
}

#: Time kept back from the whole, in seconds, so that a stage that hangs is told of and not only killed.
RESERVE_S = 10.0

#: `gate` only asks whether cards compute: what a host must show when it comes back from a reboot.
LEVELS = ("gate", "quick", "standard", "soak")


class Document:
    """The document in the making."""

    def __init__(self, level: str) -> None:
        version = platform.python_version()
        self.content: Dict[str, Any] = {
            "payload_version": PAYLOAD_VERSION,
            "level": level,
            "python": version,
            "torch": None,
            "device": "cpu",
            "devices": [],
            "checks": [check("python.version", PASS, "Python %s" % version, version)],
            "not_reported": [],
            "measurements": [],
            "digests": {},
        }

    def add(self, checks: List[Dict[str, Any]]) -> None:
        """Take checks in; what a device does not report is listed apart."""
        self.content["checks"] += [one for one in checks if one["status"] != NOT_REPORTED]
        self.content["not_reported"] += [one["summary"] for one in checks if one["status"] == NOT_REPORTED]

    def take(self, answer: Dict[str, Any]) -> Dict[str, Any]:
        """Take a stage's answer in, and give it back."""
        self.add(answer["checks"])
        for figure in answer["measurements"]:
            if all(map(math.isfinite, [figure["value"], *figure["samples"]])):
                self.content["measurements"].append(figure)
            else:
                name = ".".join(filter(None, [figure["device"], figure["key"]]))
                self.add([check(name, INCONCLUSIVE, "the figure became %s" % figure["value"])])
        self.content["digests"].update(answer["digests"])
        for key in ("torch", "device"):
            self.content[key] = answer.get(key) or self.content[key]
        return answer


def collect(declared: Dict[str, Any], level: str, minutes: float = 0.0) -> Dict[str, Any]:
    """Run everything of a level and return the document."""
    began = time.monotonic()
    deadline = began + max(declared["timeout_s"] - RESERVE_S, 5.0) + 60 * minutes
    document, machine = Document(level), Machine()
    if level == "gate":
        document.take(Stage("multiply", "", {"declared": declared}).finish(deadline))
        document.content["elapsed_s"] = round(time.monotonic() - began, 3)
        return document.content
    cards = read_cards(machine, declared)
    document.content["devices"] = [_device(card) for card in cards]
    document.add(health.look(machine, cards, declared))
    document.add(packages.check_packages(declared["packages"]))
    question = {"declared": declared, "level": level, "minutes": minutes}
    told = document.take(Stage("software", "", question).finish(deadline))
    if told.get("cards"):
        _each_card(document, question, cards, told["cards"], "device", deadline)
    if level == "standard" and document.content["torch"]:
        _together(document, question, cards, told.get("cards", 0), deadline)
    if level == "soak" and document.content["torch"]:
        _each_card(document, question, cards, told.get("cards", 0), "soak", deadline)
        # What broke under load is seen only now.
        _look_again(document, machine, declared)
    document.content["elapsed_s"] = round(time.monotonic() - began, 3)
    return document.content


def _device(card: Any) -> Dict[str, Any]:
    return {
        "label": "gpu%d" % card.index,
        "name": (card.row.get("name") or card.text(r"product_name") or card.device_id)[:200],
        "address": card.address,
        "device_id": card.device_id,
        "uuid": (card.uuid or "")[:80],
        "serial": (card.text(r"serial") or "")[:80],
    }


def _each_card(
    document: Document, question: Dict[str, Any], cards: Cards, count: int, task: str, deadline: float
) -> None:
    """One process a card, all at once; the processors where there is no card."""
    stages: List[Stage] = []
    for label, visible, row in _visible(cards, count) or [("cpu", {}, {})]:
        own = {**question, "label": label, "first": not stages, "declared": {**question["declared"], "gpu_row": row}}
        # Read by cuBLAS when it starts: without it some of its sums have no fixed order.
        stages.append(Stage(task, label, own, {**visible, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}))
    for stage in stages:
        document.take(stage.finish(deadline))


def _visible(cards: Cards, count: int) -> List[Any]:
    """Label, environment and row of each card that torch may use, named by UUID where the driver tells it."""
    known = [card for card in cards if card.uuid]
    if len(known) == count:
        return [("gpu%d" % card.index, {"CUDA_VISIBLE_DEVICES": str(card.uuid)}, card.row) for card in known]
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return [("gpu%d" % index, {**order, "CUDA_VISIBLE_DEVICES": str(index)}, {}) for index in range(count)]


def _together(document: Document, question: Dict[str, Any], cards: Cards, count: int, deadline: float) -> None:
    """Each card alone, then all of them; on processors two processes, against the one that had them all.

    Nothing for a single card.
    """
    if count == 1 or (not count and (os.cpu_count() or 1) < 2):
        return
    trained = [one for one in document.content["checks"] if one["id"].endswith(".train.size") and one["measured"]]
    if not trained:
        return
    # Cards of one host may have had room for models of different size: the world trains one that fits all.
    size = min((str(one["measured"]) for one in trained), key=lambda name: SIZES[name].parameters())
    for label, visible, _ in _visible(cards, count):
        document.take(Stage("alone", label, {**question, "label": label, "size": size}, visible).finish(deadline))
    key = "alone.tokens_per_s" if count else "train.tokens_per_s"
    alone = sum(one["value"] for one in document.content["measurements"] if one["key"] == key)
    own = {**question, "processes": count or 2, "size": size, "alone_tokens_per_s": alone}
    # Two processes share the processors that one had alone.
    threads = {} if count else {"OMP_NUM_THREADS": str(max((os.cpu_count() or 2) // 2, 1))}
    document.take(Stage("world", "", own, threads).finish(deadline))


def _look_again(document: Document, machine: Machine, declared: Dict[str, Any]) -> None:
    before = {one["id"] for one in document.content["checks"] if one["status"] != PASS}
    after = health.look(machine, read_cards(machine, declared), declared)
    worse = [one for one in after if one["status"] not in (PASS, NOT_REPORTED) and one["id"] not in before]
    kept = {one["id"] for one in worse}
    document.content["checks"] = [one for one in document.content["checks"] if one["id"] not in kept]
    document.add([{**one, "summary": "after the soak: %s" % one["summary"]} for one in worse])


def _stop(*_: object) -> None:
    for stage in list(Stage.running):
        stage.stop()


def main(argv: Optional[List[str]] = None) -> int:
    """Print one JSON document, alone, on standard output; exit code 0 whenever it was printed."""
    parser = argparse.ArgumentParser(prog="llmprov.payload", description=__doc__)
    parser.add_argument("--level", choices=LEVELS, default="quick", help="how much to measure")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to soak")
    parser.add_argument("--declared", metavar="FILE", help="JSON of what was declared; - is standard input")
    options = parser.parse_args(argv)
    declared = dict(NOTHING_DECLARED)
    if options.declared:
        with sys.stdin if options.declared == "-" else Path(options.declared).open(encoding="utf-8") as handle:
            declared.update(json.load(handle))
    signal.signal(signal.SIGTERM, _stop)
    with CleanStdout() as out:
        out.write(collect(declared, options.level, options.minutes if options.level == "soak" else 0.0))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
