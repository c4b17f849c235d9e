"""From findings to one cause and one next step: which comes first, and commands that can be pasted.

`test_faulty_hosts.py` has each rule on hosts that show its fault.
"""

from __future__ import annotations

import re
import shlex

import pytest

from llmprov.knowledge import XIDS
from llmprov.model import Check, Device, RunInfo, Status
from llmprov.model.report import Step
from llmprov.report import aggregate, causes, figures, simulate
from tests.unit.builders import row, run_info
from tests.unit.faulty_hosts import FaultyHost

RUN = run_info().model_copy(update={"inventory": ["my fleet.yml"]})
DEVICE = Device(label="gpu3", address="0000:1b:00.0")


def found(name: str, status: str = "fail", **more: str) -> Check:
    return Check(id=name, status=status, summary="because", **more)


def cause(*checks: Check, host: str = "node7", run: RunInfo = RUN, **more: object):
    return causes.find(row(host, Status.FAIL, checks=list(checks), devices=[DEVICE], **more), run)


SLOW = found("cohort.gpu3.train.tokens_per_s", "warn")


@pytest.mark.parametrize(
    ("finding", "explains"),
    [("gpu3.power_limit", "power_limit"), ("gpu3.processes", "in_use"), ("cpu.governor", "processors")],
)
def test_what_only_explains_slowness_is_no_cause_of_anything_else(finding, explains):
    assert cause(found(finding, "warn"), SLOW).id == explains
    assert cause(found(finding, "warn")).id != explains


def test_the_cause_comes_before_its_symptom():
    told = cause(SLOW, found("gpu3.temperature", "warn"), found("gpu3.xid.79"))
    assert told.id == "fell_off_the_bus"
    assert told.says == "GPU 3 fell off the PCIe bus"
    assert told.checks == ["gpu3.xid.79"]


@pytest.mark.parametrize("number", sorted(XIDS, key=int))
def test_every_xid_that_fails_has_a_cause_and_drains_its_host(number, tmp_path):
    host = FaultyHost(tmp_path / "host")
    host.kernel_says(f"NVRM: Xid (PCI:0000:43:00): {number}, pid=1")
    checks = [Check(**one) for one in host.found[1] if one["status"] == "fail"]
    if checks:
        told = cause(*checks)
        assert (told.checks, told.drain) == ([f"gpu1.xid.{number}"], True)
        assert told.id != told.checks[0]


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
