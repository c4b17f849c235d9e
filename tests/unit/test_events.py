"""What Ansible tells a run: by the channel of the run alone, each event whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml

from llmprov.errors import UsageError
from llmprov.run import events, worker
from llmprov.run.inventory import inventory_from, load_inventory
from llmprov.run.lifetime import Lifetime
from llmprov.run.options import Options
from llmprov.run.playbook import PlaybookRun

#: A process that sends events as tasks do; each is larger than what a pipe takes at once.
SENDER = """
import sys
from llmprov.run import events
for number in range(20):
    events.send({"event": "waiting", "host": sys.argv[1], "number": number, "by": "x" * 100_000})
"""

#: `secret` under the password `pw`; nothing here may unlock it.
VAULT = """$ANSIBLE_VAULT;1.1;AES256
61303431323034333762633562656165363337323239656334613236306135363634623132663464
6239323036663766323731383033663834323164313464300a343965306232333132333433653031
61633833376438383632343333363337323133383932363438383466353163376336613161356132
3531376363333066320a633738623532656139373638643161666239613531663130343433313839
6138
"""


@pytest.fixture
def lifetime(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    living = Lifetime("20260101T000000Z-abcdef", "plan")
    yield living
    living.end()


def test_events_of_several_processes_come_whole(lifetime):
    with lifetime.channel() as channel:
        env = {**os.environ, **lifetime.environment()}
        senders = [subprocess.Popen([sys.executable, "-c", SENDER, name], env=env) for name in "abc"]
        text, told = b"", []
        while len(told) < 60:
            try:
                text += os.read(channel, 1 << 20)
            except BlockingIOError:
                assert any(sender.poll() is None for sender in senders) or text.count(b"\n") == 60
            *whole, text = text.split(b"\n")
            told += [json.loads(line) for line in whole]
        assert [sender.wait(30) for sender in senders] == [0, 0, 0]
    for name in "abc":
        assert [event["number"] for event in told if event["host"] == name] == list(range(20))
    assert {len(event["by"]) for event in told} == {100_000}


def test_only_the_runs_owner_can_reach_its_channel(lifetime):
    with lifetime.channel():
        assert (lifetime.directory / events.CHANNEL).stat().st_mode & 0o077 == 0
        assert lifetime.directory.stat().st_mode & 0o077 == 0


def test_without_a_run_nothing_is_sent(monkeypatch):
    monkeypatch.delenv("LLMPROV_LIFETIME", raising=False)
    events.send({"event": "waiting", "host": "a", "by": "b"})


@pytest.fixture
def inventory(tmp_path):
    """Three hosts that are this machine, in groups, with a name that no file could have and a value of a vault."""

    class Vaulted(str):
        """A text that is written with Ansible's tag for the vault."""

    yaml.SafeDumper.add_representer(
        Vaulted, lambda dumper, text: dumper.represent_scalar("!vault", str(text), style="|")
    )
    content = {
        "all": {
            "vars": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "llm_env_path": "/nowhere/env"},
            "children": {
                "zeta": {"hosts": {"b/x": {"rack": 7}, "a": {"token": Vaulted(VAULT)}}},
                "alpha": {"hosts": {"a": None, "c": {"llm_packages": ["numpy"]}}},
            },
        }
    }  # fmt: skip
    path = tmp_path / "hosts.yml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def run_plan(lifetime, options):
    ran = PlaybookRun("plan.yml", options, None, 5, lifetime)
    return list(ran), ran


def test_a_playbook_tells_its_inventory_first_as_the_listing_has_it(lifetime, inventory):
    options = Options(inventory=(str(inventory),), limit="alpha")
    told, ran = run_plan(lifetime, options)
    assert [event["event"] for event in told[:2]] == ["inventory", "playbook_on_play_start"]
    listed = inventory_from(told[0])
    assert listed == load_inventory(options)
    assert listed.hosts == {"a": ["alpha", "zeta"], "c": ["alpha"], "b/x": ["zeta"]}
    assert listed.selected == ["a", "c"]
    assert listed.variables["b/x"]["rack"] == 7
    # Locked still, though no password was given.
    assert listed.variables["a"]["token"]["__ansible_vault"].strip() == VAULT.strip()
    assert ran.problem() is None
    assert set(ran.stats["processed"]) == {"a", "c"}


def test_each_host_speaks_under_its_own_name(lifetime, inventory):
    told, _ = run_plan(lifetime, Options(inventory=(str(inventory),)))
    plans = {event["host"]: event for event in told if event["event"] == "runner_on_ok"}
    assert set(plans) == {"a", "b/x", "c"}
    for event in plans.values():
        assert event["action"] == "llmprov_plan"
        assert event["task"] == "Observe and plan"
        assert event["result"]["observation"]["os"]["hostname"]
        assert not event["result"]["empty"]
        assert event["duration_s"] > 0
    assert any(a["component"] == "conda_env" for a in plans["c"]["result"]["plan"]["actions"])


def test_ansibles_own_complaint_is_passed_on(lifetime, inventory):
    _, ran = run_plan(lifetime, Options(inventory=(str(inventory),), vault_ids=("nosuch@/nowhere",)))
    with pytest.raises(UsageError, match="nowhere"):
        ran.problem()


def test_of_what_a_terminal_shows_only_errors_are_passed_on(capsys):
    lines = (
        "PLAY [all] ***",
        "llmprov waits: {}",
        '{"event": "inventory"}',
        "[ERROR]: no",
        "\x1b[0;31mERROR! none\x1b[0m",
    )
    for line in lines:
        assert worker.handle({"event": "verbose", "stdout": line}) is False
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told == [{"event": "error", "message": "[ERROR]: no"}, {"event": "error", "message": "ERROR! none"}]


def test_a_result_is_kept_as_far_as_a_run_needs_it():
    result = {
        "msg": "m" * 5000,
        "stdout": "s" * 5000,
        "changed": True,
        "plan": {"actions": []},
        "invocation": {"secret": 1},
    }
    assert events.kept_result(result) == {"msg": "m" * 4000, "stdout": "s" * 1000, "changed": True, "empty": False}
    # Records are llmprov's own where the result says so.
    assert events.kept_result({**result, "llmprov": {"kind": "plan"}})["plan"] == {"actions": []}
    assert events.kept_result({"changed": False})["empty"]
