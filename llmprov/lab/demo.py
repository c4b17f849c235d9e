"""`make demo`: from bare hosts to a trained model and a fleet report, in a lab or on this machine itself."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from uv import find_uv_bin

import llmprov
from llmprov.depot.pip_config import PipConfig
from llmprov.errors import LabUnsupported, LlmprovError
from llmprov.lab.conda import installer_is_reachable
from llmprov.lab.fleet import Fleet
from llmprov.model import PytorchVars

PREFIX, NETWORK, HOSTS = "demo", "10.77.16.0/24", 3
RUNS = Path("runs")
LARGE, LARGE_HOSTS = Path("demo-fleet"), 500
LLMPROV = str(Path(sys.executable).parent / "llmprov")

TORCH = PytorchVars()

#: Where torch comes from, as `torch_source` says it; asked while the lab comes up.
TorchSource = Future[tuple[list[str], str]]


class Parts:
    """How long each part of the demo took, in seconds."""

    def __init__(self, began: float) -> None:
        self.took_s: dict[str, float] = {}
        self._last = began

    def end(self, name: str) -> None:
        """The part `name` ends now; it began when the one before ended."""
        now = time.time()
        self.took_s[name] = now - self._last
        self._last = now

    def split(self, whole: str, part: str, part_s: float) -> None:
        """List `part` apart, which was counted in `whole`."""
        self.took_s[whole] -= part_s
        self.took_s[part] = part_s


def where_time_went(took_s: dict[str, float]) -> str:
    """One sentence; parts of less than half a second are left out."""
    parts = [f"{name} {seconds:.0f} s" for name, seconds in took_s.items() if seconds >= 0.5]
    return f"where the time went: {', '.join(parts) or 'nowhere'}; {sum(took_s.values()):.0f} s in all"


def say(text: str) -> None:
    """One line of what the demo does."""
    sys.stdout.write(f"demo: {text}\n")
    sys.stdout.flush()


def offers(requirement: str, index_url: str | None = None) -> bool:
    """Whether `requirement` is found where this machine's pip looks, or with `index_url` as the index.

    uv is asked, as provisioning will; nothing is installed.
    """
    variables = {**os.environ, "UV_SYSTEM_CERTS": "1", "UV_HTTP_TIMEOUT": "5", "UV_HTTP_RETRIES": "0"}
    variables |= PipConfig.of_this_machine().as_uv_environment()
    if index_url:
        variables["UV_DEFAULT_INDEX"] = index_url
    argv = [find_uv_bin(), "pip", "install", "--dry-run", "--quiet", "--no-deps", "--reinstall"]
    argv += ["--python", sys.executable, requirement]
    return subprocess.run(argv, capture_output=True, check=False, env=variables).returncode == 0


def torch_source() -> tuple[list[str], str]:
    """Where a CPU build of torch comes from here, found out by asking: as `-e` values, and as a sentence."""
    if offers(f"torch=={TORCH.version}+cpu"):
        sentence = f"torch {TORCH.version}+cpu comes from this machine's own package indexes"
        return ["pytorch_variant=cpu", "pytorch_index_url="], sentence
    if offers(f"torch=={TORCH.version}+cpu", f"{TORCH.index_url}/cpu"):
        return ["pytorch_variant=cpu"], f"torch {TORCH.version}+cpu comes from {TORCH.index_url}/cpu"
    sentence = f"no CPU build of torch {TORCH.version} can be reached: taking the package index's own, which is large"
    return ["pytorch_variant=any", "pytorch_index_url="], sentence


def provision(inventory: Path, variables: list[str], parts: Parts) -> int:
    """Run `llmprov provision` as a user would, and return its exit code."""
    words = [word for value in ["@inventory/demo-vars.yml", *variables] for word in ("-e", value)]
    argv = ["provision", "-i", str(inventory), *words]
    say("llmprov " + " ".join(argv))
    began = time.time()
    code = subprocess.run([LLMPROV, *argv], check=False).returncode
    parts.end("provisioning")
    parts.split("provisioning", "verifying", verify_s(RUNS, began))
    return code


def verify_s(runs: Path, since: float) -> float:
    """How long the newest run verified, by its own record, in seconds; 0 if no run has ended after `since`."""
    records = [path for path in runs.glob("*/run.json") if path.stat().st_mtime >= since]
    if not records:
        return 0.0
    record = json.loads(max(records).read_text("utf-8"))
    return float(record.get("stages_s", {}).get("verify", 0.0))


def large_fleet(folder: Path) -> list[Path]:
    """The pages that show what a report of many hosts looks like; made once by each version of llmprov."""
    made_by, this = folder / "made-by", program_digest()
    if not (made_by.exists() and made_by.read_text("utf-8") == this):
        shutil.rmtree(folder, ignore_errors=True)
        # Its exit code is that of the planted faults. It takes only the time of processors that nobody else wants.
        argv = ["report", "--simulate", str(LARGE_HOSTS), "--seed", "12", "--out", str(folder), "--history", "off"]
        subprocess.run(["nice", "-n", "19", LLMPROV, *argv], check=False, stdout=subprocess.DEVNULL)
    pages = list(folder.glob("*/report.html"))
    if pages:
        made_by.write_text(this, encoding="utf-8")
    return pages


def program_digest() -> str:
    """sha256 over the names and bytes of llmprov's own files."""
    digest, package = hashlib.sha256(), Path(llmprov.__file__).parent
    for path in sorted(p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def in_lab(source: TorchSource, parts: Parts) -> int:
    """Three hosts of a lab."""
    fleet = Fleet(PREFIX)
    say(f"llmprov lab up -n {HOSTS} --prefix {PREFIX} --network {NETWORK}")
    for host in fleet.up(HOSTS, address_range=NETWORK, say=say):
        say(f"{host.name} at {host.address} is {host.state}, Debian {host.release}")
    if "standin" in fleet.inventory.read_text("utf-8"):
        say("no conda installer can be reached from here: the hosts get the lab's stand-in for conda (docs/conda.md)")
    variables, sentence = source.result()
    say(sentence)
    parts.end("lab")
    code = provision(fleet.inventory, ["@inventory/demo-lab-vars.yml", *variables], parts)
    say(f"look around: .venv/bin/llmprov lab ssh {PREFIX}1 --prefix {PREFIX}; take it down: make demo-down")
    return code


def here(source: TorchSource, parts: Parts) -> int:
    """This machine itself."""
    manager = manager_here()
    variables, sentence = source.result()
    say(sentence)
    parts.end("questions")
    return provision(Path("inventory/localhost.yml"), [*variables, f"llm_env_manager={manager}"], parts)


def manager_here() -> str:
    """What makes the environment on this machine itself: conda where its installer can be had, else uv."""
    if installer_is_reachable():
        say("the environment is made by conda, whose installer can be reached from here")
        return "conda"
    say("no conda installer can be reached from here, so the environment is a virtual one, made by uv")
    return "venv"


def demo(lab: bool, parts: Parts) -> int:
    """Provision, and make the report of a large fleet meanwhile; returns the exit code of `llmprov provision`."""
    with ThreadPoolExecutor() as beside:
        source, pages = beside.submit(torch_source), beside.submit(large_fleet, LARGE)
        try:
            code = in_lab(source, parts) if lab else here(source, parts)
        except LabUnsupported as reason:
            say(f"the lab could not be made ({reason}), so the demo provisions this machine itself")
            code = here(source, parts)
        for page in pages.result():
            say(f"a fleet of {LARGE_HOSTS} hosts that does not exist, with faults planted in it: {page}")
    parts.end(f"report of {LARGE_HOSTS} hosts")
    return code


def main() -> int:
    """Run the demo; the exit code is that of `llmprov provision`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--here", action="store_true", help="provision this machine itself")
    parser.add_argument("--began", type=float, default=time.time(), help="when it began, in seconds since 1970")
    options = parser.parse_args()
    parts = Parts(options.began)
    parts.end("installing")
    try:
        code = demo(not options.here, parts)
    except LlmprovError as error:
        sys.stderr.write(f"demo: {error}\n")
        return error.exit_code
    say(where_time_went(parts.took_s))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
