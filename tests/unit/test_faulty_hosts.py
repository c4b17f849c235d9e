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
