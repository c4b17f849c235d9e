"""The payload: what it prints, what it judges, where it runs."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmprov.model import Verification, VerifyVars
from llmprov.payload import __main__ as payload
from llmprov.payload import classifier, language_model, packages, tasks, torch_build
from llmprov.payload.__main__ import NOTHING_DECLARED
from llmprov.report import simulate
from llmprov.run.payload_run import read, zipapp
from tests.conftest import ROOT

ON_HOSTS = [*ROOT.glob("llmprov/payload/**/*.py"), *ROOT.glob("roles/*/library/*.py")]
ON_HOSTS += [*ROOT.glob("roles/*/module_utils/*.py"), *ROOT.glob("roles/*/files/*.py")]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("payload") / "payload.pyz"
    path.write_bytes(zipapp())
    return path


def run(archive, declared, python=sys.executable, level="quick"):
    return subprocess.run(
        [python, "-I", str(archive), "--level", level, "--declared", "-"],
        input=json.dumps(NOTHING_DECLARED | declared),
        capture_output=True,
        text=True,
        timeout=300,
    )


def checks_of(text):
    document = Verification.model_validate_json(text)
    return document, {check.id: check for check in document.checks}


@pytest.fixture(scope="module")
def sound(archive, tmp_path_factory):
    """The payload on this machine, everything as declared; told to stop when it soaks, which is the last that it does."""
    wanted = {"torch": {"version": "2.13.0", "variant": "cpu"}, "packages": ["pyyaml>=5"], "imports": ["json"]}
    declared = tmp_path_factory.mktemp("declared") / "declared.json"
    declared.write_text(json.dumps(NOTHING_DECLARED | wanted))
    argv = [sys.executable, "-I", str(archive), "--level", "soak", "--minutes", "30", "--declared", str(declared)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        said = until(process, "soaking cpu")
        process.terminate()
        out, rest = process.communicate(timeout=300)
    return subprocess.CompletedProcess(argv, process.returncode, out, said + rest)


def until(process, words):
    """What a process says on standard error until it says `words`."""
    said = ""
    for line in process.stderr:
        said += line
        if words in line:
            return said
    raise AssertionError(f"it ended before it said {words!r}: {said}")


def test_a_sound_installation_trains(sound):
    document, checks = checks_of(sound.stdout)
    assert {name for name, check in checks.items() if check.status != "pass"} == {"cpu.soak.pace"}
    assert set(checks) >= {"package.pyyaml", "import.json", "torch.version", "train.accuracy", "cpu.train.loss"}
    assert checks["train.accuracy"].measured >= 0.95
    assert document.torch == "2.13.0+cpu"
    figures = {(m.device, m.key): m for m in document.measurements}
    assert {("", "classifier.samples_per_s"), ("cpu", "memory.bandwidth_gb_s"), ("cpu", "matmul.tflops_fp32")} <= set(
        figures
    )
    assert figures["cpu", "train.tokens_per_s"].value > 0
    assert len(figures["cpu", "train.step_time_ms"].samples) == 20
    assert set(document.digests) == {"cpu.matmul", "cpu.loss", "cpu.gradients"}
    # Simulated hosts of the same kind show no figure that a real one does not.
    made = next(row for row in simulate.fleet(300, 1, faults=0).rows if row.device == "cpu")
    assert {(m.device, m.key) for m in made.measurements} <= set(figures)
    assert set(made.digests) == set(document.digests)


def test_a_soak_that_is_told_to_stop_says_what_it_measured(sound):
    document, checks = checks_of(sound.stdout)
    assert document.level == "soak"
    assert checks["cpu.soak.pace"].status == "inconclusive"
    assert {figure.key for figure in document.measurements} >= {"soak.tokens_per_s", "soak.minutes"}


def test_the_document_stands_alone_on_standard_output(sound):
    assert sound.returncode == 0
    assert len(sound.stdout.splitlines()) == 1
    assert "importing torch" in sound.stderr


def test_a_payload_that_is_killed_leaves_no_process(archive, tmp_path):
    place = {**os.environ, "TMPDIR": str(tmp_path)}
    argv = [sys.executable, "-I", str(archive)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=place) as process:
        until(process, "training a classifier")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
        process.communicate(timeout=300)
    assert children
    deadline = time.monotonic() + 60
    while any(alive(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.02)  # a poll: the kernel ends them when it finds the time


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_gate_asks_for_every_gpu_and_for_nothing_else(archive):
    document, checks = checks_of(run(archive, {"gpu_count": 2}, level="gate").stdout)
    assert {name: check.status for name, check in checks.items()} == {"python.version": "pass", "gate.gpus": "fail"}
    assert checks["gate.gpus"].summary == "torch sees 0 of the host's 2 GPUs"
    assert document.measurements == []


@pytest.mark.parametrize(("broken", "failed"), [(None, set()), (1, {"gate.gpu1"})])
def test_a_card_that_multiplies_wrong_does_not_pass_the_gate(torch, broken, failed, monkeypatch, tmp_path):
    right = torch.Tensor.to

    def to(self, *where, **how):
        if not str(where[0]).startswith("cuda:"):
            return right(self, *where, **how)
        return self + (2**-10 if where[0] == f"cuda:{broken}" else 0)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.Tensor, "to", to)
    answer = tasks.Answer(str(tmp_path / "answer"))
    tasks.multiply({"declared": {"gpu_count": 2}}, answer)
    told = {check["id"]: check["status"] for check in answer.content["checks"]}
    assert set(told) == {"gate.gpus", "gate.gpu0", "gate.gpu1"}
    assert {name for name, status in told.items() if status != "pass"} == failed


def test_every_wrong_thing_is_a_failed_check(torch, monkeypatch, tmp_path):
    def here(task, label, question):
        """A stage in this process, where torch is loaded; only devices are not measured."""
        answer = tasks.Answer(str(tmp_path / task))
        tasks.TASKS[task](question, answer)
        return SimpleNamespace(finish=lambda _: answer.content)

    wanted = {
        "packages": ["no-such-package", "pyyaml==1.0"],
        "imports": ["no_such_module"],
        "torch": {"version": "2.12.0", "variant": "cu126"},
        "cuda": "required",
        "gpu_count": 8,
        "min_accuracy": 1.0,
    }
    monkeypatch.setattr(payload, "Stage", here)
    monkeypatch.setattr(tasks, "device", lambda question, answer: None)
    _, checks = checks_of(json.dumps(payload.collect(NOTHING_DECLARED | wanted, "quick")))
    failed = {name for name, check in checks.items() if check.status == "fail"}
    assert failed >= {
        "package.no-such-package",
        "package.pyyaml",
        "import.no_such_module",
        "torch.version",
        "torch.cuda",
    }
    assert checks["torch.cuda"].measured == 0
    assert checks["torch.cuda"].expected == 8
    assert "Traceback" in checks["import.no_such_module"].evidence


def test_it_runs_where_there_is_no_torch(archive):
    done = run(archive, {"torch": {"version": "2.13.0", "variant": "cpu"}}, python="/usr/bin/python3")
    _, checks = checks_of(done.stdout)
    assert checks["import.torch"].status == "fail"


@pytest.mark.parametrize(
    ("loss", "accuracy", "failed"),
    [
        (0.01, 0.99, set()),
        (math.nan, 0.99, {"train.loss", "train.accuracy"}),
        (math.inf, 0.99, {"train.loss", "train.accuracy"}),
        (2.1, 0.12, {"train.accuracy"}),
        (0.01, math.nan, {"train.accuracy"}),
    ],
)
def test_a_model_that_does_not_learn_fails(loss, accuracy, failed):
    result = {"loss": loss, "accuracy": accuracy, "samples_per_s": 1.0, "elapsed_s": 1.0}
    checks, _ = classifier.judge(result, 0.95)
    assert {check["id"] for check in checks if check["status"] == "fail"} == failed
    json.dumps(checks, allow_nan=False)


def test_a_learning_rate_that_breaks_training_is_seen(torch, monkeypatch):
    monkeypatch.setattr(classifier, "LEARNING_RATE", 1e6)
    checks, _ = classifier.judge(classifier.train(torch, torch.device("cpu")), 0.95)
    assert "fail" in {check["status"] for check in checks}


def test_training_gives_the_same_on_every_run(torch):
    first, second = (classifier.train(torch, torch.device("cpu")) for _ in range(2))
    assert (first["loss"], first["accuracy"]) == (second["loss"], second["accuracy"])


class FakeTorch:
    """What the checks read of torch, for builds that this machine has not."""

    def __init__(self, version, cuda=None, gpus=0):
        self.__version__ = version
        self.version = type("v", (), {"cuda": cuda})
        self.cuda = type(
            "c", (), {"is_available": staticmethod(lambda: gpus > 0), "device_count": staticmethod(lambda: gpus)}
        )


@pytest.mark.parametrize(
    ("version", "cuda", "variant", "status"),
    [
        ("2.13.0+cpu", None, "cpu", "pass"),
        ("2.13.0", None, "cpu", "pass"),
        ("2.13.0", "13.0", "cu130", "pass"),
        ("2.13.0", "13.0", "cpu", "fail"),
        ("2.13.0+cu126", "12.6", "any", "pass"),
        ("2.12.0+cpu", None, "any", "fail"),
    ],
)
def test_a_build_is_told_by_its_version_or_by_what_it_was_built_for(version, cuda, variant, status):
    found = torch_build.check_torch(FakeTorch(version, cuda), {"version": "2.13.0", "variant": variant})
    assert found[0]["status"] == status


@pytest.mark.parametrize(
    ("declared", "gpus", "count", "status"),
    [
        ("required", 8, 8, "pass"),
        ("required", 7, 8, "fail"),
        ("required", 0, 0, "fail"),
        ("any", 0, 0, "pass"),
        ("absent", 1, 0, "fail"),
        ("absent", 0, 0, "pass"),
    ],
)
def test_gpus_are_held_against_the_declared(declared, gpus, count, status):
    assert torch_build.check_cuda(FakeTorch("2.13.0", "13.0", gpus), declared, count)[0]["status"] == status


def test_modules_of_a_distribution_are_told_by_its_files():
    assert packages.modules_of("PyYAML") == ["yaml", "_yaml"]


def test_the_zipapp_is_small_and_the_same_each_time():
    assert len(zipapp()) < 300_000
    zipapp.cache_clear()
    first = zipapp()
    zipapp.cache_clear()
    assert zipapp() == first


def test_what_runs_on_hosts_needs_python_3_9_at_most():
    vermin = Path(sys.executable).parent / "vermin"
    argv = [vermin, "--no-tips", "-t=3.9-", "--violations", "--eval-annotations", *ON_HOSTS]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"exit_code": 0, "document": "hello"}, "no sound document"),
        ({"exit_code": 0, "document": ""}, "no sound document"),
        ({"exit_code": 0, "document": '{"checks": []} trailing'}, "no sound document"),
        ({"exit_code": 0, "document": '{"payload_version":"1","elapsed_s":NaN,"checks":[]}'}, "no sound document"),
        ({"exit_code": 0, "document": '{"payload_version":"1","elapsed_s":1e999,"checks":[]}'}, "no sound document"),
        ({"exit_code": 0, "document": "[" * 100_000}, "no sound document"),
        ({"exit_code": 0, "document": "x" * 20_000, "truncated": True}, "more than"),
        ({"exit_code": -9, "document": ""}, "killed by SIGKILL"),
        ({"exit_code": -200, "document": ""}, "signal 200"),
        ({"exit_code": 1, "document": "", "stderr": "Traceback"}, "exit code 1"),
        ({"exit_code": -9, "document": "", "timed_out": True}, "did not finish within 600 s"),
        ({"exit_code": None}, "no Python at"),
    ],
)
def test_anything_but_a_sound_document_fails_the_host(answer, words):
    verification = read(answer, VerifyVars())
    assert [check.status for check in verification.checks] == ["fail"]
    assert words in verification.checks[0].summary
    assert verification.checks[0].remedy


# -- the language model; the real one is trained on lab hosts, where transformers is --------------------------------

LEARNED = {"first": 5.0, "last": 0.9, "train_s": 1.0, "tokens_per_s": 9.0, "text": "the host trains a model ."}


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({}, set()),
        ({"last": 4.9}, {"transformers.train"}),
        ({"last": math.nan}, {"transformers.train"}),
        ({"first": math.nan}, {"transformers.train"}),
        ({"text": "xx xx xx xx xx"}, {"transformers.generate"}),
        ({"text": "the the the the the"}, {"transformers.generate"}),
        ({"last": math.inf, "text": ""}, {"transformers.train", "transformers.generate"}),
    ],
)
def test_a_language_model_that_does_not_learn_or_speak_is_seen(change, failing):
    checks, figures = language_model.judge(LEARNED | change)
    assert {check["id"] for check in checks if check["status"] != "pass"} == failing
    assert {check["id"] for check in checks} == {"transformers.train", "transformers.generate"}
    assert all(math.isfinite(figure["value"]) for figure in figures)
    Verification.model_validate_json(
        json.dumps({"payload_version": "1", "elapsed_s": 1.0, "checks": checks, "measurements": figures})
    )


def test_the_made_text_is_the_same_everywhere():
    assert language_model.made_text() == language_model.made_text()
    assert len(set(language_model.made_text())) > 50
