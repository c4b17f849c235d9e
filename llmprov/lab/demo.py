"""`make demo`: from bare hosts to a trained model and a fleet report, in a lab or on this machine itself."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from llmprov.errors import LabUnsupported, LlmprovError
from llmprov.lab.conda import installer_is_reachable
from llmprov.lab.fleet import Fleet
from llmprov.model import PytorchVars

PREFIX, NETWORK, HOSTS = "demo", "10.77.16.0/24", 3
LARGE = Path("demo-fleet")
LLMPROV = str(Path(sys.executable).parent / "llmprov")

TORCH = PytorchVars()


def say(text: str) -> None:
    """One line of what the demo does."""
    sys.stdout.write(f"demo: {text}\n")
    sys.stdout.flush()


def offers(requirement: str, *flags: str) -> bool:
    """Whether pip, as this machine has it set, finds `requirement`; nothing is installed."""
    argv = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--quiet",
        "--no-deps",
        "--ignore-installed",
        "--retries",
        "0",
    ]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*argv, "--target", folder, "--timeout", "5", *flags, requirement],
            capture_output=True,
            check=False,
        )
    return done.returncode == 0


def torch_variables() -> list[str]:
    """Where a CPU build of torch comes from here, found out by asking: as `-e` values."""
    if offers(f"torch=={TORCH.version}+cpu"):
        say(f"torch {TORCH.version}+cpu comes from this machine's own package indexes")
        return ["pytorch_variant=cpu", "pytorch_index_url="]
    if offers(f"torch=={TORCH.version}+cpu", "--index-url", f"{TORCH.index_url}/cpu"):
        say(f"torch {TORCH.version}+cpu comes from {TORCH.index_url}/cpu")
        return ["pytorch_variant=cpu"]
    say(f"no CPU build of torch {TORCH.version} can be reached: taking the package index's own, which is large")
    return ["pytorch_variant=any", "pytorch_index_url="]


def provision(inventory: Path, *more: str) -> int:
    """Run `llmprov provision` as a user would, and return its exit code."""
    variables = [word for value in [*torch_variables(), *more] for word in ("-e", value)]
    argv = ["provision", "-i", str(inventory), "-e", "@inventory/demo-vars.yml", *variables]
    say("llmprov " + " ".join(argv))
    return subprocess.run([LLMPROV, *argv], check=False).returncode


def large_fleet() -> None:
    """What a report of many hosts looks like; the exit code is that of its faults, and not the demo's."""
    shutil.rmtree(LARGE, ignore_errors=True)
    argv = ["report", "--simulate", "500", "--seed", "12", "--out", str(LARGE), "--history", "off"]
    subprocess.run([LLMPROV, *argv], check=False, stdout=subprocess.DEVNULL)
    for page in LARGE.glob("*/report.html"):
        say(f"a fleet of 500 hosts that does not exist, with faults planted in it: {page}")


def in_lab() -> int:
    """Three hosts of a lab."""
    fleet = Fleet(PREFIX)
    say(f"llmprov lab up -n {HOSTS} --prefix {PREFIX} --network {NETWORK}")
    for host in fleet.up(HOSTS, address_range=NETWORK, say=say):
        say(f"{host.name} at {host.address} is {host.state}, Debian {host.release}")
    if "standin" in fleet.inventory.read_text("utf-8"):
        say("no conda installer can be reached from here: the hosts get the lab's stand-in for conda (docs/conda.md)")
    code = provision(fleet.inventory)
    say(f"look around: .venv/bin/llmprov lab ssh {PREFIX}1 --prefix {PREFIX}; take it down: make demo-down")
    return code


def manager_here() -> str:
    """What makes the environment on this machine itself: conda where its installer can be had, else uv."""
    if installer_is_reachable():
        say("the environment is made by conda, whose installer can be reached from here")
        return "conda"
    say("no conda installer can be reached from here, so the environment is a virtual one, made by uv")
    return "venv"


def main() -> int:
    """Run the demo; the exit code is that of `llmprov provision`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--here", action="store_true", help="provision this machine itself")
    here = parser.parse_args().here
    try:
        if not here:
            code = in_lab()
            large_fleet()
            return code
    except LabUnsupported as reason:
        say(f"the lab could not be made ({reason}), so the demo provisions this machine itself")
    except LlmprovError as error:
        sys.stderr.write(f"demo: {error}\n")
        return error.exit_code
    code = provision(Path("inventory/localhost.yml"), f"llm_env_manager={manager_here()}")
    large_fleet()
    return code


if __name__ == "__main__":
    raise SystemExit(main())
