"""Snapshots of real hosts: whole, one's own identity, apart from each other, safe to kill."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmprov.errors import LabError, UsageError
from llmprov.lab.fleet import Fleet
from llmprov.lab.snapshot import Snapshots
from tests.conftest import LLMPROV
from tests.lab.conftest import PYTHON, Lab, Run

#: Labs of these tests: saved, started from what was saved, started beside it.
RANGES = {"snapa": "10.77.93.0/24", "snapb": "10.77.94.0/24", "snapc": "10.77.95.0/24"}
SNAPSHOTS = ("test-tree", "test-chain", "test-killed", "test-ready")

#: What a person may have done to a host. Packages, deletions, a folder made anew, a renamed folder of the base tree, links.
CHANGES = """
set -eu
apt-get -q -y install hello >/dev/null
mkdir -p /opt/tool/bin; echo one > /opt/tool/data; chown admin /opt/tool/data; chmod 4750 /opt/tool/data
ln /opt/tool/data /opt/tool/hard; ln -s /nowhere /opt/tool/link; mkfifo /opt/tool/pipe
rm /usr/share/doc/sudo/copyright
rm -r /usr/share/doc/apt; mkdir /usr/share/doc/apt; echo new > /usr/share/doc/apt/new
mv /usr/share/bug /usr/share/bug.renamed
echo secret > /var/tmp/left; mkdir -p /root/.ansible/cp; : > /root/.ansible/cp/socket
logger --id left-in-the-journal; journalctl --sync
"""

#: Every file that is not the host's identity: kind, mode, owner, length, target; folders have no length of their own.
LISTING = (
    "find /usr /opt /srv /etc/apt /var/lib/dpkg -xdev "
    r"\( -type d -printf '%p %y %m %u %g\n' \) -o -printf '%p %y %m %u %g %s %l\n' | sort"
)


def away() -> None:
    for prefix in reversed(RANGES):
        Fleet(prefix).down(keep_base=True)
    for found in Snapshots().all():
        if found.name in SNAPSHOTS:
            Snapshots().remove(found.name, keep_base=True)


@pytest.fixture(scope="module", autouse=True)
def _alone() -> Iterator[None]:
    away()
    yield
    away()


def up(prefix: str, count: int, source: str | None = None, **asked: object) -> Lab:
    fleet = Fleet(prefix)
    fleet.up(count, address_range=RANGES[prefix], from_snapshot=source, **asked)  # type: ignore[arg-type]
    return Lab(fleet)


def known() -> list[str]:
    """The snapshots of these tests."""
    return [found.name for found in Snapshots().all() if found.name in SNAPSHOTS]


def layers(lab: Lab) -> set[Path]:
    """All layers of a lab's hosts: what they write to, and what they stand on."""
    return {path for host in lab.fleet.hosts() for path in (host.upper, *host.lower[:-1])}


def there(paths: set[Path]) -> set[Path]:
    return {path for path in paths if path.exists()}


def files(layer: Path) -> list[str]:
    """All files of a layer, with times and lengths."""
    command = ["find", ".", "-printf", r"%p %y %m %i %s %T@ %C@\n"]
    return sorted(subprocess.check_output(command, cwd=layer, text=True).splitlines())


@pytest.fixture(scope="module")
def saved() -> Lab:
    """A lab of one host, changed in every way that a host is changed, and saved as test-tree."""
    lab = up("snapa", 1, gpus=("10de:2330",))
    lab.sh("snapa1", CHANGES)
    lab.fleet.save("test-tree")
    return lab


@pytest.fixture(scope="module")
def started(saved: Lab) -> Lab:
    """Two hosts that were started from it."""
    return up("snapb", 2, "test-tree")


@pytest.mark.long
def test_a_tree_comes_back_whole(saved, started):
    before = saved.sh("snapa1", LISTING)
    assert "/opt/tool/data f 4750 admin root 4" in before
    assert started.sh("snapb1", LISTING) == before
    assert started.sh("snapb2", LISTING) == before
    assert started.sh("snapb1", "hello").strip() == "Hello, world!"
    assert started.sh("snapb1", "ls /usr/share/doc/apt").split() == ["new"]
    assert started.sh("snapb1", "test -e /usr/share/doc/sudo/copyright || echo gone").strip() == "gone"
    assert started.sh("snapb1", "ls -d /usr/share/bug*").split() == ["/usr/share/bug.renamed"]
    assert started.sh("snapb1", "systemctl is-system-running --wait").strip() == "running"
    assert started.sh("snapb1", "dpkg --audit; apt-get check -qq").strip() == ""


@pytest.mark.long
def test_the_saved_host_goes_on(saved):
    assert saved.sh("snapa1", "cat /var/tmp/left /etc/hostname").split() == ["secret", "snapa1"]
    assert saved.sh("snapa1", "cat /sys/bus/pci/devices/*/device").split() == ["0x2330"]
    assert saved.sh("snapa1", "journalctl -q -t root | grep -c left-in-the-journal").strip() == "1"
    assert [row.state for row in saved.fleet.status()] == ["running"]


def test_identities_differ(saved, started):
    hosts = [(saved, "snapa1"), (started, "snapb1"), (started, "snapb2")]
    for question in ("cat /etc/machine-id", "hostname", "cat /etc/hosts", "sha256sum /etc/ssh/ssh_host_*"):
        assert len({lab.sh(name, question) for lab, name in hosts}) == 3, question
    assert len({lab.host(name).host_key.with_suffix(".pub").read_text() for lab, name in hosts}) == 3
    assert started.sh("snapb1", "hostname -I").split() == [started.host("snapb1").address]
    assert started.sh("snapb1", "ls /etc/ssh | grep -c ssh_host_").strip() == "1"


@pytest.mark.long
def test_login_is_by_the_key_of_the_new_lab_only(saved, started):
    def login(command: list[str]) -> int:
        return subprocess.run([command[0], "-o", "BatchMode=yes", *command[1:]], capture_output=True).returncode

    right = started.fleet.ssh_command("snapb1", ("sudo", "true"))
    assert login(right) == 0
    assert login([word.replace(str(started.fleet.key), str(saved.fleet.key)) for word in right]) == 255


@pytest.mark.long
def test_nothing_of_the_earlier_run_is_left(started):
    assert started.sh("snapb1", "ls /var/tmp /root/.ansible /tmp | grep -e left -e cp || true") == ""
    assert started.sh("snapb1", "ls /var/log/journal").split() == [started.sh("snapb1", "cat /etc/machine-id").strip()]
    assert started.sh("snapb1", "journalctl -q | grep -c -e left-in-the-journal -e snapa1 || true").strip() == "0"
    assert started.sh("snapb1", "ls /var/lib/llmprov-lab 2>/dev/null || true") == ""
    assert started.sh("snapb1", "ls /sys/bus/pci/devices | wc -l") != "1"
    assert "0x10de" not in started.sh("snapb1", "cat /sys/bus/pci/devices/*/vendor 2>/dev/null || true").split()


@pytest.mark.long
def test_a_new_host_has_the_gpus_that_its_own_lab_declares(started):
    lab = up("snapc", 1, "test-tree", gpus=("10de:2330*2",))
    assert lab.sh("snapc1", "cat /sys/bus/pci/devices/*/device").split() == ["0x2330", "0x2330"]
    lab.fleet.down(keep_base=True)


@pytest.mark.long
def test_hosts_of_one_snapshot_do_not_see_each_others_writes(saved, started):
    frozen = started.host("snapb1").lower[0]
    before = files(frozen)
    assert any(line.startswith("./opt/tool/data ") for line in before)
    started.sh("snapb1", "echo mine >> /opt/tool/data; rm -r /usr/share/bug.renamed; mv /opt/tool /opt/other")
    saved.sh("snapa1", "echo its own >> /opt/tool/data")
    assert started.sh("snapb1", "cat /opt/other/data").split() == ["one", "mine"]
    assert started.sh("snapb2", "cat /opt/tool/data; ls -d /usr/share/bug*").split() == [
        "one",
        "/usr/share/bug.renamed",
    ]
    assert saved.sh("snapa1", "cat /opt/tool/data").split() == ["one", "its", "own"]
    assert files(frozen) == before


@pytest.mark.long
def test_it_is_said_where_hosts_came_from(started, cli):
    assert [row.snapshot for row in started.fleet.status()] == ["test-tree/snapa1"] * 2
    rows = json.loads(cli("lab", "status", "--prefix", "snapb", "--json").stdout)
    assert [row["snapshot"] for row in rows] == ["test-tree/snapa1"] * 2
    assert "test-tree/snapa1" in cli("lab", "status", "--prefix", "snapb").stdout
    assert "from" not in cli("lab", "status", "--prefix", "snapa").stdout
    (row,) = [row for row in json.loads(cli("lab", "snapshots", "--json").stdout) if row["name"] in SNAPSHOTS]
    assert (row["name"], row["hosts"], row["releases"], row["lab"]) == ("test-tree", ["snapa1"], ["bookworm"], "snapa")
    assert 1e6 < row["size_bytes"] < 1e9


@pytest.mark.long
def test_a_snapshot_in_use_stays(started, cli):
    done = cli("lab", "snapshots", "--remove", "test-tree")
    assert done.returncode == 1
    assert "hosts of lab snapb were started from it" in done.stderr
    assert known() == ["test-tree"]


@pytest.mark.long
def test_a_lab_from_a_snapshot_is_saved_and_outlives_both(saved, started):
    started.sh("snapb2", "echo two > /opt/tool/data; echo more > /opt/more")
    started.fleet.save("test-chain")
    before = layers(saved) | layers(started)
    assert started.sh("snapb2", "cat /opt/tool/data /opt/more").split() == ["two", "more"]
    for fleet in (started.fleet, saved.fleet):
        fleet.down()  # takes the base trees, but not the one that snapshots need
    Snapshots().remove("test-tree", keep_base=True)
    lab = up("snapc", 2, "test-chain/snapb2")
    for name in ("snapc1", "snapc2"):
        assert lab.sh(name, "cat /opt/tool/data /opt/more; hello").split("\n")[:3] == ["two", "more", "Hello, world!"]
    before |= layers(lab)
    lab.fleet.down(keep_base=True)
    saved_hosts = Snapshots().get("test-chain").hosts.values()
    assert there(before) == {Snapshots().layer(name) for tree in saved_hosts for name in tree.layers}
    with pytest.raises(UsageError, match="has 2 hosts, so there is none for host number 3"):
        up("snapc", 3, "test-chain")
    Fleet("snapc").down(keep_base=True)
    Snapshots().remove("test-chain", keep_base=True)
    assert there(before) == set()


KILLED = """
import os, signal, sys
from pathlib import Path
from llmprov.lab.fleet import Fleet
from llmprov.lab.snapshot import Snapshots
from llmprov.lab.host import LabHost

def killed(owner, name, after):
    real = getattr(owner, name)
    def die(*arguments, **named):
        if after:
            real(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, die)

owner, name, after = sys.argv[1:]
killed({"LabHost": LabHost, "Fleet": Fleet, "Snapshots": Snapshots, "Path": Path}[owner], name, after == "after")
Fleet("snapa").save("test-killed")
"""


@pytest.mark.long
def test_a_save_that_is_killed_saves_all_or_nothing():
    lab = up("snapa", 1)
    moments = [
        ("LabHost", "stop", "before", False),
        ("LabHost", "unmount", "after", False),
        ("Path", "rename", "before", False),  # the lab's record
        ("Fleet", "_save", "after", False),
        ("Snapshots", "add", "after", True),
        ("LabHost", "wait_ready", "before", True),
    ]
    for number, (owner, name, when, whole) in enumerate(moments):
        lab.sh("snapa1", f"echo {number} > /root/number")
        done = subprocess.run([sys.executable, "-c", KILLED, owner, name, when], capture_output=True, text=True)
        assert done.returncode == -9, done.stderr
        assert known() == (["test-killed"] if whole else []), name
        lab = up("snapa", 1)
        assert lab.sh("snapa1", "cat /root/number").strip() == str(number), name
        if whole:
            other = up("snapc", 1, "test-killed")
            assert other.sh("snapc1", "cat /root/number").strip() == str(number), name
            other.fleet.down(keep_base=True)
            Snapshots().remove("test-killed", keep_base=True)
    made = layers(lab)
    assert there(made) == made
    lab.fleet.down(keep_base=True)
    assert there(made) == set()


@pytest.mark.long
def test_a_save_that_fails_leaves_the_hosts_running():
    lab = up("snapa", 1)
    with subprocess.Popen(["sleep", "600"], cwd=lab.host("snapa1").root) as busy:
        with pytest.raises(LabError, match="umount"):
            lab.fleet.save("test-killed")
        busy.kill()
    assert [row.state for row in lab.fleet.status()] == ["running"]
    assert known() == []
    lab.fleet.save("test-killed")
    with pytest.raises(UsageError, match="there is a snapshot test-killed already"):
        lab.fleet.save("test-killed")


@pytest.mark.long
def test_a_provisioned_host_from_a_snapshot_is_as_declared(tmp_path: Path, llmprov_in: Callable[[Path], Run]):
    away()
    lab = up("snapa", 1, packages=PYTHON).without_spinning()
    run = llmprov_in(tmp_path)
    assert run("provision", lab.inventory(tmp_path / "a.yml", lab.of("snapa1")), "--no-verify").code == 0
    lab.fleet.save("test-ready")
    lab.fleet.down(keep_base=True)
    commands = [
        [LLMPROV, "lab", "up", "-n", "1", "--from", "test-ready", "--prefix", prefix, "--network", RANGES[prefix]]
        for prefix in ("snapb", "snapc")
    ]
    both = [subprocess.Popen(command) for command in commands]
    assert [one.wait(120) for one in both] == [0, 0]
    lab = Lab(Fleet("snapb"))
    inventory = lab.inventory(tmp_path / "b.yml", lab.of("snapb1"))
    actions = run("plan", inventory).row("snapb1")["plan"]["actions"]
    assert {action["component"] for action in actions} >= {"venv", "pytorch"}
    assert {action["kind"] for action in actions} == {"none"}
    verified = run("verify", inventory)
    assert (verified.code, verified.statuses()) == (0, {"snapb1": "pass"})
