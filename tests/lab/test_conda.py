"""Conda on real hosts, bookworm and trixie. Each trap that its recordings name has a test here that would fall into it.

deletes first, solves after         test_a_failed_solve_leaves_the_working_environment
channels fall back to Anaconda's    test_the_prefix_is_set_up_for_every_user (no default channels, no notices)
explicit lists print nothing        test_what_conda_did_is_looked_at_and_not_believed
digests of files are not looked at  test_what_conda_did_is_looked_at_and_not_believed
no locking                          test_two_runs_on_one_host_take_turns
an empty conda-meta                 test_what_is_changed_behind_the_roles_is_planned_and_mended
umask 077                           the fixture conda_lab, test_every_user_can_run_it
prune removes what users added      test_what_users_added_is_taken_along
broken or merged configuration      the fixture conda_lab; test_a_users_configuration_changes_nothing
terms of service                    test_conda_comes_and_goes (accepted), tests/unit/test_plan_conda.py (refused)
environments users cannot see       test_every_user_can_run_it
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.lab.conftest import CONDA, LIGHT, PYTHON
from tests.lab.test_roles import Playbook

ENV, PREFIX = "/opt/llmprov/envs/llm", "/opt/miniconda3"
OTHER_ROLES = ("miniconda", "pytorch", "jupyter")
AS_USER = "sudo -u nobody env HOME=/tmp"


@pytest.fixture
def inventory(conda_lab, tmp_path):
    """Both hosts, light; a test that changes one gives it back as declared."""

    def of(*names, **variables):
        path = tmp_path / f"hosts{len(list(tmp_path.glob('hosts*')))}.yml"
        return conda_lab.inventory(path, conda_lab.of(*names), **{**LIGHT, **variables})

    return of


def pending(row):
    return {action["component"]: action["kind"] for action in row["plan"]["actions"] if action["kind"] != "none"}


def test_both_releases_have_the_channels_python_and_train_a_language_model(conda_lab, llmprov, inventory):
    ran = llmprov("verify", inventory("conda1", "conda2", **CONDA, llm_packages=["pyyaml>=6"]))
    assert ran.code == 0
    for host in ("conda1", "conda2"):
        checks = {check["id"]: check for check in ran.row(host)["checks"]}
        assert checks["python.version"]["measured"].startswith("3.11.")
        assert checks["torch.version"]["measured"] == "2.13.0+cpu"
        assert checks["transformers.train"]["status"] == "pass"
        assert checks["transformers.generate"]["status"] == "pass"
        assert pending(ran.row(host)) == {}
    assert conda_lab.sh("conda2", "python3 --version").startswith("Python 3.13")


def test_a_profile_that_is_taken_out_goes_with_all_that_it_brought(conda_lab, llmprov, inventory):
    assert llmprov("provision", inventory("conda1", "conda2"), "--no-verify").code == 0
    for host in ("conda1", "conda2"):
        left = conda_lab.sh(host, f"ls {ENV}/lib/python3.11/site-packages")
        assert "pandas" in left
        assert not {"transformers", "pyarrow"} & set(left.split())


def test_a_second_run_changes_nothing(llmprov, inventory):
    ran = llmprov("provision", inventory("conda1", "conda2"), "--no-verify")
    assert ran.code == 0
    assert [ran.row(host)["converged"]["changed"] for host in ("conda1", "conda2")] == [[], []]


@pytest.mark.parametrize("role", ["conda_env", *(pytest.param(r, marks=pytest.mark.long) for r in OTHER_ROLES)])
def test_every_role_works_from_anybodys_playbook_and_changes_nothing_twice(inventory, tmp_path, role):
    folder = tmp_path / "anywhere"
    folder.mkdir()
    assert Playbook(folder, inventory("conda1")).run([role])["changed"] == 0


def test_every_user_can_run_it(conda_lab):
    assert conda_lab.sh("conda1", f"{AS_USER} {PREFIX}/bin/conda --version").startswith("conda 26.")
    assert "six" in conda_lab.sh("conda1", f"{AS_USER} {PREFIX}/bin/conda list -p {ENV}")
    assert (
        conda_lab.sh("conda1", f"{AS_USER} {ENV}/bin/python -c 'import torch, six; print(six.__version__)'")
        == "1.16.0\n"
    )
    hidden = conda_lab.sh("conda1", f"find {PREFIX} {ENV}/ ! -type l ! -perm -004 | head -n 5")
    assert hidden == ""


def test_the_prefix_is_set_up_for_every_user(conda_lab):
    rc = yaml.safe_load(conda_lab.sh("conda1", f"cat {PREFIX}/.condarc"))
    assert rc["default_channels"] == []
    assert rc["number_channel_notices"] == 0
    assert rc["channel_priority"] == "strict"
    assert rc["envs_dirs"] == ["/opt/llmprov/envs"]
    assert conda_lab.sh("conda1", "ls -A /root /home/admin | grep -c conda || true").strip() == "0"
    assert conda_lab.sh("conda1", "ls /etc/profile.d | grep -c conda || true").strip() == "0"


def test_nothing_on_a_host_names_the_tunnel_and_none_is_left(conda_lab):
    listening = conda_lab.sh("conda1", "ss -Hltn | grep -v ':22 ' || true")
    assert listening == ""
    named = conda_lab.sh(
        "conda1", f"grep -rl 'http://127.0.0.1' {ENV}/conda-meta {PREFIX}/pkgs/urls.txt {ENV}/llmprov.json || true"
    )
    assert named == ""
    assert conda_lab.sh("conda1", "ls -A /tmp | grep llmprov || true") == ""


#: What is done behind the roles' backs -> the components whose plan must notice, and how.
TAMPERING = [
    pytest.param(
        "conda1",
        f"chmod -R go= {PREFIX}/lib {PREFIX}/bin; rm /opt/llmprov/bin/uv; "
        f"rm -r {ENV}/lib/python3.11/site-packages/pandas-*.dist-info",
        {"miniconda": "repair", "uv": "install", "conda_env": "upgrade"},
        marks=pytest.mark.long,
    ),
    (
        "conda2",
        f"rm {PREFIX}/bin/conda; rm {ENV}/conda-meta/six-*.json",
        {"miniconda": "repair", "conda_env": "upgrade", "pytorch": "install"},
    ),
    # What a kill in the middle of `conda create` leaves.
    pytest.param(
        "conda1",
        f"rm -r {ENV}/ ; rm {ENV}; mkdir -p {ENV}/conda-meta; echo 'channels: [defaults]' > {PREFIX}/.condarc",
        {"miniconda": "upgrade", "conda_env": "repair", "pytorch": "install"},
        marks=pytest.mark.long,
    ),
]


@pytest.mark.parametrize(("host", "script", "expected"), TAMPERING, ids=["rights", "files", "half-made"])
def test_what_is_changed_behind_the_roles_is_planned_and_mended(conda_lab, llmprov, inventory, host, script, expected):
    conda_lab.sh(host, script)
    checked = llmprov("provision", inventory(host), "--check")
    assert pending(checked.row(host)) == expected
    assert checked.row(host)["converged"]["changed"]
    assert llmprov("provision", inventory(host), "--no-verify").code == 0
    assert pending(llmprov("plan", inventory(host)).row(host)) == {}
    assert (
        conda_lab.sh(host, f"{AS_USER} {ENV}/bin/python -c 'import torch, six, pandas; print(six.__version__)'")
        == "1.16.0\n"
    )


def test_a_failed_solve_leaves_the_working_environment(conda_lab, llmprov, inventory):
    before = conda_lab.sh("conda1", f"readlink {ENV}; cat {ENV}/llmprov.json")
    ran = llmprov(
        "provision", inventory("conda1", conda_env_conda_packages=["six=1.16", "nosuchpackage"]), "--no-verify"
    )
    assert ran.code == 3
    assert "nosuchpackage" in ran.row("conda1")["summary"]
    ran = llmprov("provision", inventory("conda1", llm_packages=["nosuchdistribution-x"]), "--no-verify")
    assert ran.code == 3
    assert "nosuchdistribution-x" in ran.row("conda1")["summary"]
    assert conda_lab.sh("conda1", f"readlink {ENV}; cat {ENV}/llmprov.json") == before
    assert conda_lab.sh("conda1", "ls -A /opt/llmprov/envs/.llmprov").split() == [before.splitlines()[0].split("/")[1]]


def test_what_users_added_is_taken_along(conda_lab, llmprov, inventory):
    conda_lab.sh("conda2", f"HOME=/tmp/h {PREFIX}/bin/conda install -y -p {ENV} --json setuptools >&2")
    conda_lab.sh(
        "conda2", f"UV_SYSTEM_CERTS=1 /opt/llmprov/bin/uv pip install -q --python {ENV}/bin/python iniconfig==2.1.0"
    )
    assert pending(llmprov("plan", inventory("conda2")).row("conda2")) == {}
    wanted = inventory("conda2", conda_env_conda_packages=["six=1.17"])
    assert llmprov("provision", wanted, "--no-verify").code == 0
    said = conda_lab.sh(
        "conda2", f"{ENV}/bin/python -c 'import six, iniconfig; print(six.__version__)'; ls {ENV}/conda-meta"
    )
    assert said.startswith("1.17.0")
    assert "setuptools-" in said
    assert "iniconfig" in conda_lab.sh("conda2", f"ls {ENV}/lib/python3.11/site-packages")
    assert llmprov("provision", inventory("conda2"), "--no-verify").code == 0


def test_a_changed_declaration_changes_the_environment_in_each_part(conda_lab, llmprov, inventory):
    """Variables and PATH, a further profile of the user's own, a package taken out of it again."""
    more = {
        "llm_env_variables": {"HF_HOME": "/srv/hf dir", "NOTE": "it's $HOME"},
        "llm_env_on_path": True,
        "llm_profiles": ["course"],
        "llm_profile_definitions": {"course": {"packages": ["tomli-w"], "conda_packages": ["setuptools"]}},
    }
    assert llmprov("provision", inventory("conda2", **more), "--no-verify").code == 0
    said = conda_lab.sh(
        "conda2", 'bash -lc \'which python; echo "$HF_HOME|$NOTE"; python -c "import tomli_w, setuptools"\''
    )
    assert said.splitlines() == [f"{ENV}/bin/python", "/srv/hf dir|it's $HOME"]
    assert pending(llmprov("plan", inventory("conda2", **more)).row("conda2")) == {}
    assert set(pending(llmprov("plan", inventory("conda2")).row("conda2"))) == {"conda_env", "pytorch"}
    assert llmprov("provision", inventory("conda2"), "--no-verify").code == 0
    left = conda_lab.sh("conda2", f"ls {ENV}/lib/python3.11/site-packages; ls /etc/profile.d")
    assert "tomli_w" not in left
    assert "llmprov-" not in left


def test_further_environments_are_declared_in_a_list(conda_lab, llmprov, inventory):
    listed = [
        {"path": "/srv/more/uv env", "manager": "venv", "packages": ["idna"]},
        {"path": "/srv/more/conda", "conda_packages": ["six=1.17"], "python": "3.11"},
    ]
    assert llmprov("provision", inventory("conda1", llm_environments=listed), "--no-verify").code == 0
    said = conda_lab.sh(
        "conda1",
        "'/srv/more/uv env/bin/python' -c 'import idna; print(1)'; /srv/more/conda/bin/python -c 'import six; print(six.__version__)'",
    )
    assert said.split() == ["1", "1.17.0"]
    listed[0]["state"] = "absent"
    listed[1]["conda_packages"] = ["six=1.16"]
    assert llmprov("provision", inventory("conda1", llm_environments=listed), "--no-verify").code == 0
    assert conda_lab.sh("conda1", "ls -A /srv/more") in ("conda\n.llmprov\n", ".llmprov\nconda\n")
    listed[1]["state"] = "absent"
    assert llmprov("provision", inventory("conda1", llm_environments=listed), "--no-verify").code == 0
    assert conda_lab.sh("conda1", "ls -A /srv/more") == ""


@pytest.mark.long
def test_two_runs_on_one_host_take_turns(conda_lab, llmprov, tmp_path):
    """Two environments of one host, asked for at once under two names: the stand-in fails where two condas meet."""
    address = conda_lab.host("conda1").address
    hosts = {
        name: {"ansible_host": address, "llm_env_path": f"/srv/{name}/env", "pytorch_state": "absent"}
        for name in ("one", "two", "three")
    }
    variables = {**CONDA, "llm_profiles": [], "conda_env_conda_packages": ["numpy", "six"]}
    inventory = conda_lab.inventory(tmp_path / "hosts.yml", hosts, **variables, llm_packages=[])
    conda_lab.sh("conda1", f"rm -rf {PREFIX}/pkgs/numpy-* {PREFIX}/pkgs/six-* {PREFIX}/pkgs/python-*")
    ran = llmprov("provision", inventory, "--no-verify")
    assert ran.code == 0
    for name in hosts:
        assert conda_lab.sh("conda1", f"/srv/{name}/env/bin/python -c 'import numpy; print(1)'") == "1\n"
    assert conda_lab.sh("conda1", "ss -Hltn | grep -v ':22 ' || true") == ""
    ran = llmprov("provision", inventory, "--no-verify", "-e", "conda_env_state=absent")
    assert ran.code == 0
    assert conda_lab.sh("conda1", "ls -A /srv/one /srv/two /srv/three").split() == [
        "/srv/one:",
        "/srv/three:",
        "/srv/two:",
    ]


def test_what_conda_did_is_looked_at_and_not_believed(conda_lab, llmprov, inventory):
    """A package spoilt in the host's own caches: conda would link it from there without a word."""
    spoil = (
        f"for f in {PREFIX}/pkgs/six-1.17*.conda /opt/llmprov/depot/six-1.17*.conda; do rm -f $f; echo spoilt > $f; done; "
        f"rm -rf {PREFIX}/pkgs/six-1.17.0-pyhd8ed1ab_0"
    )
    conda_lab.sh("conda1", spoil)
    assert llmprov("provision", inventory("conda1", conda_env_conda_packages=["six=1.17"]), "--no-verify").code == 0
    assert conda_lab.sh("conda1", f"{ENV}/bin/python -c 'import six; print(six.__version__)'") == "1.17.0\n"
    # And a conda that says it did, and did nothing.
    conda_lab.sh(
        "conda1",
        f"cp -a {PREFIX}/bin/conda /root/conda; printf '#!/bin/sh\\n[ $1 = --version ] && echo conda 26.7.1\\nexit 0\\n' > {PREFIX}/bin/conda",
    )
    try:
        ran = llmprov("provision", inventory("conda1"), "--no-verify")
        assert ran.code == 3
        assert "conda did not link" in ran.row("conda1")["summary"]
        assert conda_lab.sh("conda1", f"{ENV}/bin/python -c 'import six; print(six.__version__)'") == "1.17.0\n"
    finally:
        conda_lab.sh("conda1", f"rm {PREFIX}/bin/conda; mv /root/conda {PREFIX}/bin/conda")
    assert llmprov("provision", inventory("conda1"), "--no-verify").code == 0


def test_a_users_configuration_changes_nothing(conda_lab, llmprov, inventory):
    conda_lab.sh("conda1", "echo 'channels: [https://nowhere.invalid/channel]' > /root/.condarc; mkdir -p /etc/conda")
    conda_lab.sh("conda1", "echo 'channels: [https://nowhere.invalid/other]' > /etc/conda/.condarc")
    try:
        assert llmprov("provision", inventory("conda1", conda_env_conda_packages=["six"]), "--no-verify").code == 0
        assert llmprov("provision", inventory("conda1"), "--no-verify").code == 0
    finally:
        conda_lab.sh("conda1", "rm -r /root/.condarc /etc/conda")


def test_pytorch_by_conda_is_linked_by_conda_and_trains(conda_lab, llmprov, tmp_path):
    """conda-forge cannot be reached: the wheel, repacked as a conda package, stands in for its `pytorch`."""
    from llmprov.lab.conda import channel

    folder = tmp_path / "channel"
    channel.write_index(folder, channel.wheel_packages(tmp_path, ["torch==2.13.0+cpu"], dependencies=True))
    kit = yaml.safe_load(conda_lab.fleet.inventory.read_text("utf-8"))["all"]["vars"]
    variables = {
        "llm_env_manager": "conda",
        "llm_env_path": "/srv/by-conda/env",
        "llm_packages": [],
        "pytorch_source": "conda",
        "miniconda_channels": [folder.as_uri(), *kit["miniconda_channels"]],
    }
    inventory = conda_lab.inventory(tmp_path / "hosts.yml", conda_lab.of("conda2"), **variables)
    try:
        ran = llmprov("provision", inventory)
        assert ran.code == 0
        checks = {check["id"]: check for check in ran.row("conda2")["checks"]}
        assert checks["train.accuracy"]["status"] == "pass"
        assert "pytorch-2.13.0-cpu" in conda_lab.sh("conda2", "ls /srv/by-conda/env/conda-meta")
        assert pending(llmprov("plan", inventory).row("conda2")) == {}
    finally:
        llmprov("provision", inventory, "--no-verify", "-e", "conda_env_state=absent")
        conda_lab.sh("conda2", "rmdir /srv/by-conda")


ENVIRONMENT_YML = """\
name: not-read
channels: [nodefaults]
dependencies:
  - python=3.11
  - six
  - pip:
      - idna>=3
variables:
  COURSE: "2026"
"""


def test_conda_comes_and_goes(fresh, llmprov, tmp_path):
    """From environment.yml, with terms accepted, in users' shells; then all of it removed, and the host as before."""
    lab = fresh(1, packages=PYTHON)
    sh = lambda script: lab.sh("condaf1", script)  # noqa: E731
    sh("ssh localhost true 2>/dev/null; true")
    listing = (
        "find / -xdev \\( -path /proc -o -path /run -o -path /tmp -o -path /var/log -o -path /root/.ansible "
        "-o -path /home/admin -o -path /var/lib/systemd -o -name __pycache__ \\) -prune -o -printf '%p %y %m %l\\n' | sort; dpkg -l"
    )
    before = sh(listing)
    (tmp_path / "environment.yml").write_text(ENVIRONMENT_YML)
    kit = yaml.safe_load(lab.fleet.inventory.read_text("utf-8"))["all"]["vars"]
    variables = {
        "llm_env_manager": "conda",
        "llm_packages": [],
        "pytorch_state": "absent",
        "conda_env_file": str(tmp_path / "environment.yml"),
        "conda_env_channels": kit["miniconda_channels"],
        "llm_env_on_path": True,
        "miniconda_channels": [*kit["miniconda_channels"], "defaults"],
        "miniconda_accept_terms": True,
        "miniconda_init": True,
        "miniconda_owner": "admin",
    }
    inventory = lab.inventory(tmp_path / "hosts.yml", lab.of("condaf1"), **variables)
    assert llmprov("provision", inventory, "--check").code == 0
    assert sh(listing) == before
    assert llmprov("provision", inventory, "--no-verify").code == 0
    assert pending(llmprov("plan", inventory).row("condaf1")) == {}
    said = sh(
        "sudo -u admin bash -lc 'which python; echo $COURSE; conda activate /opt/llmprov/envs/llm && python -c \"import six, idna\"'"
    )
    assert said.splitlines() == [f"{ENV}/bin/python", "2026"]
    # Accepted for all users of the host, so that another user's call does not stop to ask.
    assert "six" in sh(
        f"{AS_USER} {PREFIX}/bin/conda create --dry-run --json -n x six -c {kit['miniconda_channels'][0]} --override-channels"
    )
    assert sh(f"stat -c %U {PREFIX} {PREFIX}/bin/python {PREFIX}/.condarc").split() == ["admin"] * 3
    gone = ["-e", "conda_env_state=absent", "-e", "miniconda_state=absent"]
    assert llmprov("provision", inventory, "--no-verify", *gone).code == 0
    after = sh(listing)
    assert set(after.splitlines()) - set(before.splitlines()) == set()
    assert set(before.splitlines()) - set(after.splitlines()) == set()
    assert pending(llmprov("plan", inventory, *gone).row("condaf1")) == {}


def test_a_user_without_root_provisions_under_a_prefix_of_their_own(fresh, llmprov, tmp_path):
    lab = fresh(1, packages=PYTHON)
    sh = lambda script: lab.sh("condaf1", script)  # noqa: E731
    sh("rm /etc/sudoers.d/admin")
    elsewhere = "find / -xdev \\( -path /proc -o -path /run -o -path /home -o -path /var/log -o -path /var/lib/systemd "
    elsewhere += "-o -name __pycache__ \\) -prune -o -printf '%p %y %m %l\\n' | sort"
    before = sh(elsewhere)
    example = yaml.safe_load((ROOT / "inventory/own_prefix.yml").read_text("utf-8"))["all"]["vars"]
    mine = {"ansible_user": "admin", "prefix": "/home/admin/llm", "miniconda_owner": "admin", "llm_packages": []}
    inventory = lab.inventory(tmp_path / "hosts.yml", lab.of("condaf1"), **{**LIGHT, **example, **mine})
    ran = llmprov("provision", inventory)
    assert (ran.code, ran.statuses()) == (0, {"condaf1": "pass"}), ran.row("condaf1")["summary"]
    assert llmprov("provision", inventory, "--no-verify").row("condaf1")["converged"]["changed"] == []
    assert sh(elsewhere) == before
    assert sh("find /home/admin/llm ! -user admin") == ""
    # What belongs to every user of the host is root's, and is refused in words.
    ran = llmprov("provision", inventory, "--no-verify", "-e", "llm_env_on_path=true")
    assert ran.code == 3
    assert "/etc/profile.d" in ran.row("condaf1")["summary"]
    gone = ["-e", "conda_env_state=absent", "-e", "miniconda_state=absent"]
    assert llmprov("provision", inventory, "--no-verify", *gone).code == 0
    assert sh(elsewhere) == before


def test_an_installer_cut_short_is_never_run(conda_lab, llmprov, inventory, tmp_path):
    kit = yaml.safe_load(conda_lab.fleet.inventory.read_text("utf-8"))["all"]["vars"]
    whole = Path(kit["miniconda_url"].removeprefix("file://"))
    short = tmp_path / whole.name
    short.write_bytes(whole.read_bytes()[:-100])
    about = {"miniconda_prefix": "/srv/short/conda", "miniconda_sha256": hashlib.sha256(b"another").hexdigest()}
    for url in (str(short), kit["miniconda_url"]):
        ran = llmprov("provision", inventory("conda1", **about, miniconda_url=url), "-t", "miniconda", "--no-verify")
        assert (ran.code, ran.statuses()) == (3, {"conda1": "fail"})
        assert about["miniconda_sha256"] in ran.row("conda1")["summary"]
        assert conda_lab.sh("conda1", "ls -A /srv/short 2>/dev/null || true") == ""


@pytest.mark.long
def test_another_version_of_conda_goes_over_the_old_one_and_back(conda_lab, llmprov, inventory):
    from llmprov.lab.conda.standin import ensure_kit

    newer = ensure_kit(conda_lab.fleet.state / "conda", version="26.8.0").variables()
    newer.pop("miniconda_channels")  # another channel would be another environment
    envs = conda_lab.sh("conda2", f"readlink {ENV}")
    for variables, version in ((newer, "26.8.0"), ({}, "26.7.1")):
        planned = llmprov("plan", inventory("conda2", **variables))
        assert pending(planned.row("conda2")) == {"miniconda": "upgrade" if variables else "downgrade"}
        assert llmprov("provision", inventory("conda2", **variables), "--no-verify").code == 0
        assert conda_lab.sh("conda2", f"{PREFIX}/bin/conda --version") == f"conda {version}\n"
    assert conda_lab.sh("conda2", f"readlink {ENV}") == envs
    records = conda_lab.sh("conda2", f"ls {PREFIX}/conda-meta | grep -c '^conda-2'")
    assert records.strip() == "1"


def test_the_stand_in_answers_as_the_real_conda_did(conda_lab):
    """Keys and exit codes of each call, against the recordings of conda 26.7.1."""
    from tests.conftest import ROOT

    recorded = ROOT / "tests/fixtures/conda"

    def call(words):
        script = f"cd /tmp; HOME=/tmp/standin {PREFIX}/bin/conda {words} 2>/tmp/standin.err; echo; echo rc=$?"
        return conda_lab.sh("conda1", script.replace("; echo; echo rc=$?", "; code=$?; echo; echo rc=$code"))

    conda_lab.sh("conda1", "mkdir -p /tmp/standin")
    try:
        for words, name, kind in (
            ("--version", "version.txt", "text"),
            ("create -y --json -p /tmp/standin/e python=3.11 six=1.16", "create.json", "json"),
            ("create -y --json --dry-run -p /tmp/standin/d python=3.11", "create-dry-run.json", "json"),
            ("create -y --json -p /tmp/standin/n nosuchpackage", "create-unknown-package.json", "json"),
            (
                "create -y --json -p /tmp/standin/n --override-channels -c http://127.0.0.1:9 six",
                "create-unreachable-channel.json",
                "json",
            ),
            ("install -y --json -p /tmp/standin/e six", "create-noop-install.json", "json"),
            ("list -p /tmp/standin/e --json", "list.json", "json"),
            ("list -p /opt/nothing --json", "list-not-an-env.json", "json"),
            ("list -p /tmp/standin/e --explicit --sha256", "list-explicit-sha256.txt", "explicit"),
            ("list -p /tmp/standin/e --explicit --md5", "list-explicit-md5.txt", "explicit"),
            ("env list --json", "env-list.json", "json"),
            ("run -p /tmp/standin/e python --version", "run-python.txt", "text"),
            ("config --set nosuchkey 1", "config-set-bad-key.txt", "text"),
            ("config --show-sources --json", "config-show-sources-configured.json", "json"),
            ("info --json", "info-configured.json", "subset"),
            ("remove -y --json -p /tmp/standin/e --all", "remove-all-configured.json", "json"),
            ("remove -y --json -p /tmp/standin/e --all", "remove-all-missing.json", "json"),
        ):
            said, _, code = call(words).rpartition("rc=")
            assert code.strip() == (recorded / f"{name}.rc").read_text().strip(), words
            real = (recorded / name).read_text()
            if kind == "text":
                assert said.strip().split(".")[0] == real.strip().split(".")[0], words
            elif kind == "explicit":
                assert said.splitlines()[:5] == real.splitlines()[:5]
                digits = {len(line.split("#")[1]) for line in said.splitlines()[5:] if line}
                assert digits == {len(line.split("#")[1]) for line in real.splitlines()[5:] if line}
            else:
                ours, theirs = json.loads(said), json.loads(real)
                lacking = keys(theirs, ours) if kind == "json" else set(ours) - set(theirs)
                assert not lacking, (words, lacking)
    finally:
        conda_lab.sh("conda1", "rm -rf /tmp/standin /tmp/standin.err")


#: Keys that real conda has and no role reads.
UNREAD = {
    "elapsed_time",
    "json",
    "reason",
    "response_details",
    "status_code",
    "url",
    "channels_formatted",
    "packages_formatted",
    "arch",
    "platform",
    "constrains",
    "license",
    "package_type",
    "noarch",
    "created",
    "last_modified",
    "envvars",
    "/opt/miniconda3/.condarc",
    "/opt/envs/llm",
    "/opt/miniconda3",
}


def keys(theirs, ours):
    """Keys of the recording that the stand-in's answer lacks, at any depth; of lists the first entry counts."""
    if isinstance(theirs, dict):
        if not isinstance(ours, dict):
            return {"(no mapping)"}
        lacking = set(theirs) - set(ours) - UNREAD
        return lacking | {k for name in set(theirs) & set(ours) for k in keys(theirs[name], ours[name])}
    if isinstance(theirs, list) and theirs and isinstance(ours, list) and ours:
        return keys(theirs[0], ours[0])
    return set()
