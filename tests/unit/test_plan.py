"""The plan: what it answers, and what it never answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprov.model import Kind
from llmprov.plan import decide
from tests.unit import vendor_facts
from tests.unit.builders import ENV, desired, environment, gpu, main_spec, observed


def kinds(plan):
    return {action.component: action.kind for action in plan.actions}


def test_a_bare_host_gets_everything():
    plan = decide(desired(), observed(uv_version=None))
    assert kinds(plan) == {
        "python": Kind.NONE,
        "miniconda": Kind.NONE,
        "uv": Kind.INSTALL,
        "venv": Kind.INSTALL,
        "pytorch": Kind.INSTALL,
        "jupyter": Kind.NONE,
    }
    assert plan.pytorch_variant == "cpu"


def test_a_host_as_declared_gets_nothing():
    seen = observed(environments=[environment(torch="2.13.0+cpu", numpy="2.1.0")])
    plan = decide(desired(venv={"packages": ["numpy>=2"]}), seen)
    assert plan.components() == []
    assert not plan.refusals


def test_a_host_without_python_gets_it_first():
    seen = observed(python=None, python_version=None, disk=None, clock_skew_s=None, uv_version=None)
    assert decide(desired(), seen).components()[0] == "python"


@pytest.mark.parametrize(
    ("packages", "has", "kind"),
    [
        (["numpy>=2"], {"numpy": "1.26.4"}, Kind.UPGRADE),
        (["numpy"], {}, Kind.UPGRADE),
        (["NumPy>=2"], {"numpy": "2.1.0"}, Kind.NONE),
        (["numpy; python_version < '3'"], {}, Kind.NONE),
        (["ruamel_yaml"], {"ruamel-yaml": "0.18"}, Kind.NONE),
    ],
)
def test_packages_are_held_against_the_declaration(packages, has, kind):
    seen = observed(environments=[environment(torch="2.13.0+cpu", **has)])
    assert kinds(decide(desired(venv={"packages": packages}), seen))["venv"] is kind


def test_an_unwanted_package_is_a_difference():
    seen = observed(environments=[environment(torch="2.13.0+cpu", numpy="2.1.0")])
    assert kinds(decide(desired(venv={"packages_absent": ["Numpy"]}), seen))["venv"] is Kind.UPGRADE


@pytest.mark.parametrize(
    ("python", "kind"), [("3.11", Kind.NONE), ("3.11.2", Kind.NONE), ("3.12", Kind.UPGRADE), ("3.1", Kind.DOWNGRADE)]
)
def test_python_is_held_against_the_declaration(python, kind):
    seen = observed(environments=[environment(torch="2.13.0+cpu") | {"record": {}}])
    wanted = desired(venv={"python": python})
    declared = main_spec(wanted).declaration()
    seen.environments[0].record.declaration.update(declared)
    assert kinds(decide(wanted, seen))["venv"] is kind


def test_a_broken_environment_is_repaired():
    broken = environment(torch="2.13.0+cpu") | {"python_works": False}
    plan = decide(desired(), observed(environments=[broken]))
    assert (kinds(plan)["venv"], kinds(plan)["pytorch"]) == (Kind.REPAIR, Kind.INSTALL)


def test_removal():
    seen = observed(environments=[environment(torch="2.13.0+cpu")])
    plan = decide(desired(venv={"state": "absent"}), seen)
    assert plan.components() == ["venv"]
    assert decide(desired(venv={"state": "absent"}), observed()).components() == []


@pytest.mark.parametrize(
    ("has", "kind"),
    [
        ("2.13.0+cpu", Kind.NONE),
        ("2.12.0+cpu", Kind.UPGRADE),
        ("2.14.0+cpu", Kind.DOWNGRADE),
        ("2.13.0", Kind.UPGRADE),
        ("2.13.0+cu126", Kind.UPGRADE),
    ],
)
def test_torch_is_told_by_version_and_build(has, kind):
    assert kinds(decide(desired(), observed(environments=[environment(torch=has)])))["pytorch"] is kind


@pytest.mark.parametrize(
    ("changes", "component", "words"),
    [
        ({"os": {"id": "debian", "version_id": "11", "architecture": "x86_64"}}, "preflight", "operating system"),
        ({"os": {"id": "debian", "version_id": "12", "architecture": "riscv64"}}, "preflight", "riscv64"),
        ({"disk": {"path": "/", "free_gb": 0.5, "total_gb": 10}}, "preflight", "0.5 GB free"),
        ({"disk": {"path": "/", "free_gb": 50, "total_gb": 90, "read_only": True}}, "preflight", "read-only"),
        ({"clock_skew_s": -86400.0}, "preflight", "86400 s behind"),
        ({"python_version": "3.8.10"}, "preflight", "3.8.10"),
        ({"devices": [gpu("2330")]}, "pytorch", "no NVIDIA driver"),
        ({"devices": [gpu("ffff")]}, "pytorch", "10de:ffff"),
        ({"devices": [gpu("2901")], "driver": {"module_version": "525.60.13"}}, "pytorch", "driver"),
        ({"environments": [{"path": ENV, "kind": "other"}]}, "venv", "no environment"),
        ({"environments": [{"path": ENV, "kind": "conda"}]}, "venv", "conda"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, component, words):
    plan = decide(desired(), observed(**changes))
    assert [refusal.component for refusal in plan.refusals] == [component]
    assert words in plan.refusals[0].sentence()
    assert plan.refusals[0].remedy
    assert plan.actions == []


def test_a_python_that_no_package_manager_brings_is_refused():
    seen = observed(python=None, python_version=None, os={"id": "debian", "version_id": "12", "architecture": "x86_64"})
    assert "without Python" in decide(desired(), seen).refusals[0].this


def test_unsupported_systems_go_on_when_allowed():
    seen = observed(os={"id": "arch", "version_id": "", "architecture": "x86_64", "package_manager": "none"})
    assert not decide(desired(preflight={"allow_unsupported": True}), seen).refusals


def test_disk_matters_only_where_something_is_installed():
    full = {"path": "/", "free_gb": 0.1, "total_gb": 10}
    seen = observed(disk=full, environments=[environment(torch="2.13.0+cpu")])
    assert not decide(desired(), seen).refusals


def test_clock_skew_inside_what_the_round_trip_leaves_open_is_no_refusal():
    assert not decide(desired(), observed(clock_skew_s=61.0, clock_uncertainty_s=2.0)).refusals


def test_torch_among_the_packages_is_refused():
    assert "torch among the packages" in decide(desired(venv={"packages": ["torch"]}), observed()).refusals[0].this


@pytest.mark.parametrize(
    ("device", "driver", "build"),
    [
        ("2330", "580.65.06", "cu130"),
        ("2330", "550.54.14", "cu126"),
        ("1db1", "580.65.06", "cu126"),
        ("2901", "580.65.06", "cu130"),
        ("2684", "535.261.03", "cu126"),
    ],
)
def test_auto_takes_the_newest_build_that_driver_and_gpu_can_run(device, driver, build):
    seen = observed(devices=[gpu(device)], driver={"module_version": driver})
    assert decide(desired(), seen).pytorch_variant == build


def test_a_named_build_that_a_release_never_had_is_refused():
    seen = observed(devices=[gpu("2330")], driver={"module_version": "580.65.06"})
    refusal = decide(desired(pytorch={"variant": "cu118"}), seen).refusals[0]
    assert "cu118" in refusal.this
    assert "cu130" in refusal.that


def test_a_cuda_build_on_a_host_without_a_gpu_is_refused():
    refusal = decide(desired(pytorch={"variant": "cu126"}), observed()).refusals[0]
    assert "without an NVIDIA GPU" in refusal.that


def test_auto_does_not_guess_for_releases_the_tables_do_not_cover():
    seen = observed(devices=[gpu("2330")], driver={"module_version": "580.65.06"})
    assert "2.7.0" in decide(desired(pytorch={"version": "2.7.0"}), seen).refusals[0].this
    assert "3.0.0" in decide(desired(pytorch={"version": "3.0.0"}), seen).refusals[0].this


device_lists = st.lists(st.sampled_from(sorted(vendor_facts.ARCHITECTURE)), max_size=4)
drivers = st.none() | st.sampled_from(
    ["450.80.02", "525.60.13", "535.261.03-1~deb12u1", "570.26", "580.65.06", "nonsense"]
)
variants = st.sampled_from(["auto", "cpu", "any", "cu118", "cu126", "cu128", "cu130", "cu132"])
releases = st.sampled_from(["2.4.1", "2.11.0", "2.12.0", "2.13.0", "2.14.0", "2.99.0"])


@given(device_lists, drivers, variants, releases, st.sampled_from(["x86_64", "aarch64"]))
def test_no_plan_pairs_a_host_with_a_wheel_that_the_tables_rule_out(devices, driver, variant, release, machine):
    wanted = desired(pytorch={"variant": variant, "version": release})
    system = {"id": "debian", "version_id": "12", "architecture": machine, "package_manager": "apt"}
    seen = observed(devices=[gpu(d) for d in devices], driver={"module_version": driver}, os=system)
    plan = decide(wanted, seen)
    assert plan == decide(wanted, seen)
    assert not (plan.refusals and plan.actions)
    if plan.refusals or not (plan.pytorch_variant or "").startswith("cu"):
        return
    tag = plan.pytorch_variant
    assert tag in vendor_facts.WHEELS[release]
    assert tuple(map(int, driver.split("-")[0].split("."))) >= vendor_facts.lowest_driver(tag)
    if release != "2.4.1" and tag != "cu132":  # see below
        assert all(vendor_facts.runs(tag, device) for device in devices)


@pytest.mark.xfail(strict=True, reason="the tables do not know which cards the cu132 wheels have code for")
@pytest.mark.parametrize("device", sorted(vendor_facts.CARDS["Volta"]))
def test_a_wheel_without_code_for_a_card_is_refused(device):
    seen = observed(devices=[gpu(device)], driver={"module_version": "580.65.06"})
    assert decide(desired(pytorch={"variant": "cu132", "version": "2.13.0"}), seen).refusals
