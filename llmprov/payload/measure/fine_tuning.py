"""Fine-tuning: low-rank adapters on a frozen base, whose loss on new data must fall.

Source of the method: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
"""

from __future__ import annotations

import math
import time
from typing import Any, Dict, List, Tuple

from llmprov.payload.document import FAIL, PASS, check, measurement
from llmprov.payload.measure import gpt
from llmprov.payload.measure.device import Device
from llmprov.payload.measure.gpt import Size

SEED = 20240607
SIZE = Size("adapters", 2, 128, 4, 64, 64, 16)
RANK, SCALE = 8, 2.0
BASE_STEPS, STEPS = 40, 60

#: The loss must end below this part of where it began: the new data is as regular as the old. Seen on a CPU: 0.2.
FALL = 0.5

Result = Tuple[List[Dict[str, Any]], List[Dict[str, Any]]]


def measure(device: Device) -> Result:
    """Train a base on one pattern, freeze it, and fine-tune adapters on another."""
    torch = device.torch
    torch.manual_seed(SEED)
    model = gpt.build(torch, SIZE, device.device)
    _train(device, model, list(model.parameters()), stride=1, steps=BASE_STEPS)
    adapters = adapt(torch, model)
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in frozen]
    began = time.perf_counter()
    first, last = _train(device, model, adapters, stride=3, steps=STEPS)
    device.wait()
    elapsed = time.perf_counter() - began
    moved = any(not torch.equal(was, now) for was, now in zip(before, frozen))
    tokens = STEPS * SIZE.batch * SIZE.context
    figures = [
        measurement("adapters.tokens_per_s", tokens / elapsed, "tokens/s", device=device.label),
        measurement("adapters.loss_fall", last / first if first else math.inf, "fraction", device=device.label),
    ]
    return [judge(device.label, first, last, moved)], [one for one in figures if math.isfinite(one["value"])]


def adapt(torch: Any, model: Any) -> List[Any]:
    """Freeze the model and give each of its linear layers an adapter; returns the adapters' parameters."""
    nn = torch.nn

    module: Any = nn.Module

    class Adapted(module):  # type: ignore[misc]
        def __init__(self, base: Any) -> None:
            super().__init__()
            self.base = base
            where = {"device": base.weight.device}
            self.down = nn.Parameter(torch.randn(RANK, base.in_features, **where) / math.sqrt(base.in_features))
            # Nothing at the start: the adapted model begins where the base ended.
            self.up = nn.Parameter(torch.zeros(base.out_features, RANK, **where))

        def forward(self, x: Any) -> Any:
            return self.base(x) + SCALE * (x @ self.down.T @ self.up.T)

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    found = []
    for block in model.blocks:
        for name in ("queries_keys_values", "out", "up", "down"):
            adapted = Adapted(getattr(block, name))
            setattr(block, name, adapted)
            found += [adapted.down, adapted.up]
    return found


def _train(device: Device, model: Any, parameters: List[Any], stride: int, steps: int) -> Tuple[float, float]:
    """Train on sequences that count up by `stride`; returns the first and the last loss, in nats."""
    torch = device.torch
    optimizer = torch.optim.AdamW(parameters, lr=1e-2 if stride > 1 else 3e-3)
    generator = torch.Generator().manual_seed(SEED + stride)
    first = last = math.nan
    for number in range(steps):
        begin = torch.randint(SIZE.vocabulary, (SIZE.batch, 1), generator=generator)
        places = torch.arange(SIZE.context + 1)
        loss = gpt.loss_of(torch, model, ((begin + stride * places) % SIZE.vocabulary).to(device.device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if number == 0:
            first = float(loss.detach())
    last = float(loss.detach())
    return first, last


def judge(label: str, first: float, last: float, moved: bool) -> Dict[str, Any]:
    """The check of one fine-tuning. A NaN is below no bound: it fails."""
    name, remedy = "%s.adapters.loss" % label, "reinstall torch; if that does not help, suspect the device's memory"
    evidence = "from %.3f to %.3f nats" % (first, last)
    if moved:
        return check(
            name, FAIL, "the frozen base changed while its adapters were trained", evidence=evidence, remedy=remedy
        )
    part = last / first if first else math.nan
    if not part < FALL:
        summary = "the loss of the adapters did not fall: %s" % evidence
        return check(name, FAIL, summary, part, FALL, "fraction", evidence, remedy)
    return check(name, PASS, "the adapters learned", part, FALL, "fraction", evidence)
