"""Reboots that load a driver, on hosts that really reboot: one at a time, and none after one that failed.

What stands in, since no GPU can be had: packages with the names of a driver's and nothing in them; a folder
that shows the module as loaded, from the next boot on; and for the health gate's own process a torch that
takes its card for a GPU's. The host, its boot, systemd, sshd and the order of things are real. After the gate hosts are
verified as all are, and that finds no GPU.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import LLMPROV, ROOT
from tests.lab.conftest import Lab, cleared

NAMES = ("boot1", "boot2", "boot3")
#: A range of its own.
ADDRESSES = "10.77.36.0/24"
VERSION = "535.309.01"
RELEASE = "6.1.0-99-amd64"
ENV = "/opt/llmprov/envs/llm"
SITE = f"{ENV}/lib/python3.11/site-packages"
DECLARED = ("-e", "nvidia_driver_state=present", "-e", "nvidia_driver_repository=distribution")
LOADED = "/var/lib/stand-in/module/nvidia/version"

DRIVER = f"""
set -e
mkdir -p /lib/modules/{RELEASE}/updates/dkms /lib/modules/{RELEASE}/build /boot
touch /lib/modules/{RELEASE}/updates/dkms/nvidia-current.ko /boot/vmlinuz-{RELEASE}
for name in nvidia-kernel-dkms nvidia-driver-libs nvidia-smi nvidia-persistenced; do
    mkdir -p /tmp/stub/$name/DEBIAN
    printf 'Package: %s\\nVersion: {VERSION}-1\\nArchitecture: all\\nMaintainer: A <a@example.org>\\nDescription: none\\n' \\
        $name > /tmp/stub/$name/DEBIAN/control
    dpkg-deb --build /tmp/stub/$name /tmp/stub/$name.deb >/dev/null
    dpkg -i /tmp/stub/$name.deb >/dev/null
    echo $name hold | dpkg --set-selections
done
mkdir -p $(dirname {LOADED})
cat > /etc/systemd/system/stand-in.service <<'END'
[Service]
Type=oneshot
ExecStart=/bin/sh -c "mount -o remount,rw /sys && ln -sfn /var/lib/stand-in/module /sys/module && echo {VERSION} > {LOADED}"
[Install]
WantedBy=multi-user.target
END
systemctl -q enable stand-in
"""

TORCH = f"""
cat > {SITE}/stand_in.py <<'END'
import sys
if "multiply" in sys.orig_argv:
    import torch
    torch.cuda.is_available, torch.cuda.device_count = (lambda: True), (lambda: 1)
    right = torch.Tensor.to
    torch.Tensor.to = lambda self, *to, **how: self if str(to[0]).startswith("cuda:") else right(self, *to, **how)
END
echo import stand_in > {SITE}/stand_in.pth
"""

#: sshd answers only after a while, as on a machine that checks its memory first.
SLOW = """
mkdir -p /etc/systemd/system/ssh.service.d
printf '[Service]\\nExecStartPre=/bin/sleep 12\\n' > /etc/systemd/system/ssh.service.d/slow.conf
"""


@pytest.fixture(scope="module")
def waiting(tmp_path_factory, saved):
    """Three provisioned hosts whose driver waits for a reboot; on the second no GPU will compute after it."""
    with cleared("boot") as fleet:
        fleet.up(3, address_range=ADDRESSES, gpus=("10de:2330",), from_snapshot=f"{saved}/seed1")
        lab = Lab(fleet)
        folder = tmp_path_factory.mktemp("waiting")
        inventory = lab.inventory(folder / "hosts.yml", lab.of(*NAMES))
        argv = [LLMPROV, "provision", "-i", inventory, "--no-verify"]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
        for name in NAMES:
            lab.sh(name, DRIVER)
            if name != "boot2":
                lab.sh(name, TORCH)
        yield lab


def boot(lab, name):
    return lab.sh(name, "cat /proc/sys/kernel/random/boot_id")


def wait_again(lab, name):
    """Let a host wait for a reboot once more: another version is loaded until then."""
    lab.sh(name, f"echo 535.1.1 > {LOADED}")


def test_a_gate_that_fails_stops_the_reboots_and_all_are_verified(waiting, llmprov, tmp_path):
    inventory = waiting.inventory(tmp_path / "hosts.yml", waiting.of(*NAMES))
    before = {name: boot(waiting, name) for name in NAMES}
    ran = llmprov("provision", inventory, *DECLARED, "--reboot")
    rebooted = {name: boot(waiting, name) != before[name] for name in NAMES}
    assert rebooted == {"boot1": True, "boot2": True, "boot3": False}
    assert ran.row("boot1")["converged"]["changed"] == ["Reboot, and wait for the host"]
    assert ran.row("boot1")["failures"] == []
    (failure,) = ran.row("boot2")["failures"]
    assert (failure["stage"], failure["message"]) == ("reboot", "torch sees 0 of the host's 1 GPUs")
    assert ran.row("boot3")["status"] == "pending"
    assert ran.row("boot3")["summary"].endswith("not rebooted: boot2 failed before its turn")
    # Verified are all of them, the one that failed too.
    assert all(any(check["id"] == "python.version" for check in ran.row(name)["checks"]) for name in NAMES)
    assert ran.code == 3


@pytest.mark.long
def test_a_host_that_comes_back_slowly_is_waited_for(waiting, llmprov, tmp_path):
    inventory = waiting.inventory(tmp_path / "hosts.yml", waiting.of("boot3"))
    waiting.sh("boot3", SLOW)
    before = boot(waiting, "boot3")
    ran = llmprov("provision", inventory, *DECLARED, "--reboot", "--no-verify")
    assert boot(waiting, "boot3") != before
    assert ran.row("boot3")["failures"] == []
    # It waits no more, and is not rebooted again.
    after = boot(waiting, "boot3")
    ran = llmprov("provision", inventory, *DECLARED, "--reboot", "--no-verify")
    assert boot(waiting, "boot3") == after
    assert ran.row("boot3")["converged"]["changed"] == []


@pytest.mark.long
def test_a_host_that_does_not_come_back_stops_the_reboots(waiting, llmprov, tmp_path):
    inventory = waiting.inventory(tmp_path / "hosts.yml", waiting.of("boot1", "boot2"))
    wait_again(waiting, "boot2")
    wait_again(waiting, "boot1")
    waiting.sh("boot1", "systemctl -q disable ssh")
    before = boot(waiting, "boot2")
    ran = llmprov("provision", inventory, *DECLARED, "--reboot", "-e", "nvidia_driver_reboot_timeout_s=15")
    assert ran.row("boot1")["status"] == "unreachable"
    assert ran.row("boot1")["summary"].startswith("lost in its reboot")
    assert ran.row("boot2")["status"] == "pending"
    assert ran.row("boot2")["summary"].endswith("not rebooted: boot1 failed before its turn")
    assert boot(waiting, "boot2") == before
    assert ran.code == 4
    waiting.sh("boot1", "systemctl -q enable --now ssh")


def test_gpus_in_use_are_left_alone_unless_told(waiting, llmprov, tmp_path):
    inventory = waiting.inventory(tmp_path / "hosts.yml", waiting.of("boot1"))
    wait_again(waiting, "boot1")
    waiting.sh("boot1", "touch /dev/nvidia0; systemd-run -q sh -c 'exec 3</dev/nvidia0; exec sleep 3600'")
    # What NVIDIA runs by itself holds nobody up.
    waiting.sh("boot1", "cp /bin/sleep /usr/bin/nvidia-persistenced")
    waiting.sh("boot1", "systemd-run -q sh -c 'exec 3</dev/nvidia0; exec nvidia-persistenced 3600'")
    before = boot(waiting, "boot1")
    ran = llmprov("provision", inventory, *DECLARED, "--reboot")
    assert ran.row("boot1")["status"] == "pending"
    assert "persist" not in ran.row("boot1")["summary"]
    assert "not rebooted: programs use its GPUs: sleep (" in ran.row("boot1")["summary"]
    assert boot(waiting, "boot1") == before
    ran = llmprov("provision", inventory, *DECLARED, "--reboot", "-e", "nvidia_driver_reboot_busy=true", "--no-verify")
    assert boot(waiting, "boot1") != before
    assert ran.row("boot1")["failures"] == []


#: What somebody else's waves would be: two hosts at a time, and one that fails on its way.
WAVES = """
- hosts: all
  gather_facts: false
  serial: 2
  strategy: linear
  tasks:
    - ansible.builtin.import_role:
        name: preflight
        tasks_from: plan
    - name: Drain
      ansible.builtin.command: "{{ 'false' if inventory_hostname == 'boot2' else 'true' }}"
      changed_when: false
    - ansible.builtin.import_role:
        name: nvidia_driver
        tasks_from: reboot
  vars:
    nvidia_driver_state: present
    nvidia_driver_repository: distribution
    nvidia_driver_reboot_busy: true
"""


@pytest.mark.long
def test_in_waves_of_more_than_one_no_host_is_touched_once_another_failed(waiting, tmp_path):
    inventory = waiting.inventory(tmp_path / "hosts.yml", waiting.of(*NAMES))
    for name in NAMES:
        wait_again(waiting, name)
    before = [boot(waiting, name) for name in NAMES]
    (tmp_path / "waves.yml").write_text(WAVES)
    argv = [Path(LLMPROV).with_name("ansible-playbook"), "-i", inventory, tmp_path / "waves.yml"]
    environ = {**os.environ, "ANSIBLE_ROLES_PATH": str(ROOT / "roles")}
    done = subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=200)
    # Neither the host beside it nor, in the next wave, the third: Ansible alone would have rebooted both.
    assert done.stdout.count("boot2 failed before") == 2, done.stdout
    assert [boot(waiting, name) for name in NAMES] == before
