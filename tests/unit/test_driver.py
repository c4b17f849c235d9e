"""What a driver suffers from, now or at the next boot: each finding seen to fire, and to be quiet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprov.knowledge import BRANCHES, GPUS, SUPPORTED_OS, driver_sources
from llmprov.model import CheckStatus, Observation, Refusal
from llmprov.model.observation import release_key
from llmprov.plan import decide, driver
from llmprov.plan.driver_choice import Choice, Wanted, choose
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


# -- which driver ------------------------------------------------------------------------------------------------

SYSTEMS = [(name, version) for name, versions in SUPPORTED_OS.items() for version in versions]
BY_NAME = {known.name: known for known in GPUS.values()}
WANTED = st.builds(
    Wanted,
    branch=st.sampled_from(["auto", *BRANCHES]),
    flavour=st.sampled_from(["auto", "open", "proprietary"]),
    repository=st.sampled_from(["auto", "distribution", "nvidia"]),
    floor=st.sampled_from(["", "450.80.02", "525.60.13", "580.65.06"]),
)
MODELS = st.lists(st.sampled_from(sorted(BY_NAME)), min_size=1, max_size=3)


def with_gpus(*names: str, system: tuple[str, str] = ("debian", "12")) -> Observation:
    devices = [gpu(BY_NAME[name].ids[0]) for name in names]
    return observed(devices=devices, os={"id": system[0], "version_id": system[1], "architecture": "x86_64"})


@given(WANTED, MODELS, st.sampled_from(SYSTEMS))
def test_no_choice_is_one_that_the_tables_rule_out(wanted, names, system):
    seen = with_gpus(*names, system=system)
    choice = choose(wanted, seen)
    assert choose(wanted, seen) == choice
    if isinstance(choice, Refusal):
        assert choice.this
        assert choice.that
        assert choice.remedy
        return
    number = int(choice.branch)
    for name in names:
        known = BY_NAME[name]
        assert choice.flavour in known.flavours
        assert (known.first_branch or 0) <= number <= (known.last_branch or 9999)
    assert choice.flavour in BRANCHES[choice.branch].flavours
    assert not wanted.floor or number >= int(wanted.floor.split(".")[0])
    assert wanted.branch in ("auto", choice.branch)
    assert wanted.flavour in ("auto", choice.flavour)
    assert wanted.repository in ("auto", choice.repository)
    rows = [source for source in driver_sources(*system) if source.repository == choice.repository]
    assert any(choice.flavour in source.branches.get(choice.branch, []) for source in rows)


@given(WANTED, MODELS, st.sampled_from(SYSTEMS))
def test_the_nearest_choice_of_a_refusal_fits(wanted, names, system):
    seen = with_gpus(*names, system=system)
    refused = choose(wanted, seen)
    if isinstance(refused, Refusal):
        free = choose(Wanted(floor=wanted.floor), seen)
        if isinstance(free, Choice):
            assert free.sentence() in refused.remedy
        else:
            assert "no driver fits" in refused.remedy or not driver_sources(*system)


@pytest.mark.parametrize("name", sorted(BY_NAME))
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_gpu_gets_a_driver_on_every_system(name, system):
    choice = choose(Wanted(), with_gpus(name, system=system))
    if not driver_sources(*system):
        assert system == ("ubuntu", "26.04")
        assert isinstance(choice, Refusal)
        assert "no repository" in choice.that
        return
    if BY_NAME[name].flavours == ("proprietary",) and system[1] == "10":
        assert isinstance(choice, Refusal)
        assert "proprietary" in choice.that
        return
    assert isinstance(choice, Choice)
    assert not BRANCHES[choice.branch].ended


@pytest.mark.parametrize(
    ("names", "wanted", "told"),
    [
        (["V100 SXM2 16GB"], Wanted(), Choice("580", "proprietary", "nvidia")),
        (["H100 SXM5 80GB"], Wanted(), Choice("580", "open", "nvidia")),
        (["B200"], Wanted(), Choice("580", "open", "nvidia")),
        (["H100 SXM5 80GB"], Wanted(repository="distribution"), Choice("535", "proprietary", "distribution")),
        (["T4"], Wanted(branch="595", flavour="proprietary"), Choice("595", "proprietary", "nvidia")),
    ],
)
def test_known_answers(names, wanted, told):
    assert choose(wanted, with_gpus(*names)) == told


@pytest.mark.parametrize(
    ("names", "wanted", "this", "that"),
    [
        (["V100 SXM2 16GB"], Wanted(branch="595"), "branch 595", "V100 SXM2 16GB, whose last branch is 580"),
        (["V100 SXM2 16GB"], Wanted(branch="595", flavour="proprietary"), "branch 595", "last branch is 580"),
        (["B200"], Wanted(flavour="proprietary"), "the proprietary kernel modules", "B200, which only the open ones"),
        (["B200"], Wanted(repository="distribution"), "the proprietary kernel modules", "B200"),
        (
            ["T4"],
            Wanted(repository="distribution", flavour="open"),
            "(open, distribution)",
            "what the repositories have",
        ),
        (["T4"], Wanted(repository="distribution", floor="580.65.06"), "branch 535", "CUDA programs"),
        (["V100 SXM2 16GB", "B200"], Wanted(), "kernel modules", "V100"),
        (["T4"], Wanted(branch="620"), "asked for (620)", "what the repositories have"),
    ],
)
def test_what_does_not_fit_is_named_with_what_would(names, wanted, this, that):
    refused = choose(wanted, with_gpus(*names))
    assert isinstance(refused, Refusal)
    assert this in refused.this
    assert that in refused.that
    assert ("take branch 580" in refused.remedy) != (len(names) > 1)


def test_a_host_without_a_known_gpu_gets_no_driver():
    assert choose(Wanted(), observed()) is None
    assert choose(Wanted(), observed(devices=[gpu("ffff")])) is None


def test_a_refused_wheel_names_the_driver_that_would_do():
    plan = decide(desired(), observed(devices=[gpu("2330")]))
    assert "(branch 580 with the open kernel modules, from NVIDIA's repository)" in plan.refusals[0].remedy
