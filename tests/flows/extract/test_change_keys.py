"""Which row a change is about, and which changes are one."""

from __future__ import annotations

import pytest

from tests.flows.extract.change_events import Topic, created, deleted, row, updated


@pytest.mark.parametrize("again", [False, True])
def test_changes_of_one_transaction_are_told_apart_by_place_and_key(again: bool) -> None:
    """A COPY has many rows at one place, and so has a change of a key."""
    topic = Topic()
    topic.send(created(row(1)), created(row(2)))
    topic.land()
    topic.send(
        *(
            {**updated(row(1, name=name)), "at": (1500, place, 7)}
            for name, place in (("a", 2000), ("b", 2010))
        ),
        *({**event, "at": (1500, 2020, 7)} for event in (deleted(2, new=3), created(row(3), {"id": 2}))),
        *({**created(row(key)), "at": (1500, 2030, 7)} for key in (4, 5)),
    )
    topic.land()
    if again:
        topic.send_again(2)
        topic.land()
    assert topic.live() == [(1, "b"), (3, "product 3"), (4, "product 4"), (5, "product 5")]
    ignored = [one for table in topic.landed for one in table["_ignored"].to_pylist()]
    assert ignored.count("duplicate") == (6 if again else 0)


def test_a_table_without_a_key_moves_a_row_by_its_row_before() -> None:
    topic = Topic()
    topic.send({**created(row(1)), "key": None})
    topic.send({**updated(row(2)), "key": None, "before": row(1)})
    topic.send({**deleted(2), "key": None, "before": row(2)}, {"key": None, "tombstone": True})
    topic.send({**created(row(3)), "key": None})
    topic.land()
    assert topic.live() == [(3, "product 3")]
    assert sorted(topic.rows("select id from raw where _op = 'd'")) == [(1,), (2,)]


def test_a_table_whose_key_is_another_one_moves_a_row_by_its_row_before() -> None:
    topic = Topic()
    topic.send(created(row(1)), {**updated(row(2)), "key": {"name": "product"}, "before": row(1)})
    topic.land()
    assert topic.live() == [(2, "product 2")]
    assert topic.problems == []


def test_a_change_that_names_its_row_by_another_key_alone_is_a_dead_letter() -> None:
    topic = Topic()
    topic.send(created(row(1)), {**updated(row(2)), "key": {"name": "product"}})
    topic.land()
    assert topic.live() == [(1, "product 1")]
    assert topic.problems == [(1, "its key is not the declared one")]
