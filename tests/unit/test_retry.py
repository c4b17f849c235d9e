"""Which hosts a retry takes up, and what it says where the declaration is another by now."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprov.errors import UsageError
from llmprov.model import FleetReport, Status
from llmprov.run import retry
from llmprov.run.directory import RunDirectory
from llmprov.run.inventory import Inventory
from llmprov.run.options import Options
from tests.unit.builders import row, run_info


def inventory(**variables):
    return Inventory({host: [] for host in variables}, list(variables), variables)


def options(*extra):
    return Options(inventory=("hosts.yml",), extra_vars=extra)


def run_of(tmp_path, rows, then, given=()):
    directory = RunDirectory.create(tmp_path)
    fleet = FleetReport(run=run_info(), hosts=rows, counts={}, exit_code=3)
    directory.write("fleet.json", fleet.model_dump_json())
    directory.write(retry.FILE, retry.declared(then, options(*given)).model_dump_json())
    return directory.id


STATUSES = [status for status in Status if status not in retry.DONE]


def test_what_did_not_pass_is_taken_up_in_the_inventorys_order(tmp_path):
    names = [f"host{number}" for number in range(len(Status))]
    rows = [row(name, status) for name, status in zip(names, Status, strict=True)]
    now = inventory(**{name: {} for name in reversed(names)})
    name = run_of(tmp_path, rows, now)
    taken = retry.left(name, tmp_path, now, options())
    assert taken == [r.host for r in reversed(rows) if r.status in STATUSES]
    assert set(STATUSES) >= {Status.FAIL, Status.UNREACHABLE, Status.PENDING, Status.INCONCLUSIVE, Status.NOT_RUN}


def test_a_run_that_passed_leaves_nothing_to_take_up(tmp_path):
    now = inventory(a={}, b={})
    name = run_of(tmp_path, [row("a", Status.PASS), row("b", Status.WARN)], now)
    with pytest.raises(UsageError, match=r"every host of the run .* passed"):
        retry.left(name, tmp_path, now, options())


@pytest.mark.parametrize(
    ("now", "given", "words"),
    [
        (inventory(a={"x": 1}), (), "without b"),
        (inventory(a={"x": 1}, b={}, c={}), (), "with c, new"),
        (inventory(a={"x": 2}, b={}), (), "`x` of a"),
        (inventory(a={}, b={"x": 1}), (), "`x` of a, b"),
        (inventory(a={"x": 1}, b={}), ("pytorch_version=2.12.0",), "`pytorch_version` of a, b"),
        (inventory(a={"x": 1}, b={}), ('{"venv_state": "absent"}',), "`venv_state` of a, b"),
    ],
)
def test_another_declaration_is_refused_and_named(tmp_path, now, given, words):
    name = run_of(tmp_path, [row("a", Status.FAIL), row("b", Status.FAIL)], inventory(a={"x": 1}, b={}))
    with pytest.raises(UsageError) as refused:
        retry.left(name, tmp_path, now, options(*given))
    assert words in str(refused.value)
    assert "run again without --retry" in str(refused.value)


def test_a_mended_password_is_no_other_declaration(tmp_path):
    then = inventory(a={"ansible_become_password": "wrong", "ansible_ssh_pass": "x", "api_token": "t"})
    name = run_of(tmp_path, [row("a", Status.FAIL)], then)
    assert "wrong" not in (tmp_path / name / retry.FILE).read_text()
    now = inventory(a={"ansible_become_password": "right"})
    assert retry.left(name, tmp_path, now, options()) == ["a"]


def test_variables_of_a_file_are_told_by_name(tmp_path):
    (tmp_path / "vars.yml").write_text("venv_python: '3.11'\npytorch_variant: cpu\n")
    name = run_of(tmp_path, [row("a", Status.FAIL)], inventory(a={}), (f"@{tmp_path}/vars.yml",))
    (tmp_path / "vars.yml").write_text("venv_python: '3.12'\npytorch_variant: cpu\n")
    with pytest.raises(UsageError, match="`venv_python` of a:"):
        retry.left(name, tmp_path, inventory(a={}), options(f"@{tmp_path}/vars.yml"))


def test_a_run_of_an_older_llmprov_cannot_be_taken_up(tmp_path):
    name = run_of(tmp_path, [row("a", Status.FAIL)], inventory(a={}))
    (tmp_path / name / retry.FILE).unlink()
    with pytest.raises(UsageError, match="did not keep what was declared"):
        retry.left(name, tmp_path, inventory(a={}), options())


VARIABLES = st.dictionaries(st.sampled_from("abcdef"), st.one_of(st.integers(), st.lists(st.integers())))


@given(st.dictionaries(st.sampled_from(["h1", "h2", "h3"]), VARIABLES), st.data())
def test_nothing_has_changed_just_where_nothing_has(variables, data):
    before = retry.declared(inventory(**variables), options())
    assert retry.changes(before, retry.declared(inventory(**variables), options())) == []
    other = data.draw(st.dictionaries(st.sampled_from(["h1", "h2", "h3"]), VARIABLES))
    told = retry.changes(before, retry.declared(inventory(**other), options()))
    assert bool(told) == (other != variables)


def test_hosts_that_share_their_variables_share_a_set():
    many = inventory(**{f"h{number}": {"x": 1, "y": [2]} for number in range(50)})
    assert len(retry.declared(many, options()).sets) == 1
