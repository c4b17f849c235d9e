"""Mistakes at the keyboard: one sentence, exit code 2, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from tests.conftest import LLMPROV

GOOD = "all:\n  hosts:\n    a: {ansible_host: 192.0.2.1}\n    b: {ansible_host: 192.0.2.2}\n"


@pytest.fixture
def place(tmp_path):
    (tmp_path / "good.yml").write_text(GOOD)
    (tmp_path / "empty.yml").write_text("")
    (tmp_path / "broken.yml").write_text("all:\n  hosts:\n    a: {x: 1\n    b:\n")
    (tmp_path / "misspelt.yml").write_text(GOOD + "  vars:\n    pytorch_verison: 2.13.0\n")
    (tmp_path / "wrong.yml").write_text(GOOD + "  vars:\n    venv_packages: numpy\n")
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["plan"], "no inventory was given"),
        (["plan", "-i", "missing.yml"], "no inventory at missing.yml"),
        (["provision", "-i", "empty.yml"], "has no hosts"),
        (["provision", "-i", "broken.yml"], "broken.yml cannot be read, line 4"),
        (["provision", "-i", "good.yml", "--limit", "z*"], "--limit z* matches none of the 2 hosts"),
        (["provision", "-i", "misspelt.yml"], "misspelt.yml:6): did you mean `pytorch_version`"),
        (["provision", "-i", "wrong.yml"], "variable `venv_packages`"),
        (["provision", "-i", "good.yml", "-e", "conda_env_state=maybe"], "should be 'present' or 'absent'"),
        (["provision", "-i", "good.yml", "-e", "@missing.yml"], "no file missing.yml"),
        (["provision", "-i", "good.yml", "-e", "{broken"], "parsing"),
        (["verify", "-i", "good.yml", "--runs", "good.yml/x"], "--runs"),
        (["verify", "-i", "good.yml", "--minutes", "5"], "add --level soak"),
        (["verify", "-i", "good.yml", "--stop", "--level", "quick"], "--stop ends a soak"),
        (["verify", "-i", "good.yml", "--level", "soak", "--minutes", "0"], "greater than 0"),
        (["verify", "-i", "good.yml", "-e", "verify_gpu_model=H1000"], "no GPU is `H1000`"),
        (["report", "latest"], "no finished run"),
        (["lab", "up", "--prefix", "fresh", "--gpu", "nonsense"], "--gpu is"),
        (["lab", "up", "--prefix", "Not-A-Prefix"], "--prefix is"),
        (["lab", "up", "--prefix", "fresh", "--network", "8.8.8.0/24"], "private range"),
        (["lab", "up", "--from", "x", "--release", "trixie"], "leave out --release and --package"),
        (["lab", "save", "Not/A/Name"], "a snapshot's name has"),
        (["lab", "snapshots", "--remove", "nothing"], "there is no snapshot 'nothing'"),
        (["plan", "--no-such-option"], "No such option"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(inside, place, argv, words):
    done = inside(*argv, cwd=place)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((place / "runs").glob("*"))


@pytest.mark.parametrize(
    "command",
    [
        "plan",
        "provision",
        "verify",
        "report",
        "lab up",
        "lab save",
        "lab snapshots",
        "lab down",
        "lab status",
        "lab ssh",
    ],
)
def test_every_command_has_help_with_an_example(inside, command):
    done = inside(*command.split(), "--help")
    assert done.returncode == 0
    assert "Example: llmprov" in " ".join(done.stdout.split())


def test_the_program_ends_as_the_command_does(cli, inside):
    """Other tests call the command line inside their own process: the program prints and returns the same."""
    for argv in (["plan", "-i", "missing.yml"], ["plan", "--help"]):
        program, command = cli(*argv), inside(*argv)
        assert program.stdout == command.stdout
        assert program.stderr == command.stderr
        assert program.returncode == command.returncode


def test_the_version_is_printed(cli):
    assert cli("--version").stdout.startswith("llmprov ")


@pytest.mark.parametrize("where", ["modules", "inventory"])
def test_ctrl_c_before_the_hosts_are_known_is_one_word(tmp_path, where):
    here = tmp_path / "here"
    if where == "modules":
        # One that is loaded early, in the place of the real one.
        (tmp_path / "typer.py").write_text(f"open({str(here)!r}, 'w').close()\nimport time\ntime.sleep(60)\n")
    (tmp_path / "hosts").write_text(f"#!/bin/sh\ntouch {here}\nexec sleep 60\n")
    (tmp_path / "hosts").chmod(0o755)
    argv = [LLMPROV, "provision", "-i", str(tmp_path / "hosts")]
    run = subprocess.Popen(
        argv, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
        # What a shell starts in the background, and all below it, ignores ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not here.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # a poll with a deadline
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    assert run.communicate(timeout=30)[1] == "llmprov: cancelled\n"
    assert run.returncode == 130
