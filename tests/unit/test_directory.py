"""Run directories: names for any host, files whole or not there."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprov.errors import LlmprovError, UsageError
from llmprov.model import Status
from llmprov.report import aggregate
from llmprov.run.directory import RunDirectory, encode_name, find_run, load_fleet
from tests.unit.builders import RENDERED, row, run_info

names = st.text(min_size=1, max_size=300)


@given(names)
def test_every_name_makes_one_file_name(name):
    encoded = encode_name(name)
    assert encoded not in (".", "..")
    assert "/" not in encoded
    assert "\0" not in encoded
    assert encoded.isascii()
    assert not encoded.startswith(".")
    assert len(encoded) <= 200


@given(names, names)
def test_two_names_never_share_a_file_even_where_case_is_lost(one, other):
    assert (encode_name(one).lower() == encode_name(other).lower()) is (one == other)


def test_a_run_is_private_and_whole(tmp_path):
    directory = RunDirectory.create(tmp_path / "runs")
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    fleet = aggregate.fleet(run_info(), [row("rack1/gpu ü", Status.PASS)], lambda _: 0, [])
    directory.write_fleet(fleet)
    assert {p.name for p in directory.path.iterdir()} == {"hosts", "fleet.json", "run.json", *RENDERED}
    assert [p.name for p in (directory.path / "hosts").iterdir()] == ["rack1%2Fgpu%20%C3%BC.json"]
    assert load_fleet(find_run("latest", tmp_path / "runs")) == fleet


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.write("fleet.json", "old")
    (tmp_path / ".fleet.json.partial").mkdir()
    with pytest.raises((LlmprovError, OSError)):
        directory.write("fleet.json", "new")
    assert (tmp_path / "fleet.json").read_text() == "old"


def test_an_unwritable_place_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="name another place"):
        RunDirectory.create(tmp_path / "file" / "runs")


def test_a_run_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="latest"):
        find_run("nope", tmp_path)


def test_a_damaged_report_is_named(tmp_path):
    (tmp_path / "fleet.json").write_text('{"schema_version": 99}')
    with pytest.raises(UsageError, match=r"fleet\.json"):
        load_fleet(RunDirectory(tmp_path))
