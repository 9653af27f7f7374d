"""Change records become rows: every rule of Debezium's that a table's rows depend on."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.flows.extract.change_events import (
    NOON,
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
from transforms.contract import Column

FULL = "id, tags, image, attributes::varchar"
WHOLE = (["a", None], b"\x00\xff", '{"a": 1}')


@pytest.fixture(params=[False, True], ids=["plain", "with-schemas"])
def topic(request: pytest.FixtureRequest) -> Topic:
    return Topic(with_schemas=request.param)


def test_creates_updates_deletes_and_tombstones_leave_the_rows_of_the_source(topic: Topic) -> None:
    topic.send(created(row(1)), created(row(2)), created(row(3)))
    topic.send(updated(row(2, name="b")), deleted(3), tombstone(3))
    topic.land()
    assert topic.live() == [(1, "product 1"), (2, "b")]
    assert topic.problems == []


def test_a_change_says_when_the_source_committed_it_and_a_row_of_a_snapshot_does_not(topic: Topic) -> None:
    topic.send({**created(row(1)), "op": "r"}, {**updated(row(1, name="b")), "micros": 123_456})
    topic.land()
    assert topic.rows("select _changed_at, _lsn from raw order by _seq") == [
        (None, 1010),
        (NOON + timedelta(seconds=1, microseconds=123_456), 1020),
    ]


@pytest.mark.parametrize("cut", [False, True], ids=["one-landing", "two-landings"])
def test_a_value_that_was_not_sent_is_the_last_one_known(topic: Topic, cut: bool) -> None:
    topic.send(created(row(1)), updated(row(1, tags=["new"])))
    if cut:
        topic.land()
    topic.send(updated(unsent(row(1, name="b"), "tags", "image", "attributes")))
    topic.send(updated(unsent(row(1, name="c"), "tags", "image", "attributes")))
    topic.land()
    assert topic.live(FULL) == [(1, ["new"], *WHOLE[1:])]
    assert topic.rows(
        "select count(*) from raw where name like '%debezium%' or tags[1] like '%debezium%'"
    ) == [(0,)]


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_a_key_change_carries_what_was_not_sent_from_the_old_key(topic: Topic, cut: int) -> None:
    topic.send(created(row(1, tags=["one"])), created(row(2)))
    events = moved(1, unsent(row(9, name="moved"), "tags", "image"))
    topic.send(*events[:cut])
    topic.land()
    topic.send(*events[cut:])
    topic.land()
    assert topic.live("id, name, tags, image") == [
        (2, "product 2", *WHOLE[:2]),
        (9, "moved", ["one"], WHOLE[1]),
    ]


def test_keys_that_are_swapped_swap_what_was_not_sent(topic: Topic) -> None:
    topic.send(created(row(1, tags=["one"])), created(row(2, tags=["two"])))
    topic.land()
    for old, new in ((1, 3), (2, 1), (3, 2)):
        topic.send(*moved(old, unsent(row(new, name=f"was {old}"), "tags")))
    topic.land()
    assert topic.live("id, tags") == [(1, ["two"]), (2, ["one"])]


def test_a_row_made_anew_does_not_inherit_from_the_one_before(topic: Topic) -> None:
    topic.send(created(row(1, tags=["old"])), deleted(1), created(row(1, tags=None)))
    topic.send(updated(unsent(row(1, name="b"), "tags")))
    topic.land()
    assert topic.live("id, tags") == [(1, None)]


def test_a_value_that_nobody_knows_makes_a_dead_letter_and_no_placeholder(topic: Topic) -> None:
    topic.send(updated(unsent(row(1), "tags")), created(row(2)))
    topic.land()
    assert topic.live() == [(2, "product 2")]
    assert topic.problems == [(0, "tags was not sent, and no earlier value of it is known")]


def test_what_an_unreadable_change_sent_still_counts_as_the_last_value_known(topic: Topic) -> None:
    topic.send(created(row(1)), updated(row(1, tags=["new"], price="NAN")))
    topic.land()
    topic.send(updated(unsent(row(1), "tags")))
    topic.land()
    assert topic.live("id, tags") == [(1, ["new"])]
    assert topic.problems == [(1, "price can't be held as DECIMAL(12,2)")]


def test_a_truncate_ends_every_row_there_is_and_none_that_comes_after(topic: Topic) -> None:
    topic.send(created(row(1)), created(row(2)), deleted(2))
    topic.land()
    topic.send(created(row(3)), truncated(), created(row(4)), created(row(1, name="again")), truncated())
    topic.send(created(row(5)))
    topic.land()
    assert topic.live() == [(5, "product 5")]
    gone = (
        "select id, _changed_at from raw where _op = 'd' and _landed_at > (select min(_landed_at) from raw)"
    )
    at = [NOON + timedelta(seconds=second) for second in (4, 7)]
    assert sorted(topic.rows(gone)) == [(1, at[0]), (1, at[1]), (3, at[0]), (4, at[1])]


def test_a_delete_stands_in_the_window_of_the_row_it_ends_and_trusts_no_other_value(topic: Topic) -> None:
    topic.send(created(row(1, created_at="2025-03-05T00:00:00Z")))
    topic.land()
    topic.send(deleted(1), deleted(8))
    topic.land()
    assert topic.rows("select id, name, price, created_at from raw where _op = 'd'") == [
        (1, None, None, datetime(2025, 3, 5, tzinfo=UTC))
    ]


def test_a_delete_stands_where_its_row_is_and_not_where_an_unreadable_change_would_have_had_it(
    topic: Topic,
) -> None:
    topic.send(created(row(1)))
    topic.land()
    topic.send(updated(row(1, price="NaN", created_at="2025-03-01T00:00:00Z")))
    topic.land()
    topic.send(deleted(1))
    topic.land()
    assert topic.rows("select created_at::date::varchar from raw where _op = 'd'") == [("2025-10-07",)]
    assert topic.live() == []


def test_a_truncate_ends_a_row_whose_delete_was_sent_again_last(topic: Topic) -> None:
    topic.send(created(row(1)), deleted(1), created(row(1, name="made anew")))
    topic.land()
    topic.send_again(1)
    rest = topic.records.pop()
    topic.land()
    topic.records.append(rest)
    topic.send(truncated())
    topic.land()
    assert topic.live() == []


def test_a_delete_or_an_update_that_does_not_say_its_row_is_a_dead_letter_and_no_invented_key(
    topic: Topic,
) -> None:
    topic.send(
        created(row(0)), {**deleted(0), "key": {"name": "product"}}, {**updated(row(0)), "after": None}
    )
    topic.land()
    assert topic.live() == [(0, "product 0")]
    assert topic.problems == [(1, "its key can't be read"), (2, "there is no row in it")]


def test_the_fields_of_a_row_are_told_with_and_without_a_schema_around_them(topic: Topic) -> None:
    topic.send(created(row(1)), updated(row(1, more="x")))
    topic.land()
    assert topic.shapes == [tuple(row(1)), (*row(1), "more")]


def test_what_is_no_change_is_kept_and_changes_nothing(topic: Topic) -> None:
    topic.send(created(row(1)), None, {"key": {"prefix": "x"}, "op": "m", "before": None, "after": None})
    topic.land()
    assert topic.live() == [(1, "product 1")]
    assert topic.problems == []
    assert topic.landed[0].num_rows == 3


@pytest.mark.parametrize(
    "value",
    [b"nonsense", b"\xff\xfe", b"[1]", b"{}", b'{"op": "x"}', b'{"op": "c", "after": null}', b'"text"', b""],
)
def test_what_can_not_be_read_is_a_dead_letter_and_the_rest_go_on(value: bytes) -> None:
    topic = Topic()
    topic.send(created(row(1)), value, created(row(2)))
    topic.land()
    assert topic.live() == [(1, "product 1"), (2, "product 2")]
    assert [offset for offset, _ in topic.problems] == [1]
    assert topic.landed[0]["value"][1].as_py() == value


@pytest.mark.parametrize("first", [0, 2, 4])
@pytest.mark.parametrize("cut", [False, True], ids=["one-landing", "two-landings"])
def test_what_is_sent_again_changes_nothing(first: int, cut: bool) -> None:
    topic = Topic()
    topic.send(
        created(row(1)), updated(row(1, name="b")), truncated(), created(row(2)), updated(row(2, name="c"))
    )
    if cut:
        topic.land()
    topic.send_again(first)
    topic.land()
    assert topic.live() == [(2, "c")]
    assert topic.rows("select id, name, _op from raw order by _landed_at, _seq") == [
        (1, "product 1", "r"),
        (1, "b", "r"),
        (1, None, "d"),
        (2, "product 2", "r"),
        (2, "c", "r"),
    ]


def test_rows_that_were_read_before_are_one_relation_with_the_changes() -> None:
    topic = Topic()
    at = datetime(2025, 10, 1, tzinfo=UTC)
    topic.read(
        {
            "id": 1,
            "name": "read",
            "tags": ["t"],
            "image": b"\x01\x02",
            "attributes": '{"r": 1}',
            "created_at": at,
        }
    )
    topic.read({"id": 2, "name": "kept", "created_at": at})
    topic.send(updated(unsent(row(1, name="changed"), "tags", "image", "attributes")))
    topic.land()
    assert topic.live("id, name, tags, image, attributes::varchar, created_at, _changed_at is null") == [
        (1, "changed", ["t"], b"\x01\x02", '{"r": 1}', datetime(2025, 10, 7, tzinfo=UTC), False),
        (2, "kept", None, None, None, at, True),
    ]
    topic.send(deleted(2))
    topic.land()
    topic.read({"id": 3, "name": "read again", "created_at": at})
    assert topic.live() == [(1, "changed"), (3, "read again")]


@pytest.mark.parametrize("cut", [False, True], ids=["one-landing", "two-landings"])
def test_a_row_that_a_snapshot_shows_in_another_window_leaves_the_one_it_was_in(cut: bool) -> None:
    topic = Topic()
    topic.send(created(row(1, created_at="2025-03-05T00:00:00Z")))
    if cut:
        topic.land()
    topic.send({**created(row(1, name="anew")), "op": "r"})
    topic.land()
    assert topic.live() == [(1, "anew")]
    assert topic.rows("select _op, strftime(created_at, '%Y-%m') from raw order by _landed_at, _seq") == [
        ("r", "2025-03"),
        ("d", "2025-03"),
        ("r", "2025-10"),
    ]


@pytest.mark.parametrize("cut", [False, True], ids=["one-landing", "two-landings"])
def test_a_row_that_an_update_moves_to_another_window_leaves_the_one_it_was_in(cut: bool) -> None:
    topic = Topic()
    march, april = "2025-03-31T23:30:00Z", "2025-04-01T00:30:00Z"
    topic.send(created(row(1, created_at=march)), created(row(2, created_at=march)))
    if cut:
        topic.land()
    topic.send(updated(row(1, created_at=april)), updated(row(2, created_at=march, name="stays")))
    topic.send(updated(row(1, created_at=march)), updated(row(1, created_at=april, name="moved")))
    topic.land()
    assert topic.live() == [(1, "moved"), (2, "stays")]
    assert topic.in_windows() == [("2025-03", 2), ("2025-04", 1)]
    topic.send(updated(row(1, created_at=march)))
    topic.land()
    assert topic.in_windows() == [("2025-03", 1), ("2025-03", 2)]
    topic.send(deleted(1))
    topic.land()
    assert topic.in_windows() == [("2025-03", 2)]
    assert topic.rows("select count(*) from raw where _op = 'd'") == [(5,)]


def test_a_column_declared_later_is_seen_in_past_changes_too() -> None:
    topic = Topic()
    topic.send(created(row(1, colour="red")))
    topic.land()
    topic.entity = dataclasses.replace(PRODUCTS, columns=(*PRODUCTS.columns, Column("colour", "varchar")))
    assert topic.live("id, colour") == [(1, "red")]


SAMPLES = Path(__file__).parents[4] / "shared" / "data" / "debezium"


@pytest.mark.skipif(not SAMPLES.exists(), reason="Debezium's own samples are not here")
def test_the_samples_of_debezium_s_manual_are_read() -> None:
    columns = ("id", "first_name", "last_name", "email")
    customers = dataclasses.replace(
        PRODUCTS,
        columns=tuple(Column(name, "bigint" if name == "id" else "varchar") for name in columns),
        partition=None,
    )
    topic = Topic(entity=customers)
    events = {path.stem[-3:]: path.read_bytes() for path in sorted(SAMPLES.glob("*.json"))}
    topic.send(events["006"], events["007"])
    topic.land()
    assert topic.live("*exclude (_batch_id, _landed_at, _seq, _changed_at, _registered_at, _lsn)") == [
        (1, "Anne Marie", "Kretchmar", "annek@noanswer.org", "r")
    ]
    topic.send(events["008"], events["010"], events["001"], events["002"], events["004"], events["009"])
    topic.land()
    assert topic.live("id") == []
    assert [offset for offset, _ in topic.problems] == [4, 5, 6]
