"""Each role by itself, on a real host: idempotent, honest in check mode, usable from anybody's playbook."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

PLAYBOOK = str(Path(sys.executable).parent / "ansible-playbook")
ENV = "/opt/llmprov/envs/llm"


class Playbook:
    """A playbook of somebody else's, in a directory of their own, that uses llmprov's roles."""

    def __init__(self, folder: Path, inventory: Path) -> None:
        self.folder, self.inventory = folder, inventory

    def run(self, roles: list[str], *argv: str, **variables: object) -> dict[str, int]:
        """Run and return Ansible's counts of the one host; raises where a task failed."""
        play = [{"hosts": "all", "gather_facts": False, "roles": roles, "vars": variables}]
        (self.folder / "theirs.yml").write_text(yaml.safe_dump(play))
        env = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ["HOME"],
            "LANG": "C.UTF-8",
            "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
        }
        argv = (PLAYBOOK, "-i", str(self.inventory), "theirs.yml", *argv)
        done = subprocess.run(argv, cwd=self.folder, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        recap = done.stdout[done.stdout.index("PLAY RECAP") :]
        return {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", recap)}


@pytest.fixture
def theirs(provisioned, tmp_path):
    folder = tmp_path / "anywhere"
    folder.mkdir()
    return Playbook(folder, provisioned.inventory(tmp_path / "hosts.yml", provisioned.of("role2")))


def plan_of(llmprov, theirs, **variables):
    extra = [word for name, value in variables.items() for word in ("-e", json.dumps({name: value}))]
    ran = llmprov("plan", theirs.inventory, *extra)
    assert ran.code == 0
    return [a["component"] for a in ran.row("role2")["plan"]["actions"] if a["kind"] != "none"]


@pytest.mark.parametrize("role", ["preflight", "venv", "pytorch", "verify"])
def test_every_role_works_from_anybodys_playbook_and_changes_nothing_twice(theirs, role):
    assert theirs.run([role])["changed"] == 0


#: What is done behind the roles' backs, and the components whose plan must notice.
TAMPERING = [
    pytest.param("rm /opt/llmprov/bin/uv", {"uv"}, marks=pytest.mark.long, id="uv"),
    pytest.param(
        f"rm -r {ENV}/lib/python3.11/site-packages/[Pp]y[Yy][Aa][Mm][Ll]-*.dist-info",
        {"venv"},
        marks=pytest.mark.long,
        id="package",
    ),
    pytest.param(f"ln -sf /nowhere {ENV}/bin/python", {"venv", "pytorch"}, id="python"),
]


def pending(ran):
    return {a["component"] for a in ran.row("role2")["plan"]["actions"] if a["kind"] != "none"}


@pytest.mark.parametrize(("script", "noticed"), TAMPERING)
def test_what_is_changed_behind_a_role_is_planned_told_by_check_mode_and_mended(
    provisioned, llmprov, theirs, script, noticed
):
    provisioned.sh("role2", script)
    checked = llmprov("provision", theirs.inventory, "--check")
    assert pending(checked) == noticed
    assert checked.row("role2")["converged"]["changed"]
    assert theirs.run(["preflight", "venv", "pytorch"], "--check")["changed"] > 0
    mended = llmprov("provision", theirs.inventory, "--no-verify")
    assert pending(mended) == noticed, "check mode changed something"
    again = llmprov("provision", theirs.inventory, "--check")
    assert (pending(again), again.row("role2")["converged"]["changed"]) == (set(), [])


def test_tags_choose_what_is_converged(provisioned, llmprov, theirs):
    provisioned.sh("role2", f"rm -r {ENV}/lib/python3.11/site-packages/torch-*.dist-info")
    assert llmprov("provision", theirs.inventory, "--tags", "preflight").row("role2")["converged"]["changed"] == []
    assert llmprov("provision", theirs.inventory, "--tags", "pytorch").row("role2")["converged"]["changed"]


def test_what_was_mended_works(llmprov, theirs):
    assert theirs.run(["preflight", "venv", "pytorch"], "--check")["changed"] == 0
    assert llmprov("verify", theirs.inventory).statuses() == {"role2": "pass"}


def test_a_declaration_that_changes_changes_the_environment(provisioned, llmprov, cli, theirs):
    versions = f"ls {ENV}/lib/python3.11/site-packages | grep -i -E '^(idna|pyyaml).*dist-info' | sort"
    wanted = {"llm_packages": ["pyyaml>=6", "idna==3.9"]}
    assert plan_of(llmprov, theirs, **wanted) == ["venv"]
    assert llmprov("provision", theirs.inventory, "--no-verify", "-e", json.dumps(wanted)).code == 0
    assert "idna-3.9.dist-info" in provisioned.sh("role2", versions)
    wanted = {"llm_packages": ["pyyaml>=6", "idna==3.10"]}
    done = cli("provision", "-i", str(theirs.inventory), "--no-verify", "--diff", "-e", json.dumps(wanted))
    assert done.returncode == 0
    assert "-idna==3.9" in done.stderr
    assert "+idna==3.10" in done.stderr
    assert "idna-3.10.dist-info" in provisioned.sh("role2", versions)
    wanted = {"venv_packages_absent": ["idna"]}
    assert llmprov("provision", theirs.inventory, "-e", json.dumps(wanted)).statuses() == {"role2": "pass"}
    assert "idna" not in provisioned.sh("role2", versions)


def test_absent_leaves_the_file_tree_as_before(provisioned, llmprov, theirs):
    other = "/srv/other env"
    before = provisioned.sh("role2", "find /srv /opt -path '*/cache' -prune -o -path '*/depot' -prune -o -print | sort")
    extra = ["-e", json.dumps({"venv_path": other, "pytorch_state": "absent", "llm_packages": ["idna"]})]
    assert llmprov("provision", theirs.inventory, "--no-verify", *extra).code == 0
    assert "idna" in provisioned.sh("role2", f"ls '{other}'/lib/python3*/site-packages")
    ran = llmprov("provision", theirs.inventory, "--no-verify", *extra, "-e", "venv_state=absent")
    assert ran.code == 0
    provisioned.sh("role2", "rmdir /srv/* 2>/dev/null || true")
    after = provisioned.sh("role2", "find /srv /opt -path '*/cache' -prune -o -path '*/depot' -prune -o -print | sort")
    missing = set(before.splitlines()) - set(after.splitlines())
    extra_files = set(after.splitlines()) - set(before.splitlines())
    assert not extra_files
    assert not {path for path in missing if not path.startswith(ENV)}


def test_what_is_no_environment_is_never_removed(provisioned, llmprov, theirs):
    provisioned.sh("role2", "mkdir -p /srv/data && echo precious > /srv/data/file")
    try:
        ran = llmprov("provision", theirs.inventory, "-e", "venv_path=/srv/data")
        assert ran.statuses() == {"role2": "refused"}
        assert provisioned.sh("role2", "cat /srv/data/file").strip() == "precious"
    finally:
        provisioned.sh("role2", "rm -r /srv/data")


def test_preflight_waits_for_a_package_lock_and_then_says_who_holds_it(fresh, llmprov, tmp_path):
    lab = fresh(1)
    inventory = lab.inventory(tmp_path / "hosts.yml", lab.of("rolef1"))
    host = lab.host("rolef1")
    # perl is on every Debian host and holds the lock as dpkg does; it says when it has it.
    hold = (
        'use Fcntl; open(F, "+>", "/var/lib/dpkg/lock-frontend"); '
        '$l = pack("s s l! l! i", F_WRLCK, 0, 0, 0, 0); fcntl(F, F_SETLK, $l) or die; '
        '$| = 1; print "held\\n"; <STDIN>'
    )
    leader = str(host.leader())
    holder = subprocess.Popen(
        ["nsenter", "--target", leader, "--all", "--", "perl", "-e", hold],
        stdin=subprocess.PIPE,  # closing it lets go of the lock
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        ran = llmprov("provision", inventory, "--no-verify", "-e", "preflight_lock_timeout_s=1")
        assert ran.code == 3
        assert ran.statuses() == {"rolef1": "fail"}
        assert "lock" in ran.row("rolef1")["summary"]
    finally:
        holder.communicate(timeout=30)
    assert llmprov("provision", inventory, "--no-verify", "-e", "pytorch_state=absent").code == 0
