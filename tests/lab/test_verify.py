"""What hosts can really do, and what is wrong with them: levels, figures and causes on real hosts."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from llmprov.payload.measure import sampler
from tests.conftest import LLMPROV

ENV = "/opt/llmprov/envs/llm"
SITE = f"{ENV}/lib/python3.11/site-packages"
SOAK = "/var/tmp/llmprov-soak-0"


@pytest.fixture(scope="module")
def as_declared(provisioned, tmp_path_factory):
    """The shared hosts as they are declared here, whatever tests of other files made of them."""
    folder = tmp_path_factory.mktemp("as_declared")
    inventory = provisioned.inventory(folder / "hosts.yml", provisioned.of("twin1", "twin2"))
    argv = [LLMPROV, "provision", "-i", str(inventory), "--no-verify"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return inventory


@pytest.fixture
def inventory(as_declared):
    return as_declared


@pytest.fixture
def poisoned(provisioned):
    """twin1 multiplies matrices a little wrongly: one bit in the last place, which no accuracy shows."""
    code = (
        "import sys\n"
        "if '-c' in sys.orig_argv and 'llmprov.payload.tasks' in ' '.join(sys.orig_argv):\n"
        "    import torch\n"
        "    right = torch.Tensor.__matmul__\n"
        "    torch.Tensor.__matmul__ = lambda a, b: right(a, b) * (1 + 2**-23)\n"
    )
    provisioned.sh("twin1", f"cat > {SITE}/spoilt.py <<'END'\n{code}\nEND")
    provisioned.sh("twin1", f"echo import spoilt > {SITE}/spoilt.pth")
    yield
    provisioned.sh("twin1", f"rm -f {SITE}/spoilt.* {SITE}/__pycache__/spoilt*")


@pytest.fixture
def held_back(provisioned):
    """When called: twin1 may use a fifth of one processor, which is little beside whatever else may run here."""
    (group,) = [g for g in provisioned.host("twin1")._control_groups() if quota_file(g)]
    path = quota_file(group)
    before = path.read_text()
    yield lambda: path.write_text("20000 100000" if path.name == "cpu.max" else "20000")
    path.write_text(before)


def quota_file(group: Path) -> Path | None:
    return next((p for p in (group / "cpu.max", group / "cpu.cfs_quota_us") if p.exists()), None)


def figures(ran, host):
    return {(m["device"], m["key"]): m["value"] for m in ran.row(host)["measurements"]}


def checks(ran, host):
    return {check["id"]: check for check in ran.row(host)["checks"]}


def test_sound_hosts_of_a_kind_compute_the_same_and_a_poisoned_one_is_outvoted(
    provisioned, as_declared, llmprov, poisoned, tmp_path
):
    # Under two names the sound host has two votes: three make a majority.
    hosts = provisioned.of("twin1", "twin2")
    inventory = provisioned.inventory(tmp_path / "hosts.yml", {**hosts, "again": dict(hosts["twin2"])})
    ran = llmprov("verify", inventory)
    one, two, again = (ran.row(host)["digests"] for host in ("twin1", "twin2", "again"))
    assert one["cpu.matmul"] != two["cpu.matmul"] == again["cpu.matmul"]
    assert one["cpu.loss"] == two["cpu.loss"] == again["cpu.loss"]
    assert ran.statuses() == {"twin1": "fail", "twin2": "pass", "again": "pass"}
    assert ran.code == 5
    assert "computes other matmul than 2 of the 3 devices of its kind" in ran.row("twin1")["summary"]
    assert ran.row("twin1")["cause"]["says"]


def test_a_host_that_is_held_back_is_slower_than_its_twin_and_than_before(llmprov, inventory, held_back):
    before = llmprov("verify", inventory, "--limit", "twin1")
    held_back()
    ran = llmprov("verify", inventory, "--baseline", before.fleet["run"]["id"])
    rates = [figures(ran, host)["cpu", "train.tokens_per_s"] for host in ("twin1", "twin2")]
    assert rates[0] < rates[1]
    assert "baseline.train.tokens_per_s" in checks(ran, "twin1")
    assert ran.row("twin1")["status"] == "warn"
    # The quota is put on the host from outside, where it cannot see it: told by processors that idled meanwhile, unless
    # other tests kept them busy.
    if figures(ran, "twin1")["cpu", "train.cpu_idle_fraction"] > sampler.CPU_IDLE:
        assert "a quota" in checks(ran, "twin1")["cpu.train.held_back"]["summary"]
    assert "cpu.train.held_back" not in checks(ran, "twin2")


def test_the_standard_level_measures_all_of_it_and_leaves_nothing(provisioned, llmprov, inventory):
    before = provisioned.sh("twin2", "ls -A /tmp /var/tmp")
    ran = llmprov("verify", inventory, "--level", "standard", "--limit", "twin2")
    assert provisioned.sh("twin2", "ls -A /tmp /var/tmp") == before
    found = checks(ran, "twin2")
    assert {check["status"] for check in found.values()} <= {"pass", "warn"}
    # A lab host has no compiler: a finding, and no crash.
    assert found["cpu.compile"]["status"] == "warn"
    assert "C++ compiler" in found["cpu.compile"]["remedy"]
    assert {"cpu.input.accuracy", "cpu.adapters.loss", "world.run"} <= set(found)
    keys = {key for _, key in figures(ran, "twin2")}
    assert {"input.disk_read_gb_s", "adapters.tokens_per_s", "world.scaling_fraction"} <= keys
    assert any(key.endswith("busbw_gb_s") for key in keys)


def wait_for(provisioned, pattern):
    """Return when a process of twin2 matches."""
    deadline = time.monotonic() + 60
    while not provisioned.sh("twin2", f"pgrep -f '{pattern}' || true").strip():
        assert time.monotonic() < deadline, f"nothing like {pattern} ran on twin2"
        time.sleep(0.2)  # a poll with a deadline


def left_behind(provisioned):
    return provisioned.sh("twin2", f"pgrep -f '[l]lmprov.payload' || true; ls -d {SOAK} 2>/dev/null || true").strip()


@pytest.mark.long
def test_a_soak_survives_a_lost_connection_and_leaves_nothing(provisioned, inventory, tmp_path):
    argv = [LLMPROV, "verify", "-i", str(inventory), "--limit", "twin2", "--level", "soak", "--minutes", "0.2"]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        wait_for(provisioned, "[t]asks import main.* soak")
        # Every session of sshd, and with it the connection that all of Ansible's go through.
        provisioned.sh("twin2", "pkill -KILL -f '^[s]shd: .*@' || true")
        out, _ = run.communicate(timeout=120)
    assert run.returncode == 0, out
    assert "soaked too short a time to tell" in out  # and not "unreachable"
    assert left_behind(provisioned) == ""


@pytest.mark.long
def test_a_soak_goes_on_without_its_controller_and_can_be_stopped(provisioned, llmprov, inventory, tmp_path):
    argv = [LLMPROV, "verify", "-i", str(inventory), "--limit", "twin2", "--level", "soak", "--minutes", "30"]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        wait_for(provisioned, "[t]asks import main.* soak")
        run.terminate()
        run.wait(timeout=60)
    ran = llmprov("verify", inventory, "--limit", "twin2", "--stop")
    assert ran.statuses()["twin2"] == "inconclusive"
    assert figures(ran, "twin2")["cpu", "soak.minutes"] < 5
    assert left_behind(provisioned) == ""
    again = llmprov("verify", inventory, "--limit", "twin2", "--stop")
    assert again.row("twin2")["status"] == "inconclusive"
    assert "no soak runs" in again.row("twin2")["summary"]
