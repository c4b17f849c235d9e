"""The named bad days: every fault at once, each on a host of its own among sound ones, told truly and mended by a run."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest

from tests.chaos import SMALL, chaos
from tests.conftest import ROOT
from tests.lab.conftest import PYTHON, Lab, cleared
from tests.lab.faults import FAULTS, first_code, row_code

ADDRESSES = "10.77.39.0/24"
SCHEMA = json.loads((ROOT / "docs/schema/fleet.schema.json").read_text("utf-8"))
HOSTS = 10
NAMES = list(FAULTS)
#: The faults of one run each; the last host is sound.
ROUNDS = [NAMES[i : i + HOSTS - 1] for i in range(0, len(NAMES), HOSTS - 1)]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory, llmprov_in):
    """Hosts that are as declared."""
    with cleared("days") as fleet:
        fleet.up(HOSTS, address_range=ADDRESSES, packages=PYTHON)
        lab = Lab(fleet)
        inventory = lab.inventory(tmp_path_factory.mktemp("days") / "hosts.yml", lab.of(*names(lab)), **SMALL)
        ran = llmprov_in(inventory.parent)("provision", inventory, "--no-verify")
        assert ran.code == 0, ran.statuses()
        yield lab


def names(lab):
    return [host.name for host in lab.fleet.hosts()]


@pytest.fixture(scope="module", params=range(len(ROUNDS)))
def a_round(request, fleet, llmprov_in, tmp_path_factory):
    """A run among the faults of one round, and its retry after they were mended: (faults by host, both runs)."""
    folder = tmp_path_factory.mktemp("round")
    faulty = dict(zip(names(fleet), ROUNDS[request.param], strict=False))
    hosts = fleet.of(*names(fleet))
    for name, fault in faulty.items():
        hosts[name] |= FAULTS[fault].variables
        if FAULTS[fault].power_off:
            fleet.host(name).stop()
        else:
            fleet.sh(name, FAULTS[fault].script)
    inventory = fleet.inventory(folder / "hosts.yml", hosts, ansible_timeout=5, **SMALL)
    during = llmprov_in(folder)("provision", inventory)
    for name, fault in faulty.items():
        if FAULTS[fault].power_off:
            fleet.fleet.restart(name)
        else:
            fleet.sh(name, FAULTS[fault].mend)
    after = llmprov_in(folder)("provision", inventory, "--retry", during.fleet["run"]["id"])
    return faulty, during, after


def test_every_host_has_a_row_and_the_sound_one_passes(a_round, fleet):
    faulty, during, _ = a_round
    jsonschema.validate(during.fleet, SCHEMA)
    assert sorted(during.statuses()) == sorted(names(fleet))
    for name in set(names(fleet)) - set(faulty):
        assert during.statuses()[name] in ("pass", "warn"), during.row(name)["summary"]


def test_the_exit_code_is_the_documented_one(a_round):
    faulty, during, _ = a_round
    assert during.code == first_code(FAULTS[fault].exit_code for fault in faulty.values())
    assert during.fleet["exit_code"] == during.code
    codes = {name: row_code(during.row(name)) for name in faulty}
    assert codes == {name: FAULTS[fault].exit_code for name, fault in faulty.items()}


@pytest.mark.parametrize("number", range(HOSTS - 1))
def test_the_true_cause_is_told_with_what_to_do(a_round, number):
    faulty, during, _ = a_round
    if number >= len(faulty):
        pytest.skip("the last round has fewer faults")
    name, fault = list(faulty.items())[number]
    row, about = during.row(name), FAULTS[fault]
    told = f"{fault}: {row['status']}: {row['summary']} -> {row['remedy']}"
    print(told)
    assert row["status"] in about.statuses, told
    assert re.search(about.words, row["summary"]), told
    assert re.search(about.remedy, row["remedy"]), told


def test_a_retry_on_mended_hosts_passes_and_takes_up_no_other(a_round):
    _, during, after = a_round
    assert after.code == 0
    for name, status in during.statuses().items():
        assert after.statuses()[name] in (("not_selected",) if status in ("pass", "warn") else ("pass", "warn")), name


@pytest.mark.long
def test_whatever_comes_together_what_is_promised_holds(fleet, tmp_path):
    # Three minutes of `make chaos`, always the same ones.
    assert chaos(fleet, 180, 1, tmp_path) >= 1
