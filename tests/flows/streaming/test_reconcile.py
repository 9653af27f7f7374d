"""Stream and batch agree; where they do not, it is found, told, and made right."""

from __future__ import annotations

import signal
from pathlib import Path

import psycopg
import pytest

from flows.streaming.reconcile import reconcile
from tests.flows.streaming.topics import Topics
from tests.house import House
from transforms import registry


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    topics = Topics.build(house, tmp_path)
    topics.send(topics.event(number, minutes=number) for number in range(2000))
    topics.stream()
    return topics


def _hot(topics: Topics) -> int:
    ((count,),) = topics.rows("select count(*) from ops.hot_partition where sealed_at is null")
    return int(count)


def _tamper(topics: Topics) -> None:
    """Take a row away, and put one in that nobody sent."""
    with psycopg.connect(topics.world.warehouse_dsn, autocommit=True) as connection:
        connection.execute("delete from analytics.fct_events where kafka_offset = 7")
        connection.execute(
            "insert into analytics.fct_events "
            "(event_id, event_type, event_time, kafka_partition, kafka_offset) "
            "select gen_random_uuid(), 'login', event_time, 2, 99 "
            "from analytics.fct_events where kafka_offset = 8"
        )


def test_before_the_batch_has_computed_it_nothing_is_compared(topics: Topics) -> None:
    hot = _hot(topics)
    assert hot > 0
    assert topics.reconcile() == []
    assert _hot(topics) == hot


def test_a_leaf_has_its_key_alone_until_it_is_sealed(topics: Topics) -> None:
    """Each further index would have to be kept with every row that the stream writes."""
    indexes = (
        "select c.relname, array_agg(pg_get_indexdef(i.indexrelid) like '%%(event_id, event_time)%%') "
        "from pg_index i join pg_class c on c.oid = i.indrelid "
        "where c.relname like 'fct_events_2%%' group by 1"
    )
    assert {tuple(keys) for _, keys in topics.rows(indexes)} == {(True,)}
    topics.batch()
    topics.reconcile()
    assert {len(keys) for _, keys in topics.rows(indexes)} == {3}


def test_what_agrees_belongs_to_the_batch_until_the_stream_reaches_it_again(topics: Topics) -> None:
    topics.batch()
    hot = _hot(topics)

    results = topics.reconcile()

    assert len(results) == hot
    assert all(result.passed for result in results)
    assert _hot(topics) == 0
    assert topics.reconcile() == []

    topics.send([topics.event(5000, minutes=10)], partition=1)
    topics.batch()  # the batch alone, and strictly
    topics.send([topics.event(5001, minutes=10)], partition=2)
    topics.stream()
    assert _hot(topics) == 1
    topics.batch()
    assert [result.passed for result in topics.reconcile()] == [True]
    assert len(topics.numbers()) == 2002


def test_a_row_that_is_missing_and_one_too_many_are_found_told_and_made_right(topics: Topics) -> None:
    topics.batch()
    before = topics.rows()
    _tamper(topics)

    (failed,) = (result for result in topics.reconcile() if not result.passed)

    assert (failed.failing_rows, failed.observed["only_in_the_stream"]) == (2, 1)
    assert failed.observed["places"] == [[2, 99], [0, 7]]
    assert "1 rows that the batch did not compute, and lacked 1" in failed.message
    assert topics.rows() == before
    assert topics.left_over() == []
    assert _hot(topics) == 0


def test_a_warehouse_without_a_stream_needs_no_topic(topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    topics.batch()
    topics.reconcile()
    monkeypatch.setattr(registry, "entities", list)

    assert reconcile(topics.world.services()) == []


def test_a_day_that_the_batch_has_no_row_for_is_compared_too(topics: Topics) -> None:
    topics.send([topics.event(7000, minutes=20_000)], partition=1)
    topics.stream()
    topics.send([topics.event(7000, minutes=20_000 - 3000)], partition=0)  # another day: it takes the place
    topics.stream()
    topics.batch()

    assert all(result.passed for result in topics.reconcile())

    assert _hot(topics) == 0


@pytest.mark.full
@pytest.mark.parametrize(
    "name", ["publish.copied", "reconcile.corrected", "reconcile.indexed", "reconcile.before_commit"]
)
def test_a_kill_while_it_is_made_right_is_made_good_by_the_next_time(topics: Topics, name: str) -> None:
    topics.batch()
    before = topics.rows()
    _tamper(topics)

    assert topics.die("reconcile", name) == -signal.SIGKILL
    topics.reconcile()

    assert topics.rows() == before
    assert _hot(topics) == 0
    assert topics.left_over() == []
