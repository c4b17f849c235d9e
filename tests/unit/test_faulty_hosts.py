"""Every fault that the rules name, as a real host shows it: the report says what a person would say."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest

from llmprov.knowledge import CAUSES
from llmprov.model import CheckStatus
from llmprov.report import causes, simulate
from tests.unit.check_ids import patterns
from tests.unit.faulty_hosts import FAULTS, FaultyHost, reported
from tests.unit.machines import ADDRESSES, DRIVER
from tests.unit.test_health import CORPUS, captures

SOUND = 9

#: Checks that no rule names: the finding's own sentence and remedy are the host's cause, which is enough.
NO_RULE = {
    # A setting is not as it should be, and the remedy is the command that changes it.
    *("gpu*.compute_mode", "gpu*.ecc_mode", "gpu*.mig", "gpu*.persistence", "gpu.model"),
    *("driver.nouveau", "driver.secure_boot", "drift.channels", "drift.environments", "drift.held", "drift.jupyter"),
    # Something to look at that stops no job.
    *("drift.kernel", "gpu*.channel_repair_pending", "gpu*.tpc_repair_pending", "gpu*.numa", "gpu*.pcie_generation"),
    # The machine around the cards.
    *("memory.available", "memory.ecc", "network.*", "network.*.*"),
    # A training that goes wrong, or a measurement that raises an error: its evidence is what there is.
    *("*.*.loss", "*.*.mfu", "*.*.size", "*.adapters", "*.adapters.loss", "*.alone", "*.compile", "*.input"),
    *("*.input.accuracy", "*.input.wait", "*.rates", "*.soak", "*.train", "train.accuracy", "train.loss", "train.run"),
    *("transformers.generate", "transformers.train", "world.run", "*.soak.pace"),
    # What a host shows when it comes back from a reboot: it ends the reboots, and is in no report.
    *("gate.gpu*", "gate.gpus"),
    # These pass or are inconclusive, and never fail.
    *("health.*", "python.version", "xid"),
}


CASES = [
    pytest.param(
        fault, id=fault.name, marks=[pytest.mark.xfail(strict=True, reason=fault.wrong)] if fault.wrong else []
    )
    for fault in FAULTS
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Sound hosts, with cards and without: whether they have cards -> hosts by name."""
    folder = tmp_path_factory.mktemp("sound")
    kinds = {cards: FaultyHost(folder / str(cards), cards) for cards in (True, False)}
    return {cards: {f"sound{n}": host for n in range(SOUND)} for cards, host in kinds.items()}


@pytest.fixture(scope="module")
def reports(sound, tmp_path_factory):
    """Fault -> the report of a fleet in which one host has it, or several."""
    made = {}
    for number, fault in enumerate(FAULTS):
        bad = {}
        for n in range(fault.hosts):
            bad[f"bad{n}"] = FaultyHost(tmp_path_factory.mktemp(f"fault{number}") / "host", fault.cards)
            fault.make(bad[f"bad{n}"])
        made[fault] = reported(sound[fault.cards] | bad)
    return made


def rows(report):
    return {row.host: row for row in report.hosts}


@pytest.mark.parametrize("cards", [True, False])
def test_sound_hosts_have_no_cause(sound, cards):
    for row in reported(sound[cards]).hosts:
        assert (row.status, row.cause) == ("pass", None), row.summary


@pytest.mark.parametrize("fault", CASES)
def test_the_report_says_what_a_person_says(reports, fault):
    found = {row.host: row.cause for row in reports[fault].hosts if row.cause}
    assert sorted(found) == [f"bad{n}" for n in range(fault.hosts)]
    cause = found["bad0"]
    told = f"{cause.id}: {cause.says} -> {cause.what} ({cause.command})"
    assert re.search(fault.says, cause.says), told
    assert re.search(fault.do, f"{cause.what} {cause.command}"), told
    assert cause.drain is fault.drain, told
    assert cause.checks, told
    assert "{" not in told


def test_every_rule_has_an_id_of_its_own():
    assert len(CAUSES) == len({rule.id for rule in CAUSES})


def failing(reports):
    bad = (CheckStatus.FAIL, CheckStatus.WARN)
    return [check for report in reports.values() for check in rows(report)["bad0"].checks if check.status in bad]


@pytest.mark.parametrize("rule", CAUSES, ids=lambda rule: rule.id)
def test_every_alternative_of_a_rule_is_a_finding_that_a_host_can_have(reports, rule):
    unseen = [one for one in rule.any if not any(causes._matches(one, check) for check in failing(reports))]
    assert not unseen
    assert rule.id in {rows(report)["bad0"].cause.id for report in reports.values()}


def test_every_check_that_can_fail_has_a_rule_or_is_known_to_have_none(reports):
    ruled = [
        re.sub(r"^gpu\d+", "gpu*", check.id)
        for check in failing(reports)
        if any(causes._matches(one, check) for rule in CAUSES for one in rule.any)
    ]
    bare = {pattern for pattern in patterns() if not any(fnmatchcase(name, pattern) for name in ruled)}
    assert bare == set(NO_RULE)


def test_a_simulated_fault_is_a_finding_that_a_host_can_have(reports):
    real = {(re.sub(r"\d+", "*", check.id), check.status) for check in failing(reports)}
    made = simulate.fleet(600, seed=3, faults=0.3)
    planted = {
        (re.sub(r"\d+", "*", check.id), check.status)
        for row in made.rows
        for check in row.checks
        if check.status is not CheckStatus.PASS
    }
    assert len(planted) == 8
    assert planted <= real


def test_a_simulated_check_is_one_that_the_product_makes():
    made = {re.sub(r"^gpu\d+", "gpu*", check.id) for row in simulate.fleet(120, 3).rows for check in row.checks}
    assert not [name for name in made if not any(fnmatchcase(name, pattern) for pattern in patterns())]


# -- captures of real machines, read in place where they lie -------------------------------------------------------

#: Name of a capture, what is changed in it, whether the captured kernel log comes with it, what a person says, what to do.
CAPTURED = [
    ("a10g", "<remapped_row_failure>No<", "<remapped_row_failure>Yes<", False, "memory of GPU 0", "replaced"),
    (
        "a100-sxm4-v12",
        "<dram_uncorrectable>0<",
        "<dram_uncorrectable>2<",
        False,
        "memory errors",
        "gpu-reset -i 0000:01:00.0'",
    ),
    # The card of this machine, at the address that the log names.
    (
        "a100-sxm4-v12",
        "00000000:01:00.0",
        "00000000:9B:00.0",
        True,
        "GPU 0 stopped answering",
        "gpu-reset -i 0000:9b:00.0'",
    ),
]


def captured(folder, text, log):
    """The row of a host whose nvidia-smi prints a text, and whose kernel has a log."""
    host = FaultyHost(folder / "host")
    host.declared |= {"expected_gpu_count": None, "expected_gpu_model": None, "gpu_rows": {}}
    for address in (*ADDRESSES, "0000:05:00.0"):
        host.made.file(f"/sys/bus/pci/devices/{address}/vendor", "0x8086")
    driver = re.search("<driver_version>(.+)</driver_version>", text).group(1)
    host.made.file("/proc/driver/nvidia/version", f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Release")
    host.made.remove(f"/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.{DRIVER}")
    (folder / "smi.xml").write_text(text, "utf-8")
    host.made.program("nvidia-smi", f'case "$*" in "-q -x") cat {folder}/smi.xml;; esac')
    host.made.program("dmesg", f"cat {log}" if log else "echo '[0.0] Linux version 6.1'")
    (row,) = reported({"bad0": host}).hosts
    return row


@captures
@pytest.mark.parametrize(("name", "was", "now", "log", "says", "do"), CAPTURED)
def test_a_fault_in_what_a_real_machine_printed(tmp_path, name, was, now, log, says, do):
    text = (CORPUS / f"nvidia-smi/{name}.xml").read_text("utf-8")
    assert was in text
    cause = captured(tmp_path, text.replace(was, now, 1), CORPUS / "dmesg/xid-119.log" if log else None).cause
    assert re.search(says, cause.says)
    assert re.search(do, f"{cause.what} {cause.command}")
    assert cause.drain


NARROW = "a cloud guest does not show the port above its card, which has eight lanes: the card is called badly seated"


@captures
@pytest.mark.parametrize(
    "name",
    [
        "a100-sxm4-v12",
        "quadro-p400",
        "rtx-3080-v13",
        pytest.param("a10g", marks=pytest.mark.xfail(strict=True, reason=NARROW)),
        pytest.param("tesla-t4", marks=pytest.mark.xfail(strict=True, reason=NARROW)),
    ],
)
def test_a_real_machine_without_a_fault_keeps_its_jobs(tmp_path, name):
    cause = captured(tmp_path, (CORPUS / f"nvidia-smi/{name}.xml").read_text("utf-8"), None).cause
    assert cause is None or not cause.drain, cause
