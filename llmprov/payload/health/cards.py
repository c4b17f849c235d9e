"""The NVIDIA cards of a machine: by PCI id from sysfs, and in their driver's own words from `nvidia-smi -q -x`.

The XML changes with every driver: fields are found by what they are called anywhere below a card, under each of their
names, and a field that is missing, or says in any of its ways that it is not there, is None: not reported.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import Any, Dict, Iterator, List, Optional, Tuple

from llmprov.payload.health.machine import Machine

NVIDIA = "0x10de"

#: Texts by which nvidia-smi says that it has nothing to say. "ERR!" and "Unknown Error" stay: they say something.
SILENT = ("", "n/a", "[n/a]", "not supported", "[not supported]", "none", "not available", "unknown")
SILENT_PARTS = ("deprecated", "insufficient permissions", "not found")

#: Below these a card tells of parts of itself, whose fields have the same names as the card's own.
INNER = ("mig_devices", "supported_clocks", "processes", "accounted_processes")


#: How long nvidia-smi may take, in seconds: with eight cards and no persistence mode it takes ten and more.
TIMEOUT_S = 60.0


class Card:
    """One card: its PCI address, its row in the controller's tables, and what nvidia-smi reports of it."""

    def __init__(self, index: int, address: str, device_id: str, row: Optional[Dict[str, Any]]) -> None:
        self.index, self.address, self.device_id = index, address, device_id
        self.row: Dict[str, Any] = row or {}
        self.element: Optional[ElementTree.Element] = None
        self._fields: Optional[List[Tuple[str, str]]] = None

    def id(self, name: str) -> str:
        """The id of a check of this card."""
        return "gpu%d.%s" % (self.index, name)

    @property
    def name(self) -> str:
        """What to call it in a sentence."""
        return "GPU %d (%s)" % (self.index, self.address)

    @property
    def uuid(self) -> Optional[str]:
        """The UUID, by which CUDA and NVML know the card."""
        return self.text(r"uuid")

    def fields(self) -> List[Tuple[str, str]]:
        """Every leaf below the card as path (`pci/pci_gpu_link_info/pcie_gen/max_link_gen`) and text."""
        if self._fields is None:
            self._fields = [] if self.element is None else list(_leaves(self.element, ""))
        return self._fields

    def all(self, pattern: str) -> List[Tuple[str, str]]:
        """Path and text of every reported field whose path ends as the regular expression says."""
        wanted = re.compile(r"(?:^|/)(?:%s)$" % pattern, re.I)
        return [(path, text) for path, text in self.fields() if wanted.search(path) and reported(text)]

    def text(self, *patterns: str) -> Optional[str]:
        """The first reported field under any of its names, in their order; None where none is reported."""
        for pattern in patterns:
            for _, text in self.all(pattern):
                return text
        return None

    def number(self, *patterns: str) -> Optional[float]:
        """Likewise, the number that the field begins with (`70.00 W`, `16x`); None where there is none."""
        for pattern in patterns:
            for _, text in self.all(pattern):
                match = re.match(r"-?\d+(?:\.\d+)?", text)
                if match:
                    return float(match.group())
        return None

    def flag(self, *patterns: str) -> Optional[bool]:
        """Likewise, yes or no in any of nvidia-smi's words; None where it is not reported."""
        said = (self.text(*patterns) or "").lower()
        if said in ("yes", "enabled", "active", "true", "1"):
            return True
        if said in ("no", "disabled", "not active", "false", "0"):
            return False
        return None


class Cards(List[Card]):
    """The cards in the order of their PCI addresses, and what is common to them."""

    def __init__(self) -> None:
        super().__init__()
        #: Why nvidia-smi told nothing; empty where it did.
        self.problem = ""
        self.driver_version: Optional[str] = None
        self.cuda_version: Optional[str] = None
        #: Cards on the PCI bus, whether their driver knows them or not.
        self.on_bus: List[str] = []
        #: NVSwitches on the PCI bus.
        self.switches: List[str] = []


def read_cards(machine: Machine, declared: Dict[str, Any]) -> Cards:
    """The cards of this machine. Never raises: what cannot be read is told in `problem`."""
    cards = Cards()
    known = declared.get("gpu_rows") or {}
    found: Dict[str, Card] = {}
    for folder in machine.find("/sys/bus/pci/devices/*"):
        if machine.read(folder + "/vendor") != NVIDIA:
            continue
        kind, address = machine.read(folder + "/class") or "", normal(folder.rpartition("/")[2])
        if kind.startswith("0x0680"):
            cards.switches.append(address)
        elif kind.startswith("0x03"):
            cards.on_bus.append(address)
            device = (machine.read(folder + "/device") or "").replace("0x", "").lower()
            found[address] = Card(0, address, device, known.get(device))
    root = _smi(machine, cards) if found or machine.read("/proc/driver/nvidia/version") else None
    for element in [] if root is None else root.iter("gpu"):
        address = normal(element.get("id") or "")
        card = found.get(address)
        if card is None:
            text = (element.findtext("pci/pci_device_id") or "").lower().replace("0x", "")
            card = found[address] = Card(0, address, text[:4], known.get(text[:4]))
        card.element = element
    for index, address in enumerate(sorted(found)):
        found[address].index = index
        cards.append(found[address])
    return cards


def _smi(machine: Machine, cards: Cards) -> Optional[ElementTree.Element]:
    done = machine.outcome("nvidia-smi", "-q", "-x", timeout_s=TIMEOUT_S)
    if done is None:
        cards.problem = "nvidia-smi is not there, or did not answer within %g s" % TIMEOUT_S
        return None
    if done.returncode != 0 or "<nvidia_smi_log>" not in done.stdout:
        said = " ".join((done.stdout + " " + done.stderr).split())
        cards.problem = "nvidia-smi ended with %d: %s" % (done.returncode, said[-300:] or "it printed nothing")
        return None
    try:
        root = parse(done.stdout)
    except ElementTree.ParseError as error:
        cards.problem = "nvidia-smi printed no sound XML: %s" % error
        return None
    cards.driver_version = _said(root.findtext("driver_version"))
    cards.cuda_version = _said(root.findtext("cuda_version"))
    return root


def parse(text: str) -> ElementTree.Element:
    """The XML, from its first element on: the declaration names a DTD and sometimes the wrong encoding.

    Raises:
        ElementTree.ParseError: it is no XML.
    """
    return ElementTree.fromstring(text[max(text.find("<nvidia_smi_log>"), 0) :])


def normal(address: str) -> str:
    """A PCI address as sysfs writes it (`0000:01:00.0`); nvidia-smi gives the domain eight digits."""
    domain, _, rest = address.lower().partition(":")
    return "%s:%s" % (domain[-4:].rjust(4, "0"), rest) if rest.count(":") else address.lower()


def reported(text: str) -> bool:
    """Whether a field's text says something."""
    said = text.strip().lower()
    return said not in SILENT and not any(part in said for part in SILENT_PARTS)


def _said(text: Optional[str]) -> Optional[str]:
    return text.strip() if text and reported(text) else None


def _leaves(element: ElementTree.Element, path: str) -> Iterator[Tuple[str, str]]:
    for child in element:
        if child.tag in INNER:
            continue
        inner = "%s/%s" % (path, child.tag) if path else str(child.tag)
        if len(child):
            yield from _leaves(child, inner)
        else:
            yield inner, (child.text or "").strip()
