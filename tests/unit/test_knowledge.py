"""The tables: sound, sourced, and consistent with each other."""

from __future__ import annotations

import re

import pytest

from llmprov.knowledge import GPUS, SUPPORTED_OS, architecture_runs_on, driver_floor, gpu_by_id, tables, torch_release
from tests.unit import vendor_facts


@pytest.mark.parametrize("name", ["gpus", "torch", "drivers", "hosts"])
def test_every_table_names_its_source(name):
    assert tables.table(name)["source"]


def test_gpu_ids_are_pci_ids_and_architectures_are_cuda_ones():
    for identifier, gpu in GPUS.items():
        assert re.fullmatch(r"[0-9a-f]{4}", identifier)
        assert re.fullmatch(r"sm_\d{2,3}", gpu.arch)


def test_every_build_has_a_driver_floor_and_known_architectures():
    table = tables.table("torch")
    for tags in table["releases"].values():
        for tag in tags:
            assert re.fullmatch(r"\d+\.\d+\.\d+", driver_floor(tag))
    for by_tag in table["architectures"].values():
        assert set(by_tag) <= {tag for tags in table["releases"].values() for tag in tags}


@pytest.mark.parametrize(
    ("code", "gpu", "runs"),
    [
        ("sm_80", "sm_86", True),
        ("sm_86", "sm_80", False),
        ("sm_90", "sm_100", False),
        ("sm_100", "sm_103", True),
        ("sm_75", "sm_80", False),
    ],
)
def test_machine_code_runs_on_its_own_major_version(code, gpu, runs):
    assert architecture_runs_on(code, gpu) is runs


def test_lookups():
    assert gpu_by_id("2330").name == "H100 SXM5 80GB"
    assert gpu_by_id("0000") is None
    assert torch_release("2.13.1", "x86_64").tags["cu132"] is None
    assert torch_release("9.9", "x86_64") is None
    assert "12" in SUPPORTED_OS["debian"]


def test_the_tables_agree_with_what_vendors_publish():
    assert set(GPUS) == set(vendor_facts.ARCHITECTURE)
    for identifier, gpu in GPUS.items():
        architecture = vendor_facts.ARCHITECTURE[identifier]
        assert set(gpu.flavours) == vendor_facts.MODULES[architecture], identifier
        assert gpu.first_branch == vendor_facts.FIRST_BRANCH.get(architecture)
        assert gpu.last_branch == vendor_facts.LAST_BRANCH.get(architecture)
    for release, tags in vendor_facts.WHEELS.items():
        assert set(torch_release(release, "x86_64").tags) == tags
        for tag in tags:
            assert tuple(map(int, driver_floor(tag).split("."))) == vendor_facts.lowest_driver(tag)
