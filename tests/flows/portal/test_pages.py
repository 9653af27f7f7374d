"""The portal's pages: what they show is what the warehouse says, and they stand by themselves."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flows import sla
from flows.finish import write_portal
from flows.portal import reading, site
from flows.portal.reading import as_json
from flows.portal.site import PAGES, Written, after_run, write
from flows.progress import Progress
from flows.services import Services
from flows.summary import Summary
from tests.flows.portal import filled
from tests.flows.portal.reader import Read
from tests.flows.small_disk import filled as full
from tests.flows.small_disk import small_disk
from tests.house import Server

MOST_BYTES = 2_000_000
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def services(postgres18: Server, tmp_path_factory: pytest.TempPathFactory) -> Services:
    return filled.services(postgres18, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def written(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write(services, tmp_path_factory.mktemp("portal"))


@pytest.fixture(scope="module")
def pages(written: Written) -> dict[str, Read]:
    return {page.name: Read(written.folder / page.file) for page in PAGES}


@pytest.fixture(scope="module")
def connection(services: Services) -> Iterator[psycopg.Connection[Any]]:
    with services.warehouse.connect() as connection:
        yield connection


@pytest.mark.parametrize("name", [page.name for page in PAGES])
def test_what_a_page_shows_is_what_the_query_that_it_names_gives(
    name: str, pages: dict[str, Read], connection: psycopg.Connection[Any]
) -> None:
    page = pages[name]
    assert set(page.queries) == set(page.data["results"])
    for query, sql in page.queries.items():
        cursor = connection.execute(sql.encode())
        found = [[as_json(cell) for cell in row] for row in cursor]
        shown = page.data["results"][query]
        assert (shown["columns"], shown["rows"]) == ([c.name for c in cursor.description or ()], found), query
    for figure in page.figures:
        result = page.data["results"][figure.query]
        cell = result["rows"][figure.row][result["columns"].index(figure.column)] if result["rows"] else None
        assert figure.says(cell), (figure, cell)


def test_pages_show_figures(pages: dict[str, Read]) -> None:
    numbers = {name: len(page.figures) for name, page in pages.items()}
    assert all(numbers[name] > 5 for name in ("overview", "quality", "runs", "incidents")), numbers
    assert pages["dashboards"].data["results"]["revenue_chart"]["rows"][0][2] == "10.00"


def test_trouble_comes_first(pages: dict[str, Read]) -> None:
    overview = pages["overview"]
    assert "Something is wrong" in overview.text
    assert overview.text.index("fct_orders is late.") < overview.text.index("Last run")
    rules = pages["quality"].data["results"]["rules"]["rows"]
    assert rules[0][:2] == ["stg_app__orders", "between_quantity"]


@pytest.mark.parametrize(
    ("state", "verdict"),
    [("Failed", "critical"), ("Crashed", "critical"), ("TimedOut", "critical"), ("Late", "warning")],
)
def test_a_run_that_did_not_come_to_a_good_end_is_no_fine_day(
    state: str, verdict: str, connection: psycopg.Connection[Any]
) -> None:
    sql = reading.queries("overview", filled.NOW)["state"]
    with connection.transaction(force_rollback=True):
        connection.execute("truncate ops.incident, ops.notification, ops.run, ops.health")
        connection.execute(
            "insert into ops.health (signal, subject, verdict, since, measured_at) values "
            "('disk', 'lake', 'ok', %(now)s, %(now)s)",
            {"now": filled.NOW},
        )
        connection.execute(
            "insert into ops.run (run_id, flow, started_at, finished_at, state, summary) values "
            "('a', 'backup', %(now)s - interval '2 hours', %(now)s, 'Completed', '{}'), "
            "('b', 'backup', %(now)s - interval '1 hour', null, %(state)s, '{}')",
            {"now": filled.NOW, "state": state},
        )

        def told() -> str:
            row = connection.execute(sql.encode()).fetchone()
            assert row is not None
            return str(row[0])

        assert told() == verdict
        # A worker may be busy: what was to start a moment ago is not late.
        connection.execute(
            "update ops.run set started_at = %s - interval '9 minutes' where run_id = 'b'", (filled.NOW,)
        )
        assert told() == ("ok" if state == "Late" else verdict)
        # Nor is what has begun since.
        connection.execute(
            "update ops.run set started_at = %(now)s - interval '1 hour', finished_at = %(now)s "
            "where run_id = 'b'",
            {"now": filled.NOW},
        )
        assert told() == ("ok" if state == "Late" else verdict)


def test_minutes_that_nobody_measured_are_told_as_the_command_tells_them(
    pages: dict[str, Read], connection: psycopg.Connection[Any]
) -> None:
    told = sla.report(connection, filled.NOW)
    assert {one.name: one.unmeasured for one in told.objectives} == {
        "freshness": 1.0,
        "uptime": 0.0,
        "quality": None,
    }
    figures = [(one.query, one.text) for one in pages["sla"].figures if one.column == "unmeasured"]
    assert figures == [("freshness", "1"), ("uptime", "0"), ("freshness_by_table", "1")]
    assert "1 that nobody measured" in pages["sla"].text
    assert "What one incident burns is told by that incident" in pages["sla"].text


def test_what_a_table_has_consumed_is_no_partition_of_it(pages: dict[str, Read]) -> None:
    for page, query in (("overview", "tables"), ("catalog", "sizes")):
        result = pages[page].data["results"][query]
        at = result["columns"].index("partitions")
        assert {row[0]: row[at] for row in result["rows"]}["fct_orders"] == 1, page


def test_what_failed_with_an_incident_is_told_in_words(pages: dict[str, Read]) -> None:
    said = " ".join(pages["incidents"].text.split())
    assert (
        "1 more failed because of it mart_daily_revenue (data_freshness): mart_daily_revenue is late." in said
    )
    assert not re.search(r"\{['&]", said), "a program's own writing stands in the page"


def test_every_page_is_there_before_anything_ran(postgres18: Server, tmp_path: Path) -> None:
    written = write(filled.services(postgres18, tmp_path, filled=False), tmp_path / "portal")
    for page in PAGES:
        read = Read(written.folder / page.file)
        assert page.title in read.text
        if page.name not in {"catalog", "lineage"}:
            assert "python -m flows" in read.text, page.name


def test_nothing_is_loaded_from_elsewhere(written: Written, pages: dict[str, Read]) -> None:
    outside = re.compile(r"(?:https?:)?//[a-z]", re.IGNORECASE)
    for page in pages.values():
        assert not [place for place in (*page.loaded, *page.links) if outside.match(place)]
        for place in page.loaded:
            assert place == "data:," or (written.folder / place).is_file(), place
    for own in ("portal.css", *(page.script for page in PAGES if page.script), "portal.js", "theme.js"):
        assert not outside.search((written.folder / "assets" / own).read_text(encoding="utf-8")), own


def test_links_between_pages_lead_somewhere(written: Written, pages: dict[str, Read]) -> None:
    ids = {page.path.name: set(re.findall(r'\bid="([^"]+)"', page.html)) for page in pages.values()}
    for page in pages.values():
        for link in page.links:
            file, _, place = link.partition("#")
            file = file or page.path.name
            assert file in ids, link
            assert not place or file == "lineage.html" or place in ids[file], (page.path.name, link)


def test_no_personal_data_stand_in_a_page(pages: dict[str, Read]) -> None:
    assert not [name for name, page in pages.items() if filled.SECRET in page.html]


def test_a_year_of_days_fits_into_two_megabytes_a_page(postgres18: Server, tmp_path: Path) -> None:
    services = filled.services(postgres18, tmp_path)
    filled.add_a_year(services)
    written = write(services, tmp_path / "portal")
    assert max(written.bytes_of.values()) <= MOST_BYTES, written.bytes_of
    charts = Read(written.folder / "dashboards.html").data["results"]
    assert len(charts["revenue_chart"]["rows"]) > 365 * 7
    assert len(charts["events_by_type"]["rows"]) > 365 * 14


def test_a_run_does_not_fail_by_its_pages(postgres18: Server, tmp_path: Path) -> None:
    unreachable = filled.services(
        postgres18, tmp_path, warehouse_dsn="host=127.0.0.1 port=1", portal=str(tmp_path), filled=False
    )
    problem = after_run(unreachable)
    assert problem.startswith("it was not written")
    assert problem.endswith("Try: python -m flows portal")
    assert "\n" not in problem


def test_a_full_disk_keeps_the_pages_that_stand_and_gets_nothing_else(
    services: Services, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 8_000):
        write(services, disk)
        (disk / "assets" / "lineage.js").write_text("of an older version")
        before = _sums(disk)
        with full(disk), pytest.raises(OSError, match="No space left"):
            write(services, disk)
        assert sorted(_sums(disk)) == sorted(before)
        assert _sums(disk) == before


def _sums(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in files}


def test_after_a_run_with_news_the_pages_say_how_everything_is(postgres18: Server, tmp_path: Path) -> None:
    services = filled.services(postgres18, tmp_path, portal=str(tmp_path / "pages"), filled=False)
    with services.warehouse.connect() as connection:
        count = "select count(*) from ops.health"
        ((before,),) = connection.execute(count).fetchall()
        assert after_run(services, has_news=True) == ""
        ((after,),) = connection.execute(count).fetchall()
        assert after > before
    assert (tmp_path / "pages" / "index.html").is_file()


def test_a_run_knows_whether_its_pages_were_written(postgres18: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for portal, is_written in (("pages", True), ("off", False), ("file", False)):
        place = portal if portal == "off" else str(tmp_path / portal)
        services = filled.services(postgres18, tmp_path, portal=place, filled=False)
        summary = Summary(run_id="run", flow="analytics_pipeline")
        with Progress("run") as progress:
            write_portal(services, summary, progress)
        assert Summary.from_json(summary.as_json()).has_pages is is_written, portal


def test_who_wants_no_pages_gets_none(postgres18: Server, tmp_path: Path) -> None:
    services = filled.services(postgres18, tmp_path, portal="off", filled=False)
    assert after_run(services) == ""
    assert not list(tmp_path.rglob("*.html"))


@pytest.mark.parametrize(
    "folder", [Path(site.__file__).with_name("vendor"), HERE / "vendor"], ids=["portal", "tests"]
)
def test_what_others_wrote_is_what_the_manifest_says(folder: Path) -> None:
    entries = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for entry in entries:
        assert hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest() == entry["sha256"], entry
    known = {entry["file"] for entry in entries}
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    licences = {f"{entry['package'].split('/')[-1]}.LICENSE" for entry in entries}
    assert licences <= files
    assert files - known - licences <= {"manifest.json", "echarts.NOTICE"}
