"""(p) what it costs to begin: llmprov beside a ping by Ansible of the same hosts, and beside pyinfra.

Wall time, and processor time of the controller: of each program and of all that it started and waited for. All run by turns,
so that a slow minute of the machine falls on all of them; medians of five. SSH is cold in every run.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.bench import ALIASES, HOSTS, REPEATS, Bench, cold, say
from tests.conftest import LLMPROV

PING = "- hosts: all\n  gather_facts: false\n  tasks:\n    - ansible.builtin.ping:\n"
#: What llmprov sets for Ansible itself, unless the user did: a ping with it costs less.
TUNED = {"ANSIBLE_PIPELINING": "True", "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3"}
FORKS = "50"
#: Three operations that find all as it should be.
DEPLOY = """
from pyinfra.operations import files
files.directory(path="/tmp", mode="1777", _sudo=True)
files.file(path="/etc/hostname", mode="644", _sudo=True)
files.link(path="/bin/sh", target="dash", _sudo=True)
"""


@dataclass(frozen=True)
class Cost:
    """Wall time and processor time of one run, in seconds."""

    wall_s: float
    processor_s: float


def cost(argv: list[str], place: Path, env: Mapping[str, str]) -> Cost:
    """Run a program to its end, and count what it and its children took."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(argv, cwd=place, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(argv)} ended with {process.returncode}:\n{said.read().decode()[-2000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime)


def medians(programs: Mapping[str, Callable[[], Cost]]) -> dict[str, Cost]:
    """Each program's median, all run by turns."""
    costs: dict[str, list[Cost]] = {name: [] for name in programs}
    for _ in range(REPEATS):
        for name, run in programs.items():
            costs[name].append(run())
    return {
        name: Cost(statistics.median(c.wall_s for c in found), statistics.median(c.processor_s for c in found))
        for name, found in costs.items()
    }


class Programs:
    """The programs that are measured, over inventories of one host, of all, and of many names for them."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.ping_yml = bench.folder / "ping.yml"
        self.ping_yml.write_text(PING)
        self.pyinfra = install_pyinfra(bench.folder / "pyinfra")

    def inventory(self, names: list[str]) -> Path:
        """The hosts under these names, without PyTorch: a host as declared is one, whatever is on it."""
        return self.bench.inventory(f"start-{len(names)}.yml", names)

    def llmprov(self, *argv: str) -> Callable[[], Cost]:
        return lambda: cost([LLMPROV, *argv], Path(tempfile.mkdtemp(dir=self.bench.folder)), cold())

    def ping(self, inventory: Path, **settings: str) -> Callable[[], Cost]:
        playbook = str(Path(sys.executable).parent / "ansible-playbook")
        argv = [playbook, "-i", str(inventory), "-f", FORKS, str(self.ping_yml)]
        return lambda: cost(argv, self.bench.folder, cold() | settings)

    def pyinfra_run(self, inventory: Path) -> Callable[[], Cost]:
        content = yaml.safe_load(inventory.read_text())["all"]
        own, known = content["vars"], self.bench.fleet.known_hosts
        data = {
            "ssh_user": own["ansible_user"],
            "ssh_key": own["ansible_ssh_private_key_file"],
            "ssh_known_hosts_file": str(known),
        }
        hosts = [(name, {"ssh_hostname": about["ansible_host"], **data}) for name, about in content["hosts"].items()]
        place = Path(tempfile.mkdtemp(dir=self.bench.folder))
        (place / "hosts.py").write_text(f"hosts = {hosts!r}\n")
        (place / "deploy.py").write_text(DEPLOY)
        argv = [str(self.pyinfra), "-y", "--parallel", FORKS, "hosts.py", "deploy.py"]
        return lambda: cost(argv, place, os.environ)


def install_pyinfra(folder: Path) -> Path | None:
    """pyinfra in a virtual environment of its own; None where it cannot be had."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    done = subprocess.run([str(folder / "bin/pip"), "install", "--quiet", "pyinfra"], capture_output=True)
    return folder / "bin/pyinfra" if done.returncode == 0 else None


def report_start(bench: Bench) -> None:
    """(p); all hosts are as declared."""
    programs = Programs(bench)
    (alone,) = medians({"help": programs.llmprov("--help")}).values()
    say(f"(p) `llmprov --help`: {alone.processor_s:.2f} s of processor; wanted at most 0.4 s")
    many = [f"alias{number:03}" for number in range(ALIASES)]
    for names, command, argv, most in (
        (bench.names[:1], "plan", (), 2.0),
        (bench.names, "no-op provision", ("--no-verify",), 1.5),
        (many, "no-op provision", ("--no-verify",), 1.5),
    ):
        inventory = programs.inventory(names)
        ours = programs.llmprov(command.split()[-1], "-i", str(inventory), *argv)
        ran = {"ours": ours, "ping": programs.ping(inventory), "tuned ping": programs.ping(inventory, **TUNED)}
        if programs.pyinfra:
            ran["pyinfra, three operations"] = programs.pyinfra_run(inventory)
        tell(medians(ran), command, len(names), most)


def tell(found: dict[str, Cost], command: str, hosts: int, most: float) -> None:
    """One line for the command and one for each that it is held against."""
    ours = found.pop("ours")
    what = f"{hosts} name{'s' if hosts > 1 else ''}" + (f" of {HOSTS} hosts" if hosts > HOSTS else "")
    say(f"    {command}, {what}: {ours.wall_s:.2f} s, {ours.processor_s:.2f} s of the controller's processor")
    for name, theirs in found.items():
        wanted = f" (wanted at most {most:g} x)" if name == "ping" else ""
        say(
            f"      {name}: {theirs.wall_s:.2f} s, {theirs.processor_s:.2f} s; ours is {ours.wall_s / theirs.wall_s:.2f} x in wall "
            f"time, {ours.processor_s / theirs.processor_s:.2f} x in processor time{wanted}"
        )
