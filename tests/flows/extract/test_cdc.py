"""Landing a change topic: every record once, in the windows that it touches, and nothing silently."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from flows import redelivery
from flows.cdc import pending
from flows.extract import SourceError
from flows.extract.waiting import waiting
from flows.sandbox import Part
from tests.flows.extract.captured_shop import DDL, Shop
from tests.flows.extract.change_events import (
    PRODUCTS,
    Topic,
    created,
    deleted,
    row,
    tombstone,
    truncated,
    unsent,
    updated,
)
from tests.flows.extract.parts import World
from tests.house import House


@pytest.fixture
def shop(house: House, tmp_path: Path) -> Shop:
    world = World.build(house.server(), tmp_path, cdc_prefix=f"t{os.urandom(4).hex()}")
    world.kafka_bootstrap = house.kafka
    world.app(DDL)
    return Shop(world, Topic())


def test_changes_land_once_and_say_which_windows_they_touch(shop: Shop) -> None:
    shop.make_topic()
    shop.send(created(row(1)), created(row(2, created_at="2025-03-05T00:00:00Z")))
    landing = shop.land()
    assert landing is not None
    assert landing.windows == {"2025-03": 1, "2025-10": 1}
    shop.send(updated(unsent(row(1, name="b"), "tags", "image")), deleted(2), tombstone(2), deleted(9))
    landing = shop.land()
    assert landing is not None
    assert (landing.rows, landing.windows) == (4, {"2025-03": 1, "2025-10": 1})
    assert shop.land() is None
    assert shop.live("id, name, tags, image") == [(1, "b", ["a", None], b"\x00\xff")]
    assert shop.positions()["offsets"] == {"0": 6}


def test_markers_of_transactions_behind_the_last_record_are_nothing_to_wait_for(shop: Shop) -> None:
    shop.make_topic()
    shop.send(created(row(1)))
    shop.land()
    producer = Producer({"bootstrap.servers": shop.world.kafka_bootstrap, "transactional.id": shop.name})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(shop.name, b"given up", partition=0)
    producer.flush(20)
    producer.abort_transaction(20)
    assert shop.land() is None
    assert shop.live("id") == [(1,)]


def test_ends_of_transactions_are_heeded_though_their_topic_was_made_anew(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.make_topic()
    shop.end_transactions(*range(900, 905), records=0)
    shop.send(created(row(1)))
    shop.end_transactions(shop.topic.lsn)
    shop.land()
    assert shop.positions()["transactions"] == 6
    shop.forget_transactions()
    shop.send(created(row(2)))
    shop.end_transactions(shop.topic.lsn, records=2)
    monkeypatch.setattr(pending, "STALL_SECONDS", 0.5)
    shop.land()
    ((lacking, reason),) = shop.world.warehouse("select transaction, reason from ops.incomplete_transaction")
    assert (lacking, reason) == (shop.topic.lsn, "a change of it did not come")


def test_a_tombstone_alone_touches_no_window(shop: Shop) -> None:
    shop.make_topic()
    shop.send(created(row(1)))
    shop.land()
    shop.send(tombstone(1))
    landing = shop.land()
    assert landing is not None
    assert (landing.rows, landing.windows) == (1, {})


def test_what_can_not_be_read_is_a_dead_letter_with_its_place_and_bytes(shop: Shop) -> None:
    shop.make_topic()
    shop.send(created(row(1)), b"nonsense", updated(row(1, price="NAN")), created(row(2)))
    landing = shop.land()
    assert landing is not None
    assert landing.dead_letters == 2
    assert shop.live() == [(1, "product 1"), (2, "product 2")]
    letters = shop.world.warehouse(
        "select topic, kafka_partition, kafka_offset, reason, payload from ops.dead_letter order by 3"
    )
    assert letters[0] == (shop.name, 0, 1, "it is no change event of Debezium", b"nonsense")
    assert letters[1][2:4] == (2, "price can't be held as DECIMAL(12,2)")
    assert letters[1][4] == shop.topic.records[2]["value"]


def test_a_change_to_a_row_that_no_window_can_hold_leaves_it_as_it_was(shop: Shop) -> None:
    shop.make_topic()
    shop.send(created(row(1)), updated(row(1, name="nowhere", created_at=None)), created(row(2)))
    landing = shop.land()
    assert landing is not None
    assert (landing.dead_letters, "" in (landing.windows or {})) == (1, False)
    assert shop.live() == [(1, "product 1"), (2, "product 2")]
    assert shop.world.warehouse("select kafka_offset, reason from ops.dead_letter") == [
        (1, "created_at is null")
    ]
    shop.send(updated(row(1, name="again")))
    shop.land()
    assert shop.live() == [(1, "again"), (2, "product 2")]


def test_a_dead_letter_of_a_change_is_mended_at_the_source(shop: Shop) -> None:
    shop.make_topic()
    shop.send(created(row(1)), updated(row(1, price="NAN")))
    shop.land()
    ((letter,),) = shop.world.warehouse("select letter_id from ops.dead_letter")
    (outcome,) = redelivery.redeliver(shop.world.services(), [letter], "run-again")
    assert "mend the row in the application's database" in outcome.reason
    shop.send(updated(row(1, name="mended")))
    shop.land()
    assert shop.live() == [(1, "mended")]


def test_plan_is_told_how_many_changes_wait(shop: Shop) -> None:
    shop.make_topic()
    shop.send(created(row(1)), created(row(2)))
    shop.land()
    shop.send(updated(row(1, name="b")))
    settings = shop.world.services().settings
    found = waiting(shop.entity(), shop.positions(), settings)
    assert found is not None
    assert [*found.values()] == [1]


def test_a_topic_of_two_partitions_has_no_order_and_is_refused(shop: Shop) -> None:
    shop.make_topic(partitions=2)
    shop.send(created(row(1)))
    with pytest.raises(SourceError, match="has 2 partitions, and changes keep their order in one only"):
        shop.land()
    assert shop.world.warehouse("select count(*) from ops.ledger") == [(0,)]


def test_a_table_without_its_topic_stops_with_what_to_do(shop: Shop) -> None:
    with pytest.raises(SourceError, match=f"There is no topic {shop.name}.*: python -m flows cdc unregister"):
        shop.land()


# ----------------------------------------------------------------------------------------------- other fields

NEW = row(2, colour="red")
LACKING = {name: value for name, value in row(2).items() if name != "name"}


def changes(shop: Shop) -> list[tuple[Any, ...]]:
    return shop.world.warehouse(
        "select table_name, column_name, change, contract, kafka_offset from ops.schema_change order by 2"
    )


def test_evolve_lets_a_new_field_pass_with_one_warning(shop: Shop) -> None:
    shop.make_topic()
    shop.send(created(row(1)), created(NEW))
    landing = shop.land(on_change="evolve")
    assert landing is not None
    (warning,) = landing.warnings
    assert warning.startswith(
        "app.products: the database has a column colour that nobody declared, from offset 1"
    )
    assert changes(shop) == [("raw_app__products", "colour", "added", "evolve", 1)]
    shop.send(created(row(3, colour="blue")))
    landing = shop.land(on_change="evolve")
    assert landing is not None
    assert landing.warnings == ()
    assert shop.live("id") == [(1,), (2,), (3,)]


@pytest.mark.parametrize(
    ("contract", "after", "said", "change"),
    [
        ("freeze", NEW, "has a column colour that nobody declared", "added"),
        ("freeze", LACKING, "has no column name any more", "missing"),
        ("evolve", LACKING, "has no column name any more", "missing"),
    ],
)
def test_what_the_contract_does_not_let_pass_stops_the_table_and_waits_in_the_topic(
    shop: Shop, contract: str, after: dict[str, Any], said: str, change: str
) -> None:
    shop.make_topic()
    shop.send(created(row(1)))
    shop.land(on_change=contract)
    shop.send(created(row(5)), created(after))
    with pytest.raises(SourceError, match=said):
        shop.land(on_change=contract)
    assert shop.live("id") == [(1,)]
    assert shop.positions()["offsets"] == {"0": 1}
    assert [found[2:] for found in changes(shop)] == [(change, contract, 2)]


def test_quarantine_makes_records_that_differ_dead_letters(shop: Shop) -> None:
    shop.make_topic()
    shop.send(created(row(1)), created(NEW), created({**LACKING, "id": 3}), created(row(4)))
    landing = shop.land(on_change="quarantine")
    assert landing is not None
    assert landing.dead_letters == 2
    assert shop.live("id") == [(1,), (4,)]
    assert [found[1:4] for found in changes(shop)] == [
        ("colour", "added", "quarantine"),
        ("name", "missing", "quarantine"),
    ]


# --------------------------------------------------------------------------------------------- change of mode


def as_row(shop: Shop, key: int, name: str) -> None:
    shop.world.app(
        f"insert into products values ({key}, '{name}', 1.50, '{{a}}', '\\x00ff', '{{\"a\": 1}}', "
        "'2025-10-07') "
        f"on conflict (id) do update set name = excluded.name, updated_at = clock_timestamp()"
    )


def test_what_was_told_is_not_landed_again_by_reads_that_find_nothing_new(shop: Shop) -> None:
    shop.make_topic()
    for key in (1, 2, 3):
        as_row(shop, key, f"told {key}")
        shop.send({**created(row(key, name=f"told {key}", tags=["a"])), "op": "r"})
    shop.world.app("update products set updated_at = '2025-10-07'")
    shop.land()
    assert [shop.land("incremental") for _ in range(4)] == [None] * 4


@pytest.mark.parametrize("other", ["incremental", pytest.param("snapshot", marks=pytest.mark.full)])
def test_a_change_of_mode_there_and_back_loses_and_doubles_nothing(shop: Shop, other: str) -> None:
    for key in (1, 2, 3):
        as_row(shop, key, f"read {key}")
    shop.land(other)
    # Between the last read and the connector's snapshot: one goes, one changes, one comes.
    shop.world.app("delete from products where id = 1")
    as_row(shop, 2, "changed")
    as_row(shop, 4, "new")
    shop.make_topic()
    read = {"op": "r"}
    shop.send(
        *(
            {**created(row(key, name=name)), **read}
            for key, name in ((2, "changed"), (3, "read 3"), (4, "new"))
        )
    )
    landing = shop.land()
    assert landing is not None
    assert landing.windows == {"2025-10": 4}
    assert shop.live() == [(2, "changed"), (3, "read 3"), (4, "new")]
    assert shop.world.seen(PRODUCTS, "select id, created_at::date::varchar from raw where _op = 'd'") == [
        (1, "2025-10-07")
    ]
    shop.send(updated(unsent(row(3, name="told"), "tags")))
    as_row(shop, 3, "told")
    shop.land()
    assert shop.live("id, name, tags") == [
        (2, "changed", ["a", None]),
        (3, "told", ["a", None]),
        (4, "new", ["a", None]),
    ]

    # Back: what happened since, and was not told, is found by the first read.
    shop.world.app("delete from products where id = 2")
    as_row(shop, 4, "read again")
    shop.land(other)
    assert shop.live() == [(3, "told"), (4, "read again")]
    assert shop.land(other) is None

    # And to the changes again, which go on where they had got to.
    shop.send(deleted(2), tombstone(2), updated(row(4, name="read again")), deleted(3))
    shop.world.app("delete from products where id = 3")
    landing = shop.land()
    assert landing is not None
    assert landing.rows == 4
    assert shop.live() == [(4, "read again")]


def test_what_went_between_two_first_reads_of_a_connector_that_was_ended_is_found(shop: Shop) -> None:
    def read(*keys: int) -> None:
        shop.send(*({**created(row(key)), "op": "r"} for key in keys))
        shop.land()

    for key in (1, 2, 3):
        as_row(shop, key, f"product {key}")
    shop.make_topic()
    read(1, 2)
    shop.world.app("delete from products where id = 1")
    shop.topic.reading += 1
    read(2)
    assert shop.live("id") == [(2,)]
    # The rest of the same reading goes on; nothing is asked for again.
    shop.world.app("delete from products where id = 3")
    read(3)
    assert shop.live("id") == [(2,), (3,)]


def test_a_truncate_is_a_delete_of_every_row_in_its_window(shop: Shop) -> None:
    shop.make_topic()
    shop.send(created(row(1)), created(row(2, created_at="2025-03-05T00:00:00Z")))
    shop.land()
    shop.send(truncated(), created(row(3, created_at="2025-01-01T00:00:00Z")))
    landing = shop.land()
    assert landing is not None
    assert landing.windows == {"2025-01": 1, "2025-03": 1, "2025-10": 1}
    assert shop.live("id") == [(3,)]


def test_a_source_that_nobody_captures_halts_the_table_before_anything_is_read(
    house: House, connect: str, shop: Shop
) -> None:
    address = house.parts(Part.APP_POSTGRES).app_dsn
    assert address is not None
    shop.world.app_dsn = address
    shop.world.settings["connect_url"] = connect
    with pytest.raises(SourceError, match=r"app\.products is halted: .*cdc register"):
        shop.world.land(shop.entity(), is_watched=True)
