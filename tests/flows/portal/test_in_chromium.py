"""The portal in a real browser: every page at two widths in both themes, by keyboard, and held against SQL.

Pictures of what was seen stand in pytest's folder (`--basetemp` names another).
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from flows.portal import site
from flows.portal.serving import server
from flows.portal.site import PAGES, write
from flows.services import Services
from tests.flows.portal import filled
from tests.house import Server

pytestmark = pytest.mark.full

CHROMIUM = shutil.which("chromium")
AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text(encoding="utf-8")
WIDTHS = (1440, 390)
THEMES: dict[Literal["light", "dark"], dict[str, list[str]]] = {
    "light": {},
    "dark": {"runOnly": ["color-contrast"]},
}
"""What axe is asked of each: what a theme decides is contrast."""


@pytest.fixture(scope="module")
def services(postgres18: Server, tmp_path_factory: pytest.TempPathFactory) -> Services:
    return filled.services(postgres18, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def folder(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(services, tmp_path_factory.mktemp("portal")).folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; skipped where there is none, but not in continuous integration."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("Chromium must be installed where CI is set: there is none on the PATH")
        pytest.skip("there is no chromium on the PATH: apt-get install chromium")
    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def front(browser: Browser, folder: Path) -> Iterator[Page]:
    """A page on a desk, in the light."""
    page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme="light")
    yield page
    page.close()


def shown(page: Page, folder: Path, name: str) -> None:
    """Open a page of the portal from its file and wait until it has drawn."""
    file, _, place = name.partition("#")
    page.goto((folder / file).as_uri() + (f"#{place}" if place else ""))
    page.evaluate("document.fonts.ready")
    page.wait_for_function("document.readyState === 'complete'")


def listened_to(page: Page) -> tuple[list[str], list[str]]:
    """What its scripts will complain of, and the addresses that it will ask for."""
    said: list[str] = []
    asked: list[str] = []

    def hear(line: ConsoleMessage) -> None:
        if line.type == "error":
            said.append(line.text)

    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", hear)
    page.on("request", lambda request: asked.append(request.url))
    return said, asked


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_works_from_a_file_and_axe_finds_nothing(
    browser: Browser, folder: Path, tmp_path: Path, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, reduced_motion="reduce")
    for wanted in PAGES:
        page = context.new_page()
        said, asked = listened_to(page)
        page.emulate_media(color_scheme="light")
        shown(page, folder, wanted.file)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), wanted.name
        page.evaluate(AXE)
        for theme, rules in THEMES.items():
            page.emulate_media(color_scheme=theme)
            page.screenshot(path=tmp_path / f"{wanted.name}-{theme}-{width}.png", full_page=True)
            asking = {"resultTypes": ["violations"], "preload": False, **rules}
            found = page.evaluate("(options) => axe.run(document, options)", asking)
            broken = [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]]
            assert not broken, (wanted.name, theme, broken)
        assert not said, (wanted.name, said)
        assert all(url.startswith(("file:", "data:")) for url in asked), asked
        page.close()
    context.close()


@pytest.mark.parametrize("wanted", PAGES, ids=lambda page: page.name)
def test_without_scripts_a_page_says_so_and_shows_nothing_empty(
    browser: Browser, folder: Path, wanted: site.Page
) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, java_script_enabled=False)
    page = context.new_page()
    page.goto((folder / wanted.file).as_uri())
    assert page.locator(".unscripted").is_visible()
    drawn = page.locator(".chart, .heat, #graph, #controls, [data-tile], [data-filter], #theme")
    assert [one.get_attribute("id") for one in drawn.all() if one.is_visible()] == []
    context.close()


def test_with_scripts_a_page_says_nothing_of_them(front: Page, folder: Path) -> None:
    shown(front, folder, "index.html")
    assert not front.locator(".unscripted").is_visible()


@pytest.mark.parametrize(("hours", "said"), [(25, None), (27.5, "27 hours"), (24 * 9 + 1, "9 days")])
def test_pages_that_nobody_writes_any_more_say_how_old_they_are(
    front: Page, folder: Path, services: Services, hours: float, said: str | None
) -> None:
    front.clock.set_fixed_time(datetime.fromtimestamp(services.settings.machine_time() + hours * 3600, UTC))
    shown(front, folder, "index.html")
    old = front.locator("#old")
    assert old.is_visible() == (said is not None)
    if said is not None:
        assert old.inner_text().startswith(f"These pages are {said} old.")


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_says_of_when_a_page_is_and_in_which_zone(
    browser: Browser, folder: Path, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844})
    shown(page, folder, "index.html")
    told = page.get_by_text("All times are UTC.").filter(visible=True)
    assert told.count() == 1
    assert "As of 20 Oct 2025 12:00 UTC." in told.inner_text()
    page.close()


def test_what_is_added_up_in_the_page_is_what_its_sql_gives(
    front: Page, folder: Path, services: Services
) -> None:
    shown(front, folder, "dashboards.html")
    front.evaluate(
        "(([from, to]) => { from.value = '2025-10-07'; to.value = '2025-10-14'; "
        "to.dispatchEvent(new Event('change')) })(document.querySelectorAll('input[type=date]'))"
    )
    tiles = front.evaluate(
        "[...document.querySelectorAll('[data-tile]')].map("
        "(tile) => [tile.dataset.measure, tile.dataset.value, tile.querySelector('pre').textContent])"
    )
    with services.warehouse.connect() as connection:
        for measure, value, sql in tiles:
            row = connection.execute(sql.encode()).fetchone()
            expected = row[0] if row else None
            assert (Decimal(value) if value else None) == expected, (measure, sql)
    assert {measure: value for measure, value, _ in tiles}["revenue"] == "13"


def test_days_that_are_empty_or_turned_round_are_days_all_the_same(front: Page, folder: Path) -> None:
    said, _ = listened_to(front)
    shown(front, folder, "dashboards.html")
    first, last = front.locator("#from"), front.locator("#to")
    first.fill("")
    assert first.input_value() == first.get_attribute("min")
    last.fill("")
    assert last.input_value() == last.get_attribute("max")
    last.fill("2025-10-07")
    first.fill("2025-10-08")
    assert (first.input_value(), last.input_value()) == ("2025-10-08", "2025-10-08")
    last.fill("2025-10-07")
    assert (first.input_value(), last.input_value()) == ("2025-10-07", "2025-10-07")
    assert said == []


def test_a_page_is_used_by_keyboard_alone(front: Page, folder: Path) -> None:
    shown(front, folder, "index.html")
    front.keyboard.press("Tab")
    assert front.evaluate("document.activeElement.textContent") == "Skip to the content"
    front.keyboard.press("Enter")
    assert front.evaluate("document.activeElement.id") == "content"
    front.keyboard.press("Tab")
    front.keyboard.press("Enter")
    assert front.evaluate("document.querySelector(':popover-open pre').dataset.sql") == "state"
    front.keyboard.press("Escape")
    assert front.evaluate("document.querySelector(':popover-open')") is None

    shown(front, folder, "catalog.html")
    front.keyboard.press("/")
    front.keyboard.type("coupon discount")
    hidden = (
        "[...document.querySelectorAll('.entry')].filter((entry) => !entry.hidden).map((entry) => entry.id)"
    )
    assert "fct_orders" in front.evaluate(hidden)
    assert "dim_date" not in front.evaluate(hidden)

    shown(front, folder, "dashboards.html")
    front.get_by_role("button", name="All", exact=True).press("Enter")
    front.locator(".heat td button").first.focus()
    front.keyboard.press("ArrowDown")
    front.keyboard.press("Enter")
    assert front.evaluate("document.getElementById('rows').open")
    front.keyboard.press("Escape")
    assert not front.evaluate("document.getElementById('rows').open")


def test_the_lineage_of_a_column_ends_in_its_chart(front: Page, folder: Path) -> None:
    shown(front, folder, "lineage.html")
    front.get_by_label("Table or column").fill("fct_orders.revenue")
    front.get_by_label("Table or column").press("Enter")
    nodes = front.evaluate("drawn.nodes().map((node) => node.id())")
    assert {"app.orders.total_amount", "stg_app__orders.total_amount", "dashboard.revenue_chart.revenue"} <= {
        *nodes
    }
    assert front.evaluate("location.hash") == "#fct_orders.revenue"
    made_from = front.locator("#panel").get_by_text("stg_app__orders.total_amount")
    assert made_from.is_visible()


@pytest.mark.parametrize("typed", ["fct_ordrs", "fct_orders.revenu", "<b>x</b>", "%E0%A4%A"])
def test_a_name_that_the_lineage_does_not_know_is_told(front: Page, folder: Path, typed: str) -> None:
    said, _ = listened_to(front)
    shown(front, folder, "lineage.html")
    front.get_by_label("Table or column").fill(typed)
    front.get_by_label("Table or column").press("Enter")
    told = f"No table or column is called {typed}"
    assert front.locator("#panel").get_by_text(told).is_visible()
    front.goto("about:blank")
    shown(front, folder, f"lineage.html#{typed}")
    assert front.locator("#panel").get_by_text(told).is_visible()
    assert said == []


def test_sixty_tables_are_in_one_view_and_their_names_can_be_read(front: Page, folder: Path) -> None:
    shown(front, folder, "lineage.html")
    front.wait_for_function("drawn !== null")
    # Letters are 12 pixels high where nothing is made smaller.
    view = (
        "[drawn.nodes().length, 12 * drawn.zoom(), drawn.elements().renderedBoundingBox(), graph.clientWidth]"
    )
    number, letters, box, width = front.evaluate(view.replace("graph.", "byId('graph')."))
    assert number >= 60
    assert letters >= 11
    assert box["x1"] >= 0
    assert box["x2"] <= width
    over = front.evaluate(
        "drawn.nodes().filter((one) => drawn.nodes().some((other) => { if (one === other) return false;"
        " const a = one.boundingBox(), b = other.boundingBox();"
        " return a.x1 < b.x2 && b.x1 < a.x2 && a.y1 + 2 < b.y2 && b.y1 + 2 < a.y2; })).map((one) => one.id())"
    )
    assert over == []


def test_the_timeline_shows_every_run_as_what_became_of_it(front: Page, folder: Path) -> None:
    shown(front, folder, "runs.html")
    drawn = front.evaluate(
        "echarts.getInstanceByDom(document.getElementById('timeline')).getOption().series"
        ".flatMap((one) => one.data.map((point) => [one.name, point[2]]))"
    )
    assert sorted(drawn) == [
        ["Completed", "analytics_pipeline"],
        ["Crashed", "backup"],
        ["Not started", "api_ingest"],
        ["Running", "api_ingest"],
        ["Timed out", "drill"],
    ]


def test_on_a_phone_no_words_of_a_chart_lie_over_each_other(front: Page, folder: Path) -> None:
    front.set_viewport_size({"width": 390, "height": 844})
    shown(front, folder, "runs.html")
    over = front.evaluate(
        "[...document.querySelectorAll('#steps text')]"
        ".map((one) => [one.textContent, one.getBoundingClientRect()])"
        ".flatMap(([word, a], place, all) => all.slice(place + 1).filter(([, b]) => a.left < b.right"
        " && b.left < a.right && a.top + 2 < b.bottom && b.top + 2 < a.bottom)"
        ".map(([other]) => `${word} / ${other}`))"
    )
    assert over == []


def test_the_theme_that_somebody_chose_stays(front: Page, folder: Path) -> None:
    shown(front, folder, "index.html")
    light = front.evaluate("getComputedStyle(document.body).backgroundColor")
    front.locator("#theme").click()
    shown(front, folder, "quality.html")
    assert front.evaluate("getComputedStyle(document.body).backgroundColor") != light


def test_a_point_shows_its_rows_where_they_are_served(
    browser: Browser, folder: Path, services: Services
) -> None:
    with server(services, folder, "127.0.0.1", 0) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            page = browser.new_page(viewport={"width": 390, "height": 844})
            refused: list[str] = []
            page.on("console", lambda line: refused.append(line.text) if line.type == "error" else None)
            page.goto(f"http://127.0.0.1:{running.server_port}/dashboards.html")
            page.get_by_role("button", name="All", exact=True).click()
            page.locator("[data-as-table=revenue_chart]").click()
            page.get_by_role("button", name="Rows behind 2025-10-07, EUR").click()
            page.get_by_text("2 rows, read just now by the role reader.").wait_for()
            assert not refused
            page.close()
        finally:
            running.shutdown()
            thread.join()
