"""Stand-ins for hosts: the checks, figures and digests of a machine that does not exist.

The figures of sound cards are near those published for their kind. Only their spread matters here.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Any

from llmprov.knowledge import GPUS, Gpu
from llmprov.model import Check, CheckStatus, Device, HostReport, Measurement, Observation, Plan, Status
from llmprov.model.report import Converged

#: Standard deviations, as fractions: from host to host, from card to card, from one reading to the next.
HOST_NOISE, CARD_NOISE, READING_NOISE = 0.007, 0.01, 0.005

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


class Host:
    """A sound host: a fault may change it, then `finish` makes its row."""

    def __init__(self, name: str, rack: str, model: Model, seed: int) -> None:
        self.name, self.model, self.labels = name, model, [f"gpu{i}" for i in range(model.cards)] or ["cpu"]
        # How fast a machine is stays the same from run to run; its readings do not.
        worth, self.dice = random.Random(f"worth {name}"), random.Random(f"{seed} {name}")
        own = worth.gauss(1, HOST_NOISE)
        self.factor = {label: own * worth.gauss(1, CARD_NOISE) for label in self.labels}
        self.findings: dict[str, Check] = {}
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
            address=address(index),
            device_id=gpu.ids[0],
            uuid=f"GPU-{sha(f'{self.name} {index}')[:12]}",
            serial=str(1650000000000 + int(sha(f"{self.name} serial {index}")[:6], 16)),
        )

    def add(self, name: str, status: str, summary: str, **more: object) -> None:
        """Replace the sound check of that id by this finding."""
        self.findings[name] = Check(id=name, status=CheckStatus(status), summary=summary, **more)  # type: ignore[arg-type]

    def slow(self, part: float, labels: list[str]) -> None:
        """Make devices slower by a fraction, in all figures that depend on clocks."""
        for label in labels:
            self.factor[label] *= 1 - part

    def finish(self) -> HostReport:
        """The row; a host that answered carries checks, figures and digests."""
        if self.row.status in (Status.UNREACHABLE, Status.REFUSED, Status.NOT_RUN) or self.row.failures:
            return self.row.model_copy(update={"torch": None, "devices": [], "elapsed_s": {}, "level": None})
        checks = {check.id: check for check in self._health()} | self.findings
        self.row.checks = list(checks.values())
        self.row.measurements = [m for label in self.labels for m in self._figures(label)]
        given = {f"{label}.{name}" for label in self.labels for name in ("gradients", "loss", "matmul")}
        sound = {key: sha(f"{self.model.gpu} {key.partition('.')[2]}") for key in sorted(given)}
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
            found += self._card(label, f"GPU {index} ({address(index)})")
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
    devices = [{"address": address(index), "device_id": _ROWS[model.gpu or ""].ids[0]} for index in range(model.cards)]
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


def address(index: int) -> str:
    """The PCI address of a card by its number."""
    return f"0000:{(0x1B, 0x43, 0x52, 0x61, 0x9D, 0xC3, 0xD1, 0xDF)[index]:02x}:00.0"


def sha(text: str) -> str:
    """A SHA-256 digest in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()
