"""What `check` makes of settings, known_hosts and answers; the connections themselves are in tests/lab."""

from __future__ import annotations

import contextlib
import subprocess

import paramiko
import pytest

from llmprov.check import keys
from llmprov.check.fleet import judge
from llmprov.check.probe import WORD, Stop, Trail, commands
from llmprov.check.target import Target
from llmprov.model.reach import Reach, ReachStep, StepStatus


def target(become=False, password=None, arguments=(), **config):
    values = {"hostname": ["10.0.0.1"], "port": ["22"], "user": ["bob"], **{k: [v] for k, v in config.items()}}
    return Target(
        name="a",
        alias="a",
        arguments=tuple(arguments),
        executable="ssh",
        config=values,
        password=None,
        become=become,
        become_user="root",
        become_password=password,
        python="/usr/bin/python3",
        timeout_s=1.0,
    )


@pytest.fixture
def key():
    return paramiko.ECDSAKey.generate()


def known_hosts(tmp_path, *lines):
    path = tmp_path / "known_hosts"
    path.write_text("".join(f"{line}\n" for line in lines))
    return {"userknownhostsfile": str(path), "globalknownhostsfile": ""}


def line(name, key, marker=""):
    return f"{marker} {name} {key.get_name()} {key.get_base64()}".strip()


@pytest.mark.parametrize("port", [22, 2222])
@pytest.mark.parametrize("hashed", [False, True])
def test_a_known_key_is_found_by_name_and_port_hashed_or_not(tmp_path, key, port, hashed):
    name = "10.0.0.1" if port == 22 else "[10.0.0.1]:2222"
    about = known_hosts(tmp_path, line("10.0.0.2", key), line(name, key))
    if hashed:
        subprocess.run(["ssh-keygen", "-H", "-f", about["userknownhostsfile"]], check=True, capture_output=True)
    one = target(port=str(port), **about)
    assert keys.judge(one, keys.known(one), key).startswith("ecdsa-sha2-nistp256 SHA256:")


def test_a_fingerprint_is_openssh_s_own(tmp_path, key):
    (tmp_path / "key.pub").write_text(f"{key.get_name()} {key.get_base64()}\n")
    told = subprocess.run(["ssh-keygen", "-lf", tmp_path / "key.pub"], check=True, capture_output=True, text=True)
    assert told.stdout.split()[1] == keys.fingerprint(key)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "is not known"),
        (["other"], "HAS CHANGED"),
        (["revoked"], "is revoked"),
    ],
)
def test_a_key_that_is_not_as_known_ends_the_walk(tmp_path, key, lines, words):
    written = {"other": line("10.0.0.1", paramiko.ECDSAKey.generate()), "revoked": line("10.0.0.1", key, "@revoked")}
    one = target(**known_hosts(tmp_path, *(written[name] for name in lines)))
    with pytest.raises(Stop, match=words) as stop:
        keys.judge(one, keys.known(one), key)
    assert stop.value.remedy


def test_a_user_who_switched_checking_off_is_told_so(tmp_path, key):
    one = target(stricthostkeychecking="accept-new", **known_hosts(tmp_path))
    assert "taken unseen" in keys.judge(one, [], key)


@pytest.mark.parametrize(
    ("config", "arguments", "command"),
    [
        ({}, (), ""),
        ({"proxycommand": "nc gate 22"}, (), "nc gate 22"),
        ({"proxyjump": "gate"}, (), "ssh -o BatchMode=yes -W '[10.0.0.1]:22' gate"),
        ({"proxyjump": "one,two"}, ("-F", "my"), "ssh -F my -o BatchMode=yes -J one -W '[10.0.0.1]:22' two"),
    ],
)
def test_a_jump_host_becomes_the_command_that_openssh_would_run(config, arguments, command):
    assert target(arguments=arguments, **config).proxy == command


def walked(answers, **about):
    """The steps after the login, on a host that gives these answers."""
    trail, asked = Trail(), []

    def run(command, given):
        asked.append((command, given))
        return next(answer for sign, answer in answers if sign in command)

    with contextlib.suppress(Stop):
        commands(target(**about), trail, run)
    return {step.name: step for step in trail.steps}, asked


SHELL, PYTHON = ("echo", (0, f"{WORD}\n", "")), ("python3", (0, "3.11.2 (main)\n", ""))


def test_a_sound_host_is_walked_to_its_end():
    steps, asked = walked([SHELL, ("sudo", (0, "", "")), PYTHON], become=True, password="s3cret")
    assert {step.status for step in steps.values()} == {StepStatus.PASS}
    # The password goes over standard input, never as an argument that others of the host could read.
    assert [given for command, given in asked if "sudo" in command] == ["s3cret\n"]
    assert not any("s3cret" in command for command, _ in asked)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("sudo: sorry, you must have a tty to run sudo", "wants a terminal"),
        ("bob is not in the sudoers file.", "may not use sudo"),
        (
            "Sorry, try again.\nsudo: no password was provided\nsudo: 1 incorrect password attempt",
            "not take the password",
        ),
        ("sudo: a password is required", "asks for a password"),
        ("bash: line 1: sudo: command not found", "there is no sudo"),
        ("sudo: unable to resolve host", "sudo failed (exit code 1)"),
    ],
)
def test_sudo_s_words_become_a_cause(said, words):
    steps, _ = walked([SHELL, ("sudo", (1, "", said)), PYTHON], become=True)
    assert steps["sudo"].status is StepStatus.FAIL
    assert words in steps["sudo"].says
    assert steps["sudo"].remedy
    assert "python" not in steps


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        ((127, "", "not found"), StepStatus.PASS, "`provision` installs it"),
        ((1, "", "Segmentation fault"), StepStatus.FAIL, "Segmentation fault"),
        ((0, "hello\n", ""), StepStatus.FAIL, "is no Python that works"),
    ],
)
def test_python_that_is_missing_is_no_fault_and_one_that_does_not_work_is(answer, status, words):
    steps, _ = walked([SHELL, ("python3", answer)])
    assert (steps["python"].status, words in steps["python"].says) == (status, True)


def test_a_profile_that_prints_warns_and_one_that_exits_fails():
    steps, _ = walked([("echo", (0, f"good morning\n{WORD}\n", "")), PYTHON])
    assert (steps["shell"].status, "good morning" in steps["shell"].says) == (StepStatus.WARN, True)
    steps, _ = walked([("echo", (1, "", "")), PYTHON])
    assert (steps["shell"].status, "python" in steps) == (StepStatus.FAIL, False)


def test_what_a_host_prints_cannot_draw_on_the_terminal():
    steps, _ = walked([("echo", (0, f"\x1b[31mred\x00\n{WORD}\n", "")), PYTHON])
    assert "\x1b" not in steps["shell"].says
    assert "\x00" not in steps["shell"].says


def test_where_openssh_gets_no_further_our_end_stays(monkeypatch):
    lost = Reach(host="a", steps=[ReachStep(name="tcp", status=StepStatus.FAIL, says="refused")])
    monkeypatch.setattr("llmprov.check.fleet._openssh", lambda one: "Connection refused")
    assert judge(target(), lost) == lost


def test_openssh_s_verdict_stands_in_both_directions(monkeypatch):
    fine = Reach(host="a", steps=[ReachStep(name="login", status=StepStatus.PASS)])
    monkeypatch.setattr("llmprov.check.fleet._openssh", lambda one: "Permission denied (publickey).")
    told = judge(target(), fine)
    assert told.failed.says == "OpenSSH: Permission denied (publickey)."
    lost = Reach(host="a", steps=[ReachStep(name="key", status=StepStatus.FAIL, says="not known")])
    answers = {"echo": (0, f"{WORD}\n", ""), "/usr/bin/python3": (0, "3.11.2\n", "")}
    run = lambda command, given: next(answer for sign, answer in answers.items() if command.startswith(sign))  # noqa: E731
    monkeypatch.setattr("llmprov.check.fleet._openssh", lambda one: "")
    monkeypatch.setattr("llmprov.check.fleet.openssh_runner", lambda one: run)
    told = judge(target(), lost)
    assert told.failed is None
    assert told.steps[0].says == "not known; OpenSSH gets through, and its verdict stands"
    assert [step.name for step in told.steps] == ["key", "shell", "sudo", "python"]
