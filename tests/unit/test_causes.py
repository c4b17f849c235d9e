"""From findings to one cause and one next step: every rule seen to fire, and commands that can be pasted."""

from __future__ import annotations

import re
import shlex

import pytest

from llmprov.knowledge import CAUSES, XIDS
from llmprov.model import Check, Device, RunInfo, Status
from llmprov.model.report import Step
from llmprov.payload.health.xid import ACTIONS
from llmprov.report import aggregate, causes, figures, simulate
from tests.unit.builders import row, run_info

RUN = run_info().model_copy(update={"inventory": ["my fleet.yml"]})
DEVICE = Device(label="gpu3", address="0000:1b:00.0")


def found(name: str, status: str = "fail", **more: str) -> Check:
    return Check(id=name, status=status, summary="because", **more)


def cause(*checks: Check, host: str = "node7", run: RunInfo = RUN, **more: object):
    return causes.find(row(host, Status.FAIL, checks=list(checks), devices=[DEVICE], **more), run)


SLOW = found("cohort.gpu3.train.tokens_per_s", "warn")

EXAMPLES = {
    "computes_differently": [found("cohort.gpu3.gradients.digest")],
    "memory_worn_out": [found("gpu3.row_remap")],
    "fell_off_the_bus": [found("gpu3.xid.79")],
    "mechanical": [found("gpu3.xid.54")],
    "vendor_error": [found(f"gpu3.xid.{next(n for n, r in XIDS.items() if r.get('action') == 'CONTACT_SUPPORT')}")],
    "driver_torn": [found("driver.versions")],
    "asks_for_reboot": [found("gpu3.recovery", measured="reboot")],
    "no_module_at_next_boot": [found("driver.next_kernel", "warn")],
    "nvlink": [found("gpu3.nvlink")],
    "uncorrectable_memory": [found("gpu3.ecc_volatile")],
    "gpu_hangs": [found("gpu3.xid.119")],
    "fabric_manager": [found("fabric.manager")],
    "missing_gpus": [found("gpu.count")],
    "pcie_seating": [found("gpu3.pcie_width"), SLOW],
    "power_brake": [found("gpu3.train.held_back", "warn", measured="hardware power brake in 40 of 40 readings"), SLOW],
    "heat": [found("gpu3.clocks", measured="hw_thermal_slowdown"), SLOW],
    "hardware_slowdown": [found("gpu3.clocks", measured="hw_slowdown")],
    "power_limit": [found("gpu3.power_limit", "warn"), SLOW],
    "disk_full": [found("disk.root", "warn")],
    "package_damaged": [found("import.numpy")],
    "drifted": [found("declared.pytorch")],
    "in_use": [found("gpu3.processes", "warn"), SLOW],
    "processors": [found("cpu.governor", "warn"), found("cohort.train.tokens_per_s", "warn")],
    "stage_died": [found("payload.device.gpu3")],
    "slow_card": [SLOW],
    "slow_like_its_group": [found("cohort.train.tokens_per_s", "warn", evidence="z -9; in common: group rack2")],
    "by_hand": [found("drift.packages", "warn")],
    "slow_host": [found("cohort.train.tokens_per_s", "warn")],
}


def test_every_rule_has_an_example():
    assert set(EXAMPLES) == {rule.id for rule in CAUSES}
    assert len(CAUSES) == len({rule.id for rule in CAUSES})


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_rule_fires_and_says_what_to_do(name):
    told = cause(*EXAMPLES[name])
    assert told is not None
    assert told.id == name
    assert told.step is not Step.NOTHING
    assert told.what
    assert told.checks
    assert "{" not in told.says + told.what + told.command


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_rule_is_quiet_where_all_passed(name):
    sound = [Check(id=check.id, status="pass", measured=check.measured) for check in EXAMPLES[name]]
    assert causes.find(row("a", Status.PASS, checks=sound), RUN) is None


@pytest.mark.parametrize("name", ["power_limit", "in_use", "processors"])
def test_what_only_explains_slowness_is_no_cause_of_anything_else(name):
    assert cause(EXAMPLES[name][0]).id != name


def test_the_cause_comes_before_its_symptom():
    told = cause(SLOW, found("gpu3.temperature", "warn"), found("gpu3.xid.79"))
    assert told.id == "fell_off_the_bus"
    assert told.says == "GPU 3 fell off the PCIe bus"
    assert told.checks == ["gpu3.xid.79"]


@pytest.mark.parametrize("number", sorted(XIDS, key=int))
def test_every_xid_that_fails_has_a_cause(number):
    action = XIDS[number].get("action") or XIDS[number].get("investigate") or ""
    if ACTIONS.get(action, ("warn", ""))[0] == "fail":
        assert cause(found(f"gpu3.xid.{number}")) is not None, action


def test_commands_can_be_pasted_whatever_the_names_are():
    told = cause(found("gpu3.xid.119"), host="a; rm -rf /\x1b[2J")
    words = shlex.split(told.command)
    assert words[:2] == ["ansible", "a; rm -rf /\\u001b[2J"]
    assert words[3] == "my fleet.yml"
    assert words[-1] == "nvidia-smi --gpu-reset -i 0000:1b:00.0"
    assert "\x1b" not in told.command


def test_an_address_from_a_host_runs_nothing():
    bad = Device(label="gpu3", address="$(reboot); `id`")
    told = causes.find(row("a", Status.FAIL, checks=[found("gpu3.xid.119")], devices=[bad]), RUN)
    # One word of one command for the shell here; on the host Ansible's command module has no shell.
    assert shlex.split(told.command)[-1] == "nvidia-smi --gpu-reset -i $(reboot); `id`"
    assert re.search(r"ansible\.builtin\.command", told.command)


@pytest.mark.parametrize(
    ("status", "step"),
    [
        (Status.UNREACHABLE, Step.CONNECT),
        (Status.NOT_RUN, Step.VERIFY),
        (Status.REFUSED, Step.CONFIGURE),
        (Status.PENDING, Step.ALLOW),
    ],
)
def test_what_stopped_a_host_is_its_cause(status, step):
    told = causes.find(row("a", status, summary="so it is", remedy="do that"), RUN)
    assert (told.says, told.step, told.what) == ("so it is", step, "do that")


@pytest.mark.parametrize("status", [s for s in Status if s not in (Status.PASS, Status.NOT_SELECTED)])
def test_no_troubled_host_is_left_without_a_next_step(status):
    checks = [found("memory.ecc", "fail"), found("network.eth0", "warn"), found("gpu1.numa", "inconclusive")]
    for given in (checks, checks[1:], checks[2:], []):
        told = causes.find(row("a", status, checks=given, summary="so"), RUN)
        assert told is not None
        assert told.says
        assert told.step is not Step.NOTHING


def test_a_finding_without_a_rule_is_its_own_cause():
    told = cause(found("gpu1.numa", "warn", remedy="look at the firmware"), found("memory.ecc", remedy="replace it"))
    assert (told.id, told.says, told.step, told.what) == ("memory.ecc", "because", Step.INSPECT, "replace it")


def test_every_planted_fault_gets_its_cause_and_sound_hosts_get_none():
    made = simulate.fleet(600, seed=3, faults=0.3)
    fleet = aggregate.fleet(made.run, made.rows, lambda _: 0, [])
    known = {
        "disk": {"disk_full"},
        "drift": {"drifted"},
        "ecc": {"uncorrectable_memory"},
        "failed": {"task_failed"},
        "pcie": {"pcie_seating"},
        "row_remap": {"memory_worn_out"},
        "digest": {"computes_differently"},
        "slow_card": {"slow_card", "slow_host"},
        "slow_host": {"slow_host"},
        "xid": {"fell_off_the_bus"},
    }
    assert set(made.planted.values()) == set(simulate.FAULTS)
    wrong = []
    for told in fleet.hosts:
        planted = made.planted.get(told.host)
        given = told.cause.id if told.cause else None
        if given not in known.get(planted, {planted}):
            wrong.append((told.host, planted, given))
    assert not wrong


def test_groups_hold_each_troubled_host_once():
    made = simulate.fleet(600, seed=3, faults=0.3)
    fleet = aggregate.fleet(made.run, made.rows, lambda _: 0, [])
    grouped = [row.host for group in figures.groups(fleet) for row in group.rows]
    assert sorted(grouped) == sorted(row.host for row in fleet.hosts if row.cause)


def test_draining_is_said_with_slurms_own_words():
    told = row("node7", Status.FAIL)
    told.cause = cause(found("gpu3.xid.79"))
    assert figures.drain(told) == "scontrol update NodeName=node7 State=DRAIN 'Reason=llmprov: fell_off_the_bus'"
    told.cause = cause(found("declared.pytorch"))
    assert figures.drain(told) == ""


def test_a_command_of_a_locked_run_names_the_lock():
    damaged = found("import.numpy")
    for lock, words in ((None, []), ("llmprov.lock", ["--locked"]), ("a b.lock", ["--locked", "--lock", "a b.lock"])):
        run = RUN.model_copy(update={"lock": lock})
        command = shlex.split(cause(damaged, run=run).command)
        assert command == ["llmprov", "rebuild", "-i", "my fleet.yml", "--limit", "node7", *words]
    reset = cause(found("gpu3.xid.119"), run=RUN.model_copy(update={"lock": "llmprov.lock"}))
    assert "--locked" not in reset.command
