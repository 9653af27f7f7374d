"""Change capture without Kafka: real Debezium in a process of ours, real PostgreSQL, no broker."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from flows import failpoints, first_read, source_totals
from flows.cdc import registration
from flows.change_landing import land_changes
from flows.errors import FlowsError
from flows.extract import SourceError, embedded
from flows.extract.debezium_observed import lsn_number
from flows.extract.embedded.connector import Embedded
from flows.extract.embedded.engine import Engine
from flows.landing import Landing
from flows.progress import Progress
from flows.services import Services
from tests import children
from tests.flows.capture import Capture, entity
from tests.flows.extract import landing_child
from tests.flows.extract.parts import ORDERS, ORDERS_DDL
from tests.flows.extract.told import CDC, SCHEMA, TABLES, assert_same, land, rows_of
from tests.flows.extract.workload import Workload
from tests.flows.streaming.topics import until
from tests.house import House
from transforms.entities import Postgres

ALPHA, BETA = entity("alpha"), entity("beta")


@pytest.fixture
def capture(house: House, tmp_path: Path) -> Iterator[Capture]:
    dsn = house.server().database()
    capture = Capture.build(house, tmp_path, None, cdc_engine="embedded", warehouse_dsn=dsn)
    try:
        yield capture
    finally:
        capture.end()


def records(capture: Capture, name: str) -> list[tuple[int, str | None, int | None]]:
    """(offset, what changed, key) of what was landed of a table, in its order."""
    services = Services(capture.settings)
    try:
        with services.ledger() as ledger, duckdb.connect() as connection:
            files = ledger.files(f"raw_app__{name}")
            rows = services.lake.read(connection, files)
            return rows.select("kafka_offset, _change, id").order("kafka_offset, _change").fetchall()
    finally:
        services.lake.close()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder for temporary files, as long as a test lasts."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def _hold_an_engine(folder: Path) -> None:
    tempfile.tempdir = str(folder)
    with Engine({}, None, []):
        folder.with_name("begun").touch()
        signal.pause()


@pytest.mark.full
def test_an_engine_whose_reader_is_killed_leaves_nothing(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    reader = children.begun(_hold_an_engine, temporary)
    until(temporary.with_name("begun").exists)
    assert any(temporary.iterdir())
    reader.kill()
    reader.join()
    until(lambda: not any(temporary.iterdir()), 60)


@pytest.mark.full
def test_what_the_log_tells_is_read_and_landed_once(capture: Capture, temporary: Path) -> None:
    capture.tables("alpha", "beta")
    assert "reads 2 tables whole" in "".join(capture.register(ALPHA, BETA))
    assert capture.register(ALPHA, BETA)[-1].endswith("is registered already; nothing has changed.")
    assert capture.halts(ALPHA, BETA, since=capture.observe(ALPHA, BETA)) == []
    capture.app("update alpha set id = 30 where id = 3", "delete from beta where id = 1")

    ((told,),) = capture.app("select pg_current_wal_lsn()::text")
    services = Services(capture.settings)
    landed = land_changes(services, [ALPHA, BETA], "run-1")
    rows = {table: one.rows for table, one in landed.outcomes.items() if isinstance(one, Landing)}
    assert rows == {ALPHA.table: 6, BETA.table: 5}
    services.lake.close()
    assert [*temporary.iterdir()] == []

    read = [(0, "r", 1), (1, "r", 2), (2, "r", 3)]
    assert records(capture, "alpha") == [*read, (3, "d", 3), (4, None, 3), (5, "c", 30)]
    assert records(capture, "beta") == [*read, (3, "d", 1), (4, None, 1)]
    # The source keeps nothing that is here.
    slot = capture.observe(ALPHA).slot
    assert slot is not None
    assert not slot.active
    assert slot.confirmed is not None
    assert slot.confirmed >= lsn_number(told)

    seen = capture.observe(ALPHA, BETA)
    with capture.client() as client:
        client.pause(capture.names.connector)
        assert "the connector is paused" in capture.halts(ALPHA, since=seen)[0]
        client.resume(capture.names.connector)
    capture.app(f"select pg_drop_replication_slot('{capture.names.slot}')")
    with pytest.raises(SourceError, match=r"replication slot .* is gone, so changes since its last event"):
        land_changes(services, [BETA], "run-2").of(BETA)
    with pytest.raises(FlowsError, match="is gone though the connector has read from it"):
        capture.register(ALPHA, BETA)


@pytest.mark.full
def test_what_a_registration_before_this_one_sent_stays_its_own_though_it_was_not_landed(
    capture: Capture,
) -> None:
    capture.tables("alpha")
    capture.register(ALPHA)
    services = Services(capture.settings)
    with services.lake:
        land_changes(services, [ALPHA], "first").of(ALPHA)
        capture.app("insert into alpha values (4, 'read and not landed')")
        with capture.client() as engine:
            assert isinstance(engine, Embedded)
            engine.read()
        capture.anew(ALPHA)
        land_changes(services, [ALPHA], "anew").of(ALPHA)
        with services.ledger() as ledger, duckdb.connect() as connection:
            rows = services.lake.read(connection, ledger.files(ALPHA.table))
            logs = rows.filter("kafka_offset is not null").aggregate(
                "list(kafka_offset order by kafka_offset)", "_registered_at"
            )
            assert sorted(logs.fetchall()) == [([0, 1, 2, 3],), ([4, 5, 6, 7],)]


@pytest.mark.full
def test_what_the_application_counts_is_compared_without_a_broker(capture: Capture) -> None:
    orders = replace(ORDERS, read=Postgres("orders", mode="cdc"))
    capture.app(
        ORDERS_DDL,
        "insert into orders (id, amount, currency) select n, n, 'EUR' from generate_series(1, 50) n",
    )
    capture.register(orders)
    capture.app("update orders set amount = 1000 where id = 1")
    services = Services(capture.settings)
    with services.lake, Progress("run") as progress, services.warehouse.connect() as connection:
        assert first_read.land(services, [orders], "first", progress).outcomes == {}
        landing = source_totals.land_changes(services, [orders], "run").of(orders)
        assert landing is not None
        assert landing.warnings == ()
        totals = connection.execute("select sum(row_count)::int, sum(amount)::int from ops.control_total")
        assert totals.fetchall() == [(50, 50 * 51 // 2 + 999)]


@pytest.mark.full
def test_a_table_that_is_declared_later_is_read_beside_the_changes_without_a_broker(capture: Capture) -> None:
    capture.tables("alpha", "beta", rows=30_000)
    capture.register(ALPHA)
    told = capture.register(ALPHA, BETA)
    assert "public.beta is captured from now on; its rows are read beside the changes." in told
    capture.app("delete from beta where id = 7")
    services = Services(capture.settings)
    for entity_ in (ALPHA, BETA):
        land_changes(services, [entity_], "run-1").of(entity_)
    services.lake.close()
    keys = {key for _, change, key in records(capture, "beta") if change == "r"}
    assert keys == {*range(1, 30_001)} - {7}
    assert [change for _, change, _ in records(capture, "alpha")] == ["r"] * 30_000


@pytest.mark.full
@pytest.mark.parametrize("of", ["all tables", "tables in schema public"])
@pytest.mark.parametrize("kind", ["", "partition by range (id)"])
def test_a_table_that_is_made_and_declared_later_is_read_whole_by_a_publication_that_somebody_made(
    capture: Capture, of: str, kind: str
) -> None:
    capture.tables("alpha")
    capture.app(f"create publication {capture.names.publication} for {of}")
    capture.register(ALPHA)
    capture.app(
        f"create table beta (id bigint primary key, label text) {kind}",
        *(["create table beta_rest partition of beta default"] if kind else []),
        "insert into beta select n, 'row ' || n from generate_series(1, 5) n",
        "delete from beta where id = 3",
    )
    told = capture.register(ALPHA, BETA)
    assert "public.beta is captured from now on; its rows are read beside the changes." in told
    assert any("tells changes of beta as its own now" in sentence for sentence in told) == bool(kind)
    assert capture.register(ALPHA, BETA)[-1].endswith("is registered already; nothing has changed.")
    capture.app("update beta set label = 'other' where id = 1", "insert into beta values (6, 'new')")
    services = Services(capture.settings)
    with services.lake:
        assert capture.halts(ALPHA, BETA) == []
        land_changes(services, [ALPHA, BETA], "run-1").of(BETA)
        rows = [(1, "other"), (2, "row 2"), (4, "row 4"), (5, "row 5"), (6, "new")]
        assert rows_of(services, BETA) == rows


@pytest.mark.full
def test_another_prefix_reads_everything_again_and_doubles_nothing(capture: Capture) -> None:
    capture.tables("alpha")
    capture.register(ALPHA)
    services = Services(capture.settings)
    land_changes(services, [ALPHA], "run-1").of(ALPHA)
    registration.unregister(capture.settings, capture.said.append)
    capture.app("delete from alpha where id = 2", "insert into alpha values (4, 'new')")
    capture.settings = capture.settings.model_copy(update={"cdc_prefix": f"{capture.settings.cdc_prefix}_b"})
    capture.register(ALPHA)
    services = Services(capture.settings)
    land_changes(services, [ALPHA], "run-2").of(ALPHA)
    rows = rows_of(services, ALPHA)
    services.lake.close()
    assert rows == [(1, "row 1"), (3, "row 3"), (4, "new")]


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_killed_anywhere_between_the_log_and_raw_it_ends_equal_to_the_source(
    house: House, capture: Capture, tmp_path: Path
) -> None:
    capture.app(SCHEMA)
    load = Workload(capture.settings.require("app_dsn"), 6)
    load.run(20)
    capture.register(*CDC)
    places = [(name, 0) for name in failpoints.names(Path(embedded.__file__).parent)]
    assert [name for name, _ in places] == ["capture.committed", "capture.read"]
    for name, passes in (*places, ("landing.written", 2), ("landing.committed", 1)):
        load.run(20)
        assert landing_child.dies(capture.environment, name, passes, TABLES), name
    load.run(5)
    assert_same(capture, tmp_path, house.server().database())
    for name in TABLES:
        services = Services(capture.settings)
        with services.ledger() as ledger, duckdb.connect() as connection:
            rows = services.lake.read(connection, ledger.files(f"raw_app__{name}"))
            count, first, last = (
                rows.filter("value is not null or key is not null")
                .aggregate("count(distinct kafka_offset), min(kafka_offset), max(kafka_offset)")
                .fetchall()[0]
            )
            assert (first, last) == (0, count - 1), f"{name}: an offset is missing"
            twice = rows.filter("value is not null").aggregate("count(*) - count(distinct kafka_offset)")
            assert twice.fetchall() == [(0,)], f"{name}: an offset came twice"
        services.lake.close()


@pytest.mark.full
def test_an_engine_that_dies_loses_and_doubles_nothing(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture.tables("alpha", rows=50_000)
    batches = Engine.batches
    died: list[int] = []

    def dying(engine: Engine) -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(batches(engine)):
            yield batch
            if number == 1 and not died:
                died.append(engine._process.pid)
                engine._process.kill()

    monkeypatch.setattr(Engine, "batches", dying)
    with pytest.raises(SourceError, match="Debezium's engine could not read the application's changes"):
        capture.register(ALPHA)
    assert "stopped" in capture.halts(ALPHA)[0] or "gone" in capture.halts(ALPHA)[0]
    capture.register(ALPHA)
    services = Services(capture.settings)
    land_changes(services, [ALPHA], "run-1").of(ALPHA)
    services.lake.close()
    assert [offset for offset, _, _ in records(capture, "alpha")] == [*range(50_000)]


def test_without_the_engine_it_says_how_to_get_it(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    capture.tables("alpha")
    monkeypatch.setattr("flows.extract.embedded.engine.find_spec", lambda name: None)
    with pytest.raises(SourceError, match=r"ANALYTICS_CDC_ENGINE=embedded needs it: make cdc-engine"):
        capture.register(ALPHA)


@pytest.mark.full
def test_any_workload_ends_equal_to_the_source_without_a_broker(
    house: House, capture: Capture, tmp_path: Path
) -> None:
    capture.app(SCHEMA)
    load = Workload(capture.settings.require("app_dsn"), 5)
    load.run(20)
    told = capture.register(*CDC)
    assert "reads 6 tables whole" in "".join(told)
    for _ in range(2):
        load.run(20)
        land(capture, CDC).lake.close()
    load.run(5)
    assert_same(capture, tmp_path, house.server().database())
