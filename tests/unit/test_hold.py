"""Holding a host, on this machine: the program that hosts are given, and what is made of its answers."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprov.run import hold, lifetime
from llmprov.run.hold import Holding
from llmprov.run.options import environment_of_run
from tests.conftest import ROOT

# What holds a host outlives the process that began it, which so cannot wait for its end.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

#: Under a name of the test's own, so that no run on this machine is in its way.
SCRIPT = (
    (ROOT / "roles/preflight/files/hold.py").read_text().replace("\\0llmprov-run", f"\\0llmprov-test-{os.getpid()}")
)


@pytest.fixture
def holder():
    begun = []

    def start(run, patience_s=0.0, since="08:00", number=0):
        about = {"run": run, "who": "ann", "from": "ctl1", "since": since, "command": "llmprov verify", "round": number}
        argv = [sys.executable, "-I", "-S", "-c", SCRIPT, json.dumps(about), str(patience_s), "/nonexistent/folder"]
        begun.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def answer(process):
    return json.loads(process.stdout.readline())


def test_the_first_holds_and_the_second_is_told_by_whom(holder):
    assert answer(holder("r1")) == {"held": True, "waited": False}
    told = answer(holder("r2"))
    assert told["held"] is False
    assert (told["by"]["run"], told["by"]["who"]) == ("r1", "ann")
    assert hold._holder(told).startswith("`llmprov verify` of ann@ctl1 since 08:00 (run r1, as ")


def test_names_of_one_host_in_one_run_share_it(holder):
    assert answer(holder("r1"))["held"]
    again = holder("r1")
    assert answer(again)["held"]
    assert again.wait(timeout=10) == 0


@pytest.mark.parametrize("end", [lambda p: p.stdin.close(), lambda p: p.kill()])
def test_who_waits_has_it_when_the_owner_ends_however_it_ends(holder, end):
    first = holder("r1")
    answer(first)
    second = holder("r2", 30, since="07:59")
    assert answer(second)["by"]["run"] == "r1"
    end(first)
    assert answer(second) == {"held": True, "waited": True}
    second.stdin.close()
    assert second.wait(timeout=10) == 0


def test_who_began_later_says_so_at_once_and_asks_again_when_the_older_run_ends(holder):
    first = holder("r2")
    answer(first)
    # In one second, the name of the run decides.
    second = holder("r3", 30)
    told = answer(second)
    assert ("held" in told, told["behind"], told["by"]["run"]) == (False, True, "r2")
    first.stdin.close()
    told = answer(second)
    assert (told["held"], told["behind"], told["by"]["run"]) == (False, True, "r2")
    assert second.wait(timeout=10) == 0
    assert answer(holder("r3", 30, number=1)) == {"held": True, "waited": False}


def test_without_patience_the_younger_run_is_told_and_no_more(holder):
    answer(holder("r1"))
    told = answer(holder("r2"))
    assert (told["held"], told["behind"]) == (False, False)


def test_a_holder_that_is_to_give_back_is_waited_for_by_its_own_run(holder):
    first = holder("r1")
    answer(first)
    again = holder("r1", 30, number=1)
    assert not answer(again)["mine"]
    first.stdin.close()
    assert answer(again) == {"held": True, "waited": True}


def test_who_waits_stops_waiting_with_its_own_run(holder):
    answer(holder("r1"))
    second = holder("r2", 30, since="07:59")
    assert "held" not in answer(second)
    second.stdin.close()
    assert second.wait(timeout=10) == 0
    assert second.stdout.read() == ""


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.text(), lambda some: st.lists(some) | st.dictionaries(st.text(), some)
)


@given(st.text() | ANYTHING.map(json.dumps) | st.just('{"by": ' + "[" * 100_000))
def test_nothing_that_a_host_answers_breaks_or_holds(text):
    found = hold._holding(hold._read(text))
    assert isinstance(found, Holding)
    assert not found.held


@given(st.dictionaries(st.sampled_from(["run", "who", "from", "command", "since"]), st.text()), st.text())
def test_what_another_holder_says_stays_one_line(by, user):
    told = hold._holding({"held": False, "waited": False, "by": by, "user": user}).by
    assert told
    assert "\n" not in told
    assert "\x1b" not in told


class Local:
    transport = "local"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A run with a host that answers what `says` prints."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    living = lifetime.Lifetime("r1", "provision")
    monkeypatch.setenv("LLMPROV_LIFETIME", str(living.directory))

    def says(*lines):
        path = tmp_path / "python"
        path.write_text("\n".join(["#!/bin/sh", *(f"echo '{line}'" for line in lines)]))
        path.chmod(0o755)
        return str(path)

    yield living, says
    living.end()


#: What a host says where an older run has it, when the wait begins and when it is over.
BEHIND, OVER = '{"behind": true}', '{"held": false, "behind": true}'


def take(python, patience_s, number, tell=lambda _by: None):
    return hold.take(Local(), python, patience_s, number, tell)


def test_a_run_that_does_not_wait_gives_nothing_back_whatever_a_host_says(run):
    living, says = run
    found = take(says(BEHIND, OVER), 0, 0)
    assert (found.held, found.given_back) == (False, False)
    assert not hold.returned(living.directory, 0).exists()
    assert hold.rounds() == 0


def test_a_host_that_is_held_by_an_older_run_without_end_is_left_at_last(run):
    _, says = run
    python = says(BEHIND, OVER)
    while (found := take(python, 3600, hold.rounds())).given_back:
        assert hold.rounds() <= hold.ROUNDS
    assert found == Holding(False, why="the host answered what makes no sense")


def test_who_waits_is_told_for_whom_each_time_and_not_without_end(run):
    _, says = run
    by = {"run": "r9", "who": "ann", "from": "ctl2", "since": "08:00", "command": "llmprov verify\x1b[2J"}
    wait = json.dumps({"behind": False, "by": by, "user": "root"})
    told = []
    assert take(says(wait, '{"held": true, "waited": true}'), 60, 0, told.append) == Holding(True, waited=True)
    assert told == ["`llmprov verify\\u001b[2J` of ann@ctl2 since 08:00 (run r9, as root on the host)"]
    told.clear()
    assert take(says(*[wait] * 1000), 60, 0, told.append).why
    assert len(told) <= hold.ROUNDS
    # What says nothing of itself is waited for all the same.
    told.clear()
    assert take(says(BEHIND, OVER), 60, 0, told.append).given_back
    assert told == ["another run"]


def test_the_time_to_wait_is_counted_from_the_first_time_on(run, tmp_path):
    living, says = run
    assert take(says(BEHIND, OVER), 60, 0).given_back
    os.utime(hold.returned(living.directory, 0), (time.time() - 50,) * 2)
    argv = tmp_path / "argv"
    python = Path(says(""))
    python.write_text(f"""#!/bin/sh\necho "$6" > {argv}\necho '{{"held": true, "waited": false}}'""")
    assert take(str(python), 60, 1).held
    assert 0 < float(argv.read_text()) < 10


def test_what_is_held_is_let_go_when_another_host_waits_for_an_older_run(run):
    living, says = run
    with subprocess.Popen(["sleep", "60"]) as holder_of_a_host:
        note = living.directory / "holding" / f"0-{holder_of_a_host.pid}"
        note.write_text(lifetime.owner(holder_of_a_host.pid))
        assert lifetime.holders(living.directory) == [holder_of_a_host.pid]
        assert take(says(BEHIND, OVER), 60, 0).given_back
        assert holder_of_a_host.wait(timeout=20) == -signal.SIGTERM
    # Whose turn comes later does not ask its host any more.
    assert take("no such program", 60, 0).given_back


def test_a_run_leaves_nothing_and_sweeps_what_killed_ones_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, foreign = tmp_path / f"{lifetime.PREFIX}dead", tmp_path / "somebody-elses"
    dead.mkdir()
    (dead / "owner").write_text("99999999 1")
    foreign.mkdir()
    living = lifetime.Lifetime("r0", "verify")
    run = lifetime.Lifetime("r1", "provision")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [foreign.name, living.directory.name, run.directory.name]
    )
    assert run.directory.stat().st_mode & 0o777 == 0o700
    reader = os.open(run.directory / "alive", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    run.end()
    assert os.read(reader, 1) == b""
    os.close(reader)
    living.end()
    assert [p.name for p in tmp_path.iterdir()] == [foreign.name]


def test_what_ansible_leaves_here_is_in_the_runs_folder(run):
    living, _ = run
    told = environment_of_run(living)
    assert {told["TMPDIR"], told["ANSIBLE_LOCAL_TEMP"]} == {str(living.directory)}


def test_without_a_run_nothing_is_held(monkeypatch):
    monkeypatch.delenv("LLMPROV_LIFETIME", raising=False)
    assert not hold.take(object(), "python3", 0, 0, print).held


def test_the_path_of_a_runs_folder_is_short(tmp_path):
    # Sockets may come to lie in it, and a socket's path may have 107 characters.
    assert len(str(Path(tempfile.gettempdir()) / f"{lifetime.PREFIX}xxxxxxxx")) < 60


@pytest.fixture
def guard():
    path = ROOT / "roles/preflight/module_utils/llmprov_guard.py"
    spec = importlib.util.spec_from_file_location("llmprov_guard", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_guard_ends_what_carries_the_runs_name_and_nothing_else(guard):
    stubborn = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); print(1, flush=True); signal.pause()"
    begun = {}
    for name, run, code in (
        ("polite", "run-1", "import signal; print(1, flush=True); signal.pause()"),
        ("stubborn", "run-1", stubborn),
        ("another run's", "run-11", stubborn),
        ("nobody's", None, stubborn),
    ):
        own = {**os.environ, **({"LLMPROV_RUN": run} if run else {})}
        begun[name] = subprocess.Popen(
            [sys.executable, "-c", code], env=own, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert begun[name].stdout.readline() == b"1\n"
    try:
        guard.end("run-1")
        assert begun["polite"].wait(timeout=10) != 0
        assert begun["stubborn"].wait(timeout=10) == -9
        assert begun["another run's"].poll() is None
        assert begun["nobody's"].poll() is None
    finally:
        for process in begun.values():
            process.kill()
            process.wait()
            process.stdout.close()


def test_a_guard_that_nobody_holds_the_host_for_ends_nothing(guard):
    run = f"run-{os.getpid()}"
    code = "import importlib.util, sys; spec = importlib.util.spec_from_file_location('guard', sys.argv[1]); "
    code += "guard = importlib.util.module_from_spec(spec); spec.loader.exec_module(guard); "
    code += f"guard.HOLDER = '\\0llmprov-test-nobody-{run}'; guard.watch(sys.argv[2])"
    own = {**os.environ, "LLMPROV_RUN": run}
    with subprocess.Popen(["sleep", "60"], env=own) as at_work:
        subprocess.run([sys.executable, "-c", code, guard.__file__, run], env=own, check=True, timeout=20)
        ended = at_work.poll()
        at_work.kill()
    assert ended is None
