"""What is measured with torch, on the processors: formulas, choices, judgements, and what spoils them."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprov.errors import UsageError
from llmprov.knowledge import GPUS, tables
from llmprov.payload import limits, tasks
from llmprov.payload.__main__ import NOTHING_DECLARED, Document
from llmprov.payload.document import measurement
from llmprov.payload.measure import bandwidth, digest, fine_tuning, gpt, input_pipeline, matmul, sampler, training
from llmprov.payload.measure.device import Device
from llmprov.payload.measure.figures import median, percentile, variation
from llmprov.payload.measure.gpt import SIZES, Size
from llmprov.payload.stages import HOME, START, Stage
from llmprov.run.variables import desired_from

SMALL = Size("small test", 2, 32, 2, 16, 64, 2)
SMALL_ADAPTED = Size("small adapters", 2, 64, 4, 32, 64, 16)


@pytest.fixture(scope="module")
def cpu(torch):
    return Device(torch, "cpu")


def ids(checks, status):
    return {check["id"] for check in checks if check["status"] == status}


# -- figures -----------------------------------------------------------------------------------------------------------

readings = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=50)


@given(readings)
def test_percentiles_lie_within_the_readings_and_in_order(values):
    low, middle, high = (percentile(values, part) for part in (0.05, 0.5, 0.95))
    assert min(values) <= low <= middle <= high <= max(values)
    assert middle == pytest.approx(median(values))
    assert variation(values) >= 0


def test_throughput_is_all_tokens_over_all_time():
    # One step of ten takes ten times as long: the mean of rates would say 0.91 of the even host, the truth is 0.53.
    window = training.Window(1000, 1.9, [0.1] * 9 + [1.0], 1.0, None, 0.1, {}, [])
    assert window.tokens_per_s == pytest.approx(1000 / 1.9)


# -- the model ---------------------------------------------------------------------------------------------------------


def test_the_flops_formula_is_what_torch_counts(torch):
    from torch.utils.flop_counter import FlopCounterMode

    model = gpt.build(torch, SMALL, "cpu")
    batch = torch.randint(SMALL.vocabulary, (SMALL.batch, SMALL.context + 1))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        gpt.loss_of(torch, model, batch).backward()
    assert SMALL.flops_per_token() * SMALL.batch * SMALL.context == counter.get_total_flops()


@pytest.mark.parametrize("size", [SMALL, SIZES["tiny"]])
def test_the_parameters_are_as_many_as_said(torch, size):
    assert sum(p.numel() for p in gpt.build(torch, size, "cpu").parameters()) == size.parameters()


def test_the_largest_is_about_a_billion():
    assert 1.0e9 < SIZES["1b"].parameters() < 1.5e9


def test_a_later_token_changes_no_earlier_one(torch):
    model = gpt.build(torch, SMALL, "cpu")
    tokens = torch.randint(SMALL.vocabulary, (1, SMALL.context))
    other = tokens.clone()
    other[0, -1] = (other[0, -1] + 1) % SMALL.vocabulary
    before, after = model(tokens), model(other)
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.equal(before[:, -1], after[:, -1])


# -- which size --------------------------------------------------------------------------------------------------------


def fake_card(free_gb):
    return SimpleNamespace(is_cuda=True, free_bytes=lambda: int(free_gb * 1e9))


@pytest.mark.parametrize(
    ("free_gb", "size"), [(80, "1b"), (40, "large"), (24, "medium"), (12, "small"), (6, "mini"), (1, "tiny")]
)
def test_the_largest_that_fits_is_taken(free_gb, size):
    assert training.choose(fake_card(free_gb), "auto")[0].name == size


def test_processors_train_the_tiny_one(cpu):
    assert [size.name for size in training.choose(cpu, "auto")] == ["tiny"]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate")]
)
def test_a_size_that_does_not_fit_falls_back_and_says_so(cpu, monkeypatch, error):
    real = training.train

    def train(device, size, steps, *rest, **more):
        if size.name == "small":
            raise error
        return real(device, SMALL, 2, *rest, **more)  # the mini one would take its time here

    monkeypatch.setattr(training, "train", train)
    checks, figures = training.measure(cpu, {"model_size": "small"}, None)
    (check,) = [one for one in checks if one["id"] == "cpu.train.size"]
    assert (check["status"], check["measured"], check["expected"]) == ("warn", "mini", "small")
    assert "small model did not fit" in check["summary"]
    assert {figure["key"] for figure in figures} >= {"train.tokens_per_s"}


def test_nothing_fits(cpu, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    checks, figures = training.measure(cpu, {}, None)
    assert (ids(checks, "fail"), figures) == ({"cpu.train.size"}, [])


def test_another_error_is_not_taken_for_a_lack_of_memory(cpu, monkeypatch):
    monkeypatch.setattr(
        training, "train", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("CUDA error: an illegal access"))
    )
    with pytest.raises(RuntimeError, match="illegal"):
        training.measure(cpu, {}, None)


def test_days_of_steps_are_marked_by_the_group(cpu):
    marks, loss, done = training._steps(cpu, lambda number: number, 7, 0.0, lambda: False, stride=3)
    assert (len(marks), loss, done) == (3, 6, 7)
    marks, _, done = training._steps(cpu, lambda number: number, 2, 60.0, lambda: True, stride=5)
    assert (len(marks), done) == (2, 5)  # told to stop: at the end of the first group


def test_a_link_that_stays_slow_under_load_is_named():
    assert sampler.slow_link({"pcie_generation": 3, "pcie_most_generation": 5}) == ["PCIe generation 3 of 5"]
    assert sampler.slow_link({"pcie_generation": 5, "pcie_most_generation": 5}) == []
    assert sampler.slow_link({"pcie_generation": 3}) == []


# -- judgements --------------------------------------------------------------------------------------------------------


def told(cpu, tokens_per_s, row=None, loss=7.0, reasons=()):
    window = training.Window(int(tokens_per_s), 1.0, [0.05] * 20, loss, None, 0.1, {}, list(reasons))
    declared = {"gpu_row": row} if row else {}
    checks, figures = training._told(cpu, declared, "train", SIZES["tiny"], window, 0.5)
    return checks, {figure["key"]: figure["value"] for figure in figures}


def test_mfu_is_told_of_known_cards_only(cpu):
    flops = SIZES["tiny"].flops_per_token()
    assert "train.mfu" not in told(cpu, 1000)[1]
    figures = told(cpu, 1000, {"tflops": {"fp32": 2000 * flops / 1e12}})[1]
    assert figures["train.mfu"] == pytest.approx(0.5)


def test_more_than_the_datasheet_is_an_error_and_no_figure(cpu):
    checks, figures = told(cpu, 1000, {"tflops": {"fp32": 900 * SIZES["tiny"].flops_per_token() / 1e12}})
    assert ids(checks, "fail") == {"cpu.train.mfu"}
    assert "train.mfu" not in figures


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1000.0])
def test_a_loss_that_runs_away_fails(cpu, loss):
    assert ids(told(cpu, 1000, loss=loss)[0], "fail") == {"cpu.train.loss"}


def test_what_held_it_back_is_named(cpu):
    checks, _ = told(cpu, 1000, reasons=["hardware power brake in 40 of 40 readings"])
    assert ids(checks, "warn") == {"cpu.train.held_back"}


@pytest.mark.parametrize(
    ("share", "idle", "throttled", "stolen", "word"),
    [
        (0.99, 0.0, 0.0, 0.0, None),
        (0.1, 0.8, 0.0, 0.0, "a quota"),
        (0.1, 0.8, 0.9, 0.0, "a CPU quota stopped it for 90 %"),
        (0.3, 0.05, 0.0, 0.0, None),  # a busy machine
        (0.5, 0.0, 0.0, 0.5, "hypervisor gave 50 %"),
    ],
)
def test_what_holds_processors_back_is_told_from_a_busy_machine(share, idle, throttled, stolen, word):
    one = sampler.Sampler("cpu", 2)
    parts = {"share": share, "idle": idle, "throttled": throttled, "stolen": stolen}
    one._cpu = {f"cpu_{name}_fraction": value for name, value in parts.items()}
    assert [word in reason for reason in one.reasons()] == ([True] if word else [])


def test_reasons_of_a_card_are_named_where_they_lasted():
    one = sampler.Sampler("gpu0", 1)
    one.readings, one.count = [{"power_w": 300.0, "sm_clock_mhz": 600.0}] * 40, 40
    one.seen.update({"hardware power brake": 40, "software power cap": 40, "hardware slowdown": 2})
    assert one.reasons() == ["hardware power brake in 40 of 40 readings"]
    assert one.figures() == {"power_w": 300.0, "sm_clock_mhz": 600.0}


def spoken(value):
    return [measurement("memory.bandwidth_gb_s", value, "GB/s", device="gpu0")]


@pytest.mark.parametrize(
    ("first", "second", "status", "times"), [(3000, 0, "pass", 0), (2000, 3000, "pass", 1), (2000, 2100, "fail", 1)]
)
def test_a_suspect_is_measured_twice_before_it_is_called_so(first, second, status, times):
    asked = []
    declared = {"gpu_row": {"bandwidth_gb_s": 3350}, "limits": {"bandwidth_gb_s": 75, "tflops_bf16": 60}}
    (check,) = limits.judge("gpu0", declared, spoken(first), lambda key: asked.append(key) or spoken(second))
    assert (check["status"], len(asked)) == (status, times)
    assert check["id"] == "gpu0.limit.bandwidth_gb_s"
    assert f"{first}" in check["evidence"]


def test_limits_of_what_was_not_measured_or_is_not_known_are_no_checks():
    wanted = {"limits": {"bandwidth_gb_s": 60}}
    assert limits.judge("gpu0", wanted, spoken(1), spoken) == []
    assert limits.judge("gpu0", {**wanted, "gpu_row": {"bandwidth_gb_s": 3350}}, [], spoken) == []


def test_the_tables_ask_a_rate_of_cards_with_a_published_record_alone():
    asked = {gpu.name for gpu in GPUS.values() if "tflops_bf16" in gpu.limits}
    assert {name.split()[0] for name in asked} == {"A100", "H100", "H200", "B200", "B300"}
    assert not {"H100 PCIe", "H100 NVL", "H200 NVL"} & asked
    row = {"bandwidth_gb_s": 3350, "limits": GPUS["2330"].limits}
    assert limits.judge("gpu0", {"gpu_row": row}, spoken(1000), lambda _: spoken(1001))[0]["status"] == "fail"
    assert (
        limits.judge("gpu0", {"gpu_row": row, "limits": {"bandwidth_gb_s": 40}}, spoken(1400), lambda _: [])[0][
            "status"
        ]
        == "pass"
    )


@pytest.mark.parametrize("percent", [39.9, 100.1, 0, -5])
def test_a_limit_that_makes_no_sense_is_refused(percent, monkeypatch):
    with pytest.raises(UsageError, match="verify_limits"):
        desired_from({"verify_limits": {"tflops_bf16": percent}}, {})
    monkeypatch.setattr(tables, "table", lambda _: {"limits": {"tflops_bf16": percent}})
    with pytest.raises(ValueError, match="makes no sense"):
        tables._limits.__wrapped__()


def test_a_gpu_that_is_in_no_table_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"did you mean `H100 SXM5 80GB`"):
        desired_from({"verify_gpu_model": "H100 SXM5"}, {})
    assert desired_from({"verify_gpu_model": "T4"}, {}).verify.gpu_model == "T4"


def test_rates_that_nobody_checked_are_held_against_nothing():
    unchecked = [gpu for gpu in GPUS.values() if not gpu.tflops]
    assert {gpu.name for gpu in unchecked} == {"V100 PCIe", "A40", "A10G", "L40", "GH200"}
    assert all(gpu.bandwidth_gb_s is None for gpu in unchecked)


def test_a_figure_that_is_no_number_is_inconclusive():
    document = Document("quick")
    figures = [measurement("a.gb_s", math.inf, "GB/s"), measurement("b.gb_s", 1.0, "GB/s", [math.nan])]
    document.take({"checks": [], "measurements": [*figures, measurement("c.gb_s", 1.0, "GB/s")], "digests": {}})
    assert [figure["key"] for figure in document.content["measurements"]] == ["c.gb_s"]
    assert ids(document.content["checks"], "inconclusive") == {"a.gb_s", "b.gb_s"}


# -- measurements that are quick enough here ---------------------------------------------------------------------------


def test_bandwidth_and_matmul_have_their_spread(cpu):
    for figures, key in (
        (bandwidth.measure(cpu), "memory.bandwidth_gb_s"),
        (matmul.measure(cpu, ["fp32"]), "matmul.tflops_fp32"),
    ):
        found = {figure["key"]: figure["value"] for figure in figures}
        assert 0 < found[f"{key}.p5"] <= found[key] <= found[f"{key}.p95"]


def test_the_same_numbers_every_time_and_others_from_a_poisoned_device(torch, cpu, monkeypatch):
    first, second = digest.measure(cpu), digest.measure(cpu)
    assert first == second
    real = torch.Tensor.__matmul__
    # One bit in a million wrong: no accuracy would show it.
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: real(a, b) * (1 + 2**-23))
    assert digest.measure(cpu)["cpu.matmul"] != first["cpu.matmul"]


def test_the_digest_leaves_torch_as_it_was(torch, cpu):
    threads = torch.get_num_threads()
    digest.measure(cpu)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_data_from_files_is_learned_and_spoilt_data_is_seen(cpu, tmp_path, monkeypatch):
    for name, small in (("DISK_BYTES", 1 << 20), ("FILES", 16), ("LINES", 128)):
        monkeypatch.setattr(input_pipeline, name, small)
    checks, figures = input_pipeline.measure(cpu, str(tmp_path))
    assert ids(checks, "fail") == set()
    assert {figure["key"] for figure in figures} == {
        "input.samples_per_s",
        "input.wait_fraction",
        "input.disk_read_gb_s",
    }
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(input_pipeline, "_word", lambda made, _: f"w{made.randrange(1000)}")
    checks, _ = input_pipeline.measure(cpu, str(tmp_path))
    assert ids(checks, "fail") == {"cpu.input.accuracy"}


def test_a_pipeline_that_waits_is_named():
    checks, _ = input_pipeline._judged({"samples_per_s": 1.0, "wait": 0.9, "accuracy": 1.0}, 0.1, "cpu")
    assert ids(checks, "warn") == {"cpu.input.wait"}


def test_adapters_learn_on_a_base_that_stays_as_it_is(cpu, monkeypatch):
    monkeypatch.setattr(fine_tuning, "SIZE", SMALL_ADAPTED)
    checks, figures = fine_tuning.measure(cpu)
    assert [check["status"] for check in checks] == ["pass"]
    assert figures[1]["value"] < fine_tuning.FALL


@pytest.mark.parametrize(
    ("first", "last", "moved"), [(4.0, 3.9, False), (4.0, math.nan, False), (0.0, 0.0, False), (4.0, 0.1, True)]
)
def test_adapters_that_do_not_learn_or_move_their_base_fail(first, last, moved):
    assert fine_tuning.judge("cpu", first, last, moved)["status"] == "fail"


@pytest.mark.parametrize(
    ("steps", "elapsed_s", "status"),
    [([0.1] * 50, 60.0, "pass"), ([0.1] * 40 + [0.12] * 10, 60.0, "warn"), ([0.1] * 50, 5.0, "inconclusive")],
)
def test_a_device_that_tires_in_a_soak_is_seen(steps, elapsed_s, status):
    window = training.Window(1000, elapsed_s, steps, 1.0, None, 0.1, {}, [])
    checks, _ = tasks._soaked("gpu0", window)
    assert [check["status"] for check in checks] == [status]


# -- stages ------------------------------------------------------------------------------------------------------------

QUESTION = {"declared": NOTHING_DECLARED, "level": "quick", "minutes": 5, "label": "cpu"}


def test_a_stage_that_crashes_is_a_finding():
    answer = Stage("no_such_task", "cpu", QUESTION).finish(time.monotonic() + 300)
    (check,) = answer["checks"]
    assert (check["id"], check["status"]) == ("payload.no_such_task.cpu", "fail")
    assert "KeyError" in check["evidence"]


def test_a_stage_that_hangs_is_ended_and_named():
    stage = Stage("soak", "cpu", QUESTION)
    answer = stage.finish(time.monotonic())
    assert "did not finish in time" in answer["checks"][0]["summary"]
    assert stage.process.returncode == -signal.SIGKILL


def test_a_stage_that_is_killed_leaves_what_it_had():
    stage = Stage("device", "cpu", QUESTION)
    deadline = time.monotonic() + 300
    while not Path(stage.path).exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # a poll: the file tells when the first figures are there
    stage.process.kill()
    answer = stage.finish(deadline)
    assert "was killed by SIGKILL" in answer["checks"][-1]["summary"]
    assert "memory.bandwidth_gb_s" in {figure["key"] for figure in answer["measurements"]}


def test_a_process_of_a_world_that_fails_is_named_with_its_reason():
    question = {"processes": 2, "size": "no such size", "alone_tokens_per_s": 0}
    (check,) = Stage("world", "", question).finish(time.monotonic() + 300)["checks"]
    assert (check["id"], check["status"]) == ("world.run", "fail")
    assert re.search(r"process [01] of 2 failed: KeyError: 'no such size'", check["summary"])


def test_a_process_of_a_world_ends_without_the_end_of_the_interpreter(tmp_path):
    """Gloo's threads may abort a process whose interpreter is ending."""
    path = tmp_path / "answer"
    code = "import atexit; atexit.register(print, 'the interpreter ended'); " + START
    argv = [sys.executable, "-c", code, HOME, "rank", str(path), "tiny"]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    ran = subprocess.run(argv, env={**os.environ, **alone}, stdout=subprocess.PIPE, timeout=300, check=True)
    assert ran.stdout == b""
    assert json.loads(path.read_text())["world"] == 1
