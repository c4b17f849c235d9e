"""The report's part of `make bench`: fleets of 100 to 10,000 hosts, judged, rendered in every form, opened and filtered.

Needs no lab. Each size runs in a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SIZES = (100, 1000, 10_000)
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]

#: Types into the search field, and says how many milliseconds passed until the filtered table was painted.
FILTER = """(words) => new Promise((done) => {
  const field = document.getElementById("search");
  const began = performance.now();
  field.value = words;
  field.dispatchEvent(new Event("input", {bubbles: true}));
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - began)));
})"""


def one_size(hosts: int, folder: Path) -> dict[str, float]:
    """Seconds of each part, the peak of memory in MB, the size of the page in MB; files are written to `folder`."""
    from rich.console import Console

    from llmprov.report import aggregate, files, simulate, terminal
    from llmprov.run import outcome
    from llmprov.run.directory import RunDirectory

    with files.uncollected():
        made = simulate.fleet(hosts, seed=1)
        carried = (
            sum(len(row.checks) for row in made.rows) / hosts,
            sum(len(row.measurements) for row in made.rows) / hosts,
        )
        told: dict[str, float] = {"checks": carried[0], "figures": carried[1]}

        def part(name: str, work: Callable[[], object]) -> object:
            began = time.perf_counter()
            result = work()
            told[name] = time.perf_counter() - began
            return result

        began = time.perf_counter()
        fleet = part("aggregate", lambda: aggregate.fleet(made.run, made.rows, outcome.exit_code, []))
        directory = RunDirectory.create(folder, made.run.id)
        part("all files", lambda: directory.write_fleet(fleet))
        with Path("/dev/null").open("w") as nowhere:
            part("terminal", lambda: Console(file=nowhere, width=160).print(terminal.fleet_table(fleet)))
        told["total"] = time.perf_counter() - began
    told["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    told["page_mb"] = (directory.path / "report.html").stat().st_size / 1e6
    told["json_mb"] = (directory.path / "fleet.json").stat().st_size / 1e6
    return told


def in_browser(page: Path) -> tuple[float, float]:
    """Seconds until the table of hosts stands, and milliseconds of a filter: medians of five, in headless Chromium."""
    import statistics

    from playwright.sync_api import sync_playwright

    views, filters = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for _ in range(5):
            tab = browser.new_page()
            began = time.perf_counter()
            tab.goto(page.as_uri())
            tab.wait_for_selector("html[data-ready=yes]")
            views.append(time.perf_counter() - began)
            filters += [tab.evaluate(FILTER, words) for words in ("fail", "rack001", "h100 pass", "")]
            tab.close()
        browser.close()
    return statistics.median(views), statistics.median(filters)


def main() -> None:
    """Print a line a size."""
    sys.stdout.write("(j) a report of so many hosts, each with the checks and figures of its kind at level quick\n")
    for hosts in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            argv = [sys.executable, "-m", "tests.bench_report", str(hosts), folder]
            told = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
            (page,) = Path(folder).glob("*/report.html")
            view, filtered = in_browser(page)
        sys.stdout.write(
            f"    {hosts:>6,} hosts ({told['checks']:.0f} checks, {told['figures']:.0f} figures each): "
            f"judged {told['aggregate']:.2f} s, files {told['all files']:.2f} s, terminal {told['terminal']:.2f} s, "
            f"all {told['total']:.2f} s; peak {told['peak_mb']:.0f} MB; report.html {told['page_mb']:.1f} MB, "
            f"fleet.json {told['json_mb']:.0f} MB; first view {view:.2f} s, a filter {filtered:.0f} ms\n"
        )
        sys.stdout.flush()
    sys.stdout.write("    wanted at 10,000: all under 10 s and 1 GiB, report.html under 8 MB, 2 s, 200 ms\n")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        sys.stdout.write(json.dumps(one_size(int(sys.argv[1]), Path(sys.argv[2]))))
    else:
        main()
