"""The history, in SQLite and in a real PostgreSQL: the same questions, the same answers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache

import pytest

from llmprov.errors import LlmprovError, UsageError
from llmprov.model import FleetReport, Status
from llmprov.model.report import Change
from llmprov.report import aggregate, simulate
from llmprov.run import outcome, reporting
from llmprov.run.directory import RunDirectory
from llmprov.run.reporting import Judging
from llmprov.store import trends
from llmprov.store.history import History
from tests.unit.builders import row


@cache
def day(number: int, hosts: int = 40) -> FleetReport:
    """A simulated fleet's run of one day; days follow each other."""
    made = simulate.fleet(hosts, number, faults=0.15)
    return aggregate.fleet(made.run, made.rows, outcome.exit_code, [])


def run_of(day: int, **statuses: str) -> FleetReport:
    """A run with just these hosts and statuses."""
    started = datetime(2026, 3, day, 6, tzinfo=UTC)
    base = simulate.fleet(1, 0).run
    info = base.model_copy(update={"id": f"{started:%Y%m%dT%H%M%SZ}-{day:06x}", "started": started})
    check = {"id": "a", "status": "pass"}
    rows = [row(host, Status(status), checks=[check], summary=status) for host, status in statuses.items()]
    return FleetReport(run=info, exit_code=0, counts={}, hosts=rows)


def test_a_run_comes_back_as_it_was(address):
    fleet = day(1)
    with History(address) as history:
        assert history.record(fleet)
        (run,) = history.runs()
        assert (run["id"], run["hosts"], run["verified"]) == (fleet.run.id, 40, True)
        assert run["counts"] == {status.value: count for status, count in fleet.counts.items()}
        rows = history.hosts(fleet.run.id)
    assert set(rows) == {host.host for host in fleet.hosts}
    for host in fleet.hosts:
        assert rows[host.host]["status"] == host.status.value
        assert set(rows[host.host]["findings"]) == {check.id for check in host.checks if check.status != "pass"}
    some = next(host for host in fleet.hosts if host.measurements)
    (figure,) = [m for m in some.measurements if m.key == "train.tokens_per_s" and m.device == "gpu0"]
    assert rows[some.host]["figures"]["train.tokens_per_s"]["gpu0"] == pytest.approx(figure.value, rel=1e-5)


def test_a_run_is_recorded_once(address):
    with History(address) as history:
        assert history.record(day(1))
        assert not history.record(day(1))
        assert len(history.runs()) == 1


def test_both_databases_give_the_same_answers(tmp_path, postgres):
    """Everything that can be asked, of the same twelve days."""
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as link:
        link.execute("CREATE DATABASE same")
    answers = []
    for address in (str(tmp_path / "history.db"), postgres.replace("/postgres?", "/same?")):
        with History(address) as history:
            for number in (5, 1, 3, 2, 4, 6, 7, 8, 9, 10, 11, 12):
                history.record(day(number))
            hosts = sorted(history.hosts(day(12).run.id))
            told = {
                "runs": history.runs(),
                "latest": [history.find("latest"), history.find("latest~3"), history.find("20260105")],
                "troubles": trends.troubles(history),
                "since": history.since(),
                "host": {host: history.of_host(host, 5) for host in hosts[:5]},
                "cohorts": history.cohorts(),
                "diff": [
                    trends.diff(history, day(a).run.id, day(b).run.id).document()
                    for a, b in ((1, 12), (11, 12), (3, 3))
                ],
                "changes": trends.changes(history, "20260120T060000Z-ffffff", trends.statuses_of(day(12))),
                "baseline": trends.baseline(history, day(3).run.id),
                "pruned": history.prune(5, now=datetime(2026, 1, 13, 7, tzinfo=UTC)),
                "left": [run["id"] for run in history.runs()],
            }
            answers.append(told)
    for question in answers[0]:
        assert answers[0][question] == answers[1][question], question
    assert answers[0]["troubles"]
    assert answers[0]["diff"][0]["worse"]
    assert 0 < answers[0]["pruned"] < 12


def test_what_changed_since_the_last_run_over_the_same_hosts(address):
    with History(address) as history:
        history.record(run_of(1, a="pass", b="fail", c="pass", d="pass"))
        history.record(run_of(2, x="pass", y="pass"))
        now = {"a": "fail", "b": "pass", "c": "not_selected", "e": "pass"}
        told = trends.changes(history, "20260303T060000Z-000003", now)
    assert told.run == run_of(1, a="pass").run.id
    assert told.worse == [Change(host="a", before="pass", after="fail")]
    assert told.better == [Change(host="b", before="fail", after="pass")]
    assert (told.new, told.gone) == (["e"], ["d"])


def test_since_when_and_what_flaps(address):
    lines = {"bad": "pwfff", "flaps": "pfpfp", "good": "ppppp", "away": "pf--f", "new": "----f"}
    words = {"p": "pass", "w": "warn", "f": "fail", "-": "not_selected"}
    with History(address) as history:
        for number in range(5):
            history.record(run_of(number + 1, **{host: words[line[number]] for host, line in lines.items()}))
        told = {trouble.host: trouble for trouble in trends.troubles(history)}
        since = history.since()
    assert set(told) == {"bad", "flaps", "away", "new"}
    assert since["bad"] == datetime(2026, 3, 2, 6, tzinfo=UTC)
    assert since["away"] == datetime(2026, 3, 2, 6, tzinfo=UTC)
    assert since["new"] == datetime(2026, 3, 5, 6, tzinfo=UTC)
    assert (told["flaps"].flaps, told["flaps"].since, told["flaps"].turns) == (True, None, 4)
    assert not told["bad"].flaps


def test_the_report_says_since_when(address, tmp_path):
    for number in (1, 2, 3):
        made = simulate.fleet(40, number, faults=0.15)
        directory = RunDirectory.create(tmp_path / "runs", made.run.id)
        done = reporting.tell(made.run, made.rows, outcome.exit_code, [], Judging(history=address), None, directory)
        assert done.complaints == []
    assert done.fleet.changes.run == day(2).run.id
    lasting = [r for r in done.fleet.hosts if r.since and r.since < made.run.started]
    assert lasting
    assert all(r.since is None for r in done.fleet.hosts if r.status is Status.PASS)


def test_runs_whose_writer_was_stopped_are_taken_up(address, tmp_path):
    runs = tmp_path / "runs"
    for number in (1, 2):
        fleet = day(number)
        real = fleet.model_copy(update={"run": fleet.run.model_copy(update={"simulated": False})})
        RunDirectory.create(runs, fleet.run.id).write_fleet(real)
    RunDirectory.create(runs, day(3).run.id).write_fleet(day(3))
    # Neither a fleet that does not exist, nor a run that goes on, nor nonsense is taken.
    (runs / "20260109T060000Z-aaaaaa").mkdir()
    (runs / "20260109T060000Z-aaaaaa/run.json").write_text("{}")
    (runs / "20260110T060000Z-bbbbbb").mkdir()
    for name in ("run.json", "fleet.json"):
        (runs / "20260110T060000Z-bbbbbb" / name).write_text("[" * 100_000)
    with History(address) as history:
        assert reporting.catch_up(history, runs) == [day(1).run.id, day(2).run.id]
        assert reporting.catch_up(history, runs) == []
        history.prune(0)
        assert reporting.catch_up(history, runs) == [], "what was forgotten comes back"


WRITER = """
import sys
from llmprov.report import aggregate, simulate
from llmprov.store.history import History
made = simulate.fleet(300)
fleet = aggregate.fleet(made.run, made.rows, lambda _: 0, [])
with History(sys.argv[1]) as history:
    for number in range(1, 400):
        run = simulate.fleet(1, number).run
        history.record(fleet.model_copy(update={"run": run}))
        print(run.id, flush=True)
"""


def test_a_killed_writer_loses_no_finished_run(address):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, address], stdout=subprocess.PIPE, text=True)
    told = [writer.stdout.readline().strip() for _ in range(3)]
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    told += writer.stdout.read().split()
    writer.stdout.close()
    with History(address) as history:
        kept = [run["id"] for run in history.runs()]
        assert set(told) <= set(kept)
        assert len(kept) <= len(told) + 1
        # Whole or not at all.
        assert {len(history.hosts(run)) for run in kept} == {300}


def test_two_writers_at_once_lose_nothing(address):
    script = WRITER.replace("range(1, 400)", "range(int(sys.argv[2]), int(sys.argv[2]) + 4)")
    writers = [
        subprocess.Popen([sys.executable, "-c", script, address, str(first)], stdout=subprocess.DEVNULL)
        for first in (1, 3)
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    with History(address) as history:
        assert len(history.runs()) == 6
        assert {len(history.hosts(run["id"])) for run in history.runs()} == {300}


def test_a_newer_history_is_left_alone(address):
    import sqlalchemy as sa

    from llmprov.store import schema

    with History(address) as history, history._engine.begin() as link:
        link.execute(sa.update(schema.meta).values(value="99"))
    with pytest.raises(LlmprovError, match="newer llmprov"):
        History(address)


@pytest.mark.parametrize("name", ["../../etc", "latest; drop table", "20260101", "", "x" * 100])
def test_a_run_that_is_none_is_not_recorded(address, name):
    fleet = day(1)
    bad = fleet.model_copy(update={"run": fleet.run.model_copy(update={"id": name})})
    with History(address) as history:
        with pytest.raises(UsageError):
            history.record(bad)
        assert history.runs() == []


def test_names_that_are_no_names_are_recorded_and_found(address):
    names = ["a' OR 1=1 --", "ü/ö", "nul\x00", "%_", "x" * 300]
    with History(address) as history:
        history.record(run_of(1, **dict.fromkeys(names, "pass")))
        assert set(history.hosts(history.find("latest"))) == {name.replace("\x00", "\\u0000") for name in names}
        assert len(history.of_host("a' OR 1=1 --", 5)) == 1
        assert history.of_host("%_x", 5) == []


# -- the command line --------------------------------------------------------------------------------------------


@pytest.fixture
def past(inside, tmp_path, address):
    """llmprov with a history of four days."""
    for number in range(4):
        done = inside("report", "--simulate", "40", "--seed", str(number), "--out", "runs", "--history", address)
        assert "report: runs/" in done.stdout, done.stderr
    return lambda *argv: inside("history", *argv, "--history", address)


def test_the_history_is_told(past):
    done = past()
    assert done.returncode == 0
    assert done.stdout.count("verify") == 4
    assert "cohort" in done.stdout
    told = json.loads(past("--json").stdout)
    assert len(told["runs"]) == 4
    host = told["troubles"][0]["host"]
    assert host in past("--host", host).stdout
    assert "training" in past("--cohort", told["cohorts"][0]["cohort"]).stdout


def test_a_regression_fails_when_asked(past):
    told = past("diff", "latest~1", "latest", "--json")
    regressed = json.loads(told.stdout)["regressed"]
    assert told.returncode == 0
    assert past("diff", "latest~1", "latest", "--fail-on", "regression").returncode == (5 if regressed else 0)
    same = past("diff", "latest", "latest", "--fail-on", "regression")
    assert same.returncode == 0
    assert "nothing changed" in same.stdout
    codes = {past("diff", f"latest~{n + 1}", f"latest~{n}", "--fail-on", "regression").returncode for n in range(3)}
    assert 5 in codes


def test_a_run_of_another_controller_is_imported(inside, tmp_path, address):
    inside("report", "--simulate", "20", "--out", "elsewhere/runs")
    (run,) = (tmp_path / "elsewhere/runs").iterdir()
    done = inside("history", "import", str(run), "--history", address)
    assert (done.returncode, done.stdout) == (0, f"{run.name}: recorded\n")
    assert "recorded before" in inside("history", "import", str(run), "--history", address).stdout
    done = inside("history", "prune", "--keep-days", "1", "--history", address)
    assert done.stdout.startswith("1 run forgotten; 0 left in ")


def test_a_baseline_may_be_a_recorded_run(inside, tmp_path, address):
    inside("report", "--simulate", "20", "--out", "elsewhere", "--history", address)
    inside("report", "--simulate", "20", "--seed", "1", "--out", "runs")
    done = inside("report", "latest", "--baseline", "20260101", "--history", address, "--json")
    assert json.loads(done.stdout)["baseline"].startswith("20260101T060000Z")


def test_the_history_can_be_switched_off(inside, monkeypatch, tmp_path):
    monkeypatch.setenv("LLMPROV_HISTORY", "off")
    assert "switched off" in inside("history").stderr
    assert not (tmp_path / "off").exists()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text[:5000], "EOF while parsing"),
        (lambda text: '{"a":' * 200_000, "recursion limit"),
        (lambda text: text.replace('"schema_version":1', '"schema_version":9'), "schema_version"),
        (lambda text: "", "EOF"),
    ],
)
def test_a_run_that_is_broken_is_not_imported(inside, tmp_path, spoil, words):
    inside("report", "--simulate", "20", "--out", "runs")
    (run,) = (tmp_path / "runs").iterdir()
    path = run / "fleet.json"
    path.write_text(spoil(path.read_text("utf-8")))
    done = inside("history", "import", str(run))
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr) < 1000


def test_a_file_that_is_no_database_is_told_and_left(inside, tmp_path):
    (tmp_path / "bad.db").write_bytes(b"x" * 100_000)
    done = inside("history", "--history", "bad.db")
    assert (done.returncode, "file is not a database" in done.stderr) == (1, True)
    assert (tmp_path / "bad.db").read_bytes() == b"x" * 100_000


@pytest.mark.parametrize("where", ["u:geheim@127.0.0.1:1/x", "u@127.0.0.1:1/x?password=geheim"])
def test_a_password_is_never_told(inside, monkeypatch, where):
    monkeypatch.setenv("LLMPROV_HISTORY", f"postgresql://{where}")
    done = inside("history")
    assert done.returncode == 1
    assert "cannot be opened" in done.stderr
    assert "geheim" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--history", "postgresql://u:geheim@nowhere/x"), "everybody on this machine can read"),
        (("--history", "nosuch://x"), "no database that a history can be in"),
        (("--history", "off"), "switched off"),
        (("--host", "nobody"), "no recorded run verified a host named 'nobody'"),
        (("diff", "latest", "2020"), "no run in"),
    ],
)
def test_mistakes_are_told_in_a_sentence(inside, tmp_path, argv, words):
    home = ("--history", str(tmp_path / "h.db")) if "--history" not in argv else ()
    done = inside("history", *argv, *home)
    assert done.returncode == 2
    assert words in done.stderr
    assert "geheim" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_history_that_cannot_be_written_does_not_spoil_the_run(inside, tmp_path):
    done = inside("report", "--simulate", "20", "--out", "runs", "--history", "/proc/history.db")
    assert "report: runs/" in done.stdout
    assert "history import" in done.stderr
    done = inside("report", "--simulate", "21", "--out", "runs", "--history", "postgresql://nobody@127.0.0.1:1/x")
    assert "report: runs/" in done.stdout
    assert "cannot be opened" in done.stderr
