"""Matmul rate: the most that matrices of good shapes reach, in every precision that the hardware has."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Tuple

from llmprov.payload.document import measurement
from llmprov.payload.measure.bandwidth import spread
from llmprov.payload.measure.device import Device
from llmprov.payload.measure.figures import median

Shape = Tuple[int, int, int]

#: (M, N, K) among which the best is looked for. The last three are shapes that public matmul finders report as the
#: best of A100, H100 and their like; cubes alone miss the peak by some percent.
CUDA_SHAPES: List[Shape] = [
    (4096, 4096, 4096),
    (8192, 8192, 8192),
    (8192, 8192, 4096),
    (16384, 8192, 4096),
    (8192, 16384, 8192),
    (5120, 10240, 5120),
    (1024, 10240, 5120),
    (6144, 17920, 2816),
    (2304, 5120, 1536),
]
CPU_SHAPES: List[Shape] = [(1024, 1024, 1024)]

SEARCH_REPEATS, REPEATS_CUDA, REPEATS_CPU = 5, 50, 10


def precisions(device: Device) -> List[str]:
    """What the hardware does by itself: fp16 from Volta on, bf16 and TF32 from Ampere on; fp32 everywhere."""
    capability = device.capability()
    found = ["bf16"] if device.has_bf16() else []
    return [*found, *(["fp16"] if capability >= 70 else []), *(["tf32"] if capability >= 80 else []), "fp32"]


def measure(device: Device, names: List[str]) -> List[Dict[str, Any]]:
    """`matmul.tflops_NAME` for each precision: median, percentiles, and the shape it was reached with."""
    found = []
    for name in names:
        shape, rates = search(device, name)
        found += spread("matmul.tflops_%s" % name, rates, "TFLOP/s", device.label)
        for letter, size in zip("mnk", shape):
            found.append(measurement("matmul.%s_%s" % (letter, name), size, "elements", device=device.label))
    return found


def search(device: Device, name: str) -> Tuple[Shape, List[float]]:
    """The shape with the highest median rate in a short search, and a long series of readings with it."""
    room = device.free_bytes() // 2
    shapes = [shape for shape in (CUDA_SHAPES if device.is_cuda else CPU_SHAPES) if _bytes(shape) <= room] or CPU_SHAPES
    best = (
        shapes[0]
        if len(shapes) == 1
        else max(shapes, key=lambda shape: median(_rates(device, name, shape, SEARCH_REPEATS)))
    )
    return best, _rates(device, name, best, REPEATS_CUDA if device.is_cuda else REPEATS_CPU)


def _bytes(shape: Shape) -> int:
    """What the three matrices take in fp32, in bytes."""
    rows, columns, inner = shape
    return 4 * (rows * inner + inner * columns + rows * columns)


def _rates(device: Device, name: str, shape: Shape, repeats: int) -> List[float]:
    rows, columns, inner = shape
    work = _product(device, name, shape)
    return [2 * rows * columns * inner / second / 1e12 for second in device.times_s(work, repeats)]


def _product(device: Device, name: str, shape: Shape) -> Callable[[], object]:
    torch = device.torch
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name, torch.float32)
    rows, columns, inner = shape
    # Random, as in training: with zeros a card draws less power and runs up to 13 % faster.
    left = torch.randn(rows, inner, device=device.device).to(dtype)
    right = torch.randn(inner, columns, device=device.device).to(dtype)
    out = torch.empty(rows, columns, dtype=dtype, device=device.device)

    def multiply() -> None:
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        torch.mm(left, right, out=out)

    return multiply
