"""What of the demo is pure: where its time went, and whether the report of a large fleet is made again."""

from __future__ import annotations

import json
import os

import pytest

from llmprov.lab import demo
from llmprov.lab.conda import channel


def test_the_last_line_adds_up_and_leaves_out_what_took_no_time():
    parts = demo.Parts(began=1000.0)
    parts.took_s = {"installing": 31.4, "lab": 23.6, "provisioning": 60.2, "report of 500 hosts": 0.2}
    parts.split("provisioning", "verifying", 20.1)
    assert demo.where_time_went(parts.took_s) == (
        "where the time went: installing 31 s, lab 24 s, provisioning 40 s, verifying 20 s; 115 s in all"
    )


def test_a_part_lasts_from_the_end_of_the_one_before(monkeypatch):
    parts = demo.Parts(began=1000.0)
    for now, name in ((1030.0, "installing"), (1042.0, "lab")):
        monkeypatch.setattr(demo.time, "time", lambda now=now: now)
        parts.end(name)
    assert parts.took_s == {"installing": 30.0, "lab": 12.0}


def test_verification_is_timed_by_the_newest_runs_own_record(tmp_path):
    for name, seconds, changed in (("20261127T2000-aa", 7.5, 500), ("20261127T2100-bb", 21.5, 2000)):
        (tmp_path / name).mkdir()
        record = tmp_path / name / "run.json"
        record.write_text(json.dumps({"stages_s": {"converge": 40.0, "verify": seconds}}))
        os.utime(record, (changed, changed))
    assert demo.verify_s(tmp_path, since=1000) == 21.5
    assert demo.verify_s(tmp_path, since=3000) == 0.0


@pytest.fixture
def made(monkeypatch):
    """The calls that would make a report; each writes a page, unless it is told to fail."""
    calls = []

    def run(argv, **_):
        calls.append(argv)
        folder = demo.Path(argv[argv.index("--out") + 1]) / "20260113T060000Z-1"
        if "fail" not in folder.parts:
            folder.mkdir(parents=True)
            (folder / "report.html").write_text("page")

    monkeypatch.setattr(demo.subprocess, "run", run)
    return calls


def test_the_report_of_a_large_fleet_is_made_once_by_each_version(tmp_path, made, monkeypatch):
    folder = tmp_path / "large"
    pages = demo.large_fleet(folder)
    assert len(pages) == 1
    assert demo.large_fleet(folder) == pages
    assert len(made) == 1
    monkeypatch.setattr(demo, "program_digest", lambda: "another")
    assert demo.large_fleet(folder) == pages
    assert len(made) == 2


def test_a_report_that_could_not_be_made_is_tried_again(tmp_path, made):
    assert demo.large_fleet(tmp_path / "fail") == demo.large_fleet(tmp_path / "fail") == []
    assert len(made) == 2


def test_pip_is_never_asked_for_two_versions_of_one_name_at_once():
    batches = channel.one_of_each_name(["six==1.16.0", "pip==26.3", "six==1.17.0"])
    assert batches == [["six==1.16.0", "pip==26.3"], ["six==1.17.0"]]
