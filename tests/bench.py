"""`make bench`: timings as ratios within one run, on eight lab hosts with cold SSH.

Prints (a) the floor, (b) a no-op provision, (c) tasks a host, (d) an environment against bare uv, and the wrapper's
memory. Nothing here is an assertion: figures depend on the machine, ratios less so.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from llmprov.lab import Fleet
from tests.conftest import LLMPROV

HOSTS, ALIASES, REPEATS = 8, 200, 5
VARIABLES = {"pytorch_variant": "cpu", "pytorch_index_url": "", "venv_packages": ["numpy>=2,<3", "pyyaml>=6"]}
PACKAGES = ["numpy>=2,<3", "pyyaml>=6", "torch==2.13.0+cpu"]
ENV, UV, CACHE = "/opt/llmprov/envs/llm", "/opt/llmprov/bin/uv", "/opt/llmprov/cache"


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def cold() -> dict[str, str]:
    """An environment in which Ansible finds no SSH connection to use again."""
    return os.environ | {"ANSIBLE_SSH_CONTROL_PATH_DIR": tempfile.mkdtemp(prefix="llmprov-bench-")}


class Bench:
    """The hosts and the directory of one bench."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet, self.folder = fleet, folder
        self.names = [host.name for host in fleet.hosts()]

    def inventory(self, name: str, aliases: list[str], **variables: Any) -> Path:
        own = yaml.safe_load(self.fleet.inventory.read_text("utf-8"))["all"]["vars"]
        addresses = [host.address for host in self.fleet.hosts()]
        hosts = {alias: {"ansible_host": addresses[i % len(addresses)]} for i, alias in enumerate(aliases)}
        path = self.folder / name
        path.write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": {**own, **VARIABLES, **variables}}}))
        return path

    def provision(self, inventory: Path, *argv: str) -> Path:
        """Run provision in a directory of its own and return its run directory."""
        place = Path(tempfile.mkdtemp(dir=self.folder))
        done = subprocess.run(
            [LLMPROV, "provision", "-i", str(inventory), *argv], cwd=place, env=cold(), capture_output=True, text=True
        )
        if done.returncode != 0:
            raise SystemExit(f"provision ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        (run,) = (place / "runs").iterdir()
        return run

    # -- (a) the floor -----------------------------------------------------------------------------------------

    def floor_s(self) -> float:
        """One `ssh true` to every host at once."""
        commands = [self.fleet.ssh_command(name, ("true",)) for name in self.names]

        def all_at_once() -> None:
            with concurrent.futures.ThreadPoolExecutor(len(commands)) as pool:
                list(pool.map(lambda argv: subprocess.run(argv, check=True, capture_output=True), commands))

        return statistics.median(timed(all_at_once) for _ in range(REPEATS))

    # -- (b), (c) --------------------------------------------------------------------------------------------

    def no_op(self, inventory: Path) -> tuple[float, Path]:
        runs: list[Path] = []
        walls = [timed(lambda: runs.append(self.provision(inventory, "--no-verify"))) for _ in range(REPEATS)]
        return statistics.median(walls), runs[-1]

    # -- (d) -------------------------------------------------------------------------------------------------

    def bare_uv_s(self, warm: bool) -> float:
        host = self.fleet.host(self.names[0])
        where = "export UV_CACHE_DIR=/opt/llmprov/cache/uv UV_SYSTEM_CERTS=1 UV_NO_PROGRESS=1"
        host.execute("sh", "-c", f"rm -rf /opt/llmprov/bare {ENV}" + ("" if warm else f" {CACHE}"))
        quoted = " ".join(f"'{package}'" for package in PACKAGES)
        build = f"{where}; {UV} venv -q /opt/llmprov/bare && {UV} pip install -q --python /opt/llmprov/bare/bin/python"
        seconds = timed(lambda: host.execute("sh", "-c", f"{build} {quoted}"))
        host.execute("rm", "-rf", "/opt/llmprov/bare")
        return seconds

    def role_s(self, warm: bool) -> tuple[float, float]:
        """Seconds of the tasks that build the environment, and of the whole provision around them."""
        host = self.fleet.host(self.names[0])
        host.execute("sh", "-c", f"rm -rf {ENV}" + ("" if warm else f" {CACHE}"))
        inventory = self.inventory("one.yml", self.names[:1])
        runs: list[Path] = []
        wall = timed(lambda: runs.append(self.provision(inventory, "--no-verify")))
        events = map(json.loads, (runs[0] / "events.jsonl").read_text().splitlines())
        building = [e.get("duration_s", 0.0) for e in events if "Python and packages" in e.get("task", "")]
        return sum(building), wall

    # -- memory ----------------------------------------------------------------------------------------------

    def wrapper_peak_mb(self, inventory: Path) -> float:
        """Highest resident memory of llmprov's own process, Ansible's apart."""
        place = Path(tempfile.mkdtemp(dir=self.folder))
        argv = [LLMPROV, "provision", "-i", str(inventory), "--no-verify"]
        peak = 0
        with subprocess.Popen(argv, cwd=place, env=cold(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            while run.poll() is None:
                match = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{run.pid}/status").read_text())
                peak = max(peak, int(match[1]) if match else 0)
                time.sleep(0.05)  # sampling, not waiting: the high-water mark only ever grows
        say(f"    (that run of {ALIASES} aliases ended with exit code {run.returncode})")
        return peak / 1024


def tasks_per_host(run: Path) -> tuple[float, Counter[str]]:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    done = Counter(e["host"] for e in events if e["event"] == "runner_on_ok")
    return statistics.mean(done.values()), done


def report_runs(bench: Bench, full: Path) -> None:
    floor = bench.floor_s()
    say(f"(a) floor: one ssh round trip to {HOSTS} hosts at once: {floor:.2f} s")
    wall, run = bench.no_op(bench.inventory("all.yml", bench.names))
    info = json.loads((run / "run.json").read_text())
    say(f"(b) no-op provision without verify: {wall:.2f} s; wanted at most 4 x (a) + 2 s = {4 * floor + 2:.2f} s")
    stages = {**info["stages_s"], "start and report": round(wall - sum(info["stages_s"].values()), 2)}
    say("    by stage: " + ", ".join(f"{name} {s:.2f} s ({s / wall:.0%})" for name, s in stages.items()))
    say(f"(c) tasks a host: no-op {tasks_per_host(run)[0]:.1f}, full run {tasks_per_host(full)[0]:.1f}")


def report_environment(bench: Bench) -> None:
    for warm in (False, True):
        # By turns, so that a slow minute of the network falls on both.
        pairs = [(bench.bare_uv_s(warm), *bench.role_s(warm)) for _ in range(3)]
        bare, tasks, wall = (statistics.median(column) for column in zip(*pairs, strict=True))
        label = "warm" if warm else "cold"
        say(
            f"(d) environment, {label} cache: bare uv {bare:.1f} s; by the roles {tasks:.1f} s = {tasks / bare:.2f} x "
            f"(wanted 1.3 x); the whole provision {wall:.1f} s = {wall / bare:.2f} x"
        )


def main() -> None:
    fleet = Fleet("bench")
    try:
        fleet.up(HOSTS, address_range="10.77.48.0/24")
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(fleet, Path(folder))
            full = bench.provision(bench.inventory("all.yml", bench.names))
            report_runs(bench, full)
            aliases = bench.inventory("aliases.yml", [f"alias{i:03}" for i in range(ALIASES)])
            say(f"(e) wrapper with {ALIASES} aliases: {bench.wrapper_peak_mb(aliases):.0f} MB; wanted under 150 MB")
            report_environment(bench)
    finally:
        fleet.down()


if __name__ == "__main__":
    main()
