"""The report: complete, schema-valid, and safe whatever a host sends."""

from __future__ import annotations

import json
import unicodedata

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from llmprov.model import Check, Measurement, Plan, Status
from llmprov.plan import decide
from llmprov.report import aggregate, figures, markdown, terminal
from llmprov.text import plain
from tests.conftest import ROOT
from tests.unit.builders import desired, environment, gpu, observed, row, run_info

SCHEMA = json.loads((ROOT / "docs/schema/fleet.schema.json").read_text("utf-8"))


def fleet():
    seen = observed(environments=[environment(torch="2.13.0+cpu")], cpu_count=2)
    passed = row(
        "a",
        Status.PASS,
        observation=seen,
        plan=decide(desired(), seen),
        torch="2.13.0+cpu",
        device="cpu",
        checks=[Check(id="train.accuracy", status="pass", measured=0.998)],
        measurements=[
            Measurement(key="train.tokens_per_s", value=value, unit="tokens/s", device=device)
            for device, value in (("gpu0", 123000.0), ("gpu1", 456.7))
        ],
    )
    others = [row(f"host-{s}", s, summary="because", remedy="do this") for s in Status if s is not Status.PASS]
    return aggregate.fleet(
        run_info(), [*others, passed, passed.model_copy(update={"host": "b"})], lambda _: 4, ["ouch"]
    )


def shown(renderable):
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(renderable)
    console.file.close()
    return console.export_text()


def test_every_status_is_valid_by_the_published_schema():
    jsonschema.validate(json.loads(fleet().model_dump_json()), SCHEMA)


def test_a_row_that_the_schema_does_not_know_is_refused():
    document = json.loads(fleet().model_dump_json())
    document["hosts"][0]["status"] = "fine"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)


def test_counts_and_cohorts():
    report = fleet()
    assert report.counts[Status.PASS] == 2
    assert [c.hosts for c in report.cohorts] == [["a", "b"]]
    assert "torch 2.13.0+cpu" in report.cohorts[0].describes


def test_cohorts_part_by_gpu():
    seen = observed(devices=[gpu("2330"), gpu("2330")], driver={"module_version": "580.65.06"})
    one = row("a", Status.PASS, observation=seen, torch="2.13.0+cu130")
    other = one.model_copy(update={"host": "b", "observation": observed(devices=[gpu("20b2")])})
    assert len(aggregate.fleet(run_info(), [one, other], lambda _: 0, []).cohorts) == 2


def test_the_table_shows_every_host_and_what_to_do():
    text = shown(terminal.fleet_table(fleet()))
    for status in Status:
        assert status.value.replace("_", " ") in text
    assert "123,457" in text
    assert "99.8%" in text
    assert "next: do this" in text
    assert "error: ouch" in text


def test_the_plan_reads_like_a_diff():
    seen = observed()
    bare = row("bare", Status.INCONCLUSIVE, observation=seen, plan=decide(desired(), seen))
    refused = row("odd", Status.REFUSED, plan=Plan(), summary="this does not fit that", remedy="change it")
    text = shown(terminal.plan_tree(aggregate.fleet(run_info(), [refused, bare], lambda _: 3, [])))
    assert "+ pytorch: install 2.13.0+cpu" in text
    assert "odd: refused: this does not fit that" in text
    assert "2 hosts: 1 to change, 1 refused, 0 could not be asked, 0 as declared" in text


def test_markdown_has_a_line_for_every_host():
    text = markdown.render(fleet())
    assert text.count("\n| ") >= len(fleet().hosts)
    assert "What to do" in text


HOSTILE = "<script>alert(1)</script> | `x` [a](http://b) \x1b[2J\x07 \u202e end\nnext"


def test_what_a_host_sends_steers_neither_terminal_nor_page():
    bad = row("a|b<i>", Status.FAIL, summary=HOSTILE, remedy=HOSTILE, torch=HOSTILE, device=HOSTILE, plan=Plan())
    report = aggregate.fleet(run_info(), [bad], lambda _: 5, [HOSTILE])
    text = shown(terminal.fleet_table(report))
    page = markdown.render(report)
    for shown_text in (text, page):
        assert "\x1b" not in shown_text
        assert "\u202e" not in shown_text
    assert "<script>" not in page
    assert "](http" not in page
    line = next(line for line in page.splitlines() if line.startswith("| a"))
    assert line.replace("\\|", "").count("|") == 8


@given(st.text())
def test_plain_text_is_plain(text):
    for character in plain(text):
        assert unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def test_numbers_in_short():
    assert figures.sentence(fleet()).startswith("10 hosts: ")
