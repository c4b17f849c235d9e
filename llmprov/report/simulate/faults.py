"""Faults that are planted in simulated hosts.

Each gives its host the findings of a real host that has it: the same check ids, statuses and sentences.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from llmprov.model import Status
from llmprov.model.plan import Action, Kind
from llmprov.model.report import Failure
from llmprov.report.simulate.stand_ins import Host, address, sha

Fault = Callable[[Host, random.Random], None]


def _slow_card(host: Host, dice: random.Random) -> None:
    host.slow(dice.uniform(0.08, 0.3), [dice.choice(host.labels)])


def _slow_host(host: Host, dice: random.Random) -> None:
    host.slow(dice.uniform(0.08, 0.3), host.labels)


def _power_brake(host: Host, dice: random.Random) -> None:
    label = dice.choice(host.labels)
    host.slow(0.31, [label])
    why = "hardware power brake in 40 of 40 readings"
    summary = f"{label} was held back while it trained: {why}"
    remedy = "see to that first, then verify again: the figures are those of a machine held back"
    evidence = "power_w 402, sm_clock_mhz 1215, temperature_c 51"
    host.add(
        f"{label}.train.held_back", "warn", summary, measured=why, expected="nothing", evidence=evidence, remedy=remedy
    )


def _heat(host: Host, dice: random.Random) -> None:
    label = dice.choice(host.labels)
    host.slow(0.18, [label])
    summary = f"GPU {label[3:]} is at 88 C and slows down"
    remedy = "check fans, air flow and inlet temperature"
    host.add(
        f"{label}.temperature",
        "fail",
        summary,
        measured=88,
        expected=87,
        unit="C",
        evidence="slows down at 87 C",
        remedy=remedy,
    )


def _xid(host: Host, dice: random.Random) -> None:
    index = dice.randrange(host.model.cards)
    line = f"NVRM: Xid (PCI:{address(index)[:-2]}): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
    summary = f"XID 79 (ROBUST_CHANNEL_GPU_HAS_FALLEN_OFF_THE_BUS) 1 times on GPU {index} ({address(index)})"
    remedy = "drain the host and reboot it; if it comes again, have the card looked at"
    host.add(f"gpu{index}.xid.79", "fail", summary, measured=1, expected=0, unit="times", evidence=line, remedy=remedy)


def _ecc(host: Host, dice: random.Random) -> None:
    label = dice.choice(host.labels)
    summary = f"GPU {label[3:]} has had 3 uncorrectable memory errors since its driver was loaded"
    host.add(f"{label}.ecc_volatile", "fail", summary, measured=3, expected=0, unit="errors", remedy="reset the GPU",
             evidence="dram_uncorrectable=3")  # fmt: skip


def _row_remap(host: Host, dice: random.Random) -> None:
    label = dice.choice(host.labels)
    host.add(f"{label}.row_remap", "fail", f"GPU {label[3:]} could not remap a bad row", measured=True, expected=False,
             evidence="uncorrectable=9 corrected=0 pending=False failure=True",
             remedy="drain the host and have the card replaced")  # fmt: skip


def _pcie(host: Host, dice: random.Random) -> None:
    label = dice.choice(host.labels)
    host.add(f"{label}.pcie_width", "fail", f"GPU {label[3:]} runs on 8 PCIe lanes of 16", measured=8, expected=16,
             unit="lanes", remedy="reseat the card or its riser")  # fmt: skip


def _digest(host: Host, dice: random.Random) -> None:
    label = dice.choice(host.labels)
    host.row.digests = {f"{label}.gradients": sha(f"wrong {host.row.host}")}


def _drift(host: Host, dice: random.Random) -> None:
    why = "torch 2.12.1 is there where 2.13.0 is declared"
    host.add("declared.pytorch", "fail", f"pytorch: {why}", measured="2.12.1", expected="2.13.0",
             remedy="run `llmprov provision -i INVENTORY`")  # fmt: skip
    host.row.drift = [Action(component="pytorch", kind=Kind.UPGRADE, before="2.12.1", after="2.13.0", why=why)]


def _disk(host: Host, dice: random.Random) -> None:
    host.add("disk.root", "warn", "/ has 21 GB free", measured=0.023, expected=0.05, unit="fraction",
             evidence="21 GB free (2 %), 97 % of inodes free", remedy="make room")  # fmt: skip


def _unreachable(host: Host, dice: random.Random) -> None:
    words = f"ssh: connect to host {host.row.host} port 22: Connection timed out"
    remedy = "check that the host is up and that its address and the firewall let you reach it"
    host.row = host.row.model_copy(
        update={"status": Status.UNREACHABLE, "summary": words, "remedy": remedy, "observation": None, "plan": None}
    )


def _refused(host: Host, dice: random.Random) -> None:
    words = "the cu130 wheel does not fit driver 535.183.01"
    remedy = "install a driver of version 580.65.06 or later, or set pytorch_variant to `cu126`"
    host.row = host.row.model_copy(update={"status": Status.REFUSED, "summary": words, "remedy": remedy})


def _failed(host: Host, dice: random.Random) -> None:
    task, words = "Ensure the environment's Python and packages are as declared", "uv: No space left on device"
    failure = Failure(stage="converge", task=task, message=words, remedy="make room on the host and run again")
    host.row = host.row.model_copy(
        update={"status": Status.FAIL, "summary": f"{task}: {words}", "remedy": failure.remedy, "failures": [failure]}
    )


#: Name -> (the function that plants the fault, whether it needs GPUs).
FAULTS: dict[str, tuple[Fault, bool]] = {
    "slow_card": (_slow_card, True),
    "slow_host": (_slow_host, False),
    "power_brake": (_power_brake, True),
    "heat": (_heat, True),
    "xid": (_xid, True),
    "ecc": (_ecc, True),
    "row_remap": (_row_remap, True),
    "pcie": (_pcie, True),
    "digest": (_digest, True),
    "drift": (_drift, False),
    "disk": (_disk, False),
    "unreachable": (_unreachable, False),
    "refused": (_refused, True),
    "failed": (_failed, False),
}
