"""What is done about a driver: the same input, the same plan; nothing where all is as declared; refusals by name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprov.knowledge import BRANCHES, GPUS, SUPPORTED_OS
from llmprov.model import Kind, NvidiaDriverVars, Observation
from llmprov.plan import decide, driver_plan
from llmprov.plan.decide import planned_driver
from tests.unit import vendor_facts
from tests.unit.builders import desired, gpu, observed

VERSION = "535.261.03"
NAMES = ("nvidia-kernel-dkms", "nvidia-driver-libs", "nvidia-smi", "nvidia-persistenced")
KERNEL = {"release": "6.1.0-40-amd64", "bootable": True, "nvidia_module": True, "headers": True}


def declared(**values: object) -> NvidiaDriverVars:
    return NvidiaDriverVars.model_validate({"state": "present", "repository": "distribution", **values})


def host(device: str = "2330", kernels: list[dict] | None = None, **about: object) -> Observation:
    """A Debian 12 host with a GPU and the driver of its archive, loaded; changed as told."""
    installed = {
        "module_version": VERSION,
        "package_name": NAMES[0],
        "package_version": f"{VERSION}-1",
        "packages": dict.fromkeys(NAMES, f"{VERSION}-1"),
        "held": list(NAMES),
    }
    driver = {**installed, **about} if about.get("packages") != {} else {}
    return observed(devices=[gpu(device)], driver=driver, kernels=kernels or [KERNEL])


def bare(device: str = "2330", **about: object) -> Observation:
    return observed(devices=[gpu(device)], driver=about)


def test_a_driver_nobody_declared_is_left_alone():
    assert driver_plan.decide(NvidiaDriverVars(), "", host()) == (None, None, [])
    assert "nvidia_driver" not in decide(desired(), observed()).components()


def test_a_host_without_a_gpu_needs_none():
    action, told, refused = driver_plan.decide(declared(), "", observed())
    assert (action.kind, told, refused) == (Kind.NONE, None, [])


def test_a_bare_host_gets_modules_libraries_and_headers():
    action, told, refused = driver_plan.decide(declared(), "", bare())
    assert (action.kind, action.after, refused) == (
        Kind.INSTALL,
        "535, proprietary modules, the distribution's archive",
        [],
    )
    assert (told.headers, told.packages, told.held) == (("linux-headers-amd64",), NAMES, NAMES)
    # The daemon is built from a source of its own, and has a version of its own.
    assert told.of_one_version == NAMES[:-1]


def test_old_cards_get_the_proprietary_modules():
    _, told, _ = driver_plan.decide(declared(persistence=False, hold=False), "", bare("1db1"))
    assert told.packages == ("nvidia-kernel-dkms", "nvidia-driver-libs", "nvidia-smi")
    assert told.held == ()


def test_a_host_as_declared_is_left_alone():
    action, _, refused = driver_plan.decide(declared(), "", host())
    assert (action.kind, refused) == (Kind.NONE, [])


@pytest.mark.parametrize(
    ("seen", "kind", "why"),
    [
        (
            host(packages=dict.fromkeys(NAMES[:2], f"{VERSION}-1")),
            Kind.REPAIR,
            "nvidia-smi, nvidia-persistenced not installed",
        ),
        (host(kernels=[KERNEL, {"release": "6.1.0-41-amd64", "bootable": True}]), Kind.REPAIR, "no module is built"),
        (host(held=[]), Kind.REPAIR, "not held"),
        (host(module_version=None), Kind.REBOOT, f"no module is loaded, and the driver's is {VERSION}"),
        (host(module_version="525.1.2"), Kind.REBOOT, "525.1.2 is loaded"),
        (
            host(package_name="nvidia-open-kernel-dkms", packages={"nvidia-open-kernel-dkms": f"{VERSION}-1"}),
            Kind.REPAIR,
            "nvidia-open-kernel-dkms is another driver",
        ),
    ],
)
def test_what_differs_is_mended_and_a_reboot_is_asked_for_last(seen, kind, why):
    action, _, refused = driver_plan.decide(declared(), "", seen)
    assert refused == []
    assert action.kind is kind
    assert why in action.why


@pytest.mark.parametrize(
    ("wanted", "seen", "this"),
    [
        (declared(branch="595"), bare("1db1"), "the driver that is asked for (595"),
        (declared(repository="auto", branch="595"), bare("1db1"), "the driver branch 595"),
        (declared(repository="auto", flavour="proprietary"), bare("2901"), "the proprietary kernel modules"),
        (declared(), bare("2901"), "the proprietary kernel modules"),
        (declared(), bare("ffff"), "the GPU 10de:ffff"),
        (declared(), bare(secure_boot=True, module_key_enrolled=False), "a kernel module that is built on the host"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(wanted, seen, this):
    action, told, (refused,) = driver_plan.decide(wanted, "", seen)
    assert (action, told) == (None, None)
    assert refused.this.startswith(this)
    assert refused.remedy


def test_a_refused_driver_refuses_the_host():
    plan = decide(
        desired(nvidia_driver={"state": "present", "flavour": "proprietary"}, pytorch={"variant": "cpu"}), bare("2901")
    )
    assert plan.actions == []
    assert [refusal.component for refusal in plan.refusals] == ["nvidia_driver"]


def test_the_wheel_is_chosen_for_the_driver_that_the_host_will_have():
    managed = {"state": "present", "repository": "distribution"}
    plan = decide(desired(nvidia_driver=managed), bare())
    assert plan.refusals == []
    assert plan.pytorch_variant.startswith("cu12")
    assert [action.component for action in plan.actions][:2] == ["python", "nvidia_driver"]
    # The archive's branch is too old for CUDA 13, and the refusal says so.
    plan = decide(desired(nvidia_driver=managed, pytorch={"variant": "cu130"}), bare())
    assert any("CUDA programs that need a driver of 580.65.06" in refusal.that for refusal in plan.refusals)


def test_only_what_llmprov_installed_is_removed():
    action, _, _ = driver_plan.decide(declared(state="absent"), "", host())
    assert action.kind is Kind.NONE
    action, _, _ = driver_plan.decide(declared(state="absent"), "", host(managed=True))
    assert action.kind is Kind.REMOVE


# -- versions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "kind"),
    [("580.95.05", Kind.NONE), ("580", Kind.NONE), ("580.105.08", Kind.UPGRADE), ("580.82.07", Kind.DOWNGRADE)],
)
def test_another_version_is_an_upgrade_or_a_downgrade(asked, kind):
    names = ("nvidia-kernel-open-dkms", "nvidia-driver-cuda", "nvidia-persistenced")
    there = {"packages": dict.fromkeys(names, "580.95.05-1"), "held": list(names), "module_version": "580.95.05"}
    seen = host(package_name=names[0], package_version="580.95.05-1", **there)
    action, told, _ = driver_plan.decide(declared(branch=asked, repository="nvidia"), "", seen)
    assert (action.kind, action.before) == (kind, "580.95.05")
    assert told.version == asked


def test_a_driver_that_fits_stays_unless_another_is_asked_for():
    # A bare host would get 580 from NVIDIA's repository.
    action, told, _ = driver_plan.decide(declared(repository="auto"), "", host())
    assert (action.kind, told.choice.branch, told.choice.repository) == (Kind.NONE, "535", "distribution")
    action, told, _ = driver_plan.decide(declared(repository="auto"), "", bare())
    assert (action.kind, told.choice.branch, told.choice.repository) == (Kind.INSTALL, "580", "nvidia")
    # What shall run on it needs a newer one.
    action, told, _ = driver_plan.decide(declared(repository="auto"), "580.65.06", host())
    assert (action.kind, told.choice.branch) == (Kind.UPGRADE, "580")


def test_an_exact_version_is_held_against_what_shall_run_on_it():
    _, _, (refused,) = driver_plan.decide(declared(repository="nvidia", branch="580.1"), "580.65.06", bare())
    assert (refused.this, refused.that) == (
        "the driver version 580.1",
        "CUDA programs that need a driver of 580.65.06 or later",
    )


@pytest.mark.parametrize(
    ("wanted", "device", "this", "that"),
    [
        ({"cuda_toolkit": "12.8"}, "2330", "the CUDA toolkit 12.8", "the distribution's archive"),
        (
            {"cuda_toolkit": "13.0", "repository": "nvidia", "branch": "570"},
            "2330",
            "13.0",
            "branch 570, which runs CUDA 12.8",
        ),
        ({"cuda_toolkit": "13.0", "repository": "nvidia"}, "1db1", "13.0", "no toolkit after 12.9 compiles for"),
    ],
)
def test_a_toolkit_that_does_not_fit_is_refused_by_name(wanted, device, this, that):
    _, told, (refused,) = driver_plan.decide(declared(**wanted), "", bare(device))
    assert told is None
    assert this in refused.this
    assert that in refused.that
    assert "nvidia_driver_cuda_toolkit" in refused.remedy


def test_packages_are_not_laid_over_a_driver_from_an_installer():
    _, _, (refused,) = driver_plan.decide(declared(), "", bare(library_version="550.54.14", packages={}))
    assert "belongs to no package" in refused.that


def test_signed_modules_need_no_key_of_the_hosts_own():
    about = {"id": "ubuntu", "version_id": "24.04", "architecture": "x86_64"}
    secure = observed(devices=[gpu("2330")], os=about, driver={"secure_boot": True})
    _, told, refused = driver_plan.decide(declared(repository="auto"), "", secure)
    assert refused == []
    assert (told.choice.repository, told.kernels) == ("distribution", ())
    _, told, (refusal,) = driver_plan.decide(declared(repository="nvidia"), "", secure)
    assert "Secure Boot" in refusal.that


def test_switches_want_a_repository_that_has_their_fabric_manager():
    switch = {"address": "0000:05:00.0", "device_id": "22a3", "kind": "nvswitch"}
    seen = observed(devices=[gpu("2330"), switch])
    _, told, (refused,) = driver_plan.decide(declared(), "", seen)
    assert told is None
    assert refused.that == "the host's NVSwitches, whose fabric manager it does not have"
    assert "from NVIDIA's repository" in refused.remedy
    _, told, _ = driver_plan.decide(declared(repository="auto"), "", seen)
    assert "nvidia-fabricmanager" in told.packages
    assert "nvidia-fabricmanager" in told.services
    # An older branch calls it by another name.
    _, told, _ = driver_plan.decide(declared(repository="nvidia", branch="570"), "", seen)
    assert "nvidia-fabricmanager-570" in told.packages


def test_a_machine_that_no_repository_has_is_refused_by_name():
    seen = observed(devices=[gpu("2330")], os={"id": "debian", "version_id": "12", "architecture": "ppc64le"})
    _, told, (refused,) = driver_plan.decide(declared(repository="auto"), "", seen)
    assert told is None
    assert "no repository" in refused.that


def test_headers_are_asked_for_where_the_kernel_that_boots_has_none():
    old = {"release": "6.1.0-9-amd64", "bootable": True}
    seen = observed(devices=[gpu("2330")], kernels=[old, {"release": "6.1.0-40-amd64", "bootable": True}])
    _, told, _ = driver_plan.decide(declared(), "", seen)
    # Nobody builds for an old kernel whose headers are gone from the archive.
    assert told.headers == ("linux-headers-amd64", "linux-headers-6.1.0-40-amd64")
    assert told.kernels == ("6.1.0-40-amd64",)


def test_a_kernel_with_a_name_that_is_none_is_left_alone():
    seen = observed(devices=[gpu("2330")], kernels=[{"release": "6.1 -o APT::x=$(reboot)", "bootable": True}])
    _, told, _ = driver_plan.decide(declared(), "", seen)
    assert (told.headers, told.kernels) == (("linux-headers-amd64",), ())


# -- every GPU, system, branch and wheel -------------------------------------------------------------------------

WANTED = st.builds(
    NvidiaDriverVars,
    state=st.sampled_from(["present", "absent", "unmanaged"]),
    branch=st.sampled_from(["auto", *BRANCHES, *(f"{name}.95.05" for name in BRANCHES)]),
    flavour=st.sampled_from(["auto", "open", "proprietary"]),
    repository=st.sampled_from(["auto", "distribution", "nvidia"]),
    hold=st.booleans(),
    persistence=st.booleans(),
    container_toolkit=st.booleans(),
    cuda_toolkit=st.sampled_from(["", "auto", "12.8", "13.0"]),
)
SYSTEMS = [(name, version) for name, versions in SUPPORTED_OS.items() for version in versions]
TAGS = ["auto", "cpu", *sorted(vendor_facts.WHEELS["2.13.0"])]


@given(
    WANTED,
    st.lists(st.sampled_from(sorted(GPUS)), max_size=2),
    st.sampled_from(SYSTEMS),
    st.sampled_from(TAGS),
    st.booleans(),
)
def test_no_plan_pairs_what_the_tables_rule_out(wanted, ids, system, tag, secure):
    about = {"id": system[0], "version_id": system[1], "architecture": "x86_64", "glibc": "2.36"}
    seen = observed(devices=[gpu(i) for i in ids], os=about, driver={"secure_boot": secure})
    everything = desired(nvidia_driver=wanted.model_dump(), pytorch={"variant": tag, "version": "2.13.0"})
    plan = decide(everything, seen)
    assert decide(everything, seen) == plan
    assert not (plan.actions and plan.refusals)
    _, told, refused = planned_driver(everything, seen)
    assert not (told and refused)
    if told is None:
        return
    choice = told.choice
    # Only Ubuntu signs modules itself. What DKMS builds, Secure Boot refuses.
    assert not secure or (system[0], choice.repository) == ("ubuntu", "distribution")
    for identifier in ids:
        architecture = vendor_facts.ARCHITECTURE[identifier]
        assert choice.flavour in vendor_facts.MODULES[architecture]
        first, last = vendor_facts.FIRST_BRANCH.get(architecture, 0), vendor_facts.LAST_BRANCH.get(architecture, 9999)
        assert first <= int(choice.branch) <= last
    # Every vendor has "open" in the names of the open modules, and in no other of these.
    assert any("open" in package for package in told.packages) is (choice.flavour == "open")
    assert all(any(name.startswith(held) for name in told.packages) for held in told.held)
    if plan.refusals:
        return
    variant = plan.pytorch_variant
    if variant and variant.startswith("cu"):
        assert int(choice.branch) >= vendor_facts.lowest_driver(variant)[0]
        # Which cards cu132 has code for, the tables do not know: test_plan.py has that.
        assert variant == "cu132" or all(vendor_facts.runs(variant, identifier) for identifier in ids)


@given(WANTED, st.sampled_from(sorted(GPUS)), st.sampled_from(SYSTEMS))
def test_a_host_as_declared_gets_no_action(wanted, identifier, system):
    about = {"id": system[0], "version_id": system[1], "architecture": "x86_64"}
    kernel = {"release": "6.1.0-40", "bootable": True, "headers": True}
    bare_host = observed(devices=[gpu(identifier)], os=about, kernels=[kernel])
    _, told, _ = driver_plan.decide(wanted, "", bare_host)
    if told is None:
        return
    version = told.version if "." in told.version else f"{told.version}.95.05"
    names = [re.sub(r"-\d{3}\.[\d.*]+$", "", name) for name in told.packages]
    there = {
        "packages": dict.fromkeys((*names, *told.extras), f"{version}-1"),
        "package_name": names[0],
        "package_version": f"{version}-1",
        "held": list(told.held),
        "module_version": version,
    }
    seen = observed(devices=[gpu(identifier)], os=about, driver=there, kernels=[{**kernel, "nvidia_module": True}])
    action, again, _ = driver_plan.decide(wanted, "", seen)
    assert (action.kind, action.why) == (Kind.NONE, "")
    assert again.choice == told.choice
    unloaded = seen.model_copy(update={"driver": seen.driver.model_copy(update={"module_version": None})})
    assert driver_plan.decide(wanted, "", unloaded)[0].kind is Kind.REBOOT
