"""Faults drawn at random from a seed, on eight real hosts, until time is over; whatever comes, what is promised holds.

After every run: one row a host, no pass that cannot be one, the documented exit code of the rows, nothing left on the controller.
After mending: one run, all pass, nothing left on hosts. `make chaos SECONDS=3600 SEED=7`; a round is named by its seed,
and `SEED=` that number begins with it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from llmprov.lab.fleet import Fleet
from tests.lab.conftest import PYTHON, Lab
from tests.lab.faults import FAULTS, first_code, row_code
from tests.lab.traces import gone, left_here, left_on_host, place_of_runs

LLMPROV = str(Path(sys.executable).parent / "llmprov")
HOSTS = 8
ADDRESSES = "10.77.40.0/24"

#: No fault needs PyTorch, and with it a round takes three times as long.
SMALL = {"pytorch_state": "absent"}

#: What happens to a whole run, or to one of its hosts, in the middle of it.
EVENTS = ("nothing", "nothing", "ctrl-c", "kill", "power off", "reboot", "second run")

#: Faults that take a package from outside each time, or look at the whole machine.
LEFT_OUT = ("clock a day off",)


@dataclass
class Ended:
    """A run that ended: its exit code, its rows by host, what it printed."""

    code: int
    rows: dict[str, dict[str, object]]
    said: str


def begin(inventory: Path, folder: Path) -> subprocess.Popen[str]:
    argv = [LLMPROV, "provision", "-i", str(inventory), "--json", "--wait", "300"]
    return subprocess.Popen(
        argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def end(run: subprocess.Popen[str]) -> Ended:
    out, err = run.communicate(timeout=600)
    rows = json.loads(out)["hosts"] if out else []
    return Ended(run.returncode, {row["host"]: row for row in rows}, err)


def pause(seconds: float) -> None:
    select.select([], [], [], seconds)


class Round:
    """One draw of faults, its run, its mending."""

    def __init__(self, lab: Lab, seed: int, folder: Path) -> None:
        self.lab, self.seed, self.folder = lab, seed, folder
        self.random = random.Random(seed)
        self.names = [host.name for host in lab.fleet.hosts()][:HOSTS]
        kinds = sorted(set(FAULTS) - set(LEFT_OUT))
        hit = self.random.sample(self.names, self.random.randint(1, 5))
        self.faults = {name: self.random.choice(kinds) for name in hit}
        self.event = self.random.choice(EVENTS)
        self.victim = self.random.choice([name for name in self.names if name not in hit])
        self.moment_s = self.random.uniform(0.3, 8)

    def __str__(self) -> str:
        told = ", ".join(f"{name}: {fault}" for name, fault in sorted(self.faults.items()))
        return f"seed {self.seed}: {told}; {self.event} ({self.victim}) after {self.moment_s:.1f} s"

    def run(self) -> None:
        with place_of_runs() as place:
            self._run(place)

    def _run(self, place: Path) -> None:
        hosts = self.lab.of(*self.names)
        for name, fault in self.faults.items():
            hosts[name] |= FAULTS[fault].variables
            self._break(name, fault)
        inventory = self.lab.inventory(self.folder / "hosts.yml", hosts, ansible_timeout=5, **SMALL)
        run = begin(inventory, self.folder)
        second = self._happens(run, inventory)
        ended = end(run)
        if second:
            self._check(end(second))
        if self.event == "kill":
            assert ended.code == -signal.SIGKILL, ended.said
        else:
            self._check(ended)
            gone(lambda: left_here(place))
        self._mend()
        after = begin(inventory, self.folder)
        mended = end(after)
        assert mended.code == 0, {n: (r["status"], r["summary"]) for n, r in mended.rows.items()}
        gone(lambda: left_here(place))
        for name in self.names:
            gone(lambda name=name: [f"{name}: {left}" for left in left_on_host(self.lab, name)])

    def _break(self, name: str, fault: str) -> None:
        if FAULTS[fault].power_off:
            self.lab.host(name).stop()
        else:
            self.lab.sh(name, FAULTS[fault].script)

    def _happens(self, run: subprocess.Popen[str], inventory: Path) -> subprocess.Popen[str] | None:
        pause(self.moment_s)
        if self.event == "ctrl-c" and run.poll() is None:
            os.killpg(run.pid, signal.SIGINT)
        elif self.event == "kill":
            run.kill()
        elif self.event == "power off":
            self.lab.host(self.victim).stop()
        elif self.event == "reboot":
            self.lab.sh(self.victim, "systemctl reboot")
        elif self.event == "second run":
            return begin(inventory, self.folder)
        return None

    def _check(self, ended: Ended) -> None:
        assert "Traceback" not in ended.said, ended.said
        cancelled = self.event == "ctrl-c" and ended.code == 130
        if cancelled and not ended.rows:
            assert ended.said.endswith("llmprov: cancelled\n"), "it ended before it knew its hosts"
            return
        assert sorted(ended.rows) == sorted(self.names), sorted(ended.rows)
        assert cancelled or ended.code == first_code(map(row_code, ended.rows.values())), ended.code
        disturbed = {self.victim} if self.event in ("power off", "reboot") else set()
        for name, row in ended.rows.items():
            status, told = row["status"], f"{name}: {row['status']}: {row['summary']}"
            allowed = FAULTS[self.faults[name]].statuses if name in self.faults else ("pass", "warn")
            if cancelled or name in disturbed:
                allowed = (*allowed, "not_run", "unreachable", "fail")
            assert status in allowed, told
            assert status in ("pass", "warn") or (row["summary"] and row["remedy"]), told

    def _mend(self) -> None:
        for name, fault in self.faults.items():
            if FAULTS[fault].power_off:
                self.lab.fleet.restart(name)
            else:
                self.lab.sh(name, FAULTS[fault].mend)
        if self.event == "power off":
            self.lab.fleet.restart(self.victim)
        if self.event == "reboot":
            self.lab.host(self.victim).wait_ready()


def chaos(lab: Lab, seconds: float, seed: int, folder: Path) -> int:
    """Rounds until the seconds are over, one at least; returns how many."""
    deadline, rounds = time.monotonic() + seconds, 0
    while not rounds or time.monotonic() < deadline:
        a_round = Round(lab, seed + rounds, folder)
        print(a_round, flush=True)
        a_round.run()
        rounds += 1
    return rounds


def made(fleet: Fleet, folder: Path) -> Lab:
    """Eight hosts that are as declared."""
    fleet.up(HOSTS, address_range=ADDRESSES, packages=PYTHON)
    lab = Lab(fleet)
    inventory = lab.inventory(folder / "hosts.yml", lab.of(*(host.name for host in fleet.hosts())), **SMALL)
    ended = end(begin(inventory, folder))
    assert ended.code == 0, ended.said
    return lab


def main() -> int:
    """As long as wished."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--seconds", type=float, default=600)
    words.add_argument("--seed", type=int, default=int(time.time()))
    given = words.parse_args()
    fleet = Fleet("chaos")
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        os.environ["LLMPROV_HISTORY"] = "off"
        try:
            rounds = chaos(made(fleet, Path(folder)), given.seconds, given.seed, Path(folder))
        finally:
            fleet.down()
    print(f"{rounds} rounds, all as promised")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
