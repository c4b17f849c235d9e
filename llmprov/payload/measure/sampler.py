"""Why a device is slow: clocks, power, temperature and the driver's reasons, sampled while something else is timed."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections import Counter
from typing import Any, Dict, List, Optional

from llmprov.payload.measure.figures import median

#: Seconds between two readings of a card.
PERIOD_S = 0.2

#: More readings than this are thinned out.
MOST_READINGS = 5000

#: Bits of NVML's clock event reasons. Source: nvml.h, nvmlClocksEventReason*.
NVML_REASONS = {
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}

#: What is named when it was seen in at least this part of the readings. A power cap is how cards work under load.
PART = 0.1
USUAL = ("software power cap",)


#: A process that got less than the first part of the processors it asked for, while they idled more than the second.
CPU_SHARE, CPU_IDLE = 0.6, 0.3


class Sampler:
    """Samples while its block runs. For processors it compares the time they gave with the time that passed."""

    def __init__(self, label: str, threads: int) -> None:
        self.label, self.threads = label, threads
        self.readings: List[Dict[str, float]] = []
        self.count, self.period_s = 0, PERIOD_S
        self.seen: "Counter[str]" = Counter()
        self._stop = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._cpu: Dict[str, float] = {}

    def __enter__(self) -> "Sampler":
        if self.label == "cpu":
            self._began = (time.perf_counter(), _cpu_seconds(), _throttled_s(), _stat_s())
        else:
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join(timeout=5)
            return
        wall, used, throttled, stat = self._began
        elapsed = max(time.perf_counter() - wall, 1e-9)
        self._cpu["cpu_share_fraction"] = (_cpu_seconds() - used) / (elapsed * self.threads)
        now = _throttled_s()
        if throttled is not None and now is not None:
            self._cpu["cpu_throttled_fraction"] = (now - throttled) / elapsed
        for name, seconds in _stat_s().items():
            self._cpu["cpu_%s_fraction" % name] = (seconds - stat[name]) / (elapsed * (os.cpu_count() or 1))

    def _sample(self) -> None:
        card = Nvml.card(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        while card is not None and not self._stop.is_set():
            reading, reasons = card.read()
            self.readings.append(reading)
            self.seen.update(reasons)
            self.count += 1
            if len(self.readings) > MOST_READINGS:
                # A soak of days: every other reading is enough, and so is half as often from here on.
                self.readings = self.readings[::2]
                self.period_s *= 2
            self._stop.wait(self.period_s)

    def figures(self) -> Dict[str, float]:
        """Medians of what was sampled; keys end in their unit."""
        keys = sorted({key for reading in self.readings for key in reading})
        found = {key: median([reading[key] for reading in self.readings if key in reading]) for key in keys}
        return {**found, **self._cpu}

    def reasons(self) -> List[str]:
        """What held the device back, in words."""
        total = max(self.count, 1)
        found = [
            "%s in %d of %d readings" % (reason, count, total)
            for reason, count in self.seen.most_common()
            if count / total >= PART and reason not in USUAL
        ]
        throttled = self._cpu.get("cpu_throttled_fraction", 0.0)
        if throttled > PART:
            found.append("a CPU quota stopped it for %.0f %% of the time" % (100 * min(throttled, 1.0)))
        stolen, idle = (self._cpu.get("cpu_%s_fraction" % name, 0.0) for name in ("stolen", "idle"))
        share = self._cpu.get("cpu_share_fraction", 1.0)
        # A quota that cannot be seen from here: it waited while there were processors to be had. Where there were none,
        # the machine was busy, and that is nobody's fault.
        if share < CPU_SHARE and idle > CPU_IDLE and throttled <= PART:
            words = (share * self.threads, self.threads, 100 * idle)
            found.append("it got %.1f of %d processors, which idled %.0f %% of the time: a quota" % words)
        if stolen > PART:
            found.append("the hypervisor gave %.0f %% of the processors to others" % (100 * stolen))
        return found


def _cpu_seconds() -> float:
    used = os.times()
    return used.user + used.system


def _throttled_s() -> Optional[float]:
    """Seconds for which a quota of this control group stopped its processes; None where that is not told."""
    for path, key, scale in (
        ("/sys/fs/cgroup/cpu.stat", "throttled_usec", 1e-6),
        ("/sys/fs/cgroup/cpu/cpu.stat", "throttled_time", 1e-9),
    ):
        try:
            with open(path, encoding="utf-8") as handle:
                rows = dict(line.split() for line in handle if len(line.split()) == 2)
        except OSError:
            continue
        if key in rows:
            return float(rows[key]) * scale
    return None


def _stat_s() -> Dict[str, float]:
    """Seconds of all processors since boot, from /proc/stat: `idle`, and `stolen` by the hypervisor for others."""
    with open("/proc/stat", encoding="utf-8") as handle:
        ticks = [int(word) / os.sysconf("SC_CLK_TCK") for word in handle.readline().split()[1:]]
    return {"idle": ticks[3] + ticks[4], "stolen": ticks[7] if len(ticks) > 7 else 0.0}


class Nvml:
    """A card through the driver's own library, NVML, by its UUID."""

    def __init__(self, library: Any, handle: Any) -> None:
        self.library, self.handle = library, handle

    @classmethod
    def card(cls, uuid: str) -> Any:
        """The card, by NVML; where that is not to be had by nvidia-smi; None where neither answers."""
        try:
            library = ctypes.CDLL("libnvidia-ml.so.1")
            handle = ctypes.c_void_p()
            if library.nvmlInit_v2() == 0 and not library.nvmlDeviceGetHandleByUUID(
                uuid.encode(), ctypes.byref(handle)
            ):
                return cls(library, handle)
        except (OSError, AttributeError):
            pass
        return Smi.card(uuid)

    def read(self) -> Any:
        """One reading: figures, and the names of the active reasons."""
        found: Dict[str, float] = {}
        for key, name, arguments, scale in (
            ("sm_clock_mhz", "nvmlDeviceGetClockInfo", (1,), 1.0),
            ("memory_clock_mhz", "nvmlDeviceGetClockInfo", (2,), 1.0),
            ("power_w", "nvmlDeviceGetPowerUsage", (), 1e-3),
            ("temperature_c", "nvmlDeviceGetTemperature", (0,), 1.0),
            ("pcie_generation", "nvmlDeviceGetCurrPcieLinkGeneration", (), 1.0),
            ("pcie_most_generation", "nvmlDeviceGetMaxPcieLinkGeneration", (), 1.0),
        ):
            value = ctypes.c_uint()
            # A driver newer than this may have done away with one.
            ask = getattr(self.library, name, None)
            if ask is not None and ask(self.handle, *arguments, ctypes.byref(value)) == 0:
                found[key] = value.value * scale
        bits = ctypes.c_ulonglong()
        ask = getattr(self.library, "nvmlDeviceGetCurrentClocksThrottleReasons", None)
        if ask is None or ask(self.handle, ctypes.byref(bits)) != 0:
            return found, []
        return found, [name for bit, name in NVML_REASONS.items() if bits.value & bit] + slow_link(found)


def slow_link(reading: Dict[str, float]) -> List[str]:
    """A link that stays slow while the card works: an idle card slows it down, a working one does not."""
    now, most = reading.get("pcie_generation"), reading.get("pcie_most_generation")
    return ["PCIe generation %d of %d" % (now, most)] if now and most and now < most else []


class Smi:
    """A card through nvidia-smi, where its library cannot be loaded: the same figures, asked for one by one."""

    QUERY = "clocks.sm,clocks.mem,power.draw,temperature.gpu,clocks_throttle_reasons.active"
    KEYS = ("sm_clock_mhz", "memory_clock_mhz", "power_w", "temperature_c")

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid

    @classmethod
    def card(cls, uuid: str) -> "Optional[Smi]":
        """The card; None where nvidia-smi does not answer."""
        card = cls(uuid)
        return card if card.read()[0] else None

    def read(self) -> Any:
        """One reading, as of `Nvml`."""
        from llmprov.payload.health.machine import Machine

        asked = "--query-gpu=" + self.QUERY
        said = Machine().run("nvidia-smi", asked, "--format=csv,noheader,nounits", "-i", self.uuid, timeout_s=5) or ""
        return parse_smi(said)


def parse_smi(said: str) -> Any:
    """Figures and reasons from one line of nvidia-smi's CSV."""
    words = [word.strip() for word in (said.splitlines() or [""])[0].split(",")]
    found: Dict[str, float] = {}
    for key, word in zip(Smi.KEYS, words):
        try:
            found[key] = float(word)
        except ValueError:
            continue
    try:
        bits = int(words[4], 16) if len(words) > 4 else 0
    except ValueError:
        bits = 0
    return found, [name for bit, name in NVML_REASONS.items() if bits & bit]
