"""Events folded into rows: a row for every host, no evidence is never a pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprov.model import Action, Check, Kind, Plan, Status, Verification
from llmprov.model.report import Failure
from llmprov.plan import decide
from llmprov.run import outcome
from llmprov.run.ledger import Ledger, message_of
from llmprov.run.outcome import exit_code
from tests.conftest import ROOT
from tests.unit.builders import desired, environment, observed, row


def ledger(*hosts, selected=None):
    return Ledger({host: [] for host in hosts}, list(hosts if selected is None else selected))


def event(kind, host="a", task="Do it", action="llmprov_venv", **result):
    return {
        "event": f"runner_on_{kind}",
        "host": host,
        "task": task,
        "action": action,
        "duration_s": 1.0,
        "result": {"empty": False, "changed": False, **result},
    }


def planned(host="a", seen=None, **changes):
    seen = seen or observed(environments=[environment(torch="2.13.0+cpu")], **changes)
    plan = decide(desired(), seen)
    records = {"plan": plan.model_dump(mode="json"), "observation": seen.model_dump(mode="json")}
    return event("ok", host, "Observe and plan", "llmprov_plan", llmprov={"kind": "plan"}, **records)


def verified(host="a", status="pass"):
    check = {"id": "train.accuracy", "status": status, "measured": 1.0, "summary": "the classifier learned"}
    document = Verification(payload_version="1", elapsed_s=1, checks=[check], torch="2.13.0+cpu")
    kind = "failed" if status == "fail" else "ok"
    records = {"verification": document.model_dump(mode="json"), "llmprov": {"kind": "verify"}}
    return event(kind, host, "Verify", "llmprov_verify", **records)


def rows(book, verify_wanted=True):
    return {r.host: r for r in book.reports(verify_wanted)}


def test_a_host_that_was_verified_passes():
    book = ledger("a")
    book.fold("verify", planned())
    book.fold("verify", verified())
    assert rows(book)["a"].status is Status.PASS
    assert {c.id for c in rows(book)["a"].checks} >= {"train.accuracy", "declared.venv"}


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([], Status.NOT_RUN),
        ([planned()], Status.NOT_RUN),
        ([event("unreachable", msg="Connection refused")], Status.UNREACHABLE),
        ([planned(), event("failed", msg="disk full"), verified()], Status.FAIL),
        ([planned(), verified(status="fail")], Status.FAIL),
        ([planned(), verified(status="warn")], Status.WARN),
        ([planned(), verified(status="inconclusive")], Status.INCONCLUSIVE),
        ([planned(seen=observed(clock_skew_s=9999.0))], Status.REFUSED),
        ([planned(), event("ok", empty=True), verified()], Status.FAIL),
        ([planned(seen=observed()), verified()], Status.FAIL),
    ],
)
def test_how_a_host_ends(events, status):
    book = ledger("a")
    for each in events:
        book.fold("verify", each)
    assert rows(book)["a"].status is status
    if status is not Status.PASS:
        assert rows(book)["a"].summary


def test_a_task_that_only_steers_may_return_nothing():
    book = ledger("a")
    for action in ("ansible.builtin.assert", "assert", "ansible.builtin.include_role"):
        book.fold("converge", event("ok", action=action, empty=True))
    assert book.entries["a"].failures == []
    assert book.entries["a"].converged.tasks == 0


def test_a_record_that_makes_no_sense_fails_its_host():
    book = ledger("a")
    book.fold("verify", planned())
    book.fold("verify", event("ok", verification={"checks": "none"}))
    assert rows(book)["a"].status is Status.FAIL


def test_hosts_outside_the_limit_have_a_row():
    book = ledger("a", "b", selected=["b"])
    assert rows(book)["a"].status is Status.NOT_SELECTED


def test_the_worst_stands_first():
    book = ledger("a", "b", "c")
    book.fold("verify", planned("a"))
    book.fold("verify", verified("a"))
    book.fold("verify", event("unreachable", "c", msg="timed out"))
    assert [r.host for r in book.reports(True)] == ["c", "b", "a"]


def test_an_event_of_nobody_touches_nobody():
    book = ledger("a")
    assert book.fold("converge", event("ok", "stranger")) is None
    assert book.fold("converge", {"event": "runner_on_ok"}) is None


def test_a_variable_that_is_wrong_is_the_runs_mistake():
    book = ledger("a")
    book.fold("converge", event("failed", msg="unknown variable `x`", llmprov={"kind": "usage"}))
    assert book.usage_errors == ["host a: unknown variable `x`"]


def test_a_task_that_only_says_non_zero_is_told_by_what_it_printed():
    said = message_of({"msg": "non-zero return code", "stderr": "E: Could not get lock\nE: Unable to lock\n"})
    assert said == "non-zero return code E: Could not get lock E: Unable to lock"


STOPPED = {"failures": [Failure(stage="converge", task="Install", message="no room")]}

#: The table of docs/report.md, by hand: status, what more is known of the host -> exit code.
EXIT_CODES = [
    (Status.UNREACHABLE, {}, 4),
    (Status.NOT_RUN, {}, 4),
    (Status.REFUSED, {}, 3),
    (Status.PENDING, {}, 3),
    (Status.FAIL, STOPPED, 3),
    (Status.FAIL, {}, 5),
    (Status.INCONCLUSIVE, {}, 0),
    (Status.WARN, {}, 0),
    (Status.PASS, {}, 0),
    (Status.NOT_SELECTED, {}, 0),
]


@given(st.lists(st.sampled_from(EXIT_CODES), max_size=5))
def test_exit_codes(found):
    code = exit_code([row(str(i), status, **more) for i, (status, more, _) in enumerate(found)])
    assert code == min((code for _, _, code in found if code), key=[4, 3, 5].index, default=0)


def test_the_exit_codes_are_those_that_users_read():
    text = (ROOT / "docs/report.md").read_text("utf-8")
    for status, _, code in EXIT_CODES:
        (line,) = [line for line in text.splitlines() if line.startswith(f"| `{status.value}` |")]
        assert str(code) in line.rpartition("| ")[2], line
    assert "Where several hold the run exits with 4 before 3 before 5." in text


def test_strict_counts_inconclusive():
    assert exit_code([row("a", Status.INCONCLUSIVE)], strict=True) == 5
    assert exit_code([row("a", Status.INCONCLUSIVE)]) == 0


@given(st.lists(st.sampled_from(["ok", "failed", "unreachable", "skipped", "start"]), max_size=8), st.booleans())
def test_whatever_comes_every_host_has_one_row_and_no_pass_without_evidence(kinds, verify_wanted):
    book = ledger("a", "b")
    for kind in kinds:
        book.fold("converge", event(kind, "a", msg="something"))
    reports = book.reports(verify_wanted)
    assert sorted(r.host for r in reports) == ["a", "b"]
    assert all(r.status is not Status.PASS for r in reports)


def test_plans_survive_their_own_json():
    plan = decide(desired(), observed())
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def waiting(**checks):
    """A host whose driver waits for a reboot, with checks of these statuses."""
    seen = observed(environments=[environment(torch="2.13.0+cpu")])
    action = Action(component="nvidia_driver", kind=Kind.REBOOT, why="no module is loaded, and the driver's is 535.1")
    plan = decide(desired(), seen)
    plan = plan.model_copy(update={"actions": [*plan.actions, action]})
    records = {"plan": plan.model_dump(mode="json"), "observation": seen.model_dump(mode="json")}
    told = [{"id": name.replace("__", "."), "status": status, "summary": name} for name, status in checks.items()]
    document = Verification(payload_version="1", elapsed_s=1, checks=told, torch="2.13.0+cpu")
    verification = {"verification": document.model_dump(mode="json"), "llmprov": {"kind": "verify"}}
    book = ledger("a")
    book.fold("verify", event("ok", "a", "Observe and plan", "llmprov_plan", llmprov={"kind": "plan"}, **records))
    book.fold("verify", event("failed", "a", "Verify", "llmprov_verify", **verification))
    return rows(book)["a"]


def test_a_host_that_waits_for_its_driver_is_pending_and_never_passes():
    row = waiting(train__accuracy="pass", torch__cuda="fail", driver__versions="fail")
    assert (row.status, row.summary.startswith("waits for a reboot: no module is loaded")) == (Status.PENDING, True)
    assert waiting(train__accuracy="pass").status is Status.PENDING
    assert waiting(torch__cuda="fail").status is Status.PENDING


def test_what_a_reboot_does_not_mend_is_told_first():
    row = waiting(import__numpy="fail", torch__cuda="fail")
    assert (row.status, row.summary) == (Status.FAIL, "import__numpy")


@given(st.text(min_size=1))
def test_every_path_makes_an_id_of_a_check(path):
    for name in (f"declared.venv /{path}", f"drift.packages:/{path}"):
        Check(id=outcome.check_id(name), status="pass")


def test_checks_of_further_environments_have_ids_of_their_own():
    assert outcome.check_id("declared.conda_env") == "declared.conda_env"
    assert outcome.check_id("declared.venv /srv/a") == "declared.venv:srv:a"
    paths = ("/srv/A", "/srv/a", "/srv/a b", "/srv/a-b", "/srv/" + "x" * 300, "/srv/" + "x" * 301)
    assert len({outcome.check_id(f"declared.venv {path}") for path in paths}) == len(paths)


# -- a rebuild -------------------------------------------------------------------------------------------------------


def rebuilt(check, status):
    """A host whose rebuild was verified, with one check."""
    book = ledger("a", "b")
    book.fold("converge", planned())
    book.entries["a"].observation = observed(environments=[{**environment(), "builds": ["llm.1", "llm.2"]}])
    document = Verification(payload_version="1", elapsed_s=1, checks=[Check(id=check, status=status)])
    records = {"verification": document.model_dump(mode="json"), "llmprov": {"kind": "verify"}}
    book.fold("verify", event("failed" if status == "fail" else "ok", "a", "Verify", "llmprov_verify", **records))
    return book


@pytest.mark.parametrize(
    ("check", "status", "accepted", "reverted"),
    [
        ("torch.version", "pass", True, False),
        ("disk.root", "warn", True, False),
        ("import.numpy", "fail", False, True),
        ("gpu3.ecc_volatile", "fail", False, False),
        ("torch.version", "inconclusive", False, False),
    ],
)
def test_only_what_passed_is_accepted_and_only_an_environment_at_fault_is_reverted(check, status, accepted, reverted):
    book = rebuilt(check, status)
    assert (book.hosts_for("accept"), book.hosts_for("revert")) == (["a"] * accepted, ["a"] * reverted)


def test_a_host_without_a_previous_build_has_nothing_to_accept():
    book = rebuilt("torch.version", "pass")
    book.entries["a"].observation = observed(environments=[{**environment(), "builds": ["llm.1"]}])
    assert book.hosts_for("accept") == []


def test_a_host_that_failed_to_converge_is_neither_accepted_nor_reverted():
    book = rebuilt("import.numpy", "fail")
    book.fold("converge", event("failed", msg="the disk is full"))
    assert (book.hosts_for("accept"), book.hosts_for("revert")) == ([], [])


def test_a_host_that_was_reverted_says_so():
    book = rebuilt("import.numpy", "fail")
    book.fold("revert", event("ok", task="Go back", changed=True))
    row = rows(book)["a"]
    assert row.status is Status.FAIL
    assert "the previous environments are in use again" in row.summary
    assert row.converged.changed == ["Go back"]
