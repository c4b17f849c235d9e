"""The main job on real hosts: from bare Debian to a trained model and a report."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from tests.conftest import LLMPROV, ROOT
from tests.lab.conftest import PYTHON, VARIABLES
from tests.unit.builders import RENDERED

SCHEMA = json.loads((ROOT / "docs/schema/fleet.schema.json").read_text("utf-8"))


@pytest.fixture
def inventory(provisioned, tmp_path):
    return provisioned.inventory(tmp_path / "hosts.yml", provisioned.of("prov1", "prov2"))


def test_a_second_run_changes_nothing_and_says_so(provisioned, inventory, tmp_path):
    argv = [LLMPROV, "provision", "-i", str(inventory), "--limit", "prov1"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "nothing was changed on any host" in done.stdout
    assert "prov1: planned: nothing to do" in done.stderr


def test_the_report_is_complete_valid_and_private(llmprov, inventory, tmp_path):
    ran = llmprov("verify", inventory, "--limit", "prov2")
    jsonschema.validate(ran.fleet, SCHEMA)
    assert ran.code == 0
    assert ran.statuses() == {"prov1": "not_selected", "prov2": "pass"}
    checks = {check["id"]: check for check in ran.row("prov2")["checks"]}
    assert checks["torch.version"]["measured"] == "2.13.0+cpu"
    assert checks["package.pyyaml"]["status"] == "pass"
    assert checks["train.accuracy"]["measured"] >= 0.95
    assert {"classifier.samples_per_s", "train.tokens_per_s"} <= {m["key"] for m in ran.row("prov2")["measurements"]}
    (run,) = (tmp_path / "runs").iterdir()
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    names = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    hosts = {"hosts/prov1.json", "hosts/prov2.json"}
    assert names == {"run.json", "declared.json", "fleet.json", "events.jsonl", *hosts, *RENDERED}
    assert json.loads((run / "fleet.json").read_text()) == ran.fleet


def test_a_finished_run_is_rendered_again(llmprov, cli, inventory):
    llmprov("verify", inventory, "--limit", "prov1")
    for form, words in [("table", "prov1"), ("md", "# llmprov"), ("json", "schema_version")]:
        done = cli("report", "latest", "--format", form)
        assert done.returncode == 0
        assert words in done.stdout


def test_the_plan_of_a_bare_host_reads_like_a_diff_and_changes_nothing(provisioned, cli, tmp_path):
    bare = provisioned.inventory(tmp_path / "bare.yml", provisioned.of("prov3"))
    done = cli("plan", "-i", str(bare))
    assert done.returncode == 0
    assert "+ pytorch: install 2.13.0+cpu" in done.stdout
    assert "+ python: install" in done.stdout
    assert not (tmp_path / "runs").exists()
    assert cli("plan", "-i", str(bare)).stdout == done.stdout


def test_check_mode_is_clean_on_a_bare_host_and_changes_nothing(provisioned, llmprov, tmp_path):
    bare = provisioned.inventory(tmp_path / "bare.yml", provisioned.of("prov3"))
    packages = provisioned.sh("prov3", "dpkg -l")
    ran = llmprov("provision", bare, "--check")
    assert ran.code == 0
    assert ran.statuses() == {"prov3": "inconclusive"}
    assert ran.row("prov3")["converged"]["changed"]
    assert provisioned.sh("prov3", "dpkg -l") == packages
    assert provisioned.sh("prov3", "ls -d /opt/llmprov 2>/dev/null || true") == ""


def test_not_verified_is_inconclusive_and_strict_counts_it(llmprov, inventory):
    ran = llmprov("provision", inventory, "--no-verify", "--limit", "prov1")
    assert (ran.code, ran.statuses()["prov1"]) == (0, "inconclusive")


def test_plain_ansible_playbook_works(provisioned, inventory):
    playbook = ROOT / "playbooks/site.yml"
    argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(inventory), str(playbook), "-l", "prov1"]
    env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "LANG": "C.UTF-8"}
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=0" in done.stdout


def test_the_wheel_works_in_an_empty_directory(provisioned, inventory, tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    venv, empty = tmp_path / "venv", tmp_path / "empty"
    empty.mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin/pip"), "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    argv = [str(venv / "bin/llmprov"), "provision", "-i", str(inventory), "--limit", "prov1"]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHON", "VIRTUAL"))}
    done = subprocess.run(argv, cwd=empty, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 pass" in done.stdout
    assert [p.name for p in empty.iterdir()] == ["runs"]
    torch = subprocess.run([str(venv / "bin/python"), "-c", "import torch"], capture_output=True)
    assert torch.returncode != 0, "the controller needs no torch"


def test_an_ansible_without_the_package_says_so_in_one_sentence(provisioned, inventory, tmp_path):
    # An interpreter that sees ansible-core and not llmprov: the editable install is by a .pth, which -S does not read.
    site = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    code = f"import sys; sys.path.insert(0, {str(site)!r}); from ansible.cli.playbook import main; main()"
    argv = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        code,
        "-i",
        str(inventory),
        str(ROOT / "playbooks/plan.yml"),
        "-l",
        "prov1",
    ]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "llmprov is not installed for the Python that runs Ansible" in done.stdout + done.stderr


def test_gpus_without_a_driver_are_refused_by_name_and_left_unchanged(fresh, llmprov, tmp_path):
    lab = fresh(1, gpus=("10de:2330",), packages=PYTHON)
    inventory = lab.inventory(tmp_path / "hosts.yml", lab.of("provf1"), pytorch_variant="auto")
    ran = llmprov("provision", inventory)
    assert ran.code == 3
    assert ran.statuses() == {"provf1": "refused"}
    assert "NVIDIA GPU and no NVIDIA driver" in ran.row("provf1")["summary"]
    assert ran.row("provf1")["observation"]["devices"][0]["device_id"] == "2330"
    assert ran.row("provf1")["converged"]["changed"] == []
    assert lab.sh("provf1", "ls -d /opt/llmprov 2>/dev/null || true") == ""
    # Declared to do without: the CPU build goes on, and verification says that no GPU is seen where one is there.
    ran = llmprov("provision", inventory, "-e", f"pytorch_variant={VARIABLES['pytorch_variant']}")
    assert ran.code == 5
    failed = [check["id"] for check in ran.row("provf1")["checks"] if check["status"] == "fail"]
    assert failed == ["driver.versions", "torch.cuda"]
    # A driver's package, and a newer kernel that no module was built for: told before anybody reboots.
    lab.sh("provf1", FAKE_DRIVER)
    ran = llmprov("plan", inventory, "-e", f"pytorch_variant={VARIABLES['pytorch_variant']}")
    kernel = ran.row("provf1")["observation"]["kernels"][0]
    assert (kernel["release"], kernel["bootable"], kernel["nvidia_module"]) == ("6.1.0-99-amd64", True, False)
    (finding,) = ran.row("provf1")["plan"]["findings"]
    assert "6.1.0-99-amd64 boots next" in finding["says"]
    ran = llmprov("verify", inventory, "-e", f"pytorch_variant={VARIABLES['pytorch_variant']}")
    warned = {check["id"]: check for check in ran.row("provf1")["checks"] if check["status"] == "warn"}
    assert "linux-headers-6.1.0-99-amd64" in warned["driver.next_kernel"]["remedy"]


#: A package with a driver's name and version and nothing in it, and a kernel that could be booted.
FAKE_DRIVER = """
mkdir -p /tmp/d/DEBIAN /lib/modules/6.1.0-99-amd64 /boot
touch /boot/vmlinuz-6.1.0-99-amd64
printf 'Package: nvidia-kernel-dkms\\nVersion: 535.261.03-1\\nArchitecture: all\\nMaintainer: x\\nDescription: x\\n' > /tmp/d/DEBIAN/control
dpkg-deb --build /tmp/d /tmp/d.deb >/dev/null && dpkg -i /tmp/d.deb >/dev/null
"""
