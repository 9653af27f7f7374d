"""Times that a table is read by or keeps: with fewer decimals, without a time zone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, timedelta
from typing import Any, Literal

import psycopg
import pytest

from flows.extract import SchemaChanged, SourceRefused
from flows.extract.waiting import waiting
from flows.landing import Landing
from tests.flows.extract.parts import World
from transforms.contract import Column, Partition
from transforms.entities import Postgres, SourceEntity

VISITS = SourceEntity(
    source="app",
    name="visits",
    read=Postgres("visits", mode="incremental", cursor="updated_at"),
    key=("id",),
    grain="one row per version of a visit",
    columns=(
        Column("id", "bigint"),
        Column("began", "timestamp"),
        Column("opens", "time"),
        Column("updated_at", "timestamptz"),
    ),
)
NAMES = [column.name for column in VISITS.columns]


def create(world: World, began: str, opens: str, updated_at: str) -> None:
    world.app(
        f"create table visits (id bigint primary key, began {began}, opens {opens}, updated_at {updated_at})",
        "insert into visits select i, at at time zone 'UTC', (at at time zone 'UTC')::time, at from "
        "(select i, now() - i * interval '1.000123 min' as at from generate_series(1, 20) as i) as ages",
    )


def rows(world: World) -> list[tuple[Any, ...]]:
    return world.app(f"select {', '.join(NAMES)} from visits order by id")


def position(world: World) -> dict[str, Any]:
    ((found,),) = world.warehouse("select positions from ops.position")
    return dict(found)


def test_a_table_whose_times_have_three_decimals_is_read_by_them(world: World) -> None:
    create(world, "timestamp(3)", "time(3)", "timestamptz(3)")
    assert world.land_rows(VISITS) == 20
    assert world.land(VISITS) is None
    world.app("update visits set opens = '01:02:03.4567', updated_at = now() where id in (7, 20)")
    assert world.land_rows(VISITS) == 2
    world.app("delete from visits where id = 3")
    assert world.land_rows(VISITS) == 1
    assert world.land(VISITS) is None
    assert world.live(VISITS, NAMES) == rows(world)


def evolving(contract: Literal["evolve", "freeze", "quarantine"]) -> SourceEntity:
    read = Postgres("visits", mode="incremental", cursor="updated_at", on_change=contract)
    return replace(VISITS, read=read)


def warnings(landing: Landing | None) -> str:
    assert landing is not None
    return "\n".join(landing.warnings)


@pytest.mark.parametrize("contract", ["evolve", "quarantine"])
def test_other_decimals_are_a_wider_or_a_narrower_column_and_stop_nothing(
    world: World, contract: Literal["evolve", "quarantine"]
) -> None:
    entity = evolving(contract)
    create(world, "timestamp", "time(3)", "timestamptz")
    assert world.land_rows(entity) == 20
    world.app(
        "alter table visits alter column began type timestamp(0), alter column opens type time",
        "update visits set updated_at = now()",
    )
    said = warnings(world.land(entity))
    assert "column began is timestamp(0) without time zone in the database, and was timestamp" in said
    assert "(narrowed)" in said
    assert "column opens is time without time zone in the database, and was time(3)" in said
    assert "(widened)" in said
    assert "casts them narrower" not in said
    assert ("rounded" in said) is (contract == "evolve")
    assert world.live(entity, NAMES) == rows(world)
    assert world.land(entity) is None


def test_a_contract_that_allows_nothing_stops_at_other_decimals_but_not_at_six_that_are_written_out(
    world: World,
) -> None:
    entity = evolving("freeze")
    create(world, "timestamp", "time", "timestamptz")
    assert world.land_rows(entity) == 20
    world.app("alter table visits alter column began type timestamp(6), alter column opens type time(6)")
    assert world.land(entity) is None
    world.app("alter table visits alter column began type timestamp(3)")
    with pytest.raises(
        SchemaChanged, match=r"column began is timestamp\(3\).*\(narrowed\); nothing was landed"
    ):
        world.land(entity)


def test_a_time_that_is_declared_as_text_is_its_text_whatever_its_decimals(world: World) -> None:
    columns = (Column("id", "bigint"), *(Column(name, "varchar") for name in NAMES[1:]))
    texts = replace(VISITS, read=Postgres("visits"), columns=columns)
    world.app(
        "create table visits "
        "(id bigint primary key, began timestamp(3), opens time(3), updated_at timestamptz(3))",
        "insert into visits values (1, '2025-03-05 10:00:00.1239', '10:00:00.5', '2025-03-05 10:00+02')",
        "insert into visits values (2, 'infinity', '24:00', '-infinity')",
    )
    assert world.land_rows(texts) == 2
    assert world.live(texts, NAMES) == [
        (1, "2025-03-05 10:00:00.124", "10:00:00.5", "2025-03-05 08:00:00+00"),
        (2, "infinity", "24:00:00", "-infinity"),
    ]


@pytest.mark.parametrize("lookback", [timedelta(0), timedelta(minutes=10)])
def test_newest_rows_that_are_deleted_are_gone_and_the_table_is_read_on_from_where_it_was(
    world: World, lookback: timedelta
) -> None:
    entity = replace(
        VISITS, read=Postgres("visits", mode="incremental", cursor="updated_at", lookback=lookback)
    )
    create(world, "timestamp", "time", "timestamptz")
    assert world.land_rows(entity) == 20
    mark = position(world)["mark"]
    for gone in ("delete from visits where id <= 15", "truncate visits"):
        before = rows(world)
        world.app(gone)
        assert world.land_rows(entity) == len(before) - len(rows(world))
        assert world.live(entity, NAMES) == rows(world)
        assert position(world)["mark"] == mark
        assert world.land(entity) is None
    world.app("insert into visits values (30, now(), '10:00', now()), (31, now(), '10:00', now())")
    assert world.land_rows(entity) == 2
    assert position(world)["mark"] > mark
    world.app("insert into visits values (5, now(), '10:00', now() - interval '3 days')")  # below the mark
    assert world.land_rows(entity) == 1
    assert world.land(entity) is None
    assert world.live(entity, NAMES) == rows(world)


@pytest.fixture
def elsewhere(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A process and a database whose time zones are not UTC."""
    name = world.app("select current_database()")[0][0]
    world.app(f"alter database {name} set timezone = 'Asia/Tokyo'")
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield world
    monkeypatch.undo()
    time.tzset()


NAIVE = replace(
    VISITS,
    columns=(*VISITS.columns[:-1], Column("updated_at", "timestamp")),
    partition=Partition("began", "month"),
)
NOW = "(clock_timestamp() at time zone 'UTC')"


def without_lookback(entity: SourceEntity, **given: Any) -> SourceEntity:
    read = Postgres("visits", mode="incremental", cursor="updated_at", lookback=timedelta(0), **given)
    return replace(entity, read=read)


def create_naive(world: World) -> None:
    """As Rails makes and fills a table: its times in UTC, and no zone beside them."""
    world.app(
        "create table visits "
        "(id bigint primary key, began timestamp(6), opens time, updated_at timestamp(6))",
        f"insert into visits select i, {NOW} - i * interval '1 hour', '10:00', {NOW} - i * interval '1 hour' "
        "from generate_series(1, 20) as i",
    )


@pytest.mark.parametrize("entity", [NAIVE, without_lookback(NAIVE)], ids=["lookback", "no lookback"])
def test_a_table_is_read_by_a_time_without_time_zone_as_by_one_of_utc(
    elsewhere: World, entity: SourceEntity
) -> None:
    world = elsewhere
    create_naive(world)
    assert world.land_rows(entity) == 20
    newest = world.app("select max(updated_at) from visits")[0][0]
    assert position(world)["mark"] == newest.replace(tzinfo=UTC).isoformat()
    assert waiting(entity, position(world), world.services().settings) == {}
    assert world.land(entity) is None
    for number in range(3):
        world.app(
            f"update visits set opens = '11:0{number}', updated_at = {NOW} where id = {7 + number}",
            f"insert into visits values ({30 + number}, {NOW}, '12:00', {NOW})",
            f"delete from visits where id = {12 + number}",
        )
        assert world.land_rows(entity) == 3
        assert len(position(world)["recent"]) <= 3
        assert world.land(entity) is None
        assert world.live(entity, NAMES) == rows(world)
    world.app("delete from visits where id in (9, 32)")  # the newest
    assert world.land_rows(entity) == 2
    assert world.land(entity) is None
    world.app("truncate visits")
    assert world.land_rows(entity) > 0
    assert world.land(entity) is None
    assert world.live(entity, NAMES) == rows(world) == []
    world.app(f"insert into visits values (50, {NOW}, '12:00', {NOW})")
    assert world.land_rows(entity) == 1
    assert world.live(entity, NAMES) == rows(world)


def test_a_transaction_that_commits_late_is_not_missed_where_times_have_no_zone(elsewhere: World) -> None:
    world, entity = elsewhere, without_lookback(NAIVE, deletes_every=None)
    create_naive(world)
    assert world.land_rows(entity) == 20
    with psycopg.connect(world.app_dsn) as slow:
        slow.execute(f"insert into visits values (60, {NOW}, '12:00', {NOW})".encode())
        for number in (61, 62):
            world.app(f"insert into visits values ({number}, {NOW}, '12:00', {NOW})")
            assert world.land_rows(entity) == 1
        slow.commit()
    assert world.land_rows(entity) == 1
    assert world.land(entity) is None
    assert world.live(entity, NAMES) == rows(world)


def test_a_time_without_zone_that_lies_ahead_lands_once(elsewhere: World) -> None:
    world, entity = elsewhere, without_lookback(NAIVE, deletes_every=None)
    create_naive(world)
    world.app(
        f"insert into visits values (70, {NOW}, '12:00', '2099-01-01'), (71, {NOW}, '12:00', '2099-01-02')"
    )
    assert world.land_rows(entity) == 22
    assert position(world)["ahead"]["from"] == "2099-01-01T00:00:00+00:00"
    for number in range(4):
        world.app(f"insert into visits values ({80 + number}, {NOW}, '12:00', {NOW})")
        assert world.land_rows(entity) == 1
        assert len(position(world)["recent"]) <= 3
    world.app("update visits set opens = '13:00' where id = 70")
    assert world.land_rows(entity) == 1
    assert world.land(entity) is None
    assert world.live(entity, NAMES) == rows(world)


def test_a_cursor_that_is_neither_a_time_nor_a_whole_number_is_refused_before_anything_is_read(
    world: World,
) -> None:
    create(world, "timestamp", "time", "timestamptz")
    entity = replace(VISITS, read=Postgres("visits", mode="incremental", cursor="opens"))
    with pytest.raises(SourceRefused, match="the cursor column opens is neither a time nor a whole number"):
        world.land(entity)
    assert world.warehouse("select * from ops.position") == []
