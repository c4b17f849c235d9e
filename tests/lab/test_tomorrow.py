"""Lock, drift and rebuild on real hosts, bookworm and trixie: the same fleet tomorrow, whatever hands were in it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from llmprov.lab.fleet import Fleet
from tests.conftest import LLMPROV
from tests.lab.conftest import PYTHON, Lab, Ran

RANGE = "10.77.44.0/24"
ENVS, PREFIX = "/opt/llmprov/envs", "/opt/miniconda3"
ENV, SITE = f"{ENVS}/llm", f"{ENVS}/llm/lib/python3.11/site-packages"
UV = "env UV_SYSTEM_CERTS=1 /opt/llmprov/bin/uv"

#: A small environment, so that many can be built.
VARIABLES = {
    "llm_env_manager": "conda",
    "llm_python": "3.11",
    "pytorch_state": "absent",
    "llm_packages": ["tqdm", "idna<3.11"],
    "conda_env_conda_packages": ["six=1.16"],
    # Of the host's own Python, which is another one on trixie.
    "llm_environments": [{"path": f"{ENVS}/uv", "manager": "venv", "packages": ["idna<3.11"]}],
}
LISTING = f"HOME=/tmp/l {PREFIX}/bin/conda list -p {ENV} --explicit --sha256 | grep '://'; ls {SITE} | grep dist-info"
LISTING_OF_VENV = f"ls {ENVS}/uv/lib/python3*/site-packages | grep dist-info"


@pytest.fixture(scope="module")
def bare():
    """Two bookworm hosts and a trixie one, the first without Python."""
    fleet = Fleet("morrow")
    fleet.down(keep_base=True)
    try:
        fleet.up(1, address_range=RANGE)
        fleet.up(2, packages=PYTHON)
        fleet.up(3, release="trixie", packages=PYTHON)
        yield Lab(fleet).without_spinning()
    finally:
        fleet.down(keep_base=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("morrow")


@pytest.fixture(scope="module")
def inventory(bare, place):
    return bare.inventory(place / "hosts.yml", bare.of("morrow1", "morrow2", "morrow3"), **VARIABLES)


@pytest.fixture(scope="module")
def run(llmprov_in, place, inventory):
    return lambda command, *argv: llmprov_in(place)(command, inventory, *argv)


@pytest.fixture(scope="module")
def locked(bare, place, inventory, run) -> Path:
    """All hosts, from nothing to what the lock says; the lock itself."""
    done = call(place, "lock", "-i", str(inventory))
    assert done.returncode == 3
    assert "not locked: morrow1: the Python version of /opt/llmprov/envs/uv is unknown" in done.stderr
    lock = (place / "llmprov.lock").read_text()
    assert ("morrow1" in lock, "morrow2" in lock, "morrow3" in lock) == (False, True, True)
    (place / "llmprov.lock").unlink()
    bare.sh("morrow1", "apt-get -qq -y install --no-install-recommends python3 >/dev/null 2>&1")
    done = call(place, "lock", "-i", str(inventory))
    assert done.returncode == 0, done.stderr
    assert "+ idna 3.10" in done.stdout
    assert "3 hosts, 4 environments" in done.stdout
    ran = run("provision", "--locked", "--no-verify")
    assert ran.code == 0
    return place / "llmprov.lock"


def call(place, *argv, **variables):
    env = os.environ | variables
    return subprocess.run(
        [LLMPROV, *argv], cwd=place, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=env, timeout=300
    )


def findings(ran: Ran, host: str) -> dict[str, str]:
    return {f["id"]: f["says"] + "\n" + f["evidence"] for f in ran.row(host)["plan"]["findings"]}


def pending(ran: Ran, host: str) -> dict[str, str]:
    return {a["component"]: a["why"] for a in ran.row(host)["plan"]["actions"] if a["kind"] != "none"}


# -- the lock ----------------------------------------------------------------------------------------------------------


def test_every_host_of_a_class_gets_the_same_to_the_digest(bare, locked):
    content = yaml.safe_load(locked.read_text())
    for entry in content["environments"]:
        assert entry["hosts"] in (["morrow1", "morrow2"], ["morrow3"])
        if entry["path"] != ENV:
            assert entry["of"]["python"] == ("3.13" if entry["hosts"] == ["morrow3"] else "3.11")
            assert {bare.sh(host, LISTING_OF_VENV) for host in entry["hosts"]} == {"idna-3.10.dist-info\n"}
            continue
        conda = {f"{file['url']}#{file['sha256']}" for file in entry["conda"]}
        wheels = {f"{file['name']}-{file['version']}.dist-info" for file in entry["wheels"]}
        for host in entry["hosts"]:
            there = set(bare.sh(host, LISTING).split())
            by_conda = {f"{name}-{version}.dist-info" for name, version in (("six", "1.16.0"),)}
            assert there - by_conda == conda | wheels
    assert {tool["name"].split("-")[0] for tool in content["tools"]} == {"Miniconda3", "uv"}


def test_what_is_locked_needs_no_index_and_no_channel(bare, locked, place, inventory):
    """Taken out of one host, and put there again while nothing can be resolved."""
    bare.sh("morrow2", f"rm -r {ENVS}/.[a-z]* {ENVS}/*")
    before = bare.sh("morrow1", LISTING)
    argv = ["provision", "-i", str(inventory), "--locked", "--no-verify", "-l", "morrow2"]
    done = call(place, *argv, PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_FIND_LINKS="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert bare.sh("morrow2", LISTING) == before


def test_what_is_declared_otherwise_is_refused_and_says_where(bare, locked, run, place, inventory):
    changed = ["-e", '{"llm_packages": ["tqdm", "idna<3.11", "iniconfig"], "miniconda_channel_priority": "disabled"}']
    ran = run("provision", "--locked", *changed)
    assert (ran.code, set(ran.statuses().values())) == (3, {"refused"})
    assert "packages: with iniconfig" in ran.row("morrow1")["summary"]
    assert "channel_priority: disabled where strict is locked" in ran.row("morrow3")["summary"]
    assert ran.row("morrow1")["converged"]["changed"] == []
    ran = run("plan", "--locked", "-e", "venv_uv_version=0.13.8", "--limit", "morrow1")
    assert "uv 0.13.8" in ran.row("morrow1")["summary"]
    for argv, words in (
        (["--locked", "--lock", "nowhere.lock"], "there is no lock at nowhere.lock"),
        (["--lock", "other.lock"], "add --locked"),
    ):
        done = call(place, "plan", "-i", str(inventory), *argv)
        assert done.returncode == 2
        assert words in done.stderr


def test_a_digest_that_does_not_hold_installs_nothing(bare, locked, place, inventory):
    spoilt = place / "spoilt.lock"
    lines = locked.read_text().splitlines(keepends=True)
    digest = next(line for line in lines if '"tqdm"' in line).split('"sha256": "')[1][:64]
    spoilt.write_text("".join(lines).replace(digest, "f00d" + digest[4:]))
    before = bare.sh("morrow1", f"readlink {ENV}")
    bare.sh("morrow1", f"rm {SITE}/tqdm/std.py")
    argv = ["rebuild", "-i", str(inventory), "--locked", "--lock", str(spoilt), "-l", "morrow1"]
    done = call(place, *argv)
    assert done.returncode == 3
    assert "f00d" + digest[4:] in done.stdout
    assert bare.sh("morrow1", f"readlink {ENV}") == before
    assert call(place, "rebuild", "-i", str(inventory), "--locked", "-l", "morrow1").returncode == 0


def test_an_upgrade_shows_what_moves_and_moves_what_is_named(locked, place, inventory):
    own = place / "own.lock"
    own.write_text(locked.read_text())
    where = ["lock", "-i", str(inventory), "--lock", str(own), "-l", "morrow1"]
    looser = ["-e", '{"llm_packages": ["tqdm", "idna"]}']
    done = call(place, *where, *looser)
    assert done.returncode == 0
    assert "idna" not in done.stdout, "what still fits stays"
    done = call(place, *where, *looser, "--upgrade", "idna", "--check")
    assert "~ idna 3.10 -> 3." in done.stdout
    assert "nothing was written" in done.stdout
    before = own.read_text()
    done = call(place, *where, *looser, "--upgrade", "idna")
    moved = [line for line in own.read_text().splitlines() if line not in before.splitlines()]
    assert moved
    assert all('"idna"' in line for line in moved)
    assert "morrow3" in own.read_text(), "hosts outside --limit keep their part"
    assert call(place, *where, "--upgrade", "nosuch").returncode == 2


# -- drift -------------------------------------------------------------------------------------------------------------

CHANNEL = "$(sed -n 's/^- //p' /opt/miniconda3/.condarc | head -n 1)"
#: Kind -> what causes it, and what its finding says.
BY_HAND = {
    "drift.packages": (
        f"{UV} pip install -q --python {ENV}/bin/python iniconfig==2.1.0 idna==3.9; "
        f"{UV} pip uninstall -q --python {ENV}/bin/python tqdm; "
        f"HOME=/tmp/h {PREFIX}/bin/conda install -y -p {ENV} six=1.17 setuptools >/dev/null",
        ["added setuptools", "changed six 1.16.0=pyhd8ed1ab_0 -> 1.17", "added iniconfig 2.1.0", "removed tqdm",
         "changed idna 3.10 -> 3.9"],
    ),
    "drift.files": (f"echo '# mine' >> {SITE}/idna/core.py", ["idna/core.py (idna): altered"]),
    f"drift.packages:{ENVS}/uv": (f"{UV} pip install -q -p {ENVS}/uv/bin/python iniconfig==2.1.0", ["added iniconfig 2.1.0"]),
    f"drift.files:{ENVS}/uv": (f"rm {ENVS}/uv/lib/python3.11/site-packages/idna/core.py", ["idna/core.py (idna): missing"]),
    "drift.conda": (
        f"HOME=/tmp/h {PREFIX}/bin/conda install -y -p {PREFIX} six -c {CHANNEL} >/dev/null",
        ["/opt/miniconda3 by hand: added six"],
    ),
    "drift.conda_files": (f"rm {PREFIX}/lib/python3.11/site-packages/pip/__main__.py", ["pip/__main__.py (pip): missing"]),
    "drift.channels": ("mkdir /etc/conda; echo 'channels: [x]' > /etc/conda/.condarc", ["/etc/conda/.condarc"]),
    "drift.held": ("apt-mark hold bash", ["held against upgrades by hand: bash"]),
    "drift.kernel": ("mkdir -p /boot /lib/modules/9.9.9-lab /lib/modules/$(uname -r); touch /boot/vmlinuz-9.9.9-lab", ["9.9.9-lab"]),
    "drift.environments": (f"{UV} venv -q {ENVS}/mine", [f"{ENVS}/mine"]),
}  # fmt: skip
UNDO = "rm -r /etc/conda /lib/modules/9.9.9-lab /lib/modules/$(uname -r) /boot/vmlinuz-9.9.9-lab; apt-mark unhold bash"


def test_every_kind_of_drift_is_told_and_a_rebuild_undoes_what_llmprov_installed(bare, locked, run, place, inventory):
    sh = lambda script: bare.sh("morrow1", script)  # noqa: E731
    assert findings(run("plan", "--limit", "morrow1"), "morrow1") == {}
    before, base = sh(LISTING), sh(f"ls {PREFIX}/conda-meta")
    for script, _ in BY_HAND.values():
        sh(script)
    # What nobody declared and nobody installed is a user's, wherever it lies.
    sh(f"echo notes > {ENV}/notes.txt; echo mine > {SITE}/student.py; chown nobody {ENV}/notes.txt")
    try:
        planned = run("plan", "--limit", "morrow1")
        told = findings(planned, "morrow1")
        assert set(told) == set(BY_HAND)
        for kind, (_, words) in BY_HAND.items():
            assert [word for word in words if word not in told[kind]] == []
        assert set(pending(planned, "morrow1")) == {"conda_env"}, "a declared package is not there"
        leader = str(bare.host("morrow1").leader())
        program = (
            f"exec {ENV}/bin/python -c 'import idna; print(1, flush=True); input(); import idna.uts46data; print(2)'"
        )
        argv = ["nsenter", "--target", leader, "--all", "--", "sh", "-c", program]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as job:
            assert job.stdout.readline() == "1\n"
            ran = run("rebuild", "--limit", "morrow1")
            assert ran.code == 0
            assert job.communicate("\n", timeout=30)[0] == "2\n", "a program that ran meanwhile went on"
        assert sh(LISTING) == before
        assert sh(f"ls {PREFIX}/conda-meta") == base
        warned = {check["id"] for check in ran.row("morrow1")["checks"] if check["status"] == "warn"}
        left = {"drift.channels", "drift.held", "drift.kernel", "drift.environments"}
        assert left <= warned
        assert not {check for check in warned - left if check.startswith("drift.")}
        # The program has ended, and its build goes; what was the user's stays.
        assert run("rebuild", "--limit", "morrow1").code == 0
        assert len(sh(f"ls {ENVS}/.llmprov").split()) == 2, "one build of each environment"
        assert sh(LISTING_OF_VENV) == "idna-3.10.dist-info\n"
        kept = sh(f"cd {ENV}.kept && find . -type f -printf '%P %u\\n' | sort").split("\n")[:-1]
        assert [line.split("/", 1)[1] for line in kept] == [
            "lib/python3.11/site-packages/student.py root",
            "notes.txt nobody",
        ]
    finally:
        sh(f"{UNDO}; rm -rf {ENV}.kept")
    # An environment that nobody declared is shown first, and goes only when told so.
    done = call(place, "rebuild", "-i", str(inventory), "--limit", "morrow1", "--prune")
    assert done.returncode == 2
    assert f"{ENVS}/mine (venv)" in done.stderr
    assert sh(f"ls {ENVS}/mine/bin/python")
    assert call(place, "rebuild", "-i", str(inventory), "--limit", "morrow1", "--prune", "--yes").returncode == 0
    assert sh(f"ls {ENVS}").split() == ["llm", "uv"]
    assert findings(run("plan", "--limit", "morrow1"), "morrow1") == {}


def test_an_environment_that_does_not_pass_gives_way_to_the_one_before(bare, locked, run):
    before = bare.sh("morrow2", f"readlink {ENV}")
    bare.sh("morrow2", f"{UV} pip install -q --python {ENV}/bin/python iniconfig==2.1.0")
    ran = run("rebuild", "--limit", "morrow2", "-e", '{"verify_imports": ["nosuchmodule"]}')
    assert ran.code == 5
    assert "the previous environments are in use again" in ran.row("morrow2")["summary"]
    assert bare.sh("morrow2", f"readlink {ENV}; ls {ENVS}/.llmprov | grep llm[.]").split() == [
        before.strip(),
        before.strip().split("/")[1],
    ]
    assert "iniconfig" in bare.sh("morrow2", LISTING)
    assert run("rebuild", "--limit", "morrow2").code == 0
    assert "iniconfig" not in bare.sh("morrow2", LISTING)


def test_a_cache_that_was_written_over_is_not_trusted(bare, locked, run):
    """uv links files from its cache: whoever writes over one in place spoils the next environment, too."""
    bare.sh("morrow3", f"cp {SITE}/tqdm/std.py /tmp/std.py; echo 'broken = (' >> {SITE}/tqdm/std.py")
    assert bare.sh("morrow3", "grep -rl 'broken = (' /opt/llmprov/cache/uv | head -n 1")
    assert run("rebuild", "--limit", "morrow3").code == 0
    assert bare.sh("morrow3", f"cmp {SITE}/tqdm/std.py /tmp/std.py; rm /tmp/std.py") == ""


# -- interrupted -------------------------------------------------------------------------------------------------------

BUILDS = f"{ENVS}/.llmprov"
#: Moment -> a question that a host answers with yes once it has come; `@N` is the build that is being made.
MOMENTS = {
    "begun": f"test -d {BUILDS}/llm.@N",
    "linked": f"test -x {BUILDS}/llm.@N/bin/python",
    "wheels": f"ls {BUILDS}/llm.@N/lib/python3.11/site-packages/tqdm",
    "noted": f"test -e {BUILDS}/llm.@N/llmprov.json",
    "switched": f"readlink {ENV} | grep -q 'llm.@N$'",
    "verifying": "pgrep -f '[p]ayload.pyz'",
}


def interrupted(bare, place, inventory, host: str, moment: str, power: bool) -> None:
    """Begin a rebuild, end it hard at a moment, and have a second one finish the job."""
    was = bare.sh(host, f"readlink {ENV}").strip()
    bare.sh(host, f"{UV} pip install -q --python {ENV}/bin/python iniconfig==2.1.0")
    question = MOMENTS[moment].replace("@N", str(int(was.rpartition(".")[2]) + 1))
    argv = [LLMPROV, "rebuild", "-i", str(inventory), "--locked", "-l", host]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    with subprocess.Popen(argv, cwd=place, **quiet) as run:
        deadline = time.monotonic() + 120
        # Polling, with a deadline; a run that is quicker than the look has finished, which must do no harm either.
        while bare.sh(host, f"({question}) >/dev/null 2>&1 && echo yes || true") != "yes\n" and run.poll() is None:
            assert time.monotonic() < deadline, f"{moment} did not come"
            time.sleep(0.03)
        if power:
            bare.host(host).stop()
        else:
            run.send_signal(signal.SIGKILL)
        run.wait(timeout=120)
    if power:
        bare.fleet.restart(host)
    # Whatever came of it: an environment is in use, and works.
    assert bare.sh(host, f"{ENV}/bin/python -c 'import idna, six; print(idna.__version__)'") == "3.10\n"
    done = call(place, "rebuild", "-i", str(inventory), "--locked", "-l", host, "--wait", "60")
    assert done.returncode == 0, f"{moment}: {done.stdout}{done.stderr}"
    now = bare.sh(host, f"readlink {ENV}").strip()
    assert bare.sh(host, f"ls {BUILDS} | grep llm[.]").split() == [now.rpartition("/")[2]], moment
    assert "iniconfig" not in bare.sh(host, LISTING), moment
    assert "former" not in bare.sh(host, f"cat {ENV}/llmprov.json")


@pytest.mark.long
def test_interrupted_at_any_moment_a_second_rebuild_finishes_the_job(bare, locked, run, place, inventory):
    """The controller is killed at every moment on one host; on the others the power fails at some."""
    plans = {
        "morrow1": [("begun", False), ("switched", False)],
        "morrow2": [("wheels", False), ("verifying", False)],
        "morrow3": [("linked", True), ("noted", True)],
    }

    def on(host: str) -> None:
        for moment, power in plans[host]:
            interrupted(bare, place, inventory, host, moment, power)

    with ThreadPoolExecutor(len(plans)) as pool:
        list(pool.map(on, plans))
    assert bare.sh("morrow1", LISTING) == bare.sh("morrow2", LISTING)
    planned = run("plan", "--locked")
    assert [pending(planned, host) for host in plans] == [{}, {}, {}]
