"""Several processes training one model: what torchrun starts, one for each card (NCCL) or two on processors (gloo)."""

from __future__ import annotations

import json
import os
import time
from typing import Any, Dict, List

from llmprov.payload.measure import gpt
from llmprov.payload.measure.device import Device
from llmprov.payload.measure.figures import median
from llmprov.payload.measure.gpt import SIZES
from llmprov.payload.measure.training import precision

SEED = 20261122
WARM_UP, STEPS = 3, 10

#: Bytes of the messages whose all-reduce is timed.
MESSAGES_CUDA = [1 << 20, 16 << 20, 256 << 20, 1 << 30]
MESSAGES_CPU = [1 << 16, 1 << 20, 16 << 20]
REPEATS = 10


def rank(torch: Any, size_name: str, path: str) -> None:
    """The work of one process of the world; the first writes what was measured to `path`."""
    distributed = torch.distributed
    cuda = torch.cuda.is_available()
    local = int(os.environ["LOCAL_RANK"])
    device = Device(torch, "gpu%d" % local if cuda else "cpu", local)
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        answer = {
            "world": distributed.get_world_size(),
            "backend": distributed.get_backend(),
            "tokens_per_s": _train(torch, device, size_name),
            "busbw_gb_s": _all_reduce(torch, device),
        }
        if distributed.get_rank() == 0:
            with open(path, "w", encoding="utf-8") as handle:
                json.dump(answer, handle)
    finally:
        distributed.destroy_process_group()


def _train(torch: Any, device: Device, size_name: str) -> float:
    """Tokens per second of the whole world."""
    size = SIZES[size_name]
    torch.manual_seed(SEED)
    ids = [device.device.index] if device.is_cuda else None
    model = torch.nn.parallel.DistributedDataParallel(gpt.build(torch, size, device.device), device_ids=ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=device.is_cuda or None)
    batch = torch.randint(size.vocabulary, (size.batch, size.context + 1)).to(device.device)
    began = time.perf_counter()
    for number in range(WARM_UP + STEPS):
        if number == WARM_UP:
            _meet(torch, device)
            began = time.perf_counter()
        with precision(device):
            loss = gpt.loss_of(torch, model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    _meet(torch, device)
    elapsed = time.perf_counter() - began
    return STEPS * size.batch * size.context * int(torch.distributed.get_world_size()) / elapsed


def _meet(torch: Any, device: Device) -> None:
    device.wait()
    torch.distributed.barrier()


def _all_reduce(torch: Any, device: Device) -> Dict[str, float]:
    """Bytes of a message -> bus bandwidth, GB/s.

    Bus bandwidth is bytes / time * 2 (n - 1) / n, which makes figures of worlds of different size comparable. Source:
    the performance notes of NVIDIA's nccl-tests.
    """
    world = int(torch.distributed.get_world_size())
    found = {}
    for size in MESSAGES_CUDA if device.is_cuda else MESSAGES_CPU:
        message = torch.ones(size // 4, device=device.device)
        seconds: List[float] = []
        for _ in range(REPEATS):
            _meet(torch, device)
            began = time.perf_counter()
            torch.distributed.all_reduce(message)
            device.wait()
            seconds.append(time.perf_counter() - began)
        found[str(size)] = size / median(seconds) * 2 * (world - 1) / world / 1e9
    return found
