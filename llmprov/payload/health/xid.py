"""XIDs in the kernel log since boot, each with the action that NVIDIA's catalogue asks for."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Tuple

from llmprov.payload.document import FAIL, INCONCLUSIVE, PASS, WARN, check
from llmprov.payload.health.cards import Cards, normal
from llmprov.payload.health.machine import Machine

#: `NVRM: Xid (PCI:0000:9b:00): 119, pid=…`; older drivers leave out `PCI:`, some have `.0` after the address.
LINE = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]+)\): (\d+),?\s*(.*)")

#: What the catalogue's actions mean for whoever runs the machine: how bad, and what to do.
#: Source of the actions: NVIDIA's XID catalogue; the sentences are ours.
ACTIONS = {
    "RESET_GPU": (FAIL, "drain the host and reset the GPU: `nvidia-smi --gpu-reset -i INDEX`"),
    "RESTART_BM": (FAIL, "drain the host and reboot it; if it comes again, have the card looked at"),
    "RESTART_VM": (FAIL, "restart the virtual machine"),
    "CHECK_MECHANICALS": (FAIL, "check the card's power connectors and seating"),
    "CONTACT_SUPPORT": (FAIL, "drain the host and open a case with the vendor"),
    "WORKFLOW_XID_48": (FAIL, "drain the host and reset the GPU; if it comes again, run the vendor's field diagnosis"),
    "WORKFLOW_NVLINK_ERR": (FAIL, "reset all GPUs of the host; if it comes again, have NVLink looked at"),
    "WORKFLOW_NVLINK5_ERR": (FAIL, "reset all GPUs of the host; if it comes again, have NVLink looked at"),
    "XID_154": (FAIL, "do what the line itself recommends"),
    "UPDATE_SWFW": (WARN, "update driver and firmware"),
    "RESTART_APP": (WARN, "look at the program that ran then, and start it again"),
    "WORKFLOW_XID_13": (WARN, "look at the program; if others see it too, run the vendor's diagnosis"),
    "WORKFLOW_XID_31": (WARN, "look at the program; if others see it too, run the vendor's diagnosis"),
    "WORKFLOW_XID_45": (WARN, "nothing of its own: look for the XID before it"),
    "CHECK_UVM": (WARN, "look for the XID before it"),
    "IGNORE": (PASS, ""),
}

#: XIDs that the catalogue gives no action for yet, and those that are not in it.
UNKNOWN = (WARN, "look the number up in NVIDIA's XID catalogue")


def checks(machine: Machine, cards: Cards, declared: Dict[str, Any]) -> List[Dict[str, Any]]:
    """One check a card and number; one pass where the log was read and has none."""
    if not cards and not machine.read("/proc/driver/nvidia/version"):
        return []
    log = kernel_log(machine)
    if log is None:
        remedy = "verify as root, or allow the kernel log: kernel.dmesg_restrict=0"
        return [check("xid", INCONCLUSIVE, "the kernel log could not be read", remedy=remedy)]
    found = [_judged(key, lines, cards, declared.get("xids") or {}) for key, lines in sorted(events(log).items())]
    return found or [check("xid", PASS, "no XID since boot", 0, 0, "XIDs")]


def kernel_log(machine: Machine) -> Optional[str]:
    """The kernel's log since boot: from the journal, which keeps what the ring buffer lost, else from dmesg."""
    journal = machine.run("journalctl", "-k", "-b", "-o", "short", "--no-pager", "-q")
    if journal and "NVRM" in journal:
        return journal
    # A kernel has always said something: an empty log is one that may not be read.
    return machine.run("dmesg") or journal or None


def events(log: str) -> Dict[Tuple[str, int], List[str]]:
    """(PCI address, XID) -> what the lines say."""
    found: Dict[Tuple[str, int], List[str]] = {}
    for line in log.splitlines():
        match = LINE.search(line)
        if match:
            address = normal(match.group(1).partition(".")[0])
            found.setdefault((address, int(match.group(2))), []).append(line.strip())
    return found


def _judged(
    key: Tuple[str, int], lines: List[str], cards: Cards, catalogue: Dict[str, Dict[str, Any]]
) -> Dict[str, Any]:
    address, number = key
    row = catalogue.get(str(number)) or {}
    action = row.get("action") or row.get("investigate") or ""
    status, remedy = ACTIONS.get(str(action), UNKNOWN)
    card = next((card for card in cards if card.address.startswith(address)), None)
    name = card.id("xid.%d" % number) if card else "xid.%s.%d" % (address, number)
    what = row.get("mnemonic") or "not in the catalogue"
    summary = "XID %d (%s) %d times on %s" % (number, what, len(lines), card.name if card else address)
    remedy = remedy.replace("INDEX", str(card.index) if card else "INDEX")
    evidence = "\n".join(lines[-3:])
    return check(name, status, summary, len(lines), 0, "times", evidence, remedy)
