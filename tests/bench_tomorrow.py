"""What tomorrow costs: (m) a lock of a hundred conda packages and as many wheels, (n) drift, (o) a rebuild."""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.bench import CONDA as CONDA_VARIABLES
from tests.bench import ENV, REPEATS, UV, Bench, cold, say, timed
from tests.conftest import LLMPROV

CONDA = "/opt/miniconda3/bin/conda"
#: Conda packages of the channel that is made up: a tree of dependencies, five versions of each.
PACKAGES, VERSIONS = 100, 5


def call(bench: Bench, inventory: Path, command: str, *argv: str, place: str | None = None) -> Path:
    """Run llmprov with cold SSH; returns the directory it ran in."""
    where = place or tempfile.mkdtemp(dir=bench.folder)
    done = subprocess.run(
        [LLMPROV, command, "-i", str(inventory), *argv], cwd=where, env=cold(), capture_output=True, text=True
    )
    if done.returncode != 0:
        raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return Path(where)


def made_up_channel(folder: Path) -> str:
    """A channel of packages that exist in its index alone: enough to be solved."""
    packages: dict[str, Any] = {}
    for number in range(PACKAGES):
        for version in range(VERSIONS):
            children = [n for n in (2 * number + 1, 2 * number + 2) if n < PACKAGES]
            packages[f"made{number}-1.{version}-0.conda"] = {
                "name": f"made{number}", "version": f"1.{version}", "build": "0", "build_number": 0, "subdir": "noarch",
                "noarch": "generic", "depends": [f"made{child} >=1.{max(version - 1, 0)}" for child in children],
                "sha256": f"{number * VERSIONS + version:064x}", "md5": "0" * 32, "size": 1,
            }  # fmt: skip
    for subdir, content in (("noarch", packages), ("linux-64", {})):
        (folder / subdir).mkdir(parents=True)
        index = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": content, "repodata_version": 1}
        (folder / subdir / "repodata.json").write_text(json.dumps(index))
    return folder.as_uri()


def report_lock(bench: Bench) -> None:
    """(m): one host, so one class; the second of two locks, the first having filled the caches."""
    own = yaml.safe_load(bench.fleet.inventory.read_text("utf-8"))["all"]["vars"]
    channels = [*own["miniconda_channels"], made_up_channel(bench.folder / "channel")]
    variables = {
        "llm_env_manager": "conda", "llm_python": "3.11", "pytorch_state": "absent", "llm_packages": ["jupyterlab"],
        "conda_env_conda_packages": ["made0"], "miniconda_channels": channels,
    }  # fmt: skip
    inventory = bench.inventory("lock.yml", bench.names[:1], **variables)
    call(bench, inventory, "lock")
    places: list[Path] = []
    walls = [timed(lambda: places.append(call(bench, inventory, "lock"))) for _ in range(3)]
    (entry,) = yaml.safe_load((places[-1] / "llmprov.lock").read_text())["environments"]
    size = f"{len(entry['conda'])} conda packages and {len(entry['wheels'])} wheels"
    say(f"(m) a lock of {size}, warm: {statistics.median(walls):.1f} s; wanted under 10 s for 100 and 60")


def report_drift(bench: Bench) -> None:
    """(n): by turns, so that a slow minute falls on both."""
    inventory = bench.inventory("all.yml", bench.names)
    pairs = [
        (
            timed(lambda: call(bench, inventory, "provision", "--no-verify")),
            timed(lambda: call(bench, inventory, "plan")),
        )
        for _ in range(REPEATS)
    ]
    no_op, drift = (statistics.median(column) for column in zip(*pairs, strict=True))
    say(f"(n) drift of {len(bench.names)} hosts {drift:.2f} s = {drift / no_op:.2f} x a no-op provision (wanted 1.2 x)")


def report_rebuild(bench: Bench) -> None:
    """(o): the same packages by hand, from the same files and lists, and by `rebuild --locked`; by turns."""
    inventory = bench.inventory("rebuild.yml", bench.names[:1], **CONDA_VARIABLES)
    place = str(call(bench, inventory, "lock"))
    call(bench, inventory, "provision", "--locked", "--no-verify", place=place)
    host = bench.fleet.host(bench.names[0])

    def sh(script: str) -> str:
        return host.execute("sh", "-c", script)

    sh(
        f"HOME=/tmp {CONDA} list -p {ENV} --explicit --sha256 > /tmp/conda.txt; {UV} pip freeze -p {ENV}/bin/python > /tmp/wheels.txt"
    )
    by_hand = (
        f"rm -rf /opt/llmprov/bare; HOME=/tmp {CONDA} create -y -p /opt/llmprov/bare --offline --file /tmp/conda.txt >/dev/null && "
        "UV_CACHE_DIR=/opt/llmprov/cache/uv UV_SYSTEM_CERTS=1 "
        f"{UV} pip install -q -p /opt/llmprov/bare/bin/python --offline --no-index --find-links /opt/llmprov/depot --no-deps "
        "-r /tmp/wheels.txt && /opt/llmprov/bare/bin/python -c 'import torch'"
    )
    spoil = f"rm -rf /opt/llmprov/bare; rm {ENV}/lib/python3.11/site-packages/yaml/nodes.py"
    bare, whole, used, building = [], [], [], []
    for _ in range(3):
        bare.append(timed(lambda: sh(by_hand)))
        sh(spoil)
        whole.append(timed(lambda: call(bench, inventory, "rebuild", "--locked", place=place)))
        run = max((Path(place) / "runs").glob("*/run.json")).parent
        stages = json.loads((run / "run.json").read_text())["stages_s"]
        used.append(stages["inventory"] + stages["converge"])
        events = map(json.loads, (run / "events.jsonl").read_text().splitlines())
        building.append(max(e.get("duration_s") or 0.0 for e in events if "Python and packages" in str(e.get("task"))))
    hand, total, running, task = map(statistics.median, (bare, whole, used, building))
    say(
        f"(o) rebuild of a conda environment with torch: in use after {running:.1f} s ({task:.1f} s of it building), verified "
        f"and accepted after {total:.1f} s; by hand {hand:.1f} s = {running / hand:.2f} x and {total / hand:.2f} x (wanted 1.5 x)"
    )
