"""`make bench`: timings as ratios within one run, on eight lab hosts with cold SSH.

Prints (a) the floor, (b) a no-op provision, (c) tasks a host, (d) an environment against bare uv, (e) the wrapper's
memory, (f) bare hosts to conda and torch against pip on each host and against copying the same bytes, (g) bytes fetched
from outside for one host and for all, (h) verifying one host, (l) many names with one in ten dead; from
`tests/bench_tomorrow.py` (m) a lock, (n) drift, (o) a rebuild; from `tests/bench_start.py` (p) the start beside a ping.
Nothing here is an assertion: figures depend on the machine, ratios less so. Letters as arguments choose what is measured.
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

from llmprov.depot.pip_config import PipConfig
from llmprov.lab.fleet import Fleet
from tests.conftest import LLMPROV

HOSTS, ALIASES, REPEATS = 8, 200, 5
#: How long Ansible waits for a connection, in seconds, unless told otherwise.
CONNECT_S = 10
RANGE = "10.77.48.0/24"
VARIABLES = {
    "llm_env_manager": "venv",
    "pytorch_variant": "cpu",
    "pytorch_index_url": "",
    "llm_packages": ["numpy>=2,<3", "pyyaml>=6"],
}
CONDA = {"llm_env_manager": "conda", "llm_python": "3.11"}
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
    place = tempfile.mkdtemp(prefix="llmprov-bench-")
    return os.environ | {"ANSIBLE_SSH_CONTROL_PATH_DIR": place, "LLMPROV_HISTORY": f"{place}/history.db"}


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

    def provision(self, inventory: Path, *argv: str, **variables: str) -> Path:
        """Run provision in a directory of its own and return its run directory."""
        place = Path(tempfile.mkdtemp(dir=self.folder))
        command = [LLMPROV, "provision", "-i", str(inventory), *argv]
        done = subprocess.run(command, cwd=place, env=cold() | variables, capture_output=True, text=True)
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
        host.execute("sh", "-c", f"rm -rf {ENV}" + ("" if warm else f" {CACHE} /opt/llmprov/depot"))
        inventory = self.inventory("one.yml", self.names[:1])
        runs: list[Path] = []
        wall = timed(lambda: runs.append(self.provision(inventory, "--no-verify")))
        events = map(json.loads, (runs[0] / "events.jsonl").read_text().splitlines())
        building = [e.get("duration_s", 0.0) for e in events if "Python and packages" in e.get("task", "")]
        return sum(building), wall

    # -- (h) -------------------------------------------------------------------------------------------------

    def verify_s(self) -> float:
        """Seconds of the task that verifies one host at level quick, all its measurements included."""
        inventory, place = self.inventory("one.yml", self.names[:1]), Path(tempfile.mkdtemp(dir=self.folder))
        done = subprocess.run([LLMPROV, "verify", "-i", str(inventory)], cwd=place, env=cold(), capture_output=True)
        if done.returncode != 0:
            raise SystemExit(f"verify ended with {done.returncode}:\n{done.stdout.decode()}")
        (run,) = (place / "runs").iterdir()
        events = map(json.loads, (run / "events.jsonl").read_text().splitlines())
        return max(e.get("duration_s", 0.0) for e in events if "trains a model" in e.get("task", ""))

    # -- (f), (g) --------------------------------------------------------------------------------------------

    def bare(self) -> None:
        """All hosts as they were before anything was done to them."""
        self.fleet.down(keep_base=True)
        self.fleet.up(HOSTS, address_range=RANGE)

    def everywhere(self, script: str) -> float:
        """Seconds of a script on every host at once."""
        hosts = self.fleet.hosts()
        with concurrent.futures.ThreadPoolExecutor(len(hosts)) as pool:
            return timed(lambda: list(pool.map(lambda host: host.execute("sh", "-c", script), hosts)))

    def pip_on_each_s(self) -> tuple[float, float]:
        """Seconds of installing Python and pip by apt, and of pip installing the same packages, on every host."""
        apt = "apt-get -qq update && apt-get -qq -y install --no-install-recommends python3 python3-venv"
        prepared = self.everywhere(f"export DEBIAN_FRONTEND=noninteractive; ({apt}) >/dev/null 2>&1")
        quoted = " ".join(f"'{package}'" for package in PACKAGES)
        indexes = pip_options()
        install = f"python3 -m venv /opt/bare && /opt/bare/bin/pip install -q {indexes} {quoted}"
        return prepared, self.everywhere(install)

    def copying_s(self, store: Path) -> tuple[float, int]:
        """Seconds of copying what the hosts were given to every host by ssh, and its bytes a host."""
        files = [path for path in (store / "sha256").rglob("*") if path.is_file()]
        total = sum(path.stat().st_size for path in files)
        pack = ["tar", "-C", str(store), "-cf", "-", "sha256"]

        def copy(name: str) -> None:
            with subprocess.Popen(pack, stdout=subprocess.PIPE) as tar:
                argv = self.fleet.ssh_command(name, ("cat > /tmp/all.tar",))
                subprocess.run(argv, stdin=tar.stdout, check=True)

        with concurrent.futures.ThreadPoolExecutor(HOSTS) as pool:
            return timed(lambda: list(pool.map(copy, self.names))), total

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


def report_dead(bench: Bench, alive: Path) -> None:
    """(l): one in ten of the names leads to an address where nobody is."""
    some_dead = bench.folder / "dead.yml"
    content = yaml.safe_load(alive.read_text())
    for about in list(content["all"]["hosts"].values())[::10]:
        about["ansible_host"] = RANGE.replace(".0/24", ".250")
    some_dead.write_text(yaml.safe_dump(content))
    walls = []
    for inventory in (alive, some_dead):
        argv = [LLMPROV, "provision", "-i", str(inventory), "--no-verify"]
        place = tempfile.mkdtemp(dir=bench.folder)
        walls.append(timed(lambda: subprocess.run(argv, cwd=place, env=cold(), capture_output=True)))  # noqa: B023
    limit = 1.5 * walls[0] + CONNECT_S
    say(
        f"(l) no-op provision of {ALIASES} names, one in ten dead: {walls[1]:.1f} s, all alive {walls[0]:.1f} s; wanted at "
        f"most 1.5 x that and {CONNECT_S} s for a connection = {limit:.1f} s"
    )


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


def pip_options() -> str:
    """This machine's package indexes, as options for the pip of a host; their folders are mounted on lab hosts."""
    pip = PipConfig.of_this_machine()
    words = [f"--extra-index-url {url}" for url in pip.extra_index_urls] + [f"--find-links {p}" for p in pip.find_links]
    return " ".join([*words, "--cert /etc/ssl/certs/ca-certificates.crt"])


def stored_bytes(cache: Path) -> int:
    return sum(path.stat().st_size for path in (cache / "llmprov/depot/sha256").rglob("*") if path.is_file())


def report_stages(run: Path) -> None:
    """Where the time of a run went: the slowest host of each task that took a second or more."""
    slowest: dict[str, float] = {}
    for line in (run / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        task = event.get("task", "")
        slowest[task] = max(slowest.get(task, 0.0), event.get("duration_s", 0.0))
    say("    slowest host of each task: " + "; ".join(f"{t} {s:.1f} s" for t, s in slowest.items() if s >= 1))


def report_conda(bench: Bench) -> None:
    """(f) and (g): each measurement begins with bare hosts."""
    one, all_of_them = (Path(tempfile.mkdtemp(dir=bench.folder)) for _ in range(2))
    bench.bare()
    inventory = bench.inventory("conda.yml", bench.names, **CONDA)
    bench.provision(inventory, "--no-verify", "--limit", bench.names[0], XDG_CACHE_HOME=str(one))
    bench.bare()
    bench.provision(inventory, "--no-verify", XDG_CACHE_HOME=str(all_of_them))
    say(
        f"(g) fetched from outside: {stored_bytes(one) / 1e6:.1f} MB for one host, "
        f"{stored_bytes(all_of_them) / 1e6:.1f} MB for {HOSTS}; wanted equal"
    )
    bench.bare()
    runs: list[Path] = []
    ours = timed(lambda: runs.append(bench.provision(inventory, "--no-verify", XDG_CACHE_HOME=str(all_of_them))))
    run = runs[0]
    copying, size = bench.copying_s(all_of_them / "llmprov/depot")
    report_stages(run)
    bench.bare()
    apt, pip = bench.pip_on_each_s()
    say(
        f"(f) {HOSTS} bare hosts to conda and torch, warm depot: {ours:.1f} s; (i) pip on each host {pip:.1f} s, with apt for "
        f"its Python {apt + pip:.1f} s; (ii) copying the same {size / 1e6:.0f} MB to each {copying:.1f} s\n"
        f"    = {ours / pip:.2f} x (i) (wanted 0.25 x), {ours / (apt + pip):.2f} x (i) with apt, {ours / copying:.2f} x (ii)"
    )


def each(bench: Bench, wanted: str, **reports: Callable[[Bench], None]) -> None:
    """The reports of the letters that are wanted, in the order given."""
    for letter, report in reports.items():
        if letter in wanted:
            report(bench)


def parts(bench: Bench, wanted: str) -> None:
    """Each part that is wanted, in an order in which one leaves the hosts as the next needs them."""
    from tests import bench_start, bench_tomorrow  # which import this module

    if set(wanted) & set("abcelhdnp"):
        full = bench.provision(bench.inventory("all.yml", bench.names))
        if set(wanted) & set("abc"):
            report_runs(bench, full)
    each(bench, wanted, p=bench_start.report_start, n=bench_tomorrow.report_drift)
    if set(wanted) & set("el"):
        aliases = bench.inventory("aliases.yml", [f"alias{i:03}" for i in range(ALIASES)])
        say(f"(e) wrapper with {ALIASES} aliases: {bench.wrapper_peak_mb(aliases):.0f} MB; wanted under 150 MB")
        report_dead(bench, aliases)
    if "h" in wanted:
        say(
            f"(h) verify of one host, quick, measurements and all: {bench.verify_s():.1f} s; wanted under 15 s beyond them"
        )
    each(bench, wanted, d=report_environment, m=bench_tomorrow.report_lock, o=bench_tomorrow.report_rebuild)
    if set(wanted) & set("fg"):
        report_conda(bench)


def main() -> None:
    fleet = Fleet("bench")
    try:
        fleet.up(HOSTS, address_range=RANGE)
        # ssh's processes outlive a run for a minute, with their sockets in a folder of `cold`.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            tempfile.tempdir = folder
            parts(Bench(fleet, Path(folder)), "".join(sys.argv[1:]) or "abcdefghlmnop")
    finally:
        fleet.down()


if __name__ == "__main__":
    main()
