"""All that a host sends is untrusted: nonsense of every kind, from the payload's output to every file of the report."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from llmprov.model import Check, Device, HostReport, Measurement, Status, VerifyVars
from llmprov.report import aggregate, files
from llmprov.report.html import packed
from llmprov.run import outcome, payload_run, reporting
from llmprov.run.directory import RunDirectory
from llmprov.run.reporting import Judging
from tests.conftest import ROOT
from tests.unit.builders import observed, row, run_info
from tests.unit.test_ledger import event, ledger, planned

SCHEMA = json.loads((ROOT / "docs/schema/fleet.schema.json").read_text("utf-8"))

MARKUP = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"
ANSI = "\x1b[2J\x1b]0;owned\x07"
NUL = "nul\x00end"
BIDI = "\u202egnp.exe"


def document(**changes: object) -> str:
    sound = {
        "payload_version": "1",
        "level": "quick",
        "elapsed_s": 1.0,
        "torch": "2.13.0",
        "checks": [{"id": "train.accuracy", "status": "pass", "measured": 1.0}],
        "measurements": [{"key": "train.tokens_per_s", "value": 1000.0, "unit": "tokens/s", "device": "cpu"}],
    }
    return json.dumps({**sound, **changes})


#: What a host may print, and the status that it ends with.
DOCUMENTS = {
    "sound": (document(), "pass"),
    "empty": ("", "fail"),
    "no JSON": ("Segmentation fault", "fail"),
    "a list": ("[]", "fail"),
    "a number": ("3", "fail"),
    "wrong types": (document(checks={"a": 1}, elapsed_s="soon"), "fail"),
    "a status of its own": (document(checks=[{"id": "a", "status": "excellent"}]), "fail"),
    "an id with a path": (document(checks=[{"id": "../../etc/passwd", "status": "pass"}]), "fail"),
    "NaN": (document().replace("1000.0", "NaN"), "fail"),
    "infinity": (document().replace("1000.0", "Infinity"), "fail"),
    "minus infinity in samples": (document().replace('"unit"', '"samples": [-Infinity], "unit"'), "fail"),
    "a number beyond all": (document().replace("1000.0", "1e999"), "fail"),
    "deep nesting": ("[" * 100_000 + "]" * 100_000, "fail"),
    "deep in a field": (document(python="x").replace('"x"', "[" * 50_000 + "]" * 50_000), "fail"),
    "100 MB": ("x" * 100_000_000, "fail"),
    "a text of 5 MB": (document(python="y" * 5_000_000), "fail"),
    "a million checks": (document(checks=[{"id": "a", "status": "pass"}] * 100_000), "fail"),
    "no checks": (document(checks=[]), "fail"),
    "lone surrogates": (document(python="x").replace('"x"', '"\\ud800"'), "fail"),
    "markup": (document(checks=[{"id": "a", "status": "warn", "summary": MARKUP, "evidence": MARKUP}]), "warn"),
    "escapes": (document(checks=[{"id": "a", "status": "warn", "summary": ANSI + NUL + BIDI}]), "warn"),
    "another host's name": (document(host="other", hostname="other"), "pass"),
    "digests of nothing": (document(digests={"gpu0.gradients": "00"}), "fail"),
    "a device of a thousand": (document(devices=[{"label": "gpu0"}] * 1000), "fail"),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """One run in which every host sends something else; its report and its directory."""
    book = ledger(*DOCUMENTS)
    for host, (text, _) in DOCUMENTS.items():
        found = payload_run.read({"exit_code": 0, "document": text}, VerifyVars())
        book.fold("verify", planned(host))
        records = {"verification": found.model_dump(mode="json"), "llmprov": {"kind": "verify"}}
        book.fold("verify", event("ok", host, "Verify", "llmprov_verify", **records))
    # A host that speaks for another, and one that is in no inventory.
    book.fold("verify", event("ok", "nobody", "Verify", "llmprov_verify", verification={"checks": []}))
    directory = RunDirectory.create(tmp_path_factory.mktemp("runs"), "20260101T000000Z-abcdef")
    address = str(directory.path.parent / "history.db")
    run = run_info().model_copy(update={"outcome": "finished"})
    done = reporting.tell(run, book.reports(True), outcome.exit_code, [], Judging(history=address), None, directory)
    assert done.complaints == []
    return done


def test_every_host_has_a_row_and_nobody_else_has(told):
    assert sorted(row.host for row in told.fleet.hosts) == sorted(DOCUMENTS)


@pytest.mark.parametrize("host", DOCUMENTS)
def test_nonsense_is_never_a_pass(told, host):
    found = next(row for row in told.fleet.hosts if row.host == host)
    assert found.status == DOCUMENTS[host][1], found.summary
    if found.status is Status.FAIL:
        assert "payload" in found.summary
        assert found.remedy


def test_the_report_is_valid_and_small(told):
    text = (told.path / "fleet.json").read_text("utf-8")
    jsonschema.validate(json.loads(text), SCHEMA)
    assert len(text) < 500_000
    for host in told.fleet.hosts:
        assert len(host.model_dump_json()) < 20_000


@pytest.mark.parametrize("name", ["fleet.json", *files.RENDERERS])
def test_no_file_carries_what_steers_a_reader(told, name):
    text = (told.path / name).read_text("utf-8")
    # JSON writes control characters as numbers, and leaves the others to its reader.
    steering = r"[\x00-\x08\x0b-\x1f]" if name == "fleet.json" else r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]"
    assert not re.search(steering, text)


def test_machines_can_read_what_is_for_them(told):
    suites = ET.parse(told.path / "junit.xml").getroot()
    assert {suite.get("name") for suite in suites} == set(DOCUMENTS)
    families = {
        family.name: family for family in text_string_to_metric_families((told.path / "metrics.prom").read_text())
    }
    state = families["llmprov_host_status"].samples
    assert {sample.labels["host"] for sample in state} == set(DOCUMENTS)


def test_markup_is_text_in_the_page(told):
    page = (told.path / "report.html").read_text("utf-8")
    assert "document.title='owned'" not in page
    assert "<img" not in page
    markdown = (told.path / "report.md").read_text("utf-8")
    assert "<script" not in markdown


def test_hosts_files_have_names_of_their_own(told):
    names = {path.name for path in (told.path / "hosts").iterdir()}
    assert len(names) == len(DOCUMENTS)


HOSTS = st.text(min_size=1, max_size=40).filter(lambda text: not re.search(r"[\ud800-\udfff]", text))
TEXT = st.text(max_size=60).filter(lambda text: not re.search(r"[\ud800-\udfff]", text))
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), TEXT
)
CHECKS = st.builds(
    Check,
    id=st.from_regex(r"[a-z0-9_.:\-]{1,30}", fullmatch=True),
    status=st.sampled_from(["pass", "warn", "fail", "inconclusive"]),
    summary=TEXT,
    measured=VALUES,
    expected=VALUES,
    unit=TEXT.map(lambda text: text[:40]),
    evidence=TEXT,
    remedy=TEXT,
)
FIGURES = st.builds(
    Measurement,
    key=st.sampled_from(["train.tokens_per_s", "memory.bandwidth_gb_s", "other"]),
    value=st.floats(-1e30, 1e30),
    unit=st.just("x"),
    device=st.sampled_from(["gpu0", "gpu1", ""]),
)
DEVICES = st.builds(Device, label=st.sampled_from(["gpu0", "gpu1"]), name=TEXT, address=TEXT.map(lambda t: t[:40]))
ROWS = st.builds(
    HostReport,
    host=HOSTS,
    status=st.sampled_from(list(Status)),
    summary=TEXT,
    remedy=TEXT,
    groups=st.lists(TEXT, max_size=2),
    checks=st.lists(CHECKS, max_size=4),
    measurements=st.lists(FIGURES, max_size=4),
    devices=st.lists(DEVICES, max_size=2),
    torch=st.one_of(st.none(), TEXT),
    observation=st.just(observed()),
)


@given(st.lists(ROWS, max_size=8, unique_by=lambda row: row.host))
def test_any_rows_make_a_report_in_every_form(rows):
    fleet = aggregate.fleet(run_info(), rows, outcome.exit_code, [])
    assert sorted(row.host for row in fleet.hosts) == sorted(row.host for row in rows)
    for name, text in files.rendered(fleet):
        if name == "junit.xml":
            ET.fromstring(text)
        if name == "metrics.prom":
            list(text_string_to_metric_families(text))
        assert "\x1b" not in text


def test_data_in_the_page_holds_nothing_that_ends_its_element():
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", packed({"a": "</script><script>alert(1)</script>"}))


def test_a_name_that_is_markup_is_escaped_in_the_page():
    bad = row("<b>x</b>\"'", Status.FAIL, summary=MARKUP, remedy=MARKUP)
    page = files.render("report.html", aggregate.fleet(run_info(), [bad], lambda _: 5, [MARKUP]))
    assert "<b>x" not in page
    assert "<script>document" not in page
    assert "&lt;script&gt;document" in page
