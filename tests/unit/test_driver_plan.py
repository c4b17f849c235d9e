"""What is done about a driver: the same input, the same plan; nothing where all is as declared; refusals by name."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmprov.knowledge import BRANCHES, GPUS, SUPPORTED_OS
from llmprov.model import Kind, NvidiaDriverVars, Observation
from llmprov.plan import decide, driver_plan
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
    assert (action.kind, action.after, refused) == (Kind.INSTALL, "535 (proprietary)", [])
    assert told.packages == ("linux-headers-amd64", *NAMES)
    assert told.held == NAMES


def test_old_cards_get_the_proprietary_modules():
    _, told, _ = driver_plan.decide(declared(persistence=False, hold=False), "", bare("1db1"))
    assert told.packages == ("linux-headers-amd64", "nvidia-kernel-dkms", "nvidia-driver-libs", "nvidia-smi")
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
            host(packages={"nvidia-open-kernel-dkms": f"{VERSION}-1"}),
            Kind.REPAIR,
            "nvidia-kernel-dkms is not installed",
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
        (declared(repository="auto"), bare(), "the driver branch 580"),
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
    plan = decide(desired(nvidia_driver={"state": "present"}, pytorch={"variant": "cpu"}), bare("2901"))
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


WANTED = st.builds(
    NvidiaDriverVars,
    state=st.sampled_from(["present", "absent", "unmanaged"]),
    branch=st.sampled_from(["auto", *BRANCHES]),
    flavour=st.sampled_from(["auto", "open", "proprietary"]),
    repository=st.sampled_from(["auto", "distribution", "nvidia"]),
    hold=st.booleans(),
    persistence=st.booleans(),
)
SYSTEMS = [(name, version) for name, versions in SUPPORTED_OS.items() for version in versions]


@settings(max_examples=400)
@given(WANTED, st.lists(st.sampled_from(sorted(GPUS)), max_size=2), st.sampled_from(SYSTEMS), st.booleans())
def test_no_plan_pairs_what_the_tables_rule_out(wanted, ids, system, secure):
    about = {"id": system[0], "version_id": system[1], "architecture": "x86_64"}
    seen = observed(devices=[gpu(i) for i in ids], os=about, driver={"secure_boot": secure})
    action, told, refused = driver_plan.decide(wanted, "", seen)
    assert driver_plan.decide(wanted, "", seen) == (action, told, refused)
    assert not (told and refused)
    if told is None:
        return
    assert not secure
    for identifier in ids:
        known = GPUS[identifier]
        assert told.choice.flavour in known.flavours
        assert (known.first_branch or 0) <= int(told.choice.branch) <= (known.last_branch or 9999)
    assert (driver_plan.MODULES["open"] in told.packages) == (told.choice.flavour == "open")
    assert (driver_plan.MODULES["proprietary"] in told.packages) == (told.choice.flavour == "proprietary")
    assert set(told.held) <= set(told.packages)
