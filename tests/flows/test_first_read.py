"""The first read of captured tables lands while real Debezium reads, and is there when it is whole."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

import flows.sandbox as sandbox
from flows import change_landing, first_read
from flows.change_landing import ChangesLanded, land_changes
from flows.extract import SourceError, debezium, kafka
from flows.landing import Landing
from flows.progress import Progress
from flows.sandbox import Part
from flows.services import Services
from flows.settings import Settings
from flows.stores.joint import joint_ledger
from flows.streaming.following import follow
from tests import children
from tests.flows.capture import Capture, entity
from tests.flows.extract.told import rows_of
from tests.flows.streaming.changes import SCHEMA
from tests.flows.streaming.topics import until
from tests.flows.warehouses import with_tables
from tests.house import House
from transforms import registry
from transforms.entities import Postgres, SourceEntity

ALPHA, BETA = entity("alpha"), entity("beta")
USERS = registry.entity("raw_app__users")
ROWS = 60_000
"""Enough for several portions."""


@contextmanager
def made(house: House, tmp_path: Path) -> Iterator[Capture]:
    """An application and a warehouse without a row of it."""
    capture = Capture.build(house, tmp_path, warehouse_dsn=with_tables(house.server()))
    try:
        yield capture
    finally:
        capture.end()


@pytest.fixture
def shop(house: House, tmp_path: Path) -> Iterator[Capture]:
    with made(house, tmp_path) as capture:
        yield capture


@pytest.fixture
def own_shop(own_house: House, tmp_path: Path) -> Iterator[Capture]:
    with made(own_house, tmp_path) as capture:
        yield capture


def land(settings: Settings, *entities: SourceEntity, seconds: float = 120.0) -> ChangesLanded:
    services = Services(settings)
    with services.lake, Progress("run", io.StringIO()) as progress:
        services.lake.begin_session()
        chosen = entities or (ALPHA, BETA)
        return first_read.land(services, chosen, f"run-{time.time()}", progress, seconds)


def landed(capture: Capture) -> int:
    """Rows that the ledger knows of."""
    with psycopg.connect(capture.settings.require("warehouse_dsn"), autocommit=True) as connection:
        query = "select coalesce(sum(row_count), 0)::int from ops.ledger where kind = 'land'"
        ((rows,),) = connection.execute(query).fetchall()
    return int(rows)


def told(capture: Capture, table: str) -> int:
    """Records of a table's topic."""
    settings = capture.settings
    topic = debezium.topic(settings, Postgres(table))
    return sum(kafka.lag(settings.require("kafka_bootstrap"), topic, {}).values())


def assert_equal(capture: Capture, *tables: str) -> None:
    services = Services(capture.settings)
    with services.lake:
        for name in tables:
            rows = capture.app(f"select id, label from {name} order by id")
            assert rows_of(services, entity(name)) == rows


def test_a_table_is_there_whole_or_not_at_all_while_the_connector_reads_it(
    shop: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several portions also of a connector that is done before the first of them is asked for.
    for bound in ("_FIRST_BYTES", "BYTES_AT_ONCE"):
        monkeypatch.setattr(change_landing, bound, 1 << 20)
    shop.tables("alpha", rows=ROWS)
    shop.tables("beta")
    seen, done = set[int](), threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            seen.add(landed(shop))

    shop.register(ALPHA, BETA)
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            outcomes = land(shop.settings).outcomes
        finally:
            done.set()
        looking.result(10)
    alpha, beta = outcomes[ALPHA.table], outcomes[BETA.table]
    assert isinstance(alpha, Landing)
    assert isinstance(beta, Landing)
    assert (alpha.rows, beta.rows) == (ROWS, 3)
    assert len(alpha.files) > 1, "it was landed in portions"
    assert seen <= {0, ROWS + 3}
    assert_equal(shop, "alpha", "beta")
    assert land(shop.settings).outcomes == {}, "it is the first read no more"


def test_a_table_without_a_row_is_read_too(shop: Capture) -> None:
    shop.tables("alpha")
    shop.app("create table beta (id bigint primary key, label text)")
    shop.register(ALPHA, BETA)
    outcomes = land(shop.settings).outcomes
    assert isinstance(outcomes[ALPHA.table], Landing)
    assert outcomes.get(BETA.table) is None
    shop.app("insert into beta values (1, 'late')")
    until(lambda: _is_equal(shop), seconds=60)


def test_what_cannot_be_landed_holds_nothing_else_and_is_not_there_in_part(shop: Capture) -> None:
    shop.tables("alpha", rows=ROWS)
    shop.tables("beta")
    frozen = replace(
        entity("alpha", id="bigint", other="varchar"), read=Postgres("alpha", mode="cdc", on_change="freeze")
    )
    shop.register(frozen, BETA)
    outcomes = land(shop.settings, frozen, BETA).outcomes
    assert isinstance(outcomes[frozen.table], SourceError)
    assert "no column other" in str(outcomes[frozen.table])
    assert landed(shop) == 3
    assert_equal(shop, "beta")


def test_what_was_there_before_another_registration_goes_if_nobody_told(shop: Capture) -> None:
    """The old registration's records are still in the topic, and one of them was never landed."""
    shop.tables("alpha", "beta")
    shop.register(ALPHA, BETA)
    land(shop.settings)
    shop.app("insert into alpha values (50, 'seen by the topic alone')")
    until(lambda: len(shop.events("alpha")) == 4)
    with shop.client() as client:
        client.stop(shop.names.connector)
    shop.app("delete from alpha where id in (1, 50)")
    shop.anew(ALPHA, BETA)
    land(shop.settings)
    assert_equal(shop, "alpha", "beta")


@pytest.mark.full
@pytest.mark.parametrize(
    ("failpoint", "passes"),
    [
        *(("lake.temporary_written", 0), ("landing.written", 1), ("landing.committed", 1)),
        *(("ledger.entered", 1), ("joint.before_commit", 0), ("joint.committed", 0)),
        ("lake.manifest_appended", 0),
    ],
)
def test_killed_in_the_middle_nothing_is_there_and_the_next_run_lands_all(
    shop: Capture, failpoint: str, passes: int
) -> None:
    shop.tables("alpha", rows=ROWS)
    shop.tables("beta")
    shop.register(ALPHA, BETA)
    assert children.dies(failpoint, land, shop.settings, passes=passes)
    is_committed = failpoint in ("joint.committed", "lake.manifest_appended")
    assert landed(shop) == (ROWS + 3 if is_committed else 0)
    shop.app("delete from alpha where id <= 10", "update beta set label = 'x' where id = 2")
    land(shop.settings)
    until(lambda: _is_equal(shop), seconds=60)


def _is_equal(capture: Capture) -> bool:
    services = Services(capture.settings)
    with services.lake:
        land_changes(services, [ALPHA, BETA], f"run-{time.time()}")
    try:
        assert_equal(capture, "alpha", "beta")
    except AssertionError:
        return False
    return True


@pytest.mark.full
def test_a_connector_that_is_killed_begins_again_and_what_went_meanwhile_is_gone(
    own_house: House, own_shop: Capture
) -> None:
    shop = own_shop
    shop.tables("alpha", rows=ROWS)
    shop.tables("beta", rows=ROWS)
    shop.register(ALPHA, BETA)
    with ThreadPoolExecutor(1) as pool:
        landing = pool.submit(land, shop.settings)
        until(lambda: told(shop, "alpha") > 5_000, seconds=120)
        own_house.kill(Part.CONNECT)
        assert told(shop, "alpha") + told(shop, "beta") < 2 * ROWS, "it was killed too late"
        assert landed(shop) == 0
        shop.app("delete from alpha where id <= 100", "delete from beta where id <= 100")
        url, state = shop.settings.connect_url, sandbox.start(own_house.folder, frozenset({Part.CONNECT}))
        shop.settings = shop.settings.model_copy(update={"connect_url": state.connect_url})
        outcomes = landing.result(300).outcomes
    if not isinstance(outcomes[ALPHA.table], Landing):
        assert state.connect_url != url, (
            outcomes
        )  # its port was taken meanwhile: nobody answers at the old one
        outcomes = land(shop.settings).outcomes
    assert isinstance(outcomes[ALPHA.table], Landing)
    assert told(shop, "alpha") > ROWS, "it has begun again"
    assert_equal(shop, "alpha", "beta")


@pytest.mark.full
def test_a_stream_lands_the_first_read_and_a_batch_beside_waits_for_it(shop: Capture) -> None:
    shop.app(
        SCHEMA,
        "insert into users (id, email, name, country, plan, created_at, updated_at) select n, "
        "n || '@x.org', 'User ' || n, 'DE', 'free', '2025-10-01', '2025-10-01' "
        f"from generate_series(1, {ROWS}) n",
    )
    shop.register(USERS)
    stop, services = threading.Event(), Services(shop.settings)
    with services.lake, ThreadPoolExecutor(1) as pool:
        living = pool.submit(follow, services, [USERS], stop=stop, seconds=300)
        try:
            with joint_ledger(services.warehouse) as ledger:
                until(lambda: living.done() or ledger.is_held("follow", shop.settings.cdc_prefix))
            assert not living.done(), living.result()
            assert land(shop.settings, USERS).outcomes == {}
            assert landed(shop) == ROWS, "it has waited"
            shop.app("delete from users where id = 7")
            until(lambda: landed(shop) > ROWS, seconds=60)
        finally:
            stop.set()
        living.result(60)
