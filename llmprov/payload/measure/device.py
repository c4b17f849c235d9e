"""One device to measure on: a CUDA card or the processors, and how time is taken on it."""

from __future__ import annotations

import re
import time
from typing import Any, Callable, List, Optional

GIB = 1 << 30

#: Where a card does not tell the size of its L2, in bytes: the largest known to us (B200, 126 MB), rounded up.
L2_BYTES = 128 << 20


class Device:
    """A device with its label in figures (`cpu`, `gpu3`). Takes torch as an argument, as all measuring does."""

    def __init__(self, torch: Any, label: str, index: int = 0) -> None:
        self.torch, self.label = torch, label
        self.is_cuda = label != "cpu"
        # A card's process sees that card alone, as CUDA_VISIBLE_DEVICES names it; those of a world see all of them.
        self.device = torch.device("cuda:%d" % index if self.is_cuda else "cpu")
        if self.is_cuda:
            torch.cuda.set_device(index)

    @property
    def name(self) -> str:
        """The card's or processor's own name."""
        if self.is_cuda:
            return str(self.torch.cuda.get_device_name(self.device))
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as handle:
            match = re.search(r"^model name\s*:\s*(.+)$", handle.read(), re.M)
        return match.group(1) if match else "cpu"

    def capability(self) -> int:
        """Compute capability as one number, 90 for 9.0; 0 for processors."""
        major, minor = self.torch.cuda.get_device_capability(self.device) if self.is_cuda else (0, 0)
        return int(major * 10 + minor)

    def has_bf16(self) -> bool:
        """Whether bf16 is done by the hardware: from Ampere on."""
        return self.capability() >= 80

    def wait(self) -> None:
        """Return when all work given to the device is done."""
        if self.is_cuda:
            self.torch.cuda.synchronize()

    def free_bytes(self) -> int:
        """Memory that may be taken, in bytes."""
        if self.is_cuda:
            return int(self.torch.cuda.mem_get_info()[0])
        with open("/proc/meminfo", encoding="utf-8") as handle:
            match = re.search(r"^MemAvailable:\s+(\d+) kB", handle.read(), re.M)
        return int(match.group(1)) * 1024 if match else GIB

    def l2_bytes(self) -> int:
        """The size of a card's L2, in bytes; 0 for processors."""
        if not self.is_cuda:
            return 0
        return int(getattr(self.torch.cuda.get_device_properties(self.device), "L2_cache_size", 0) or L2_BYTES)

    def times_s(self, work: Callable[[], object], repeats: int, warm_up: int = 2) -> List[float]:
        """Seconds of each of `repeats` calls; on a card by CUDA events, with its L2 flushed before each."""
        for _ in range(warm_up):
            work()
        if not self.is_cuda:
            return [self._wall_s(work) for _ in range(repeats)]
        flush = self.torch.empty(2 * self.l2_bytes(), dtype=self.torch.int8, device=self.device)
        pairs = []
        for _ in range(repeats):
            flush.zero_()
            pair = [self.torch.cuda.Event(enable_timing=True) for _ in range(2)]
            pair[0].record()
            work()
            pair[1].record()
            pairs.append(pair)
        self.wait()
        return [begin.elapsed_time(end) / 1000 for begin, end in pairs]

    @staticmethod
    def _wall_s(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an error says that something did not fit."""
        kind: Optional[type] = getattr(self.torch.cuda, "OutOfMemoryError", None)
        if kind is not None and isinstance(error, kind):
            return True
        return isinstance(error, MemoryError) or "not enough memory" in str(error) or "out of memory" in str(error)
