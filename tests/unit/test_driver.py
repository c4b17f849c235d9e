"""What a driver suffers from, now or at the next boot: each finding seen to fire, and to be quiet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprov.model import CheckStatus, Observation
from llmprov.model.observation import release_key
from llmprov.plan import decide, driver
from llmprov.run import outcome
from tests.unit.builders import desired, gpu, observed

VERSION = "580.95.05"
SWITCH = {"address": "0000:05:00.0", "device_id": "22a3", "kind": "nvswitch"}
KERNEL = {"release": "6.1.0-40-amd64", "running": True, "bootable": True, "nvidia_module": True, "headers": True}


def host(kernels: list[dict] | None = None, switches: bool = False, **about: object) -> Observation:
    """A sound host with an H100, changed as told."""
    sound = {
        "module_version": VERSION,
        "library_version": VERSION,
        "package_name": "nvidia-open-kernel-dkms",
        "package_version": f"{VERSION}-1",
        "fabric_manager": "running",
        "fabric_manager_version": VERSION,
    }
    devices = [gpu("2330"), *([SWITCH] if switches else [])]
    return observed(devices=devices, driver={**sound, **about}, kernels=kernels or [KERNEL])


def ids(seen: Observation) -> set[str]:
    return {finding.id for finding in driver.findings(seen)}


def test_a_sound_host_suffers_from_nothing():
    assert driver.findings(host(switches=True)) == []


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"library_version": "580.105.08"}, "the loaded module 580.95.05, the libraries 580.105.08"),
        ({"package_version": "2:580.105.08-1~deb12u1"}, "the package 580.105.08"),
        (
            {"module_version": None, "package_version": "580.105.08-1"},
            "the libraries 580.95.05, the package 580.105.08",
        ),
    ],
)
def test_versions_that_disagree_are_told_before_anybody_reboots(about, words):
    (finding,) = driver.findings(host(**about))
    assert finding.id == "driver.versions"
    assert words in finding.says
    assert "reboot" in finding.remedy


def test_a_package_without_a_driver_in_its_version_says_nothing():
    assert ids(host(package_version="20230401-1")) == set()


NEWER = {"release": "6.1.0-41-amd64", "bootable": True}


def test_a_newer_kernel_without_a_module_is_found_before_it_boots():
    (finding,) = driver.findings(host([KERNEL, NEWER]))
    assert finding.id == "driver.next_kernel"
    assert "6.1.0-41-amd64 boots next" in finding.says
    assert "install linux-headers-6.1.0-41-amd64" in finding.remedy
    assert "headers missing" in finding.evidence


@pytest.mark.parametrize(
    "kernels",
    [
        [KERNEL, {**NEWER, "nvidia_module": True}],
        [KERNEL, {**NEWER, "bootable": False}],
        [KERNEL, {**NEWER, "release": "6.1.0-9-amd64"}],
        [{**KERNEL, "bootable": False, "nvidia_module": False}],
    ],
)
def test_kernels_that_will_not_boot_need_no_module(kernels):
    assert ids(host(kernels)) == set()


def test_the_running_kernel_may_lack_its_module_too():
    (finding,) = driver.findings(host([{**KERNEL, "nvidia_module": False, "dkms": "added"}], module_version=None))
    assert "6.1.0-40-amd64 runs has no" in finding.says
    assert "DKMS says added" in finding.evidence
    assert "linux-headers" not in finding.remedy


def test_without_a_driver_nothing_is_expected_of_kernels():
    bare = observed(devices=[gpu("2330")], kernels=[NEWER])
    assert ids(bare) == set()


@pytest.mark.parametrize("state", ["stopped", "absent"])
def test_switches_need_their_manager(state):
    assert ids(host(switches=True, fabric_manager=state)) == {"fabric.manager"}
    assert ids(host(switches=False, fabric_manager=state)) == set()


def test_the_manager_must_be_of_the_drivers_version():
    (finding,) = driver.findings(host(switches=True, fabric_manager_version="580.105.08"))
    assert finding.says.startswith("the fabric manager is 580.105.08 and the driver 580.95.05")


def test_nouveau_and_secure_boot_are_told():
    assert ids(host(nouveau_loaded=True)) == {"driver.nouveau"}
    refused = {"secure_boot": True, "module_version": None, "module_key_enrolled": False}
    assert ids(host(**refused)) == {"driver.secure_boot"}
    for spoilt in ({"module_version": VERSION}, {"module_key_enrolled": True}, {"module_key_enrolled": None}):
        assert ids(host(**{**refused, **spoilt})) == set()


def test_a_host_without_gpu_and_driver_is_left_in_peace():
    seen = observed(driver={"nouveau_loaded": True, "secure_boot": True, "module_key_enrolled": False}, kernels=[NEWER])
    assert driver.findings(seen) == []


def test_plan_and_verify_tell_the_same():
    plan = decide(desired(), host([KERNEL, NEWER]))
    (check,) = outcome.finding_checks(plan)
    assert (check.id, check.status) == ("driver.next_kernel", CheckStatus.WARN)
    assert check.remedy == plan.findings[0].remedy
    assert outcome.finding_checks(None) == []


@given(st.lists(st.from_regex(r"[0-9]{1,2}\.[0-9]{1,3}\.[0-9]-[0-9]{1,3}(-amd64)?", fullmatch=True), min_size=2))
def test_kernels_sort_as_numbers(releases):
    ordered = sorted(releases, key=release_key)
    numbers = [[int(n) for n in release.replace("-amd64", "").replace("-", ".").split(".")] for release in ordered]
    assert numbers == sorted(numbers)


@given(st.text(max_size=40))
def test_any_text_is_a_release_that_sorts(text):
    assert sorted([text, "6.1.0-40-amd64"], key=release_key)


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("535.261.03-1~deb12u1", "535.261.03"),
        ("2:580.95.05-0ubuntu1", "580.95.05"),
        ("580.95.05", "580.95.05"),
        ("470.256.02-2", "470.256.02"),
        ("580-1", ""),
        ("1.2.3", ""),
    ],
)
def test_a_packages_version_has_the_drivers_in_it(package, version):
    assert driver.upstream(package) == version
