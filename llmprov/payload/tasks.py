"""What stages do, each in a process of its own: the software, one device, the world of several, a soak."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
import traceback
from typing import Any, Callable, Dict, List

from llmprov.payload import classifier, language_model, limits, packages, torch_build
from llmprov.payload.document import FAIL, INCONCLUSIVE, PASS, WARN, CleanStdout, check, measurement, say
from llmprov.payload.measure import bandwidth, digest, fine_tuning, input_pipeline, matmul, parallel, training
from llmprov.payload.measure.device import Device
from llmprov.payload.measure.figures import median
from llmprov.payload.measure.gpt import SIZES
from llmprov.payload.stages import command

Question = Dict[str, Any]


class Answer:
    """What a stage found so far, written after every step: a stage that is killed leaves what it had."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.content: Dict[str, Any] = {"checks": [], "measurements": [], "digests": {}}

    def add(self, checks: List[Dict[str, Any]], figures: List[Dict[str, Any]] = [], **more: Any) -> None:  # noqa: B006
        """Take these in, and write all of it whole or not at all."""
        self.content["checks"] += checks
        self.content["measurements"] += figures
        self.content.update(more)
        with open(self.path + ".new", "w", encoding="utf-8") as handle:
            json.dump(self.content, handle)
        os.replace(self.path + ".new", self.path)

    def attempt(self, name: str, work: Callable[[], None], status: str = FAIL, remedy: str = "") -> None:
        """Do `work`; an error it raises is a check of the name `name` and the end of nothing else."""
        try:
            work()
        except Exception as error:
            summary = "%s raised %s: %s" % (name, type(error).__name__, " ".join(str(error).split())[:300])
            remedy = remedy or "read the evidence; if it names the device, look at the kernel's log"
            self.add([check(name, status, summary, evidence=traceback.format_exc(), remedy=remedy)])


def software(question: Question, answer: Answer) -> None:
    """Imports, torch itself, the classifier, transformers; and the processors, where torch sees no card."""
    declared = question["declared"]
    answer.add(packages.check_imports(declared["imports"]))
    imported = packages.check_import("torch")
    if imported["status"] != PASS:
        answer.add([imported] if declared["torch"] else [])
        return
    import torch

    cards = int(torch.cuda.device_count()) if torch.cuda.is_available() else 0
    checks = torch_build.check_torch(torch, declared["torch"])
    checks += torch_build.check_cuda(torch, declared["cuda"], declared["gpu_count"])
    name = torch.cuda.get_device_name(0) if cards else "cpu"
    answer.add(checks, torch=str(torch.__version__), device=name, cards=cards)
    answer.attempt("train.run", lambda: _classifier(torch, declared, answer), remedy="reinstall torch")
    if any(re.match(r"transformers\b", text, re.I) for text in declared["packages"]):
        answer.add(*language_model.prove(torch))
    if not cards:
        device({**question, "label": "cpu"}, answer)


def _classifier(torch: Any, declared: Dict[str, Any], answer: Answer) -> None:
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    say("training a classifier on %s" % where)
    threads = torch.get_num_threads()
    try:
        answer.add(*classifier.judge(classifier.train(torch, where), declared["min_accuracy"]))
    finally:
        torch.set_num_threads(threads)


def device(question: Question, answer: Answer) -> None:
    """Everything that is measured on one device by itself."""
    import torch

    declared, label = question["declared"], question["label"]
    here = Device(torch, label)
    figures: List[Dict[str, Any]] = []

    def again(key: str) -> List[Dict[str, Any]]:
        if key == "memory.bandwidth_gb_s":
            return bandwidth.measure(here)
        return matmul.measure(here, [key.rpartition("_")[2]])

    def rates() -> None:
        say("measuring memory bandwidth and matmul rates of %s" % label)
        figures.extend(bandwidth.measure(here))
        figures.extend(matmul.measure(here, matmul.precisions(here)))
        answer.add(limits.judge(label, declared, figures, again), figures)

    def train(compiled: bool) -> None:
        key = "matmul.tflops_%s" % ("bf16" if here.has_bf16() else "fp32")
        rate = next((figure["value"] for figure in figures if figure["key"] == key), None)
        answer.add(*training.measure(here, declared, rate, compiled))

    answer.attempt("%s.rates" % label, rates)
    answer.attempt("%s.train" % label, lambda: train(False))
    answer.attempt("%s.digest" % label, lambda: answer.add([], digests=digest.measure(here)))
    if question["level"] != "standard":
        return
    compiler = "torch.compile needs a C++ compiler and, on cards, Triton: install them, or do without"
    answer.attempt("%s.compile" % label, lambda: train(True), WARN, compiler)
    if question.get("first", True):
        # Once a host: its cards share disk and processors.
        place = declared.get("data_path") or "/var/tmp"
        answer.attempt("%s.input" % label, lambda: answer.add(*input_pipeline.measure(here, place)))
    answer.attempt("%s.adapters" % label, lambda: answer.add(*fine_tuning.measure(here)))


#: Side of the matrices that a card multiplies to show that it computes; small whole numbers have one right product.
GATE_SIDE = 256


def multiply(question: Question, answer: Answer) -> None:
    """Whether torch sees as many cards as the host has, and each of them multiplies right."""
    import torch

    declared = question["declared"]
    count = int(torch.cuda.device_count()) if torch.cuda.is_available() else 0
    # Of a card that is cut into instances torch sees one, whichever it is.
    wanted = 1 if declared.get("mig") else declared["gpu_count"]
    enough = count >= wanted > 0
    summary = "torch sees %d of the host's %d GPUs" % (count, declared["gpu_count"])
    answer.add([check("gate.gpus", PASS if enough else FAIL, summary, count, wanted)], torch=str(torch.__version__))
    left = torch.arange(GATE_SIDE * GATE_SIDE, dtype=torch.float32).reshape(GATE_SIDE, GATE_SIDE) % 7
    right = left.T.contiguous()
    expected = left @ right
    for index in range(count):
        name = "gate.gpu%d" % index

        def one(index: int = index, name: str = name) -> None:
            where = "cuda:%d" % index
            same = bool(torch.equal((left.to(where) @ right.to(where)).cpu(), expected))
            told = "multiplies right" if same else "multiplies wrong"
            answer.add([check(name, PASS if same else FAIL, "gpu%d %s" % (index, told))])

        answer.attempt(name, one)


def alone(question: Question, answer: Answer) -> None:
    """One card training while the others rest: what a world of all of them is held against."""
    import torch

    here = Device(torch, question["label"])
    say("training a %s model on %s alone" % (question["size"], here.label))

    def train() -> None:
        window = training.train(here, SIZES[question["size"]], training.STEPS_CUDA)
        answer.add([], [measurement("alone.tokens_per_s", window.tokens_per_s, "tokens/s", device=here.label)])

    answer.attempt("%s.alone" % here.label, train)


def world(question: Question, answer: Answer) -> None:
    """Data-parallel training by torchrun, against the sum of what each process does alone."""
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    path = answer.path + ".world"
    count, size = question["processes"], question["size"]
    say("training in %d processes by torchrun" % count)
    argv = ["--nnodes=1", "--nproc-per-node=%d" % count, "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    argv += ["--local-addr=127.0.0.1", "--log-dir", os.path.dirname(path), "--no-python", *command("rank", path, size)]

    def together() -> None:
        try:
            torchrun.main(argv)
        except ChildFailedError as error:
            # The others were ended because this one had failed: it has the reason.
            number, failure = error.get_first_failure()
            reason = failure.message["message"] if isinstance(failure.message, dict) else failure.message
            raise RuntimeError("process %d of %d failed: %s" % (number, count, reason)) from error
        with open(path, encoding="utf-8") as handle:
            told = json.load(handle)
        answer.add(*_world_told(told, question["alone_tokens_per_s"]))

    answer.attempt("world.run", together, remedy="look at NCCL's own words in the evidence: NCCL_DEBUG=INFO tells more")


def _world_told(told: Dict[str, Any], alone: float) -> Any:
    figures = [measurement("world.tokens_per_s", told["tokens_per_s"], "tokens/s")]
    if alone:
        figures.append(measurement("world.scaling_fraction", told["tokens_per_s"] / alone, "fraction"))
    for size, rate in told["busbw_gb_s"].items():
        figures.append(measurement("world.all_reduce_%s_bytes.busbw_gb_s" % size, rate, "GB/s"))
    summary = "%d processes trained together over %s" % (told["world"], told["backend"])
    return [check("world.run", PASS, summary, told["world"], told["world"], "processes")], figures


def soak(question: Question, answer: Answer) -> None:
    """Train for many minutes, or until told to stop; the end must be as quick as the beginning."""
    import torch

    here = Device(torch, question["label"])
    size = training.choose(here, question["declared"].get("model_size") or "auto")[0]
    say("soaking %s with a %s model for %g minutes" % (here.label, size.name, question["minutes"]))

    def train() -> None:
        window = training.train(here, size, 2, minutes=question["minutes"], stopped=lambda: _told_to_stop)
        answer.add(*_soaked(here.label, window))

    answer.attempt("%s.soak" % here.label, train)


#: The last steps of a soak may take this much longer than the first, as a fraction: more is a card that tires.
TIRED = 0.05

#: A shorter soak than this, in seconds, says nothing of heat.
SHORT_S = 60.0


def _soaked(label: str, window: training.Window) -> Any:
    part = max(len(window.step_s) // 10, 1)
    first, last = median(window.step_s[:part]), median(window.step_s[-part:])
    slower = last / first - 1
    evidence = "median step %.1f ms in the first tenth, %.1f ms in the last" % (1000 * first, 1000 * last)
    tired = slower > TIRED
    status, told, remedy = PASS, "kept its pace", ""
    if window.elapsed_s < SHORT_S:
        status, told = INCONCLUSIVE, "soaked too short a time to tell whether it tires,"
        remedy = "soak for some minutes at least"
    elif tired:
        status, told, remedy = WARN, "got slower", "check cooling: a device that slows down as it warms up"
    summary = "%s %s over %.1f minutes" % (label, told, window.elapsed_s / 60)
    checks = [check("%s.soak.pace" % label, status, summary, slower, TIRED, "fraction", evidence, remedy)]
    checks += training.held_back(label, "soak", window)
    figures = [
        measurement("soak.tokens_per_s", window.tokens_per_s, "tokens/s", device=label),
        measurement("soak.minutes", window.elapsed_s / 60, "minutes", device=label),
    ]
    return checks, figures


_told_to_stop = False


def _stop(*_: object) -> None:
    global _told_to_stop
    _told_to_stop = True


def die_with_parent() -> None:
    """Let the kernel end this process when the one that started it ends, however that happens."""
    # Source of 1: PR_SET_PDEATHSIG of linux/prctl.h.
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)
    if os.getppid() == 1:
        os.kill(os.getpid(), signal.SIGKILL)


TASKS: Dict[str, Callable[[Question, Answer], None]] = {
    "software": software,
    "device": device,
    "multiply": multiply,
    "alone": alone,
    "world": world,
    "soak": soak,
}


def main(argv: List[str]) -> None:
    """`TASK ANSWER`, the question on standard input; or `rank ANSWER SIZE`, as torchrun starts them."""
    die_with_parent()
    signal.signal(signal.SIGTERM, _stop if argv[0] == "soak" else signal.SIG_DFL)
    if argv[0] == "rank":
        import torch
        from torch.distributed.elastic.multiprocessing.errors import record

        record(parallel.rank)(torch, argv[2], argv[1])
        # Without the interpreter's own end: gloo's threads, which live as long as the model, may still be letting go of
        # a tensor, and one that asks for an interpreter that is ending aborts the process (seen with PyTorch 2.13 and
        # Python 3.11 on busy processors, up to every second time).
        sys.stderr.flush()
        os._exit(0)
    with CleanStdout():
        TASKS[argv[0]](json.load(sys.stdin), Answer(argv[1]))
