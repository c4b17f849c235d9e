"""`llmprov check` on real hosts: each thing that keeps a host from being provisioned, named at the step it fails at."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from tests.conftest import LLMPROV


@pytest.fixture
def check(lab, tmp_path):
    """Run `check` over aliases of chk1 and chk3; returns host -> its record, and the exit code."""

    def call(hosts, *argv, env=None, **variables):
        inventory = lab.inventory(tmp_path / "hosts.yml", hosts, **variables)
        done = subprocess.run(
            [LLMPROV, "check", "-i", inventory, "--json", *argv],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
        )
        print(done.stderr)
        found = {one["host"]: one for one in json.loads(done.stdout)}
        for name, one in found.items():
            print(name, [(s["name"], s["status"], s["time_ms"], s["says"]) for s in one["steps"]])
        return found, done.returncode

    return call


def failed(one):
    return next((step for step in one["steps"] if step["status"] == "fail"), None)


def test_a_sound_host_passes_every_step_with_its_times(check, lab):
    found, code = check(lab.of("chk1"))
    assert code == 0
    names = [step["name"] for step in found["chk1"]["steps"]]
    assert names == ["dns", "tcp", "banner", "key", "login", "shell", "sudo", "python"]
    assert {step["status"] for step in found["chk1"]["steps"]} == {"pass"}
    assert all(step["time_ms"] >= 0 for step in found["chk1"]["steps"])


def test_each_host_is_told_where_it_fails_and_why(check, lab, tmp_path):
    one = lab.of("chk1")["chk1"]
    address = one["ansible_host"]
    lab.sh(
        "chk3",
        "useradd -m -s /bin/bash asked 2>/dev/null; cp -r /home/admin/.ssh /home/asked/; chown -R asked: /home/asked",
    )
    lab.sh("chk3", "echo 'asked ALL=(ALL) ALL' > /etc/sudoers.d/asked; echo asked:right | chpasswd")
    lab.sh(
        "chk3",
        "useradd -m -s /bin/bash loud 2>/dev/null; cp -r /home/admin/.ssh /home/loud/; chown -R loud: /home/loud",
    )
    lab.sh(
        "chk3",
        "echo 'loud ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/loud; sed -i '1i echo good morning' /home/loud/.bashrc",
    )
    lab.sh(
        "chk3",
        "useradd -m -s /usr/sbin/nologin shut 2>/dev/null; cp -r /home/admin/.ssh /home/shut/; chown -R shut: /home/shut",
    )
    three = lab.of("chk3")["chk3"]
    empty = tmp_path / "known_hosts"
    empty.write_text("")
    changed = tmp_path / "changed"
    other = subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    assert other.returncode == 0
    changed.write_text(f"{address} " + " ".join((tmp_path / "other.pub").read_text().split()[:2]) + "\n")
    strict = "-o StrictHostKeyChecking=yes -o IdentitiesOnly=yes -o UserKnownHostsFile="
    found, code = check(
        {
            "sound": one,
            "nameless": {"ansible_host": "no.such.host.invalid"},
            "closed": {**one, "ansible_port": 2},
            "web": {**one, "ansible_port": 19999},
            "unknown": {**one, "ansible_ssh_common_args": f"{strict}{empty}"},
            "changed": {**one, "ansible_ssh_common_args": f"{strict}{changed}"},
            "stranger": {**one, "ansible_user": "nobody-here"},
            "wrongkey": {**one, "ansible_ssh_private_key_file": str(tmp_path / "other")},
            "asked": {**three, "ansible_user": "asked"},
            "right": {**three, "ansible_user": "asked", "ansible_become_password": "right"},
            "wrong": {**three, "ansible_user": "asked", "ansible_become_password": "wrong"},
            "loud": {**three, "ansible_user": "loud"},
            "shut": {**three, "ansible_user": "shut"},
            "python": {**one, "ansible_python_interpreter": "/bin/false"},
            "nopython": {**one, "ansible_python_interpreter": "/opt/none"},
        }
    )
    assert code == 4
    told = {name: (step["name"], step["says"]) if (step := failed(record)) else None for name, record in found.items()}
    assert {name for name, step in told.items() if step is None} == {"sound", "right", "loud", "nopython"}
    for name, step, words in (
        ("nameless", "dns", "no.such.host.invalid has no address"),
        ("closed", "tcp", "refused the connection"),
        ("unknown", "key", "not known: ssh-ed25519 SHA256:"),
        ("changed", "key", "HAS CHANGED"),
        ("stranger", "login", "nobody-here was not let in"),
        ("wrongkey", "login", "was not let in: tried"),
        ("asked", "sudo", "sudo asks for a password"),
        ("wrong", "sudo", "does not take the password"),
        ("shut", "shell", "does not run commands"),
        ("python", "python", "is no Python that works"),
    ):
        assert told[name][0] == step, (name, told[name])
        assert words in told[name][1], (name, told[name])
    assert next(s for s in found["loud"]["steps"] if s["name"] == "shell")["status"] == "warn"


def test_a_new_host_is_pinned_and_then_passes(check, lab, tmp_path):
    known = tmp_path / "pins"
    hosts = {"new": lab.of("chk1")["chk1"]}
    args = f"-o StrictHostKeyChecking=yes -o IdentitiesOnly=yes -o UserKnownHostsFile={known}"
    found, code = check(hosts, ansible_ssh_common_args=args)
    assert (code, failed(found["new"])["name"]) == (4, "key")
    found, code = check(hosts, "--pin", ansible_ssh_common_args=args)
    assert (code, failed(found["new"])) == (0, None)
    assert known.read_text().startswith(lab.host("chk1").address + " ")


def test_a_jump_host_of_ssh_config_is_used(check, lab, tmp_path):
    config = tmp_path / "config"
    key, known = lab.fleet.inventory.parent / "id_ed25519", lab.fleet.inventory.parent / "known_hosts"
    config.write_text(
        f"Host *\n  User admin\n  IdentityFile {key}\n  UserKnownHostsFile {known}\n  IdentitiesOnly yes\n"
        f"Host inner\n  HostName {lab.host('chk1').address}\n  ProxyJump outer\n"
        f"Host outer\n  HostName {lab.host('chk3').address}\n"
    )
    shutil.copy(config, tmp_path / "sshconfig")
    found, code = check({"inner": {}}, ansible_ssh_common_args=f"-F {config}")
    assert (code, failed(found["inner"])) == (0, None)
    assert next(s for s in found["inner"]["steps"] if s["name"] == "tcp")["says"].startswith("by `ssh")


def test_two_hundred_hosts_are_looked_at_at_once(check, lab):
    hosts = {f"alias{number}": lab.of("chk1")["chk1"] for number in range(20)}
    found, code = check(hosts)
    assert (len(found), code) == (20, 0)
