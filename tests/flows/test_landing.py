"""Landing: once, whole, and entered with everything that belongs to it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import Producer

import quality
from flows import landing
from tests import children
from tests.broker import make_topics
from tests.flows.extract.parts import ORDERS, ORDERS_DDL, World
from tests.house import House
from transforms.contract import Partition
from transforms.entities import Kafka, SourceEntity


@pytest.fixture
def world(house: House, tmp_path: Path) -> World:
    world = World.build(house.server(), tmp_path)
    world.kafka_bootstrap = house.kafka
    world.app(
        ORDERS_DDL,
        "insert into orders select i, i, 'EUR', '2025-10-07'::timestamptz + i * interval '1 hour' "
        "from generate_series(1, 600) as i",
    )
    return world


@pytest.fixture
def clicks(world: World) -> SourceEntity:
    name = f"t-{os.urandom(4).hex()}"
    make_topics(world.kafka_bootstrap, name, partitions=2)
    return SourceEntity(
        source="events",
        name="clicks",
        read=Kafka(name),
        key=("kafka_partition", "kafka_offset"),
        grain="one row per record",
        partition=Partition("event_time", "day"),
    )


def send(world: World, entity: SourceEntity, *values: bytes | None) -> None:
    assert isinstance(entity.read, Kafka)
    producer = Producer({"bootstrap.servers": world.kafka_bootstrap})
    for value in values:
        producer.produce(entity.read.topic, value, partition=0)
    assert producer.flush(20) == 0


def test_a_landing_names_its_windows_files_and_rows_in_ledger_and_manifest(world: World) -> None:
    result = world.land(ORDERS)
    assert result is not None
    assert (
        result.windows == {"2025-10": 599, "2025-11": 1} | {} or sum((result.windows or {}).values()) == 600
    )
    assert set(result.windows or {}) == {"2025-10", "2025-11"}
    ledger = world.warehouse("select token, row_count, windows, in_manifest from ops.ledger")
    assert ledger == [(result.token, 600, dict(result.windows or {}), True)]
    (commit,) = world.services().lake.manifest("raw", ORDERS.table)
    assert commit.token == result.token
    assert commit.add == result.files
    assert result.files[0].path.startswith(f"raw/{ORDERS.table}/landed_on=")
    assert world.raw(ORDERS, "select distinct _batch_id, _landed_at from raw") == [
        (result.batch_id, result.landed_at)
    ]


def test_records_touch_the_day_of_their_event_time_and_unreadable_ones_no_known_day(
    world: World, clicks: SourceEntity
) -> None:
    send(
        world,
        clicks,
        b'{"event_time": "2025-10-26T01:30:00+02:00"}',
        b'{"event_time": "2025-10-26T23:30:00Z", "x": 1}',
        b'{"event_time": "2025-10-26T23:30:00-05:00"}',
        b'{"event_time": "yesterday"}',
        b'{"event_time": 5}',
        b"{}",
        b"not json",
        b"\xff\xfe",
        b"",
        None,
        b'{"event_time": "99999-10-26T23:30:00Z"}',
        b"[" * 100_000,
        b'{"event_time": "-0100-03-15T09:00:00Z"}',
        b'{"event_time": "0000-03-15T09:00:00Z"}',
        b'{"event_time": "infinity"}',
    )
    result = world.land(clicks)
    assert result is not None
    assert result.rows == 15
    assert result.windows == {"2025-10-25": 1, "2025-10-26": 1, "2025-10-27": 1, "": 12}
    assert world.land(clicks) is None
    send(world, clicks, b"{}")
    again = world.land(clicks)
    assert again is not None
    assert again.rows == 1
    assert again.landed_at > result.landed_at  # type: ignore[operator]


def test_a_year_before_christ_is_no_month_either(world: World, clicks: SourceEntity) -> None:
    monthly = replace(clicks, partition=Partition("event_time", "month"))
    send(
        world,
        monthly,
        b'{"event_time": "-0999-03-15T09:00:00Z"}',  # DuckDB writes its month as `-999-03`
        b'{"event_time": "0000-03-15T09:00:00Z"}',
        b'{"event_time": "99999-10-26T23:30:00Z"}',
        b'{"event_time": "0001-01-01T00:00:00Z"}',
        b'{"event_time": "2025-10-26T23:30:00Z"}',
    )
    result = world.land(monthly)
    assert result is not None
    assert result.windows == {"0001-01": 1, "2025-10": 1, "": 3}


def test_the_landing_time_never_goes_back_when_the_clock_does(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = world.land(ORDERS)
    assert first is not None
    assert first.landed_at is not None
    world.app("insert into orders values (9000, 1, 'EUR')")
    monkeypatch.setattr("flows.settings.Settings.now", lambda _: datetime(2020, 1, 1, tzinfo=UTC))
    second = world.land(ORDERS)
    assert second is not None
    assert second.landed_at is not None
    assert second.landed_at > first.landed_at


def test_of_two_runs_at_once_the_second_finds_nothing_new(world: World) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: world.land(ORDERS), range(4)))
    assert sorted(result.rows for result in results if result) == [600]
    assert world.raw(ORDERS, "select count(*), count(distinct id) from raw") == [(600, 600)]


@pytest.mark.parametrize(
    "name",
    [
        "lake.renamed",
        "ledger.committed",
        *(
            pytest.param(name, marks=pytest.mark.full)
            for name in (
                "landing.extracted",
                "landing.written",
                "ledger.entered",
                "ledger.before_commit",
                "lake.manifest_written",
                "landing.committed",
            )
        ),
    ],
)
def test_a_kill_anywhere_in_a_landing_leaves_each_row_landed_once(world: World, name: str) -> None:
    assert children.dies(name, world.land, ORDERS)
    services = world.services()
    with services.ledger() as ledger:
        ledger.repair_manifest(services.lake)
    landing.land(services, ORDERS, "the run after")
    assert world.raw(ORDERS, "select count(*), count(distinct id) from raw") == [(600, 600)]
    assert len(services.lake.manifest("raw", ORDERS.table)) == 1
    assert world.warehouse("select count(*), bool_and(in_manifest) from ops.ledger") == [(1, True)]
    with services.ledger() as ledger:
        services.lake.close()
        services.lake.sweep(ledger.named_paths)
        files = {path.relative_to(world.lake).as_posix() for path in world.lake.rglob("*.parquet")}
        assert files == {file.path for file in ledger.files(ORDERS.table)}
    assert world.warehouse("select sum(row_count) from ops.control_total") == [(600,)]


def test_a_read_without_a_new_row_is_no_landing(world: World) -> None:
    world.land(ORDERS)
    before = world.warehouse("select count(*) from ops.ledger")
    assert world.land(ORDERS) is None
    assert world.warehouse("select count(*) from ops.ledger") == before


def test_a_read_without_a_new_row_leaves_the_totals_that_the_rules_compare_with(world: World) -> None:
    world.land(ORDERS)
    before = world.warehouse(quality.CONTROL_TOTALS + " order by 1, 2, 3")
    world.land(ORDERS)
    assert world.warehouse(quality.CONTROL_TOTALS + " order by 1, 2, 3") == before != []


def test_an_empty_table_lands_nothing_and_its_first_row_lands(world: World) -> None:
    world.app("delete from orders")
    assert world.land(ORDERS) is None
    world.app("insert into orders values (1, 1, 'EUR')")
    result = world.land(ORDERS)
    assert result is not None
    assert result.rows == 1
