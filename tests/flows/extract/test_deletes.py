"""Deletes by declaration: what models see of a row that is gone, in every mode."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from flows.lakeshell import lake_sql
from tests.flows.extract.change_events import (
    PRODUCTS,
    Topic,
    created,
    deleted,
    moved,
    row,
    tombstone,
    truncated,
    unsent,
    updated,
)
from tests.flows.extract.parts import ORDERS, ORDERS_DDL, World
from tests.house import House
from transforms import engine, registry
from transforms.entities import Postgres, SourceEntity
from transforms.registry import Registry

MODEL = """
/* ---
grain: one row per thing, deleted ones too
key: [id]
--- */
with latest as (
    select * from {raw} qualify row_number() over (partition by id order by _landed_at desc, _seq desc) = 1
)

select
    id::bigint as id, -- Key
    {value}::varchar as value, -- What it is
    (_deleted_at is not null)::boolean as is_deleted -- Whether it is gone
from latest
"""


def marking(entity: SourceEntity, **read: Any) -> SourceEntity:
    assert isinstance(entity.read, Postgres)
    return dataclasses.replace(entity, read=dataclasses.replace(entity.read, deletes="mark", **read))


def modelled(folder: Path, entity: SourceEntity, value: str) -> Registry:
    """A staging model that keeps deleted rows, over the entity."""
    path = folder / "models" / "staging" / "stg_app__things.sql"
    path.parent.mkdir(parents=True)
    path.write_text(MODEL.format(raw=entity.table, value=value), encoding="utf-8")
    return registry.read(folder / "models", [entity])


@pytest.mark.parametrize("mode", ["incremental", "snapshot"])
def test_a_row_that_is_found_gone_keeps_its_last_values(house: House, tmp_path: Path, mode: Any) -> None:
    world = World.build(house.server(), tmp_path)
    cursor = "updated_at" if mode == "incremental" else None
    orders = marking(ORDERS, mode=mode, cursor=cursor)
    world.app(
        ORDERS_DDL,
        "insert into orders values (1, 1.50, 'EUR', '2025-03-01'), (2, 2.50, 'USD', '2025-03-01')",
    )
    world.land(orders)
    world.app("update orders set amount = 3.50, updated_at = clock_timestamp() where id = 2")
    world.land(orders)
    world.app("delete from orders where id = 2")
    landing = world.land(orders)
    assert landing is not None
    assert landing.windows is not None
    assert landing.windows["2025-03"] >= 1
    models = modelled(tmp_path, orders, "concat(amount, ' ', currency)")
    services = world.services()
    connection = engine.connect(threads=1)
    with services.ledger() as ledger:
        raw = services.lake.read(connection, ledger.files(orders.table))
    rows = engine.run("stg_app__things", connection, {orders.table: raw}, registry=models)
    assert sorted(rows.fetchall()) == [(1, "1.50 EUR", False), (2, "3.50 USD", True)]
    with services.ledger() as ledger:
        files = {orders.table: ledger.files(orders.table)}
    connection.execute(
        lake_sql(services.lake.root, [models.table(orders.table)], files, {orders.table: orders})
    )
    shown = connection.execute(
        f"select id, _deleted_at = _landed_at from {orders.table} where _op = 'd' and _deleted_at is not null"
    ).fetchall()
    assert shown == [(2, True)]


def told(tmp_path: Path, topic: Topic) -> list[tuple[Any, ...]]:
    models = modelled(tmp_path, topic.entity, "concat(name, ' ', tags[1])")
    connection = engine.connect(threads=1)
    import pyarrow as pa

    connection.register("files", pa.concat_tables(topic.landed, promote_options="default"))
    inputs = {topic.entity.table: "select * from files"}
    return sorted(engine.run("stg_app__things", connection, inputs, registry=models).fetchall())


def test_a_change_that_tells_a_delete_keeps_the_last_values_also_those_not_sent(tmp_path: Path) -> None:
    topic = Topic(marking(PRODUCTS))
    topic.send(created(row(1)), created(row(2)), created(row(3, name="three")))
    topic.land()
    topic.send(updated(unsent(row(1, name="one"), "tags")), deleted(1), tombstone(1))
    topic.send(deleted(2), tombstone(2), created(row(2, name="back")))
    topic.land()
    topic.send(deleted(3), tombstone(3), *moved(2, unsent(row(4, name="moved"), "tags")))
    topic.land()
    assert told(tmp_path, topic) == [
        (1, "one a", True),
        (2, "back a", True),
        (3, "three a", True),
        (4, "moved a", False),
    ]


def test_a_truncate_marks_every_row_with_its_last_values(tmp_path: Path) -> None:
    topic = Topic(marking(PRODUCTS))
    topic.send(created(row(1)), created(row(2)))
    topic.land()
    topic.send(updated(row(2, name="two")), created(row(3, name="three")), truncated())
    topic.send(created(row(1, name="again")))
    topic.land()
    assert told(tmp_path, topic) == [(1, "again a", False), (2, "two a", True), (3, "three a", True)]


def test_by_default_a_delete_tells_its_key_alone() -> None:
    topic = Topic()
    topic.send(created(row(1)), deleted(1))
    topic.land()
    assert topic.rows("select _op, name from raw order by _seq") == [("r", "product 1"), ("d", None)]
