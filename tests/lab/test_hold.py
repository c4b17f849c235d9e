"""Two runs at once: what each holds while it waits for the other. The other one is the program that hosts are given."""

from __future__ import annotations

import contextlib
import json
import subprocess
from contextlib import contextmanager

import pytest

from tests.conftest import ROOT
from tests.lab.conftest import LLMPROV
from tests.lab.traces import until

SCRIPT = (ROOT / "roles/preflight/files/hold.py").read_text()


@pytest.fixture
def inventory(provisioned, tmp_path):
    return provisioned.inventory(tmp_path / "hosts.yml", provisioned.of("hold1", "hold2"))


@pytest.fixture
def another(provisioned):
    """Another run on a host: what it is told there at last, and whether it holds the host as long as the block lasts."""

    @contextmanager
    def run(host, began, patience_s=0):
        about = {"run": "other", "who": "ann", "from": "ctl2", "since": began, "command": "llmprov verify", "round": 0}
        leader = str(provisioned.host(host).leader())
        argv = ["nsenter", "--target", leader, "--all", "--", "python3", "-c", SCRIPT]
        argv += [json.dumps(about), str(patience_s), "/nonexistent/folder"]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            yield next(answer for answer in map(json.loads, process.stdout) if "held" in answer)
            process.stdin.close()
            process.wait(timeout=30)

    return run


@pytest.fixture
def waiting(inventory, tmp_path):
    """A run of two hosts that waits for whoever holds one of them."""
    argv = [LLMPROV, "verify", "-i", str(inventory), "--wait", "120"]

    @contextmanager
    def run():
        with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    return run


def passes(run):
    """Wait for its end; both hosts pass, and it said for whom it waited."""
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert "2 hosts: 2 pass" in out
    assert "hold2: waits for `llmprov verify` of ann@ctl2 since 2" in err


def holds(provisioned, host):
    """How many of the processes that hold a host, or wait for it, run there."""
    return int(provisioned.sh(host, "pgrep -cf '[H]old this host' || true"))


def test_a_run_waits_for_an_older_one_with_nothing_in_its_hands(provisioned, another, waiting):
    with contextlib.ExitStack() as first_run:
        assert first_run.enter_context(another("hold2", "2020-01-01 08:00:00 UTC"))["held"]
        with waiting() as run:
            until(lambda: holds(provisioned, "hold2") == 2, "it waits for hold2")
            # It may have had this one for a moment.
            with another("hold1", "2020-01-01 08:00:00 UTC", 30) as second:
                assert second["held"]
            first_run.close()
            passes(run)
    assert [holds(provisioned, host) for host in ("hold1", "hold2")] == [0, 0]


def test_a_run_keeps_what_it_has_while_it_waits_for_a_younger_one(provisioned, another, waiting):
    with contextlib.ExitStack() as first_run:
        assert first_run.enter_context(another("hold2", "2220-01-01 08:00:00 UTC"))["held"]
        with waiting() as run:
            until(lambda: holds(provisioned, "hold2") == 2 and holds(provisioned, "hold1") == 1, "it waits for hold2")
            with another("hold1", "2220-01-01 08:00:00 UTC") as second:
                assert not second["held"]
                assert second["by"]["command"] == "llmprov verify"
            first_run.close()
            passes(run)
