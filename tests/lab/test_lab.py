"""The lab itself: real hosts, safe to repeat, nothing left behind."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from pathlib import Path

import pytest

from llmprov.errors import LabError, UsageError
from llmprov.lab.fleet import Fleet
from llmprov.lab.host import LabHost
from tests.conftest import LLMPROV
from tests.lab.conftest import FLEETS, PYTHON


def footprint() -> dict[str, object]:
    """Everything of the machine that a lab touches."""

    def lines(*argv: str) -> list[str]:
        return sorted(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines())

    groups = Path("/sys/fs/cgroup").rglob("llmprov-lab-*")
    forwarding = Path("/proc/sys/net/ipv4/conf").glob("*/forwarding")
    return {
        "links": [link["ifname"] for link in json.loads(subprocess.check_output(["ip", "-json", "link"]))],
        "routes": lines("ip", "route"),
        "rules": lines("nft", "list", "tables"),
        "mounts": [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "llmprov" in line],
        "processes": [
            line
            for line in lines("ps", "-eo", "args")
            if ("nspawn" in line or "supervise" in line) and "defunct" not in line
        ],
        "files": sorted(map(str, Path("/var/lib/llmprov/lab/labs").glob("[a-z]*"))),
        "groups": sorted(map(str, groups)),
        "left by nspawn": sorted(map(str, Path("/run/systemd/nspawn").glob("*/*"))),
        "inotify": Path("/proc/sys/fs/inotify/max_user_instances").read_text(),
        "forwarding": {str(p): p.read_text() for p in forwarding if not p.parts[-2].startswith(("br-", "vb-"))},
    }


@pytest.fixture(scope="module", autouse=True)
def _alone() -> None:
    """What test processes that were killed left behind is no part of the machine that these tests look at."""
    for prefix in (
        "testf",
        "condaf",
        "boot",
        "pkg",
        "conda",
        "seed",
        *(prefix for prefix, _ in FLEETS.values() if prefix != "test"),
    ):
        Fleet(prefix).down(keep_base=True)


@pytest.mark.long
def test_down_leaves_nothing_of_a_lab(lab):
    before = footprint()
    fleet = Fleet("testf")
    fleet.up(2, address_range="10.77.33.0/24", gpus=("10de:2330",))
    assert footprint() != before
    assert fleet.down() is True
    assert footprint() == before
    assert fleet.down() is False
    assert footprint() == before


@pytest.mark.long
def test_hosts_are_real_ones(lab):
    assert lab.sh("test1", "systemctl is-system-running").strip() == "running"
    assert lab.sh("test1", "systemctl --failed --no-legend").strip() == ""
    assert lab.sh("test1", "cat /etc/hostname").strip() == "test1"
    keys = {host.host_key.with_suffix(".pub").read_text().split()[1] for host in lab.fleet.hosts()}
    assert len(keys) == 3
    assert lab.sh("test1", "command -v python3 || true") in ("", "/usr/bin/python3\n")


@pytest.mark.long
def test_apt_of_a_host_reaches_its_packages(lab):
    lab.sh(
        "test3",
        "apt-get -q update && apt-get -q -y install hello-traditional >/dev/null || apt-get -q -y install hello",
    )
    assert lab.sh("test3", "dpkg -l | grep -c '^ii  hello'").strip() == "1"


def test_login_is_by_the_pinned_key_and_sudo_works(lab):
    done = subprocess.run(lab.fleet.ssh_command("test2", ("sudo id -u; hostname",)), capture_output=True, text=True)
    assert done.stdout.split() == ["0", "test2"]


@pytest.mark.long
def test_lab_ssh_runs_a_command(lab, cli):
    done = cli("lab", "ssh", "test1", "--prefix", "test", "--", "hostname")
    assert (done.returncode, done.stdout) == (0, "test1\n")


@pytest.mark.long
def test_status_tells_what_runs(lab, cli):
    rows = json.loads(cli("lab", "status", "--prefix", "test", "--json").stdout)
    assert [(row["name"], row["state"], row["release"]) for row in rows] == [
        (f"test{i}", "running", "bookworm") for i in (1, 2, 3)
    ]


@pytest.mark.long
def test_a_changed_host_key_is_refused(lab):
    other = lab.host("test2").host_key.with_suffix(".pub").read_text()
    command = lab.fleet.ssh_command("test1", ("true",))
    forged = lab.fleet.directory / "forged"
    forged.write_text(f"{lab.host('test1').address} {other}")
    try:
        argv = [word.replace(str(lab.fleet.known_hosts), str(forged)) for word in command]
        done = subprocess.run([*argv[:1], "-o", "BatchMode=yes", *argv[1:]], capture_output=True, text=True)
    finally:
        forged.unlink()
    assert done.returncode == 255
    assert "Host key verification failed" in done.stderr


@pytest.mark.long
def test_up_again_changes_nothing_and_more_hosts_join(fresh):
    lab = fresh(1)
    boot = lab.sh("testf1", "cat /proc/sys/kernel/random/boot_id")
    lab = fresh(2, packages=PYTHON)
    assert [row.state for row in lab.fleet.status()] == ["running", "running"]
    # What a lab's hosts have from the start may differ; those that are there keep what they had.
    assert [lab.sh(name, "command -v python3 || true") for name in ("testf1", "testf2")] == ["", "/usr/bin/python3\n"]
    assert lab.sh("testf1", "cat /proc/sys/kernel/random/boot_id") == boot


def pid_of_init(host: LabHost) -> int:
    pid = host.leader()
    assert pid is not None
    return pid


@pytest.mark.long
def test_a_host_reboots_for_real_and_keeps_its_gpus(fresh):
    lab = fresh(1, gpus=("10de:2330*2",))
    seen = "cat /sys/bus/pci/devices/*/device"
    assert lab.sh("testf1", seen).split() == ["0x2330", "0x2330"]
    host = lab.host("testf1")
    before = pid_of_init(host)
    lab.sh("testf1", "echo kept > /root/kept")
    subprocess.run(lab.fleet.ssh_command("testf1", ("sudo systemctl reboot",)), capture_output=True, check=False)
    # The old init is gone before the new one can answer.
    wait_gone(before)
    host.wait_ready()
    assert pid_of_init(host) != before
    assert lab.sh("testf1", "cat /root/kept").strip() == "kept"
    assert lab.sh("testf1", seen).split() == ["0x2330", "0x2330"]


def wait_gone(pid: int) -> None:
    """Return when a process that is no child of ours has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ready, _, _ = select.select([handle], [], [], 60)
    os.close(handle)
    assert ready, f"process {pid} did not end within 60 s"


@pytest.mark.long
def test_after_a_crash_up_and_down_still_work(fresh):
    lab = fresh(2)
    for pid in lab.host("testf1").processes():
        os.kill(pid, signal.SIGKILL)
    wait_gone_all(lab.host("testf1"))
    assert {row.name: row.state for row in lab.fleet.status()} == {"testf1": "down", "testf2": "running"}
    fresh(2)
    assert {row.state for row in lab.fleet.status()} == {"running"}
    # The kernel takes a dead host's link away when it finds the time; the next boot must not depend on that.
    lab.host("testf1").stop()
    assert not Path("/sys/class/net/vb-testf1").is_symlink()


def wait_gone_all(host: LabHost) -> None:
    for pid in host.processes():
        wait_gone(pid)


@pytest.mark.long
def test_a_trixie_host_boots(fresh):
    lab = fresh(1, release="trixie")
    assert lab.sh("testf1", "systemctl is-system-running --wait").strip() == "running"
    assert "trixie" in lab.sh("testf1", "cat /etc/os-release")


@pytest.mark.long
def test_a_range_in_use_is_refused_and_nothing_is_made(lab):
    before = footprint()
    with pytest.raises(LabError, match="overlaps"):
        Fleet("testf").up(1, address_range="10.77.32.0/24")
    Fleet("testf").down(keep_base=True)
    assert footprint() == before


@pytest.mark.long
def test_a_bridge_of_somebody_else_is_left_alone(lab):
    subprocess.run(["ip", "link", "add", "br-testf", "type", "bridge"], check=True)
    try:
        with pytest.raises(LabError, match="did not make it"):
            Fleet("testf").up(1, address_range="10.77.33.0/24")
        Fleet("testf").down(keep_base=True)
        assert "br-testf" in footprint()["links"]
    finally:
        subprocess.run(["ip", "link", "del", "br-testf"], check=True)


@pytest.mark.long
def test_a_host_that_is_not_there_is_named(lab):
    with pytest.raises(UsageError, match="it has test1, test2, test3"):
        lab.host("nobody")


@pytest.mark.long
def test_the_machine_that_cannot_host_a_lab_says_why(tmp_path):
    drop = ["capsh", "--drop=cap_sys_admin,cap_net_admin", "--", "-c", f"{LLMPROV} lab up --prefix fresh"]
    done = subprocess.run(drop, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "right to mount" in done.stderr
