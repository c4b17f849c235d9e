"""report.html in a real browser: what a user does on a morning, and what a hostile host must not do."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from llmprov.model import Check, FleetReport, Status
from llmprov.report import aggregate, html, simulate
from llmprov.run import outcome
from tests.unit.builders import row, run_info

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: Debian's package chromium has one")
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@cache
def simulated(hosts: int = 240, faults: float = 0.1) -> FleetReport:
    made = simulate.fleet(hosts, 5, faults=faults)
    return aggregate.fleet(made.run, made.rows, outcome.exit_code, [])


class Opened:
    """A page that was opened from a file, and everything it complained of or asked the network for."""

    def __init__(self, browser: Browser, path: Path, **context: Any) -> None:
        self.troubles: list[str] = []
        self.context = browser.new_context(offline=True, **context)
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self.troubles.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self._asked(request.url, path))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready=yes]", timeout=20_000)

    def _asked(self, url: str, path: Path) -> None:
        if not url.startswith((path.as_uri(), "blob:null/", "data:")):
            self.troubles.append(f"request: {url}")

    def names(self) -> list[str]:
        return self.page.locator("#table tbody button.host").all_inner_texts()

    def cells(self, number: int) -> list[str]:
        return self.page.locator(f"#table tbody tr td:nth-child({number})").all_inner_texts()


@pytest.fixture(scope="session")
def page_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[FleetReport], Path]:
    """The file of a fleet's page, rendered once a fleet."""
    folder, pages = tmp_path_factory.mktemp("pages"), {}

    def call(fleet: FleetReport) -> Path:
        if id(fleet) not in pages:
            path = folder / f"report{len(pages)}.html"
            path.write_text(html.render(fleet), encoding="utf-8")
            pages[id(fleet)] = fleet, path  # kept, so that no other fleet gets its id
        return pages[id(fleet)][1]

    return call


@pytest.fixture
def open_page(browser: Browser, page_of: Callable[[FleetReport], Path]) -> Iterator[Any]:
    """Open a fleet's page; at the end it must have complained of nothing."""
    opened: list[Opened] = []

    def call(fleet: FleetReport, **context: Any) -> Opened:
        opened.append(Opened(browser, page_of(fleet), **context))
        return opened[-1]

    yield call
    for page in opened:
        page.context.close()
        assert page.troubles == []


def test_the_worst_hosts_stand_first(open_page):
    fleet = simulated()
    told = open_page(fleet)
    assert told.names() == [host.host for host in fleet.hosts[:50]]
    expect(told.page.locator("h1")).to_contain_text("240 hosts: ")
    for status, count in fleet.counts.items():
        expect(told.page.locator(f".tile:has(.{status.value}) .count")).to_have_text(f"{count:,}")


def test_sorting_by_a_column_goes_both_ways(open_page):
    told = open_page(simulated())
    head = told.page.locator("#table thead th", has_text="tokens/s")
    head.click()
    expect(head).to_have_attribute("aria-sort", "ascending")
    rates = [float(cell.replace(",", "")) for cell in told.cells(5) if cell]
    assert rates == sorted(rates)
    head.click()
    expect(head).to_have_attribute("aria-sort", "descending")
    rates = [float(cell.replace(",", "")) for cell in told.cells(5) if cell]
    assert rates == sorted(rates, reverse=True)
    assert max(rates) > 50_000


def test_filters_and_search_narrow_down_together(open_page):
    fleet = simulated()
    told = open_page(fleet)
    failing = [host.host for host in fleet.hosts if host.status is Status.FAIL]
    told.page.select_option("#by-status", "fail")
    expect(told.page.locator(".dt-info")).to_contain_text(f"of {len(failing)} entries")
    assert told.names() == failing[:50]
    rack = next(host for host in fleet.hosts if host.status is Status.FAIL).groups[1]
    told.page.fill("#search", f"FAIL {rack}")
    both = [host.host for host in fleet.hosts if host.status is Status.FAIL and rack in host.groups]
    expect(told.page.locator("#table tbody button.host")).to_have_count(len(both))
    told.page.fill("#search", "nothing is called so")
    expect(told.page.locator("#table tbody")).to_contain_text("No host is like that")
    told.page.click("#clear")
    expect(told.page.locator(".dt-info")).to_contain_text("240 entries")


def test_a_tile_shows_its_hosts(open_page):
    fleet = simulated()
    told = open_page(fleet)
    told.page.click(".tile:has(.warn)")
    expect(told.page.locator("#by-status")).to_have_value("warn")
    assert set(told.cells(2)) == {"warn"}


def test_a_host_opens_with_everything_about_it(open_page):
    fleet = simulated(400, 0.2)
    braked = next(h for h in fleet.hosts if h.cause and h.cause.id == "power_brake")
    told = open_page(fleet)
    told.page.fill("#search", braked.host)
    told.page.locator("#table tbody button.host").first.click()
    panel = told.page.locator("#panel")
    expect(panel).to_be_visible()
    for words in (
        "held back by the power brake",
        "% slower on gpu",
        "drain",
        f"scontrol update NodeName={braked.host} State=DRAIN",
        "hardware power brake in 40 of 40 readings",
        "power_w 402",
        "train.tokens_per_s",
        "6.8.0-85-generic",
        braked.devices[0].serial,
        "driver.versions",
    ):
        expect(panel).to_contain_text(words)
    told.page.keyboard.press("Escape")
    expect(panel).not_to_be_visible()


def test_drift_is_in_the_panel(open_page):
    fleet = simulated(400, 0.2)
    drifted = next(h for h in fleet.hosts if h.drift)
    told = open_page(fleet)
    told.page.fill("#search", drifted.host)
    told.page.locator("#table tbody button.host").first.click()
    expect(told.page.locator("#panel")).to_contain_text("~ pytorch: upgrade 2.12.1 -> 2.13.0")


def test_a_link_opens_a_host(open_page):
    fleet = simulated()
    told = open_page(fleet)
    name = fleet.hosts[-1].host
    told.page.goto(f"{told.page.url}#host={name}")
    told.page.reload()
    expect(told.page.locator("#panel-title")).to_have_text(name)


def test_the_keyboard_is_enough(open_page):
    told = open_page(simulated())
    told.page.keyboard.press("Tab")
    expect(told.page.locator(".skip")).to_be_focused()
    button = told.page.locator("#table tbody button.host").first
    button.focus()
    told.page.keyboard.press("Enter")
    expect(told.page.locator("#panel")).to_be_visible()
    expect(told.page.get_by_role("button", name="Close")).to_be_focused()
    told.page.keyboard.press("Enter")
    expect(told.page.locator("#panel")).not_to_be_visible()
    expect(button).to_be_focused()
    head = told.page.locator("#table thead th").nth(1)
    head.focus() if head.get_attribute("tabindex") else head.locator("[tabindex], [role=button]").first.focus()
    told.page.keyboard.press("Enter")
    expect(head).to_have_attribute("aria-sort", "ascending")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_screen_reader_finds_its_way(open_page, scheme):
    """No rule of WCAG 2.1 A or AA that axe can check is broken, in either colour."""
    told = open_page(simulated(), color_scheme=scheme)
    told.page.locator("#charts").scroll_into_view_if_needed()
    told.page.wait_for_selector("html[data-charts=drawn]", timeout=20_000)
    wanted = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}
    found = Axe().run(told.page, options=wanted)
    assert found.response["violations"] == []
    told.page.locator("#table tbody button.host").first.click()
    found = Axe().run(told.page, context="#panel", options=wanted)
    assert found.response["violations"] == []


def test_dark_follows_the_system_and_the_button(open_page):
    told = open_page(simulated(), color_scheme="dark")
    back = "getComputedStyle(document.body).backgroundColor"
    assert told.page.evaluate(back) == "rgb(15, 20, 24)"
    told.page.click("#theme")
    assert told.page.evaluate(back) == "rgb(255, 255, 255)"


def test_charts_are_drawn_with_the_outliers_named(open_page):
    fleet = simulated(400, 0.2)
    told = open_page(fleet)
    told.page.locator("#charts").scroll_into_view_if_needed()
    told.page.wait_for_selector("html[data-charts=drawn]", timeout=20_000)
    named = told.page.locator("#spread .textpoint").all_text_contents()
    slow = {
        h.host for h in fleet.hosts if any(c.id.endswith("train.tokens_per_s") for c in h.checks if c.status == "warn")
    }
    assert {text.split()[0] for text in named if text} <= slow
    assert any(named)
    assert told.page.locator("#scatter .point").count() > 300
    told.page.select_option("#figure", "memory.bandwidth_gb_s")
    expect(told.page.locator("#spread .xtitle")).to_contain_text("memory")
    # In the other colour they are drawn anew.
    told.page.click("#theme")
    expect(told.page.locator("#spread .main-svg").first).to_have_css("background-color", "rgb(15, 20, 24)")


def test_a_phone_shows_it_without_scrolling_sideways(open_page):
    told = open_page(simulated(), viewport={"width": 390, "height": 800}, is_mobile=True)
    assert told.page.evaluate("document.documentElement.scrollWidth") <= 390
    told.page.locator("#table tbody button.host").first.click()
    assert told.page.evaluate("document.getElementById('panel').getBoundingClientRect().width") <= 390


def test_it_prints_every_host_and_no_controls(open_page):
    told = open_page(simulated())
    told.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    told.page.emulate_media(media="print")
    assert len(told.names()) == 240
    expect(told.page.locator("#filters")).not_to_be_visible()
    expect(told.page.locator(".dt-paging")).not_to_be_visible()
    told.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert len(told.names()) == 50


MARKUP = "</script><script>window.owned=1</script><img src=x onerror='window.owned=2'><b onclick=alert(1)>"


def hostile() -> FleetReport:
    """Hosts whose every text is markup, escapes or a pretended link."""
    texts = [
        MARKUP,
        "\x1b[31m\x00\u202e",
        "javascript:alert(1)",
        "{{7*7}} ${alert(1)}",
        '" onmouseover="window.owned=3"',
        "<a href='http://evil/'>",
    ]
    rows = []
    for number, text in enumerate(texts):
        check = Check(id="a", status="warn", summary=text, evidence=text, remedy=text, measured=text, unit=text[:40])
        told = row(f"{text}{number}", Status.WARN, summary=text, remedy=text, checks=[check], torch=text, groups=[text])
        rows.append(told.model_copy(update={"not_reported": [text], "device": text, "python": text}))
    return aggregate.fleet(run_info(), rows, lambda _: 0, [MARKUP])


def test_nothing_that_a_host_sent_runs(open_page):
    told = open_page(hostile())
    for index in range(told.page.locator("#table tbody button.host").count()):
        told.page.locator("#table tbody button.host").nth(index).click()
        expect(told.page.locator("#panel")).to_be_visible()
        told.page.keyboard.press("Escape")
    assert told.page.evaluate("window.owned") is None
    assert told.page.locator("main img, main b, main a[href^=http], #panel img").count() == 0
    assert any("<script>window.owned" in name for name in told.names())


def test_a_script_that_got_into_the_page_would_not_run(open_page, tmp_path, browser):
    """The content security policy is the second wall: markup put into the file by hand stays dead."""
    page = html.render(simulated(20))
    (tmp_path / "spoilt.html").write_text(page.replace("</main>", f"{MARKUP.replace('</script>', '', 1)}</main>"))
    told = Opened(browser, tmp_path / "spoilt.html")
    assert told.page.evaluate("window.owned") is None
    assert any("Content Security Policy" in text for text in told.troubles)
    told.context.close()


def test_without_hosts_there_is_a_page(open_page):
    told = open_page(aggregate.fleet(run_info(), [], lambda _: 0, []))
    expect(told.page.locator("#table tbody")).to_contain_text("The inventory has no hosts")
