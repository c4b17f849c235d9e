"""The pictures of docs/report.md, of a simulated fleet: `make screenshots` takes them anew."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from llmprov.model import FleetReport
from llmprov.report import html
from llmprov.run import outcome, reporting
from llmprov.run.directory import RunDirectory
from llmprov.run.reporting import Judging
from tests.bench_report import FLAGS

PICTURES = Path(__file__).parents[1] / "docs/images"
HOSTS, DAYS = 500, (11, 12)


def fleet(folder: Path) -> FleetReport:
    """The second of two days, so that there is something that changed."""
    from llmprov.report import simulate

    for day in DAYS:
        made = simulate.fleet(HOSTS, day)
        directory = RunDirectory.create(folder, made.run.id)
        judge = Judging(history=str(folder / "history.db"))
        done = reporting.tell(made.run, made.rows, outcome.exit_code, [], judge, None, directory)
    return done.fleet


def take(page: Page, told: FleetReport) -> None:
    """The top, the table, one host, the charts."""
    page.screenshot(path=PICTURES / "report.png")
    page.locator("#hosts").scroll_into_view_if_needed()
    page.evaluate("document.getElementById('hosts').scrollIntoView()")
    page.screenshot(path=PICTURES / "hosts.png")
    slow = next(host for host in told.hosts if host.cause and host.cause.id == "power_brake")
    page.fill("#search", slow.host)
    page.locator("#table tbody button.host").first.click()
    page.screenshot(path=PICTURES / "host.png")
    page.keyboard.press("Escape")
    page.click("#clear")
    page.evaluate("document.getElementById('cohorts-title').scrollIntoView()")
    page.wait_for_selector("html[data-charts=drawn]")
    page.screenshot(path=PICTURES / "cohorts.png")


def main() -> None:
    """Take them all."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        told = fleet(Path(folder))
        path = Path(folder) / "report.html"
        path.write_text(html.render(told), encoding="utf-8")
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)

        def opened(**context: Any) -> Page:
            page = browser.new_context(**context).new_page()
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-ready=yes]")
            return page

        take(opened(viewport={"width": 1280, "height": 860}), told)
        dark = opened(viewport={"width": 1280, "height": 860}, color_scheme="dark")
        dark.screenshot(path=PICTURES / "dark.png")
        opened(viewport={"width": 390, "height": 800}).screenshot(path=PICTURES / "phone.png")
        browser.close()


if __name__ == "__main__":
    main()
