"""The input pipeline: does data come as fast as the model takes it? A text classifier fed from the host's disk.

Worker processes read and tokenize; the share of time that steps wait for them is what tells a slow disk or too few
processors. What is held out must be classified right, or the data was spoilt on its way.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from typing import Any, Dict, List, Tuple

from llmprov.payload.document import FAIL, PASS, WARN, check, measurement
from llmprov.payload.measure.device import Device

SEED = 20240607
FILES, LINES, WORDS = 32, 256, 48
HELD_OUT_FILES = 4
BATCH, EPOCHS, WORKERS = 64, 2, 2
VOCABULARY = 1000

#: The two classes prefer different words this strongly; a sound pipeline then reaches almost 1.
LEAN = 0.35
ACCURACY = 0.9

#: More waiting than this is named: steps of a real model are longer, those here are short on purpose. Our judgement.
WAIT = 0.8

#: Bytes read to time the disk.
DISK_BYTES = 64 << 20

Result = Tuple[List[Dict[str, Any]], List[Dict[str, Any]]]


def measure(device: Device, folder: str) -> Result:
    """Samples per second, the share of waiting, the disk's read rate, and the accuracy on held-out files."""
    own = tempfile.mkdtemp(prefix="llmprov-data-", dir=folder)
    try:
        rate = disk_gb_s(own)
        write_files(own)
        return _judged(train(device, own), rate, device.label)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def write_files(folder: str) -> None:
    """Files of lines `CLASS word word …`, the same on every host."""
    made = random.Random(SEED)
    for number in range(FILES):
        with open(os.path.join(folder, "%02d.txt" % number), "w", encoding="utf-8") as handle:
            for _ in range(LINES):
                kind = made.randrange(2)
                words = [_word(made, kind) for _ in range(WORDS)]
                handle.write("%d %s\n" % (kind, " ".join(words)))


def _word(made: random.Random, kind: int) -> str:
    number = made.randrange(VOCABULARY)
    if made.random() < LEAN:
        number = number // 2 * 2 + kind
    return "w%d" % number


class Lines:
    """A dataset of lines: each is read from its file when it is asked for, as large data sets are."""

    def __init__(self, torch: Any, folder: str, numbers: "range") -> None:
        self.torch, self.folder, self.numbers = torch, folder, numbers

    def __len__(self) -> int:
        return len(self.numbers) * LINES

    def __getitem__(self, index: int) -> Any:
        path = os.path.join(self.folder, "%02d.txt" % self.numbers[index // LINES])
        with open(path, encoding="utf-8") as handle:
            line = handle.read().split("\n")[index % LINES]
        kind, *words = line.split()
        return self.torch.tensor([int(word[1:]) for word in words]), int(kind)


def train(device: Device, folder: str) -> Dict[str, float]:
    """Train on the files and return `samples_per_s`, `wait` (fraction) and `accuracy` (fraction)."""
    torch = device.torch
    torch.manual_seed(SEED)
    model = torch.nn.Sequential(torch.nn.EmbeddingBag(VOCABULARY, 32), torch.nn.Linear(32, 2)).to(device.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    waited = samples = 0.0
    began = time.perf_counter()
    for _ in range(EPOCHS):
        batches = iter(_loader(torch, Lines(torch, folder, range(FILES - HELD_OUT_FILES)), True))
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - asked
            if batch is None:
                break
            words, kinds = (part.to(device.device) for part in batch)
            torch.nn.functional.cross_entropy(model(words), kinds).backward()
            optimizer.step()
            optimizer.zero_grad()
            samples += len(kinds)
    device.wait()
    elapsed = time.perf_counter() - began
    right = total = 0
    with torch.no_grad():
        for words, kinds in _loader(torch, Lines(torch, folder, range(FILES - HELD_OUT_FILES, FILES)), False):
            right += int((model(words.to(device.device)).argmax(1).cpu() == kinds).sum())
            total += len(kinds)
    return {"samples_per_s": samples / elapsed, "wait": waited / elapsed, "accuracy": right / total}


def _loader(torch: Any, data: Any, shuffled: bool) -> Any:
    # Forked, whatever this Python's custom is: the payload is one file, which a new interpreter would have to find.
    return torch.utils.data.DataLoader(
        data, BATCH, shuffle=shuffled, num_workers=WORKERS, multiprocessing_context="fork", prefetch_factor=4
    )


def disk_gb_s(folder: str) -> float:
    """Read a new file from the disk, past the page cache; GB/s. A file system in memory is as fast as memory."""
    path = os.path.join(folder, "disk")
    block = os.urandom(1 << 20)
    with open(path, "wb") as handle:
        for _ in range(DISK_BYTES >> 20):
            handle.write(block)
        handle.flush()
        os.fsync(handle.fileno())
    with open(path, "rb", buffering=0) as handle:
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        while handle.read(1 << 20):
            pass
        elapsed = time.perf_counter() - began
    os.unlink(path)
    return DISK_BYTES / elapsed / 1e9


def _judged(result: Dict[str, float], rate: float, label: str) -> Result:
    accuracy, wait = result["accuracy"], result["wait"]
    learned, quick = accuracy >= ACCURACY, wait <= WAIT
    checks = [
        check(
            "%s.input.accuracy" % label,
            PASS if learned else FAIL,
            "the text classifier %s" % ("learned" if learned else "did not learn what its files say"),
            accuracy,
            ACCURACY,
            "fraction",
            remedy="" if learned else "suspect the disk or the memory: look at the kernel's log",
        ),
        check(
            "%s.input.wait" % label,
            PASS if quick else WARN,
            "steps waited for data %.0f %% of the time" % (100 * wait),
            wait,
            WAIT,
            "fraction",
            "the disk reads %.2f GB/s" % rate,
            "" if quick else "a faster disk, or more workers and processors",
        ),
    ]
    figures = [
        measurement("input.samples_per_s", result["samples_per_s"], "samples/s", device=label),
        measurement("input.wait_fraction", wait, "fraction", device=label),
        measurement("input.disk_read_gb_s", rate, "GB/s"),
    ]
    return checks, figures
