"""A small classifier that must learn: the shortest proof that an installation trains.

Two linear layers with a ReLU between, cross-entropy, plain SGD, on data made from a fixed seed: points of eight
overlapping clouds whose class is the cloud, turned and squashed so that no single linear layer separates them.
"""

from __future__ import annotations

import math
import time
from typing import Any, Dict, List, Tuple

from llmprov.payload.document import FAIL, PASS, check, measurement

SEED = 20240607
CLASSES = 8
FEATURES = 32
HIDDEN = 64
SAMPLES = 8192
HELD_OUT = 2048
BATCH = 128
LEARNING_RATE = 0.1
EPOCHS = 6


def make_data(torch: Any, device: Any) -> Tuple[Any, Any]:
    """Points (SAMPLES + HELD_OUT, FEATURES) and their classes, the same on every host: made on the CPU, then moved."""
    generator = torch.Generator().manual_seed(SEED)
    total = SAMPLES + HELD_OUT
    centres = torch.randn(CLASSES * 2, FEATURES, generator=generator)
    cloud = torch.randint(0, CLASSES * 2, (total,), generator=generator)
    points = centres[cloud] + 0.6 * torch.randn(total, FEATURES, generator=generator)
    # Two clouds a class: a linear model cannot tell them, one hidden layer can.
    return points.to(device), (cloud % CLASSES).to(device)


def train(torch: Any, device: Any) -> Dict[str, float]:
    """Train and return `accuracy` (held out, a fraction), `loss` (of the last batch), `samples_per_s`, `elapsed_s`."""
    nn, functional = torch.nn, torch.nn.functional
    # The layers are too small to share out: with more threads their waiting for each other is what would be timed.
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    points, classes = make_data(torch, device)
    model = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    loss = torch.zeros(())
    began = time.perf_counter()
    for _ in range(EPOCHS):
        for start in range(0, SAMPLES, BATCH):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(points[start : start + BATCH]), classes[start : start + BATCH])
            loss.backward()
            optimizer.step()
    last = float(loss.detach())  # waits for the device, so that the time below is the work's
    elapsed = time.perf_counter() - began
    with torch.no_grad():
        right = (model(points[SAMPLES:]).argmax(dim=1) == classes[SAMPLES:]).float().mean()
    return {
        "accuracy": float(right),
        "loss": last,
        "samples_per_s": EPOCHS * SAMPLES / elapsed,
        "elapsed_s": elapsed,
    }


def judge(result: Dict[str, float], min_accuracy: float) -> Tuple[List[Dict[str, Any]], List[Dict[str, Any]]]:
    """The checks and the measurements of one training. A NaN is neither above a bound nor below it: it fails."""
    loss, accuracy = result["loss"], result["accuracy"]
    remedy = "reinstall torch; if that does not help, suspect the device's memory"
    finite = math.isfinite(loss)
    learned = finite and accuracy >= min_accuracy
    checks = [
        check(
            "train.loss",
            PASS if finite else FAIL,
            "the loss is finite" if finite else "the loss became %s" % loss,
            loss,
            "finite",
            "nats",
            remedy="" if finite else remedy,
        ),
        check(
            "train.accuracy",
            PASS if learned else FAIL,
            "the classifier %s" % ("learned" if learned else "did not learn"),
            accuracy,
            min_accuracy,
            "fraction",
            remedy="" if learned else remedy,
        ),
    ]
    figures = [
        measurement("classifier.samples_per_s", result["samples_per_s"], "samples/s"),
        measurement("classifier.train_s", result["elapsed_s"], "s"),
    ]
    return checks, [figure for figure in figures if math.isfinite(figure["value"])]
