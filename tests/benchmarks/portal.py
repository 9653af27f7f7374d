"""How long a person waits for a page of the portal when a year of data is behind it."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.measure import Result
from tests.benchmarks.server import Server
from tests.house import Server as Database

_PAINTED = """() => new Promise((found) => new PerformanceObserver((list) => {
    const [first] = list.getEntriesByName("first-contentful-paint");
    if (first) found(first.startTime / 1000);
}).observe({ type: "paint", buffered: true }))"""
_DRAWN = "() => performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"


def run(server: Server, full: bool) -> Iterator[Result]:
    """Every page from its file, in a Chromium that has never seen it; the slowest page's median counts.

    `drawn` in the details is when its scripts have run too: all charts and graphs are there.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        print("first-paint is left out: there is no chromium on the PATH.", file=sys.stderr)
        return
    from playwright.sync_api import sync_playwright

    from flows.portal.site import PAGES, write
    from tests.flows.portal import filled

    painted: dict[str, list[float]] = {page.name: [] for page in PAGES}
    drawn: dict[str, list[float]] = {page.name: [] for page in PAGES}
    with tempfile.TemporaryDirectory() as place, sync_playwright() as started:
        services = filled.services(Database(18, server.dsn), Path(place))
        filled.add_a_year(services)
        folder = write(services, Path(place) / "portal").folder
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        browser.new_page().goto("about:blank")
        for _ in range(15 if full else 7):
            for page in PAGES:
                context = browser.new_context(viewport={"width": 1440, "height": 900})
                shown = context.new_page()
                shown.goto((folder / page.file).as_uri(), wait_until="load")
                painted[page.name].append(shown.evaluate(_PAINTED))
                drawn[page.name].append(shown.evaluate(_DRAWN))
                context.close()
        browser.close()
    medians = {name: statistics.median(seconds) for name, seconds in painted.items()}
    details = {
        "painted": {name: [round(each, 3) for each in seconds] for name, seconds in painted.items()},
        "drawn": {name: round(statistics.median(seconds), 3) for name, seconds in drawn.items()},
    }
    yield Result(
        "first paint of the portal's slowest page at a year of data, in Chromium",
        max(medians.values()),
        "s",
        1.0,
        "at most",
        None,
        details,
    )
