"""Every form of the report, of small fleets and of large ones; and the fleets that do not exist."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from functools import cache
from itertools import pairwise

import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from llmprov.model import CheckStatus, FleetReport, Status
from llmprov.report import aggregate, document, figures, files, html, simulate, terminal, timeline
from llmprov.run import outcome
from tests.conftest import ROOT
from tests.unit.builders import RENDERED, row, run_info

SCHEMA = json.loads((ROOT / "docs/schema/fleet.schema.json").read_text("utf-8"))


@cache
def fleet(count: int, seed: int = 2, faults: float = 0.2) -> FleetReport:
    made = simulate.fleet(count, seed, faults)
    return aggregate.fleet(made.run, made.rows, outcome.exit_code, [])


def shown(renderable) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(renderable)
    console.file.close()
    return console.export_text()


def test_the_document_is_the_model_in_pieces_and_valid():
    made = fleet(60)
    seen = []
    text = b"".join(document.render(made, lambda host, data: seen.append((host.host, data)))).decode()
    assert FleetReport.model_validate_json(text) == made
    assert json.loads(text) == json.loads(made.model_dump_json())
    jsonschema.validate(json.loads(text), SCHEMA)
    assert [host for host, _ in seen] == [host.host for host in made.hosts]
    # A host a line.
    assert sum(line.startswith('{"host":') for line in text.splitlines()) == 60


def test_a_host_called_like_the_list_does_not_take_its_place():
    name = '"hosts":[]'
    made = aggregate.fleet(run_info().model_copy(update={"limit": name}), [row(name, Status.PASS)], lambda _: 0, [name])
    assert FleetReport.model_validate_json(b"".join(document.render(made))) == made


def test_no_hosts_make_a_document():
    made = aggregate.fleet(run_info(), [], lambda _: 0, [])
    assert FleetReport.model_validate_json(b"".join(document.render(made))) == made


def test_junit_counts_as_the_report_does():
    made = fleet(80)
    root = ET.fromstring(files.render("junit.xml", made))
    suites = {suite.get("name"): suite for suite in root}
    assert set(suites) == {host.host for host in made.hosts}
    for host in made.hosts:
        suite = suites[host.host]
        bad = [check for check in host.checks if check.status is not CheckStatus.PASS]
        assert int(suite.get("tests")) == 1 + len(bad)
        fails = sum(check.status is CheckStatus.FAIL for check in bad)
        own = host.status in (Status.FAIL, Status.REFUSED, Status.PENDING)
        assert int(suite.get("failures")) == fails + own
        assert int(suite.get("errors")) == (host.status is Status.UNREACHABLE)


def test_metrics_say_what_the_report_does():
    made = fleet(80)
    families = {f.name: f for f in text_string_to_metric_families(files.render("metrics.prom", made))}
    status = {s.labels["host"]: s.labels["status"] for s in families["llmprov_host_status"].samples}
    assert status == {host.host: host.status.value for host in made.hosts}
    counts = {s.labels["status"]: s.value for s in families["llmprov_hosts"].samples}
    assert sum(counts.values()) == 80
    assert counts["pass"] == made.counts[Status.PASS]
    assert len(families["llmprov_train_tokens_per_s"].samples) > 60
    assert families["llmprov_run_finished_timestamp_seconds"].samples[0].value == made.run.finished.timestamp()
    assert all(family.documentation for family in families.values())


@pytest.mark.parametrize("count", [1, 3, 40, 41, 400])
def test_the_short_forms_stay_short_and_lose_nobody(count):
    made = fleet(count)
    page, table = files.render("report.md", made), shown(terminal.fleet_table(made))
    # An issue takes 65,536 characters.
    assert len(page) < 60_000
    assert len(table.splitlines()) < 150
    rows, rest = figures.worst(made, 40)
    assert len(rows) + int((rest or "0").split()[0].replace(",", "")) == count
    for text in (page, table):
        assert all(host.host in text for host in rows)
        assert rest in text.replace("\\", "")


def test_many_troubled_hosts_are_told_by_their_cause():
    made = fleet(600, faults=0.5)
    text = shown(terminal.fleet_table(made))
    assert "next: drain, then reboot: reboot the host" in text
    assert " more" in text


def test_the_page_of_a_small_fleet_is_small_enough_to_send():
    assert len(html.render(fleet(5))) < 3_000_000


@pytest.mark.parametrize("count", [0, 1, html.CHUNK, html.CHUNK + 1])
def test_the_page_has_a_chunk_for_every_host(count):
    made = fleet(count) if count else aggregate.fleet(run_info(), [], lambda _: 0, [])
    page = html.render(made)
    assert page.count('id="chunk-') == -(-count // html.CHUNK)


# -- fleets that do not exist ------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_fleet_and_another_another():
    assert simulate.fleet(60, 1) == simulate.fleet(60, 1)
    assert simulate.fleet(60, 1).rows != simulate.fleet(60, 2).rows
    first, second = ([host.host for host in simulate.fleet(60, seed).rows] for seed in (1, 2))
    assert first == second


def test_about_as_many_faults_are_planted_as_asked_for():
    assert not simulate.fleet(400, 1, faults=0).planted
    assert 10 <= len(simulate.fleet(400, 1, faults=0.05).planted) <= 35


def test_faults_stay_for_some_days():
    days = [set(simulate.fleet(100, day, faults=0.1).planted) for day in range(6)]
    stayed = sum(len(a & b) for a, b in pairwise(days))
    came = sum(len(b - a) for a, b in pairwise(days))
    assert stayed > came > 0


def test_a_simulated_fleet_is_reported_like_any_other(inside, tmp_path):
    done = inside("report", "--simulate", "30", "--seed", "4", "--out", "made")
    (run,) = (tmp_path / "made").iterdir()
    names = {path.name for path in run.iterdir()}
    assert names == {"fleet.json", "run.json", "hosts", *RENDERED}
    again = inside("report", run.name, "--runs", "made", "--format", "md")
    assert again.stdout == (run / "report.md").read_text("utf-8")
    assert again.returncode == done.returncode
    assert inside("report", run.name, "--runs", "made", "--format", "html").stdout.startswith("<!doctype html>")
    twice = inside("report", "--simulate", "30", "--seed", "4", "--out", "made")
    assert (twice.returncode, "File exists" in twice.stderr) == (2, True)


def test_a_report_again_is_written_where_asked(inside, tmp_path):
    inside("report", "--simulate", "30", "--out", "runs")
    done = inside("report", "latest", "--effect", "1", "--out", "again")
    assert "report: again/" in done.stdout
    (old,), (new,) = (list((tmp_path / name).glob("*/fleet.json")) for name in ("runs", "again"))
    before, after = (FleetReport.model_validate_json(path.read_text("utf-8")) for path in (old, new))
    assert after.counts.get(Status.WARN, 0) >= before.counts.get(Status.WARN, 0)


@pytest.mark.parametrize(
    "argv", [[], ["latest", "--simulate", "3"], ["--simulate", "0"], ["--simulate", "3", "--effect", "99"]]
)
def test_senseless_requests_are_refused(inside, argv):
    assert inside("report", *argv).returncode == 2


def test_nothing_is_said_of_an_empty_history():
    assert "no run is recorded" in shown(timeline.overview("x.db", [], [], []))
