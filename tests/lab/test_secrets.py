"""Secrets stay where they were given: they are in no file, no log, no process list, no report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pexpect

from tests.conftest import LLMPROV
from tests.lab.conftest import PYTHON

#: Planted, each in another way: typed at a prompt, vaulted in the inventory, an extra variable, the environment.
VAULT, LOGIN, SUDO, TOKEN, OWN = (f"pl4nted-{kind}-7c1f" for kind in ("vault", "login", "sudo", "token", "own"))
PLANTED = (VAULT, LOGIN, SUDO, TOKEN, OWN)

#: Where a run could leave something on a host.
ON_HOST = "/tmp /var/tmp /var/log /run /opt /home /root /etc/profile.d"


class Watch(threading.Thread):
    """Looks at every command line and at every file of a run, again and again, until it is told to stop."""

    def __init__(self, *folders):
        super().__init__(daemon=True)
        self.folders, self.over, self.found, self.looks = folders, threading.Event(), set(), 0

    def run(self):
        while not self.over.is_set():
            self.look()
            self.looks += 1

    def look(self):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            self.see(path, str(path))
        for folder in self.folders:
            for parent, _, names in os.walk(folder):
                for name in names:
                    self.see(Path(parent, name), name)

    def see(self, path, label):
        try:
            if path.is_fifo() or path.is_socket():
                return
            content = path.read_bytes()
        except OSError:
            return
        # The test's own command lines hold none, and its processes end before they could.
        self.found |= {(label, secret) for secret in PLANTED if secret.encode() in content}


def vaulted(text, password_file):
    argv = [Path(sys.executable).parent / "ansible-vault", "encrypt_string", "--vault-password-file", password_file]
    done = subprocess.run([*argv, "--stdin-name", "x"], input=text, capture_output=True, text=True, check=True)
    return done.stdout.split("!vault |", 1)[1]


def test_planted_secrets_are_found_nowhere(fresh, tmp_path, monkeypatch):
    lab = fresh(1, packages=PYTHON)
    lab.sh(
        "secf1", f"echo 'admin:{LOGIN}' | chpasswd; echo 'PasswordAuthentication yes' > /etc/ssh/sshd_config.d/a.conf"
    )
    lab.sh("secf1", "rm /home/admin/.ssh/authorized_keys; systemctl restart ssh")
    lab.sh("secf1", "echo 'admin ALL=(ALL) ALL' > /etc/sudoers.d/admin")
    # The password of the account is that of sudo, too.
    work, keys = tmp_path / "work", tmp_path / "keys"
    work.mkdir()
    keys.mkdir()
    (keys / "vault").write_text(VAULT)
    inventory = lab.inventory(
        keys / "hosts.yml", lab.of("secf1"), pytorch_state="absent", ansible_ssh_private_key_file="/nonexistent"
    )
    text = inventory.read_text()
    secrets = {"ansible_password": LOGIN, "ansible_become_password": LOGIN, "hf_token": TOKEN}
    text += "".join(f"    {name}: !vault |{vaulted(value, keys / 'vault')}" for name, value in secrets.items())
    inventory.write_text(text)
    monkeypatch.setenv("HF_TOKEN", OWN)
    (keys / "more.yml").write_text(f"service_password: {SUDO}\n")
    argv = ["provision", "-i", str(inventory), "--ask-vault-pass", "-e", f"@{keys}/more.yml"]
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    watch = Watch(work, tmp_path / "tmp")
    watch.start()
    child = pexpect.spawn(LLMPROV, argv, cwd=str(work), timeout=240, encoding="utf-8")
    child.expect("Vault password: ")
    child.sendline(VAULT)
    child.expect(pexpect.EOF)
    child.close()
    watch.over.set()
    watch.join()
    printed = child.before
    # It came far: logged in by the password, became root by it, built the environment; without PyTorch none verifies.
    (report,) = work.glob("runs/*/fleet.json")
    changed = json.loads(report.read_text())["hosts"][0]["converged"]["changed"]
    assert "Ensure the environment's Python and packages are as declared" in changed
    assert watch.looks > 3
    assert watch.found == set()
    assert not [secret for secret in PLANTED if secret in printed]
    assert list((tmp_path / "tmp").iterdir()) == []
    history = Path(os.environ["LLMPROV_HISTORY"]).parent
    # Other tests' runs come and go in that last folder meanwhile.
    left = Watch(work, history, Path.home() / ".ansible")
    left.look()
    assert left.found == set()
    words = " ".join(f"-e {secret}" for secret in PLANTED)
    assert lab.sh("secf1", f"grep -rlaF {words} {ON_HOST} 2>/dev/null || true") == ""
    assert lab.sh("secf1", f"journalctl -q --no-pager | grep -F {words} || true") == ""
