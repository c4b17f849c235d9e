"""The same numbers everywhere: digests of a seeded, deterministic computation, for the fleet report to compare.

Hosts of one cohort must agree bit by bit; one that does not computes wrongly, however well it trains.
"""

from __future__ import annotations

import ctypes
import hashlib
from typing import Any, Dict

from llmprov.payload.measure import gpt
from llmprov.payload.measure.device import Device
from llmprov.payload.measure.gpt import Size

SEED = 20240607

#: Small enough for every device and quick on processors.
SIZE = Size("digest", 2, 64, 4, 64, 512, 4)


def measure(device: Device) -> Dict[str, str]:
    """SHA-256 of a product of matrices, of a loss and of all gradients; keys begin with the device."""
    torch = device.torch
    threads = torch.get_num_threads()
    # How a sum is shared out among threads changes its last bits.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cuda.matmul.allow_tf32 = False
    # The fast kernels for attention add up in the order in which their blocks happen to end.
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    try:
        return {"%s.%s" % (device.label, name): text for name, text in _digests(torch, device).items()}
    finally:
        torch.backends.cuda.enable_flash_sdp(True)
        torch.backends.cuda.enable_mem_efficient_sdp(True)
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)


def _digests(torch: Any, device: Device) -> Dict[str, str]:
    generator = torch.Generator().manual_seed(SEED)
    left, right = (torch.randn(512, 512, generator=generator).to(device.device) for _ in range(2))
    # Made on the processors, whose generator gives the same everywhere, then moved.
    torch.manual_seed(SEED)
    model = gpt.build(torch, SIZE, "cpu").to(device.device)
    tokens = torch.randint(SIZE.vocabulary, (SIZE.batch, SIZE.context + 1), generator=generator).to(device.device)
    loss = gpt.loss_of(torch, model, tokens)
    loss.backward()
    gradients = hashlib.sha256()
    for _, parameter in sorted(model.named_parameters()):
        gradients.update(_bytes(parameter.grad))
    return {
        "matmul": hashlib.sha256(_bytes(left @ right)).hexdigest(),
        "loss": hashlib.sha256(_bytes(loss)).hexdigest(),
        "gradients": gradients.hexdigest(),
    }


def _bytes(tensor: Any) -> bytes:
    # Through the address: NumPy, which tensors turn into otherwise, need not be there.
    flat = tensor.detach().cpu().contiguous()
    return ctypes.string_at(flat.data_ptr(), flat.numel() * flat.element_size())
