"""Fleets that do not exist, with faults planted in them: for tests, documentation, demonstrations and measurements.

Hosts carry what `verify` at the level quick brings back from machines of their kind: the same checks, figures and
units. The same seed gives the same fleet. What was planted is told beside the rows, so that what the report finds can
be held against it. Figures of sound cards are near those published for their kind; only their spread matters here.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from llmprov import __version__
from llmprov.knowledge import GPUS, Gpu
from llmprov.model import Check, CheckStatus, Device, HostReport, Measurement, Observation, Plan, RunInfo, Status
from llmprov.model.plan import Action, Kind
from llmprov.model.report import Converged, Failure

#: When simulated runs happen: the day of the first, and one more day with each higher seed.
EPOCH = datetime(2026, 1, 1, 6, 0, tzinfo=UTC)

#: Standard deviations, as fractions: from host to host, from card to card, from one reading to the next.
HOST_NOISE, CARD_NOISE, READING_NOISE = 0.007, 0.01, 0.005

RACK = 20
TORCH = "2.13.0+cu130"
DRIVER = "580.95.05"


@dataclass(frozen=True)
class Model:
    """One kind of machine: how many of which GPU, and what a sound one reaches."""

    gpu: str | None
    cards: int
    tokens_per_s: float
    tflops: float
    bandwidth_gb_s: float
    weight: int
    processor: str


MODELS = (
    Model("H100 SXM5 80GB", 8, 52_000, 715, 2_950, 25, "Intel(R) Xeon(R) Platinum 8480C"),
    Model("A100 SXM4 80GB", 8, 24_500, 255, 1_720, 15, "AMD EPYC 7763 64-Core Processor"),
    Model("L40S", 4, 17_800, 215, 690, 20, "AMD EPYC 9354 32-Core Processor"),
    Model("RTX 4090", 1, 15_900, 148, 910, 25, "AMD Ryzen 9 7950X 16-Core Processor"),
    Model(None, 0, 26_000, 0.32, 25, 15, "Intel(R) Xeon(R) Gold 6248R CPU @ 3.00GHz"),
)
_ROWS: dict[str, Gpu] = {gpu.name: gpu for gpu in GPUS.values()}


@dataclass
class Simulated:
    """A fleet, and what was planted in it: host -> name of the fault."""

    run: RunInfo
    rows: list[HostReport]
    planted: dict[str, str] = field(default_factory=dict)


def fleet(count: int, seed: int = 0, faults: float = 0.04) -> Simulated:
    """`count` hosts in racks of twenty of one kind; about the part `faults` of them has something.

    Sizes and kinds are the same for every seed, as is what cards and hosts are worth; readings are not. A seed is a
    day; faults stay for some days and go.
    """
    started = EPOCH + timedelta(days=seed)
    run = RunInfo(
        id=f"{started:%Y%m%dT%H%M%SZ}-{hashlib.sha256(f'{count} {seed}'.encode()).hexdigest()[:6]}",
        command="verify",
        started=started,
        finished=started + timedelta(minutes=4, seconds=12),
        outcome="finished",
        inventory=["fleet.yml"],
        simulated=True,
        versions={"llmprov": __version__},
    )
    made = Simulated(run, [])
    weights = [model.weight for model in MODELS]
    for rack in range((count + RACK - 1) // RACK):
        # Small fleets are of one kind, so that there is something to compare.
        model = random.Random(f"rack {rack}").choices(MODELS, weights)[0] if count > 2 * RACK else MODELS[0]
        for place in range(min(RACK, count - rack * RACK)):
            name = f"{(model.gpu or 'cpu').split()[0].lower()}-r{rack:03d}-n{place:02d}"
            host = _Host(name, f"rack{rack:03d}", model, seed)
            fault, dice = _fault(name, model, seed, faults)
            if fault:
                FAULTS[fault][0](host, dice)
                made.planted[name] = fault
            made.rows.append(host.finish())
    return made


def _fault(name: str, model: Model, day: int, part: float) -> tuple[str, random.Random]:
    """The fault of a host on a day, if it has one, and the dice that say how bad: the same for as long as it lasts."""
    dice = random.Random(f"faults {name}")
    days = dice.randint(1, 6)
    period = max(round(days / part), days) if part > 0 else 0
    since_epoch = day + dice.randrange(period) if period else 0
    if not period or since_epoch % period >= days:
        return "", dice
    again = random.Random(f"fault {name} {since_epoch // period}")
    return again.choice([fault for fault, (_, gpus) in FAULTS.items() if model.gpu or not gpus]), again


class _Host:
    """A sound host, to be spoilt and then finished."""

    def __init__(self, name: str, rack: str, model: Model, seed: int) -> None:
        self.name, self.model, self.labels = name, model, [f"gpu{i}" for i in range(model.cards)] or ["cpu"]
        # What a machine is worth stays; how a reading comes out changes from run to run.
        worth, self.dice = random.Random(f"worth {name}"), random.Random(f"{seed} {name}")
        own = worth.gauss(1, HOST_NOISE)
        self.factor = {label: own * worth.gauss(1, CARD_NOISE) for label in self.labels}
        self.told: dict[str, Check] = {}
        self.row = HostReport(
            host=name,
            status=Status.PASS,
            groups=["gpu" if model.gpu else "cpu", rack],
            observation=_observation(model),
            plan=Plan(),
            converged=Converged(tasks=1),
            level="quick",
            torch=TORCH if model.gpu else "2.13.0+cpu",
            python="3.12.4",
            device=_marketing(model.gpu) if model.gpu else "cpu",
            devices=[self._device(index) for index in range(model.cards)],
            elapsed_s={"verify": round(self.dice.uniform(38, 55), 1)},
        )

    def _device(self, index: int) -> Device:
        gpu = _ROWS[self.model.gpu or ""]
        return Device(
            label=f"gpu{index}",
            name=_marketing(gpu.name),
            address=_address(index),
            device_id=gpu.ids[0],
            uuid=f"GPU-{_sha(f'{self.name} {index}')[:12]}",
            serial=str(1650000000000 + int(_sha(f"{self.name} serial {index}")[:6], 16)),
        )

    def tell(self, name: str, status: str, summary: str, **more: object) -> None:
        """A finding in the place of the sound one of that name."""
        self.told[name] = Check(id=name, status=CheckStatus(status), summary=summary, **more)  # type: ignore[arg-type]

    def slow(self, part: float, labels: list[str]) -> None:
        """Make devices slower by a fraction, in all figures that depend on clocks."""
        for label in labels:
            self.factor[label] *= 1 - part

    def finish(self) -> HostReport:
        """The row; a host that answered carries checks, figures and digests."""
        if self.row.status in (Status.UNREACHABLE, Status.REFUSED, Status.NOT_RUN) or self.row.failures:
            return self.row.model_copy(update={"torch": None, "devices": [], "elapsed_s": {}, "level": None})
        checks = {check.id: check for check in self._health()} | self.told
        self.row.checks = list(checks.values())
        self.row.measurements = [m for label in self.labels for m in self._figures(label)]
        given = {f"{label}.{name}" for label in self.labels for name in ("gradients", "loss", "matmul")}
        sound = {key: _sha(f"{self.model.gpu} {key.partition('.')[2]}") for key in sorted(given)}
        self.row.digests = sound | self.row.digests
        bad = sorted(
            (c for c in self.row.checks if c.status is not CheckStatus.PASS),
            key=lambda c: c.status is not CheckStatus.FAIL,
        )
        if bad and self.row.status is Status.PASS:
            worst = bad[0]
            self.row.status, self.row.summary = Status(worst.status.value), worst.summary
            self.row.remedy = next((c.remedy for c in bad if c.remedy), "")
        return self.row

    def _health(self) -> list[Check]:
        found = [Check(id=name, status=CheckStatus.PASS, **about) for name, about in _HOST_CHECKS.items()]
        free = self.dice.uniform(0.4, 0.9)
        found.append(_passed("disk.root", f"/ has {free * 900:.0f} GB free", round(free, 3), 0.05, "fraction"))
        found.append(_passed("memory.available", f"{free:.0%} of memory is free", round(free, 3), 0.1, "fraction"))
        found.append(_passed("train.loss", "the loss is finite", 0.0203, "finite", "nats"))
        if self.model.gpu:
            number = self.model.cards
            found.append(_passed("gpu.count", f"{number} GPUs are there", number, number, "GPUs"))
            found.append(_passed("torch.cuda", f"torch sees {number} GPUs", number, number, "GPUs"))
        for index, label in enumerate(self.labels if self.model.gpu else []):
            found += self._card(label, f"GPU {index} ({_address(index)})")
        return found

    def _card(self, label: str, name: str) -> list[Check]:
        heat = round(self.dice.uniform(31, 48))
        sound = [_passed(f"{label}.{key}", text % name, now, want, unit) for key, text, now, want, unit in _CARD_CHECKS]
        sound.append(_passed(f"{label}.temperature", f"{name} is at {heat} C", heat, 87, "C"))
        sound.append(_passed(f"{label}.train.loss", f"the loss of {label} stayed sound", 10.9, 16.2, "nats"))
        return sound

    def _figures(self, label: str) -> list[Measurement]:
        model, scale = self.model, self.factor[label]

        def read(value: float, count: int = 0) -> tuple[float, list[float]]:
            samples = [float(f"{value * scale * self.dice.gauss(1, READING_NOISE):.6g}") for _ in range(count or 1)]
            return sorted(samples)[len(samples) // 2], samples if count else []

        found = []
        for key, value, unit in (
            ("memory.bandwidth_gb_s", model.bandwidth_gb_s, "GB/s"),
            *((f"matmul.tflops_{p}", model.tflops * f, "TFLOP/s") for p, f in (_PRECISIONS if model.gpu else _FP32)),
        ):
            middle, samples = read(value, 10)
            found.append(Measurement(key=key, value=middle, unit=unit, device=label, samples=samples))
            found.append(Measurement(key=f"{key}.p5", value=min(samples), unit=unit, device=label))
            found.append(Measurement(key=f"{key}.p95", value=max(samples), unit=unit, device=label))
        rate, _ = read(model.tokens_per_s)
        step_ms = 8192 / rate * 1000
        steps = [float(f"{step_ms * self.dice.gauss(1, READING_NOISE):.6g}") for _ in range(20)]
        more = {
            "train.tokens_per_s": (rate, "tokens/s"),
            "train.step_time_ms": (sorted(steps)[10], "ms"),
            "train.step_time_p95_ms": (sorted(steps)[18], "ms"),
            "train.tflops": (model.tflops * scale * 0.55, "TFLOP/s"),
            "train.parameters": (355e6 if model.gpu else 672384, "parameters"),
            "train.of_matmul": (0.55, "fraction"),
        }
        for key, (value, unit) in more.items():
            samples = steps if key == "train.step_time_ms" else []
            found.append(Measurement(key=key, value=float(f"{value:.6g}"), unit=unit, device=label, samples=samples))
        return found


_PRECISIONS = (("bf16", 1.0), ("fp16", 0.99), ("tf32", 0.5), ("fp32", 0.07))
_FP32 = (("fp32", 1.0),)
_HOST_CHECKS: dict[str, dict[str, Any]] = {
    "python.version": {"summary": "Python 3.12.4", "measured": "3.12.4"},
    "driver.versions": {"summary": f"the driver is {DRIVER} throughout", "measured": DRIVER, "expected": DRIVER},
    "xid": {"summary": "no XID since boot", "measured": 0, "expected": 0, "unit": "XIDs"},
    "memory.ecc": {
        "summary": "the host's memory has had no error since boot",
        "measured": 0,
        "expected": 0,
        "unit": "errors",
    },
    "cpu.governor": {"summary": "the processors' governor is performance", "measured": "performance"},
    "cpu.quota": {"summary": "no quota holds the processors back"},
    "network.eth0": {"summary": "eth0 runs at 100 Gbit/s", "measured": 100.0, "expected": 100, "unit": "Gbit/s"},
    "torch.version": {"summary": f"torch is {TORCH}", "measured": TORCH, "expected": TORCH},
    "train.accuracy": {"summary": "the classifier learned", "measured": 1.0, "expected": 0.95, "unit": "fraction"},
    "declared.python": {"summary": "python is as declared"},
    "declared.miniconda": {"summary": "miniconda is as declared"},
    "declared.conda_env": {"summary": "conda_env is as declared"},
    "declared.pytorch": {"summary": "pytorch is as declared"},
}
_CARD_CHECKS: tuple[tuple[str, str, str | int | bool | None, str | int | bool | None, str], ...] = (
    ("present", "%s is there", True, True, ""),
    ("recovery", "%s needs no reset", "none", "none", ""),
    ("ecc_mode", "ECC of %s is on", "on", None, ""),
    ("ecc_volatile", "%s has had no uncorrectable memory error, 0 corrected", 0, 0, "errors"),
    ("ecc_aggregate", "%s never had one", 0, 0, "errors"),
    ("row_remap", "%s remapped 0 rows, none is waiting", 0, None, "rows"),
    ("pcie_width", "%s runs on all 16 PCIe lanes", 16, 16, "lanes"),
    ("pcie_generation", "%s runs PCIe generation 5 of 5", 5, 5, "generation"),
    ("pcie_errors", "no PCIe error to speak of on %s", 0, 1000, "errors"),
    ("clocks", "nothing slows %s down", "gpu_idle", "none", ""),
    ("power_limit", "%s may draw 700 W", 700, 700, "W"),
    ("persistence", "%s is kept ready", "enabled", "enabled", ""),
    ("mig", "MIG of %s is disabled", "disabled", "disabled", ""),
    ("processes", "%s is free", 0, 0, "programs"),
)


def _passed(name: str, summary: str, measured: object, expected: object, unit: str) -> Check:
    return Check(
        id=name,
        status=CheckStatus.PASS,
        summary=summary,
        measured=measured,  # type: ignore[arg-type]
        expected=expected,  # type: ignore[arg-type]
        unit=unit,
    )


def _observation(model: Model) -> Observation:
    devices = [{"address": _address(index), "device_id": _ROWS[model.gpu or ""].ids[0]} for index in range(model.cards)]
    return Observation.model_validate(
        {
            "python": "/usr/bin/python3",
            "python_version": "3.11.2",
            "os": {"id": "ubuntu", "version_id": "24.04", "architecture": "x86_64", "kernel": "6.8.0-85-generic"},
            "devices": devices,
            "driver": {"module_version": DRIVER, "library_version": DRIVER} if devices else {},
            "cpu_count": 32,
            "cpu_model": model.processor,
            "memory_gb": 2048.0 if model.cards == 8 else 256.0,
        }
    )


def _marketing(name: str) -> str:
    return f"NVIDIA {name}"


def _address(index: int) -> str:
    return f"0000:{(0x1B, 0x43, 0x52, 0x61, 0x9D, 0xC3, 0xD1, 0xDF)[index]:02x}:00.0"


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# -- faults ------------------------------------------------------------------------------------------------------

Fault = Callable[[_Host, random.Random], None]


def _slow_card(host: _Host, dice: random.Random) -> None:
    host.slow(dice.uniform(0.08, 0.3), [dice.choice(host.labels)])


def _slow_host(host: _Host, dice: random.Random) -> None:
    host.slow(dice.uniform(0.08, 0.3), host.labels)


def _power_brake(host: _Host, dice: random.Random) -> None:
    label = dice.choice(host.labels)
    host.slow(0.31, [label])
    why = "hardware power brake in 40 of 40 readings"
    summary = f"{label} was held back while it trained: {why}"
    remedy = "see to that first, then verify again: the figures are those of a machine held back"
    evidence = "power_w 402, sm_clock_mhz 1215, temperature_c 51"
    host.tell(
        f"{label}.train.held_back", "warn", summary, measured=why, expected="nothing", evidence=evidence, remedy=remedy
    )


def _heat(host: _Host, dice: random.Random) -> None:
    label = dice.choice(host.labels)
    host.slow(0.18, [label])
    summary = f"GPU {label[3:]} is at 88 C and slows down"
    remedy = "check fans, air flow and inlet temperature"
    host.tell(
        f"{label}.temperature",
        "fail",
        summary,
        measured=88,
        expected=87,
        unit="C",
        evidence="slows down at 87 C",
        remedy=remedy,
    )


def _xid(host: _Host, dice: random.Random) -> None:
    index = dice.randrange(host.model.cards)
    line = f"NVRM: Xid (PCI:{_address(index)[:-2]}): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
    summary = f"XID 79 (ROBUST_CHANNEL_GPU_HAS_FALLEN_OFF_THE_BUS) 1 times on GPU {index} ({_address(index)})"
    remedy = "drain the host and reboot it; if it comes again, have the card looked at"
    host.tell(f"gpu{index}.xid.79", "fail", summary, measured=1, expected=0, unit="times", evidence=line, remedy=remedy)


def _ecc(host: _Host, dice: random.Random) -> None:
    label = dice.choice(host.labels)
    summary = f"GPU {label[3:]} has had 3 uncorrectable memory errors since its driver was loaded"
    host.tell(f"{label}.ecc_volatile", "fail", summary, measured=3, expected=0, unit="errors", remedy="reset the GPU",
              evidence="dram_uncorrectable=3")  # fmt: skip


def _row_remap(host: _Host, dice: random.Random) -> None:
    label = dice.choice(host.labels)
    host.tell(f"{label}.row_remap", "fail", f"GPU {label[3:]} could not remap a bad row", measured=True, expected=False,
              evidence="uncorrectable=9 corrected=0 pending=False failure=True",
              remedy="drain the host and have the card replaced")  # fmt: skip


def _pcie(host: _Host, dice: random.Random) -> None:
    label = dice.choice(host.labels)
    host.tell(f"{label}.pcie_width", "fail", f"GPU {label[3:]} runs on 8 PCIe lanes of 16", measured=8, expected=16,
              unit="lanes", remedy="reseat the card or its riser")  # fmt: skip


def _digest(host: _Host, dice: random.Random) -> None:
    label = dice.choice(host.labels)
    host.row.digests = {f"{label}.gradients": _sha(f"wrong {host.row.host}")}


def _drift(host: _Host, dice: random.Random) -> None:
    why = "torch 2.12.1 is there where 2.13.0 is declared"
    host.tell("declared.pytorch", "fail", f"pytorch: {why}", measured="2.12.1", expected="2.13.0",
              remedy="run `llmprov provision -i INVENTORY`")  # fmt: skip
    host.row.drift = [Action(component="pytorch", kind=Kind.UPGRADE, before="2.12.1", after="2.13.0", why=why)]


def _disk(host: _Host, dice: random.Random) -> None:
    host.tell("disk.root", "warn", "/ has 21 GB free", measured=0.023, expected=0.05, unit="fraction",
              evidence="21 GB free (2 %), 97 % of inodes free", remedy="make room")  # fmt: skip


def _unreachable(host: _Host, dice: random.Random) -> None:
    words = f"ssh: connect to host {host.row.host} port 22: Connection timed out"
    remedy = "check that the host is up and that its address and the firewall let you reach it"
    host.row = host.row.model_copy(
        update={"status": Status.UNREACHABLE, "summary": words, "remedy": remedy, "observation": None, "plan": None}
    )


def _refused(host: _Host, dice: random.Random) -> None:
    words = "the cu130 wheel does not fit driver 535.183.01"
    remedy = "install a driver of version 580.65.06 or later, or set pytorch_variant to `cu126`"
    host.row = host.row.model_copy(update={"status": Status.REFUSED, "summary": words, "remedy": remedy})


def _failed(host: _Host, dice: random.Random) -> None:
    task, words = "Ensure the environment's Python and packages are as declared", "uv: No space left on device"
    failure = Failure(stage="converge", task=task, message=words, remedy="make room on the host and run again")
    host.row = host.row.model_copy(
        update={"status": Status.FAIL, "summary": f"{task}: {words}", "remedy": failure.remedy, "failures": [failure]}
    )


#: Name -> (what spoils a host, whether it needs GPUs).
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
