"""Times that a table is read by or keeps: with fewer decimals, without a time zone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal

import pytest

from flows.extract import SchemaChanged
from flows.landing import Landing
from tests.flows.extract.parts import World
from transforms.contract import Column
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
