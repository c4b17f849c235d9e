"""Memory bandwidth: a copy within the device, bytes read and bytes written, of buffers several times its caches."""

from __future__ import annotations

from typing import Any, Dict, List

from llmprov.payload.document import measurement
from llmprov.payload.measure.device import GIB, Device
from llmprov.payload.measure.figures import median, percentile

#: Bytes of each of the two buffers; a host with less to spare gets smaller ones.
CPU_BYTES, CUDA_BYTES = 128 << 20, GIB

REPEATS_CPU, REPEATS_CUDA = 7, 50


def measure(device: Device) -> List[Dict[str, Any]]:
    """`memory.bandwidth_gb_s` with its 5th and 95th percentile, in GB/s (10^9 bytes)."""
    size = CUDA_BYTES if device.is_cuda else CPU_BYTES
    size = max(min(max(size, 8 * device.l2_bytes()), device.free_bytes() // 8), 1 << 20)
    torch = device.torch
    source = torch.rand(size // 4, dtype=torch.float32, device=device.device)
    target = torch.empty_like(source)
    seconds = device.times_s(lambda: target.copy_(source), REPEATS_CUDA if device.is_cuda else REPEATS_CPU)
    rates = [2 * source.numel() * 4 / second / 1e9 for second in seconds]
    return spread("memory.bandwidth_gb_s", rates, "GB/s", device.label)


def spread(key: str, values: List[float], unit: str, label: str) -> List[Dict[str, Any]]:
    """The median of readings under `key`, and their 5th and 95th percentile beside it."""
    return [
        measurement(key, median(values), unit, values, label),
        measurement(key + ".p5", percentile(values, 0.05), unit, device=label),
        measurement(key + ".p95", percentile(values, 0.95), unit, device=label),
    ]
