"""The NVIDIA driver on a real host: real packages, a real module built by DKMS, held, and gone again.

The lab's hosts have neither a GPU nor a kernel of their own: the module is built for the archive's kernel and cannot be
loaded, so that the host ends `pending`, never `pass`.
"""

from __future__ import annotations

import pytest

from tests.lab.conftest import PYTHON

PACKAGES = "dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n' | sort"
DECLARED = ("-e", "nvidia_driver_state=present", "-e", "nvidia_driver_repository=distribution")
#: Headers alone do not make a kernel that may boot; its image does.
KERNEL = "release=$(basename /lib/modules/*-amd64) && mkdir -p /boot && touch /boot/vmlinuz-$release && echo $release"


@pytest.mark.long
def test_the_driver_is_built_held_and_gone_again(fresh, llmprov, tmp_path):
    lab = fresh(1, gpus=("10de:2330",), packages=PYTHON)
    inventory = lab.inventory(tmp_path / "hosts.yml", lab.of("drvf1"), pytorch_state="absent")
    before = lab.sh("drvf1", PACKAGES)

    # What does not fit is refused by name, and nothing is touched.
    ran = llmprov("provision", inventory, *DECLARED, "-e", "nvidia_driver_flavour=open")
    assert ran.statuses() == {"drvf1": "refused"}
    assert "what the repositories have for this system" in ran.row("drvf1")["summary"]
    assert lab.sh("drvf1", PACKAGES) == before

    ran = llmprov("provision", inventory, *DECLARED)
    row = ran.row("drvf1")
    assert ran.code == 3, row["summary"]
    assert row["status"] == "pending"
    assert "waits for a reboot" in row["summary"]
    status = lab.sh("drvf1", "PATH=$PATH:/usr/sbin dkms status")
    assert ": installed" in status
    release = lab.sh("drvf1", KERNEL).strip()
    held = set(lab.sh("drvf1", "apt-mark showhold").split())
    assert held == {"nvidia-kernel-dkms", "nvidia-driver-libs", "nvidia-smi", "nvidia-persistenced"}

    # A second run changes nothing, and says what is waited for.
    ran = llmprov("provision", inventory, *DECLARED, "--no-verify")
    assert ran.row("drvf1")["converged"]["changed"] == []
    ran = llmprov("plan", inventory, *DECLARED)
    (action,) = [a for a in ran.row("drvf1")["plan"]["actions"] if a["component"] == "nvidia_driver"]
    assert action["kind"] == "reboot"
    kernel = next(k for k in ran.row("drvf1")["observation"]["kernels"] if k["release"] == release)
    assert (kernel["nvidia_module"], kernel["dkms"], kernel["headers"]) == (True, "installed", True)
    assert ran.row("drvf1")["plan"]["findings"] == []

    # Somebody releases a hold: found, and mended.
    lab.sh("drvf1", "apt-mark unhold nvidia-smi")
    ran = llmprov("provision", inventory, *DECLARED, "--no-verify")
    assert ran.row("drvf1")["converged"]["changed"] == ["Ensure nobody upgrades the driver but this role"]

    # Nothing is to be held any more: released, and nothing else is done.
    ran = llmprov("provision", inventory, *DECLARED, "-e", '{"nvidia_driver_hold": false}', "--no-verify")
    assert ran.row("drvf1")["converged"]["changed"] == ["Ensure that what is not to be held is released"]
    assert lab.sh("drvf1", "apt-mark showhold").split() == []

    ran = llmprov("provision", inventory, "-e", "nvidia_driver_state=absent", "--no-verify")
    assert ran.code == 0, ran.row("drvf1")["summary"]
    assert lab.sh("drvf1", PACKAGES) == before
    left = "ls /etc/apt/preferences.d /etc/apt/sources.list.d /etc/modprobe.d /var/lib/llmprov | grep -c nvidia || true"
    assert lab.sh("drvf1", left).strip() == "0"
