"""Training throughput: tokens per second of a transformer, how even its steps are, how much of the hardware it uses."""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from llmprov.payload.document import FAIL, PASS, WARN, check, measurement, say
from llmprov.payload.measure import gpt, sampler
from llmprov.payload.measure.device import Device
from llmprov.payload.measure.figures import median, percentile, variation
from llmprov.payload.measure.gpt import SIZES, Size

SEED = 20261122
#: Marks that a soak may be ahead of its card, and how many it makes at most, about.
AHEAD, MOST_MARKS = 4, 5000

#: The longest group of steps between two marks of a soak, in seconds.
GROUP_S = 10.0

WARM_UP, STEPS_CPU, STEPS_CUDA = 3, 20, 20

#: A model is chosen to fill a card's memory no further than this.
FILL = 0.85

Result = Tuple[List[Dict[str, Any]], List[Dict[str, Any]]]


class Window(NamedTuple):
    """One timed window. `step_s` are single steps; `elapsed_s` is the whole, which throughput is taken from."""

    tokens: int
    elapsed_s: float
    step_s: List[float]
    loss: float
    peak_bytes: Optional[int]
    first_step_s: float
    about: Dict[str, float]
    reasons: List[str]

    @property
    def tokens_per_s(self) -> float:
        """All tokens over all time: averaging the rates of single steps would overstate a jittery host."""
        return self.tokens / self.elapsed_s


def choose(device: Device, wanted: str) -> List[Size]:
    """The sizes to try, in their order: the wanted one, or the largest that should fit; then the smaller ones."""
    sizes = list(SIZES.values())
    if not device.is_cuda and wanted == "auto":
        return [SIZES["tiny"]]
    if wanted != "auto":
        return sizes[sizes.index(SIZES[wanted]) :]
    room = FILL * device.free_bytes()
    return [size for size in sizes if size.bytes_needed() <= room] or [SIZES["tiny"]]


def measure(device: Device, declared: Dict[str, Any], matmul: Optional[float], compiled: bool = False) -> Result:
    """Train the first size that fits; `matmul` is the rate measured there in the same precision, TFLOP/s."""
    _forget(device)
    sizes = choose(device, declared.get("model_size") or "auto")
    prefix = "train_compiled" if compiled else "train"
    fallen: List[str] = []
    for size in sizes:
        say("training a %s model on %s%s" % (size.name, device.label, ", compiled" if compiled else ""))
        try:
            window = train(device, size, STEPS_CUDA if device.is_cuda else STEPS_CPU, compiled)
        except Exception as error:
            if not device.is_out_of_memory(error):
                raise
            fallen.append(size.name)
            _forget(device)
            continue
        checks = _fallen(device, prefix, fallen, size.name, declared)
        more, figures = _told(device, declared, prefix, size, window, matmul)
        return checks + more, figures
    summary = "not even the smallest model fits into the memory of %s" % device.label
    remedy = "end what else uses the device"
    return [check("%s.%s.size" % (device.label, prefix), FAIL, summary, None, sizes[-1].name, remedy=remedy)], []


def _forget(device: Device) -> None:
    import gc

    gc.collect()
    if device.is_cuda:
        device.torch.cuda.empty_cache()


def _fallen(
    device: Device, prefix: str, fallen: List[str], size: str, declared: Dict[str, Any]
) -> List[Dict[str, Any]]:
    name = "%s.%s.size" % (device.label, prefix)
    if not fallen:
        return [check(name, PASS, "trained a %s model" % size, size, declared.get("model_size"))]
    summary = "a %s model did not fit into memory; a %s one was trained in its place" % (fallen[0], size)
    return [
        check(name, WARN, summary, size, fallen[0], remedy="see what else uses the device, or declare a smaller one")
    ]


def train(
    device: Device,
    size: Size,
    steps: int,
    compiled: bool = False,
    minutes: float = 0.0,
    stopped: Callable[[], bool] = lambda: False,
) -> Window:
    """Warm up, then time `steps` steps, and on for `minutes` unless `stopped`, without a synchronisation inside."""
    torch = device.torch
    torch.manual_seed(SEED)
    model = gpt.build(torch, size, device.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=device.is_cuda or None)
    running = torch.compile(model) if compiled else model
    # Made before the clock runs: what is timed is training, not making data.
    shape = (4, size.batch, size.context + 1)
    batches = torch.randint(size.vocabulary, shape, generator=torch.Generator().manual_seed(SEED)).to(device.device)

    def step(number: int) -> Any:
        with precision(device):
            loss = gpt.loss_of(torch, running, batches[number % len(batches)])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    began = time.perf_counter()
    step(0)
    device.wait()
    first_step_s = time.perf_counter() - began
    began = time.perf_counter()
    for number in range(1, WARM_UP):
        step(number)
    device.wait()
    one_s = max((time.perf_counter() - began) / (WARM_UP - 1), 1e-6)
    # Days of steps are marked by the group, so that the marks stay few; short groups, so that it can be stopped.
    stride = max(int(min(60 * minutes / MOST_MARKS, GROUP_S) / one_s), 1)
    if device.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    with sampler.Sampler(device.label, torch.get_num_threads()) as samples:
        began = time.perf_counter()
        marks, loss, done = _steps(device, step, steps, minutes, stopped, stride)
        device.wait()
        elapsed_s = time.perf_counter() - began
    step_s = [seconds / stride for seconds in _between(device, marks)]
    peak = int(torch.cuda.max_memory_allocated()) if device.is_cuda else None
    tokens = done * size.batch * size.context
    return Window(tokens, elapsed_s, step_s, float(loss), peak, first_step_s, samples.figures(), samples.reasons())


def precision(device: Device) -> Any:
    """bf16 where the hardware has it, else fp32."""
    if device.has_bf16():
        return device.torch.autocast("cuda", dtype=device.torch.bfloat16)
    return contextlib.nullcontext()


def _steps(
    device: Device, step: Any, steps: int, minutes: float, stopped: Callable[[], bool], stride: int
) -> Tuple[List[Any], Any, int]:
    """Marks before the first step and after each group of `stride`; events on a card, so that nothing waits."""
    marks, deadline, number = [_mark(device)], time.monotonic() + 60 * minutes, 0
    while True:
        loss = step(number)
        number += 1
        if number % stride == 0:
            marks.append(_mark(device))
        if minutes and device.is_cuda:
            # In a long run the queue of work would grow without bound: stay a few marks ahead, no further.
            marks[max(len(marks) - AHEAD, 0)].synchronize()
        if number >= max(steps, stride) and (stopped() or time.monotonic() >= deadline):
            return marks, loss, number


def _mark(device: Device) -> Any:
    if not device.is_cuda:
        return time.perf_counter()
    event = device.torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(device: Device, marks: List[Any]) -> List[float]:
    pairs = list(zip(marks, marks[1:]))
    if device.is_cuda:
        return [begin.elapsed_time(end) / 1000 for begin, end in pairs]
    return [end - begin for begin, end in pairs]


def _told(
    device: Device, declared: Dict[str, Any], prefix: str, size: Size, window: Window, matmul: Optional[float]
) -> Result:
    label = device.label
    achieved = window.tokens_per_s * size.flops_per_token() / 1e12

    def figure(key: str, value: float, unit: str, samples: Optional[List[float]] = None) -> Dict[str, Any]:
        return measurement("%s.%s" % (prefix, key), value, unit, samples, label)

    milliseconds = [1000 * second for second in window.step_s]
    figures = [
        figure("tokens_per_s", window.tokens_per_s, "tokens/s"),
        figure("step_time_ms", median(milliseconds), "ms", milliseconds),
        figure("step_time_p95_ms", percentile(milliseconds, 0.95), "ms"),
        figure("step_time_variation", variation(milliseconds), "fraction"),
        figure("tflops", achieved, "TFLOP/s"),
        figure("parameters", size.parameters(), "parameters"),
        figure("first_step_s", window.first_step_s, "s"),
        *(figure(key, value, key.rpartition("_")[2]) for key, value in sorted(window.about.items())),
    ]
    if window.peak_bytes is not None:
        figures.append(figure("peak_memory_gb", window.peak_bytes / 1e9, "GB"))
    if prefix == "train_compiled":
        figures.append(figure("compile_s", max(window.first_step_s - median(window.step_s), 0.0), "s"))
    if matmul:
        figures.append(figure("of_matmul", achieved / matmul, "fraction"))
    checks = [_loss(label, prefix, window.loss, size), *held_back(label, prefix, window)]
    more, usage = _mfu(label, prefix, achieved, peak_tflops(declared, device))
    return checks + more, figures + [figure("mfu", value, "fraction") for value in usage]


def peak_tflops(declared: Dict[str, Any], device: Device) -> Optional[float]:
    """The datasheet's rate of this card in the precision that is trained in; None for a card the tables do not know."""
    row = declared.get("gpu_row") or {}
    found = (row.get("tflops") or {}).get("bf16" if device.has_bf16() else "fp32")
    return float(found) if found else None


def _mfu(label: str, prefix: str, achieved: float, peak: Optional[float]) -> Tuple[List[Dict[str, Any]], List[float]]:
    if peak is None:
        return [], []
    usage = achieved / peak
    if usage <= 1:
        return [], [usage]
    summary = "%s seems to do %.0f TFLOP/s of the %.0f that it can: the measurement is wrong" % (label, achieved, peak)
    remedy = "report this; see whether the card's PCI id is that of another one"
    return [check("%s.%s.mfu" % (label, prefix), FAIL, summary, usage, 1.0, "fraction", "", remedy)], []


def _loss(label: str, prefix: str, loss: float, size: Size) -> Dict[str, Any]:
    # Random tokens can be learned by heart only: the loss stays near that of guessing, and must never run away.
    most = 1.5 * math.log(size.vocabulary)
    sound = math.isfinite(loss) and loss < most
    summary = "the loss of %s %s" % (label, "stayed sound" if sound else "became %s" % loss)
    remedy = "" if sound else "suspect the device's memory: look at ECC errors and XIDs, then have it replaced"
    return check("%s.%s.loss" % (label, prefix), PASS if sound else FAIL, summary, loss, most, "nats", "", remedy)


def held_back(label: str, prefix: str, window: Window) -> List[Dict[str, Any]]:
    """Why it was slow, seen while it was timed; nothing where nothing held it back."""
    if not window.reasons:
        return []
    evidence = ", ".join("%s %.4g" % item for item in sorted(window.about.items()))
    summary = "%s was held back while it trained: %s" % (label, "; ".join(window.reasons))
    remedy = "see to that first, then verify again: the figures are those of a machine held back"
    return [
        check(
            "%s.%s.held_back" % (label, prefix),
            WARN,
            summary,
            "; ".join(window.reasons),
            "nothing",
            "",
            evidence,
            remedy,
        )
    ]
