"""Which hosts may be rebooted, what must be there again afterwards, and what is told of those that were not."""

from __future__ import annotations

import pytest

from llmprov.model import Status
from llmprov.plan import decide, reboot
from llmprov.run.session import CONVERGE_ONLY, PROVISION
from tests.unit.builders import desired, environment, gpu, observed
from tests.unit.test_ledger import event, ledger, rows, verified

VERSION = "535.309.01"
NAMES = ("nvidia-kernel-dkms", "nvidia-driver-libs", "nvidia-smi", "nvidia-persistenced")
CARDS = [{**gpu("2330"), "address": f"0000:0{slot}:00.0"} for slot in (1, 2)]


def wanted(**more):
    return desired(
        nvidia_driver={"state": "present", "repository": "distribution", **more},
        pytorch={"variant": "cpu", "version": "2.13.0"},
    )


def host(loaded=None, devices=CARDS, users=(), packages=None, **more):
    driver = {
        "module_version": loaded,
        "package_name": NAMES[0],
        "package_version": f"{VERSION}-1",
        "packages": dict.fromkeys(NAMES, f"{VERSION}-1"),
        "held": list(NAMES),
        "users": users if users is None else list(users),
        **more,
    }
    kernels = [{"release": "6.1.0-40-amd64", "bootable": True, "nvidia_module": True, "headers": True}]
    there = environment(**({"torch": "2.13.0+cpu"} if packages is None else packages))
    return observed(devices=devices, driver=driver, kernels=kernels, environments=[there])


def test_only_a_host_whose_driver_waits_is_due():
    assert reboot.due(wanted(), host())
    assert not reboot.due(wanted(), host(loaded=VERSION))
    assert not reboot.due(wanted(), host(held=[]))  # to be mended first
    assert not reboot.due(wanted(), observed())
    assert not reboot.due(desired(), host())  # nobody declared it


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (host(), ""),
        (host(users=["python3 (7)"]), "programs use its GPUs: python3 (7)"),
        (host(users=[f"python3 ({pid})" for pid in range(5)]), "python3 (0), python3 (1), python3 (2) and 2 more"),
        (host(users=None), "could not be told"),
        (host(packages={}), "/opt/llmprov/envs/llm has no PyTorch"),
    ],
)
def test_a_host_is_left_alone_while_its_gpus_are_used_or_nothing_could_prove_it(seen, why):
    told = reboot.kept(wanted(), seen)
    assert why in told
    assert bool(told) == bool(why)


def test_programs_are_ended_only_where_that_is_declared():
    for users in (["python3 (7)"], None):
        assert reboot.kept(wanted(reboot_busy=True), host(users=users)) == ""


@pytest.mark.parametrize(
    ("after", "wrong"),
    [
        (host(loaded=VERSION), []),
        (host(), ["the driver is not as planned: no module is loaded, and the driver's is 535.309.01"]),
        (host(loaded="535.1.1"), ["the driver is not as planned: 535.1.1 is loaded, and the driver's is 535.309.01"]),
        (host(loaded=VERSION, devices=CARDS[:1]), ["1 of 2 GPUs did not come back: 0000:02:00.0"]),
        (host(loaded=VERSION, devices=[]), ["2 of 2 GPUs did not come back: 0000:01:00.0, 0000:02:00.0"]),
    ],
)
def test_a_host_came_back_whole_or_it_is_said_what_is_missing(after, wrong):
    assert reboot.problems(wanted(), host(), after) == wrong


# -- the rows ----------------------------------------------------------------------------------------------------


def planned(name, stage_records=None, **more):
    seen = host(**more)
    plan = decide(wanted(), seen)
    records = {"plan": plan.model_dump(mode="json"), "observation": seen.model_dump(mode="json")}
    told = {"reboot": {"due": reboot.due(wanted(), seen), "kept": reboot.kept(wanted(), seen)}}
    return event("ok", name, "Observe and plan", "llmprov_plan", llmprov={"kind": "plan"}, **records, **told)


def fleet(*names):
    book = ledger(*names)
    for name in names:
        book.fold("converge", planned(name))
        book.fold("reboot", planned(name))
    return book


def end(book, **loaded):
    for name, version in loaded.items():
        book.fold("verify", planned(name, loaded=version))
        book.fold("verify", verified(name))
    return rows(book)


REBOOT = {"task": "Reboot, and wait for the host", "action": "ansible.builtin.reboot"}
GATE = {"task": "See that it is back", "action": "llmprov_verify"}


def test_without_the_option_the_command_is_told_that_allows_it():
    book = ledger("a")
    book.fold("converge", planned("a"))
    row = end(book, a=None)["a"]
    assert (row.status, "--reboot" in row.remedy) == (Status.PENDING, True)


def test_a_rebooted_host_that_came_back_passes():
    book = fleet("a")
    book.fold("reboot", event("ok", "a", changed=True, **REBOOT))
    book.fold("reboot", event("ok", "a", **GATE))
    row = end(book, a=VERSION)["a"]
    assert (row.status, row.converged.changed) == (Status.PASS, ["Reboot, and wait for the host"])


def test_a_failed_gate_fails_its_host_and_says_why_the_next_was_left_alone():
    book = fleet("a", "b")
    book.fold("reboot", event("failed", "a", msg="2 of 2 GPUs did not come back", **GATE))
    # Of a wave: its assert tells that it was not touched, which is no failure of its own.
    book.fold(
        "reboot", event("failed", "b", task="Touch no host", action="ansible.builtin.assert", msg="a failed before")
    )
    told = end(book, a=VERSION, b=None)
    assert (told["a"].status, told["a"].failures[0].stage) == (Status.FAIL, "reboot")
    assert (told["b"].status, told["b"].failures) == (Status.PENDING, [])
    assert told["b"].summary.endswith("not rebooted: a failed before its turn")
    assert book.hosts_for("reboot") == ["b"]


def test_a_host_that_is_lost_in_its_reboot_is_unreachable_for_that_reason():
    book = fleet("a", "b")
    book.fold("reboot", event("failed", "a", msg="Timed out waiting for last boot time check", **REBOOT))
    book.fold("verify", event("unreachable", "a", msg="Connection refused"))
    told = end(book, b=None)
    assert (told["a"].status, told["a"].summary[:19]) == (Status.UNREACHABLE, "lost in its reboot:")
    assert told["b"].summary.endswith("not rebooted: a failed before its turn")


def test_a_host_in_use_is_pending_and_says_so():
    book = ledger("a")
    book.fold("converge", planned("a"))
    book.fold("reboot", planned("a", users=["python3 (7)"]))
    row = end(book, a=None)["a"]
    assert (row.status, row.summary.endswith("not rebooted: programs use its GPUs: python3 (7)")) == (
        Status.PENDING,
        True,
    )


def test_reboots_come_after_all_hosts_were_converged_and_before_any_is_verified():
    assert [stage for stage, _ in PROVISION.with_reboots().steps] == ["converge", "reboot", "verify"]
    assert [stage for stage, _ in CONVERGE_ONLY.with_reboots().steps] == ["converge", "reboot"]
