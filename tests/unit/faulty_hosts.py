"""Faults as real hosts show them, and what a person who knows the machine says about each.

A fault changes what a host shows: a field of nvidia-smi, a line of the kernel's log, a file of /sys, a reading under load.
The payload's own checks look at that, and the plan looks at the observation. So the check ids come from the product, and
the sentence, the device and the next step beside each fault were written by hand.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llmprov.model import FleetReport, Plan, RunInfo, VerifyVars
from llmprov.payload import health, packages, torch_build
from llmprov.payload.__main__ import NOTHING_DECLARED, _device
from llmprov.payload.health import disk
from llmprov.payload.health.cards import read_cards
from llmprov.payload.limits import judge
from llmprov.payload.measure import sampler, training
from llmprov.payload.stages import Stage
from llmprov.plan import decide
from llmprov.report import aggregate, compare
from llmprov.run import outcome, payload_run
from llmprov.run.ledger import Ledger
from tests.unit import test_drift
from tests.unit.builders import desired, environment, gpu, observed, run_info
from tests.unit.machines import ADDRESSES, DECLARED, DRIVER, H100, ROW, Made, old

#: The card that is at fault: the second by its PCI address, so GPU 1.
CARD = ADDRESSES[1]

#: What each card of a sound host trains, in tokens a second; of a host without cards its processors.
TOKENS_PER_S = {"gpu0": 50_000.0, "gpu1": 50_100.0}
PROCESSORS_TOKENS_PER_S = {"cpu": 20_000.0}


class FaultyHost:
    """A host with two H100 and an NVSwitch, or without any card; sound until a fault changes it."""

    def __init__(self, folder: Path, cards: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.made, self.cards = Made(folder), cards
        self.declared: dict[str, Any] = dict(DECLARED)
        #: Checks of those parts of the payload that do not look at the machine's health.
        self.more: list[dict[str, Any]] = []
        self.tokens_per_s = dict(TOKENS_PER_S if cards else PROCESSORS_TOKENS_PER_S)
        #: What it trained in an earlier run, where that is compared.
        self.before: dict[str, float] = {}
        self.digests = {f"{label}.gradients": "a" * 64 for label in self.tokens_per_s}
        self.groups = ["rack1"]
        #: What the controller observes beside that, and the plan it makes.
        self.observation: dict[str, Any] = {}
        self.plan: Plan | None = None
        if not cards:
            for address in (*ADDRESSES, "0000:05:00.0"):
                self.made.file(f"/sys/bus/pci/devices/{address}/vendor", "0x8086")
            self.made.remove("/proc/driver/nvidia/version")
            self.declared |= {"cuda": "any", "expected_gpu_count": None, "expected_gpu_model": None}

    def field(self, name: str, text: str) -> None:
        """Set a field that nvidia-smi reports of the card."""
        self.made.cards[CARD][name] = text

    def kernel_says(self, line: str) -> None:
        """Write a line into the kernel's log."""
        self.made.program("dmesg", f"cat <<'END'\n[ 9041.2] {line}\nEND")

    def slow(self, part: float, *labels: str) -> None:
        """Make devices slower by a fraction; all of them where none is named."""
        for label in labels or list(self.tokens_per_s):
            self.tokens_per_s[label] *= 1 - part

    def under_load(self, csv: str) -> None:
        """Slow the card down, while nvidia-smi answers this line each time it is asked."""
        one = sampler.Sampler("gpu1", 1)
        reading, reasons = sampler.parse_smi(csv)
        one.readings, one.count = [reading] * 40, 40
        one.seen.update(reasons * 40)
        self._held_back(one, "gpu1")

    def starved(self) -> None:
        """Slow the processors down by a quota, which stops them for half of the time."""
        one = sampler.Sampler("cpu", 2)
        one._cpu = {"cpu_share_fraction": 0.5, "cpu_throttled_fraction": 0.5}
        self._held_back(one, "cpu")

    def _held_back(self, one: sampler.Sampler, label: str) -> None:
        window = training.Window(1000, 1.0, [0.05] * 20, 7.0, None, 0.1, one.figures(), one.reasons())
        self.more += training.held_back(label, "train", window)
        self.slow(0.31, label)

    @cached_property
    def found(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The devices and the checks that the payload reports; looked at once, after the fault was made."""
        machine = self.made.machine()
        cards = read_cards(machine, self.declared)
        checks = [*health.look(machine, cards, self.declared), *self.more]
        return [_device(card) for card in cards], [one for one in checks if one["status"] != "not_reported"]

    def events(self, host: str, tokens_per_s: dict[str, float]) -> Iterable[dict[str, Any]]:
        """What Ansible tells of a host that was planned and verified."""
        software = {"environments": [environment(torch="2.13.0+cu130" if self.cards else "2.13.0+cpu")]}
        if self.cards:
            software["devices"] = [gpu(H100) | {"address": address} for address in ADDRESSES]
            software["driver"] = {"module_version": DRIVER, "library_version": DRIVER}
        seen = observed(**(software | self.observation))
        plan = self.plan or decide(desired(), seen)
        assert not plan.refusals, plan.refusals
        records = {"plan": plan.model_dump(mode="json"), "observation": seen.model_dump(mode="json")}
        yield _event(host, "llmprov_plan", records | {"llmprov": {"kind": "plan"}})
        devices, checks = self.found
        document = {
            "payload_version": "1",
            "level": "quick",
            "torch": "2.13.0+cu130" if self.cards else "2.13.0+cpu",
            "elapsed_s": 40.0,
            "devices": devices,
            "checks": checks,
            "measurements": [
                {"key": "train.tokens_per_s", "value": value, "unit": "tokens/s", "device": label}
                for label, value in tokens_per_s.items()
            ],
            "digests": self.digests,
        }
        yield _event(host, "llmprov_verify", {"verification": document, "llmprov": {"kind": "verify"}})


def _event(host: str, action: str, result: dict[str, Any]) -> dict[str, Any]:
    about = {"event": "runner_on_ok", "host": host, "task": action, "action": action, "duration_s": 1.0}
    return about | {"result": {"empty": False, "changed": False, **result}}


def reported(hosts: dict[str, FaultyHost]) -> FleetReport:
    """The report of a fleet of these hosts; where one was measured before, compared with that run."""
    run = run_info().model_copy(update={"inventory": ["fleet.yml"]})
    baseline = None
    if any(host.before for host in hosts.values()):
        earlier = _report(run, hosts, {name: host.before or host.tokens_per_s for name, host in hosts.items()}, None)
        baseline = compare.baseline_of(earlier)
    return _report(run, hosts, {name: host.tokens_per_s for name, host in hosts.items()}, baseline)


def _report(
    run: RunInfo,
    hosts: dict[str, FaultyHost],
    tokens_per_s: dict[str, dict[str, float]],
    baseline: compare.Baseline | None,
) -> FleetReport:
    book = Ledger({name: host.groups for name, host in hosts.items()}, list(hosts))
    for number, (name, host) in enumerate(hosts.items()):
        # Sound hosts of one kind are within one per cent of each other.
        own = {label: value * (1 + 0.001 * (number % 7)) for label, value in tokens_per_s[name].items()}
        for event in host.events(name, own):
            book.fold("verify", event)
    return aggregate.fleet(run, book.reports(True), outcome.exit_code, [], baseline=baseline)


# -- faults --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """A fault, and what a person who knows the machine says about it: regular expressions, by hand."""

    name: str
    #: Changes a sound host into one with the fault.
    make: Callable[[FaultyHost], object]
    #: What is wrong.
    says: str
    #: What to do, in the sentence or the command of the next step.
    do: str
    #: Whether jobs should leave the host first.
    drain: bool = False
    cards: bool = True
    #: How many hosts have it.
    hosts: int = 1
    #: Why the report does not say this yet: a known fault of the product.
    wrong: str = ""

    def __str__(self) -> str:
        return self.name


def _field(name: str, text: str) -> Callable[[FaultyHost], object]:
    return lambda host: host.field(name, text)


def _kernel(number: int, text: str) -> Callable[[FaultyHost], object]:
    return lambda host: host.kernel_says(f"NVRM: Xid (PCI:{CARD.removesuffix('.0')}): {number}, {text}")


def _kernel_file(path: str, text: str, slow: float = 0) -> Callable[[FaultyHost], object]:
    return lambda host: (host.made.file(path, text), host.slow(slow))


def _while_slow(name: str, text: str) -> Callable[[FaultyHost], object]:
    return lambda host: (host.field(name, text), host.slow(0.31, "gpu1"))


def _old_card(host: FaultyHost, count: str, pending: str) -> None:
    """A card of Turing or before, which retires pages: both cards are of that kind."""
    host.made.cards = {address: old(card) for address, card in host.made.cards.items()}
    host.declared["gpu_rows"] = {H100: ROW | {"nvlinks": 0}}
    host.field("retired_pages/double_bit_retirement/retired_count", count)
    host.field("retired_pages/pending_retirement", pending)


def _unknown_to_driver(host: FaultyHost) -> None:
    del host.made.cards[CARD]


def _gone_from_bus(host: FaultyHost) -> None:
    del host.made.cards[CARD]
    for path in (host.made.root / "sys/bus/pci/devices" / CARD).iterdir():
        path.unlink()


def _a_link_down(host: FaultyHost) -> None:
    first, second = host.made.links.split("GPU 1:")
    host.made.links = f"{first}GPU 1:{second.replace('Link 3: 26.562 GB/s', 'Link 3: <inactive>')}"


def _errors_on_a_link(host: FaultyHost) -> None:
    first, second = host.made.link_errors.split("GPU 1:")
    host.made.link_errors = f"{first}GPU 1:{second.replace('Link 5: Replay Errors: 0', 'Link 5: Replay Errors: 12')}"


def _nothing_loaded(host: FaultyHost) -> None:
    host.made.remove("/proc/driver/nvidia/version")
    host.made.program("nvidia-smi", "exit 9")


def _no_module_for_next_kernel(host: FaultyHost) -> None:
    kernels = [
        {"release": "6.1.0-40-amd64", "running": True, "nvidia_module": True, "headers": True},
        {"release": "6.1.0-41-amd64", "bootable": True},
    ]
    package = {"package_name": "nvidia-kernel-open-dkms", "package_version": f"{DRIVER}-1"}
    versions = {"module_version": DRIVER, "library_version": DRIVER}
    host.observation = {"kernels": kernels, "driver": versions | package}


def _disk(path: str, **usage: int) -> Callable[[FaultyHost], object]:
    sound = {"f_bavail": 50, "f_blocks": 100, "f_frsize": 4096, "f_files": 100, "f_favail": 50, "f_flag": 0}

    def make(host: FaultyHost) -> None:
        found = disk.judge(path, SimpleNamespace(**{**sound, **usage}))
        host.more.append(found)

    return make


def _by_hand(kind: str) -> Callable[[FaultyHost], object]:
    def make(host: FaultyHost) -> None:
        host.plan = decide(test_drift.WANTED, test_drift.CAUSED[kind][0])

    return make


def _an_older_torch(host: FaultyHost) -> None:
    host.observation = {"environments": [environment(torch="2.12.0+cu130")]}


def _torch_of_another_version(host: FaultyHost) -> None:
    torch = SimpleNamespace(__version__="2.12.0+cu130", version=SimpleNamespace(cuda="13.0"))
    host.more += torch_build.check_torch(torch, {"version": "2.13.0", "variant": "cu130"})


def _no_gpu_in_torch(host: FaultyHost) -> None:
    """PyTorch sees no card, as where /dev/nvidia-uvm is missing; nvidia-smi, which does not need it, sees them all."""
    cuda = SimpleNamespace(is_available=lambda: False)
    torch = SimpleNamespace(__version__="2.13.0+cu130", version=SimpleNamespace(cuda="13.0"), cuda=cuda)
    host.more += torch_build.check_cuda(torch, "required", 2)


def _a_payload_that_is_killed(host: FaultyHost) -> None:
    read = payload_run.read({"exit_code": -9, "document": "", "stderr": "importing torch"}, VerifyVars())
    host.more += [asdict(check) for check in read.checks]


def _a_stage_that_dies(host: FaultyHost) -> None:
    question = {"declared": NOTHING_DECLARED, "level": "quick", "minutes": 0, "label": "gpu1"}
    host.more += Stage("no_such_task", "gpu1", question).finish(time.monotonic() + 60)["checks"]


def _below_datasheet(host: FaultyHost) -> None:
    figures = [{"key": "memory.bandwidth_gb_s", "value": 1400.0}]
    host.more += judge("gpu1", {"gpu_row": ROW, "limits": {"bandwidth_gb_s": 75}}, figures, lambda _: figures)


def _a_program(host: FaultyHost) -> None:
    host.field("fb_memory_usage/used", "40000 MiB")
    host.slow(0.31, "gpu1")


def _a_slow_rack(host: FaultyHost) -> None:
    host.groups = ["rack2"]
    host.slow(0.15)


def _slower_than_itself(host: FaultyHost) -> None:
    host.before = {label: value * 1.12 for label, value in host.tokens_per_s.items()}


def _other_gradients(host: FaultyHost) -> None:
    host.digests["gpu1.gradients"] = "b" * 64


def _fabric_not_joined(host: FaultyHost) -> None:
    host.field("fabric/state", "In Progress")
    host.field("fabric/status", "N/A")


_SMI = "1215, 2619, 402.10, 61, "  # clocks, power, temperature; then NVML's bits of what slows the card down
_CPU = "/sys/devices/system/cpu/cpu0"
_EVENTS = "clocks_event_reasons/clocks_event_reason_"
_RESET = rf"nvidia-smi --gpu-reset -i {CARD}"
_REPLACE = "replace|out of service"

FAULTS = (
    Fault("digest", _other_gradients, "GPU 1 .*corruption", _REPLACE, True),
    Fault(
        "row remapping failed", _field("remapped_rows/remapped_row_failure", "Yes"), "memory of GPU 1", _REPLACE, True
    ),
    Fault("61 retired pages", lambda host: _old_card(host, "61", "No"), "memory of GPU 1", _REPLACE, True),
    Fault("unrepairable memory", _field("ecc_errors/unrepairable_memory", "Yes"), "memory of GPU 1", _REPLACE, True),
    Fault(
        "SRAM threshold",
        _field("ecc_errors/aggregate/sram_threshold_exceeded", "Yes"),
        "memory of GPU 1",
        _REPLACE,
        True,
    ),
    Fault(
        "XID 79",
        _kernel(79, "pid='<unknown>', name=<unknown>, GPU has fallen off the bus."),
        "GPU 1 fell off the PCIe bus",
        "reboot",
        True,
    ),
    Fault(
        "XID 79 of a card that is gone",
        lambda host: host.kernel_says("NVRM: Xid (PCI:0000:99:00): 79, pid=1, GPU has fallen off the bus."),
        "fell off the PCIe bus",
        "reboot",
        True,
    ),
    Fault("a card that its driver lost", _unknown_to_driver, "GPU 1 fell off the PCIe bus", "reboot", True),
    Fault("XID 54", _kernel(54, "pid=1, Auxiliary power is not connected"), "GPU 1 .*(power|seating)", "reseat", True),
    Fault("XID 142", _kernel(142, "pid=1"), "GPU 1 .*error", "case with the vendor", True),
    Fault(
        "library of another version",
        lambda host: host.made.file("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.590.48.01", ""),
        "driver.*not of one version",
        "reboot",
        True,
    ),
    Fault("no module loaded", _nothing_loaded, "no module is loaded", "reboot", True),
    Fault("recovery: reboot", _field("gpu_recovery_action", "Reboot"), "GPU 1 asks for a reboot", "reboot", True),
    Fault("XID 151", _kernel(151, "pid=1"), "GPU 1 asks for a reboot", "reboot", True),
    Fault(
        "no module for the next kernel", _no_module_for_next_kernel, "kernel that .*boots has no NVIDIA module", "build"
    ),
    Fault("NVLink down", _a_link_down, "NVLinks of GPU 1", "reset all GPUs", True),
    Fault("NVLink errors", _errors_on_a_link, "NVLinks of GPU 1", "reset all GPUs", True),
    Fault("XID 74", _kernel(74, "pid=1, NVLink: fatal error detected on link 3"), "NVLinks of GPU 1", "reset", True),
    Fault("XID 145", _kernel(145, "RLW_SRC_TRACK Fatal XC0 i0 Link 03"), "NVLinks of GPU 1", "reset", True),
    Fault(
        "uncorrectable since load",
        _field("ecc_errors/volatile/dram_uncorrectable", "3"),
        "GPU 1 had memory errors",
        _RESET,
        True,
    ),
    Fault(
        "a row waits for its remapping",
        _field("remapped_rows/remapped_row_pending", "Yes"),
        "GPU 1 had memory errors",
        _RESET,
        True,
    ),
    Fault("a page waits", lambda host: _old_card(host, "2", "Yes"), "GPU 1 had memory errors", _RESET, True),
    Fault("XID 48", _kernel(48, "pid=1, DBE on GPU (00 02 02)"), "GPU 1 had memory errors", _RESET, True),
    Fault("XID 94", _kernel(94, "pid=1, Contained: SM (0x1)"), "GPU 1 had memory errors", _RESET, True),
    Fault("XID 95", _kernel(95, "pid=1, Uncontained: LTC TAG"), "GPU 1 had memory errors", _RESET, True),
    Fault(
        "XID 119",
        _kernel(119, "pid=2024380, name=nvidia-smi, Timeout after 6s of waiting for RPC response from GPU1 GSP!"),
        "GPU 1 stopped answering",
        _RESET,
        True,
    ),
    Fault("XID 154", _kernel(154, "GPU recovery action changed"), "GPU 1 stopped answering", _RESET, True),
    Fault("recovery: reset", _field("gpu_reset_status/reset_required", "Yes"), "GPU 1 stopped answering", _RESET, True),
    Fault(
        "fabric manager stopped",
        lambda host: host.made.program("systemctl", "echo failed; exit 3"),
        "NVLink fabric is not up",
        "name=nvidia-fabricmanager state=restarted",
    ),
    Fault("fabric not joined", _fabric_not_joined, "NVLink fabric is not up", "nvidia-fabricmanager"),
    Fault("a card gone from the bus", _gone_from_bus, "fewer GPUs", "reboot.*reseat", True),
    Fault(
        "nvidia-smi dies",
        lambda host: host.made.program("nvidia-smi", "echo Segmentation fault; exit 139"),
        "fewer GPUs answer",
        "dmesg",
        True,
    ),
    Fault(
        "eight lanes",
        _field("pci/pci_gpu_link_info/link_widths/current_link_width", "8x"),
        "GPU 1 .*slot.*lanes",
        "reseat",
        True,
    ),
    Fault("PCIe replays", _field("pci/replay_counter", "5000"), "GPU 1 .*slot", "reseat", True),
    Fault(
        "power brake",
        _while_slow(_EVENTS + "hw_power_brake_slowdown", "Active"),
        "GPU 1 .*power brake",
        "power supplies",
        True,
    ),
    # NVML: nvmlClocksEventReasonHwPowerBrakeSlowdown is 0x80, HwThermalSlowdown 0x40, HwSlowdown 0x08.
    Fault(
        "power brake under load",
        lambda host: host.under_load(_SMI + "0x0000000000000080"),
        "GPU 1 .*power brake",
        "power supplies",
        True,
    ),
    Fault("hot", _while_slow("temperature/gpu_temp_tlimit", "0 C"), "GPU 1 .*heat", "fans"),
    Fault("hot memory", _while_slow("temperature/memory_temp", "97 C"), "GPU 1 .*heat", "fans"),
    Fault("thermal slowdown", _while_slow(_EVENTS + "hw_thermal_slowdown", "Active"), "GPU 1 .*heat", "fans"),
    Fault("hot under load", lambda host: host.under_load(_SMI + "0x0000000000000040"), "GPU 1 .*heat", "fans|inlet"),
    Fault(
        "hot processors",
        _kernel_file(f"{_CPU}/thermal_throttle/package_throttle_count", "41", 0.2),
        "heat",
        "fans",
        cards=False,
    ),
    Fault("hardware slowdown", _while_slow(_EVENTS + "hw_slowdown", "Active"), "GPU 1 .*hardware", "cooling", True),
    Fault(
        "hardware slowdown under load",
        lambda host: host.under_load(_SMI + "0x0000000000000008"),
        "GPU 1 .*hardware",
        "power supply",
        True,
    ),
    Fault(
        "a lower power limit",
        _while_slow("gpu_power_readings/current_power_limit", "400.00 W"),
        "GPU 1 may draw less",
        rf"nvidia-smi -i {CARD} -pl",
    ),
    Fault("disk full", _disk("/", f_bavail=0), "disk is full", "room"),
    Fault("disk nearly full", _disk("/", f_bavail=3), "disk is full", "room"),
    Fault("disk read-only", _disk("/var/tmp", f_flag=os.ST_RDONLY), "read-only", "dmesg"),
    Fault(
        "package missing",
        lambda host: host.more.extend(packages.check_packages(["no-such-package==1.0"])),
        "packages are missing",
        "llmprov rebuild -i fleet.yml --limit bad0",
    ),
    Fault(
        "module missing",
        lambda host: host.more.extend(packages.check_imports(["no_such_module"])),
        "do not import",
        "llmprov rebuild -i fleet.yml --limit bad0",
    ),
    Fault("another torch loads", _torch_of_another_version, "environment is damaged", "llmprov rebuild"),
    Fault(
        "torch sees no GPU",
        _no_gpu_in_torch,
        "torch|PyTorch|GPU",
        "driver|nvidia-smi",
        wrong="the report calls the environment damaged and advises to rebuild it, and the driver is at fault",
    ),
    Fault("older torch", _an_older_torch, "not as it was declared", "llmprov provision -i fleet.yml --limit bad0"),
    Fault("another program", _a_program, "something else uses GPU 1", "verify again"),
    Fault(
        "powersave",
        _kernel_file(f"{_CPU}/cpufreq/scaling_governor", "powersave", 0.2),
        "processors .*governor",
        "performance",
        cards=False,
    ),
    Fault(
        "a quota that is set",
        _kernel_file("/sys/fs/cgroup/cpu.max", "50000 100000", 0.2),
        "processors .*quota",
        "lift the quota",
        cards=False,
    ),
    Fault("a quota that is felt", lambda host: host.starved(), "processors .*quota", "lift the quota", cards=False),
    Fault("the payload is killed", _a_payload_that_is_killed, "measurement .*killed", "evidence"),
    Fault("a stage dies", _a_stage_that_dies, "measurement crashed", "evidence"),
    Fault("a slow card", lambda host: host.slow(0.15, "gpu1"), "GPU 1 is slow", "reset.*swap", True),
    Fault("below its datasheet", _below_datasheet, "GPU 1 is slow", "reset", True),
    Fault("a slow rack", _a_slow_rack, "slow, and so are others", "power, cooling, switch", hosts=4),
    Fault("a slow host", lambda host: host.slow(0.15), "host is slow", "verify it alone", cards=False),
    Fault("slower than before", _slower_than_itself, "host is slow", "verify it alone"),
    Fault("package by hand", _by_hand("drift.packages"), "hand", "llmprov rebuild"),
    Fault("file by hand", _by_hand("drift.files"), "hand", "llmprov rebuild"),
    Fault("conda by hand", _by_hand("drift.conda"), "hand", "llmprov rebuild"),
    Fault("conda's files by hand", _by_hand("drift.conda_files"), "hand", "llmprov rebuild"),
)
