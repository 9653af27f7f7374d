"""Stream and batch agree; where they do not, it is found, told, and made right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
import pytest

from flows.__main__ import main
from flows.maintenance.tending import leaves_ahead
from flows.streaming import reconcile as reconciling
from flows.streaming.keeper import keep_once
from flows.streaming.reconcile import reconcile
from quality import CheckResult
from tests.flows.streaming.topics import Topics
from tests.house import House
from transforms import registry
from transforms.registry import Registry

WRITERS = "select partition, last_batch from ops.hot_partition where table_name = 'fct_events'"


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
    topics.batch()
    topics.reconcile()
    assert {tuple(keys) for _, keys in topics.rows(indexes)} == {(True,)}
    topics.days_go_by()
    topics.reconcile()
    assert {len(keys) for _, keys in topics.rows(indexes)} == {3}


@pytest.mark.full
def test_what_agrees_belongs_to_the_batch_until_the_stream_reaches_it_again(topics: Topics) -> None:
    topics.batch()
    hot = _hot(topics)

    results = topics.reconcile()

    assert len(results) == hot
    assert all(result.passed for result in results)
    assert _hot(topics) == hot  # more can come of these days
    assert topics.reconcile() == []  # nothing moved since
    assert len(topics.reconcile(sealed_too=True)) == hot  # who asks is told
    topics.days_go_by()
    assert len(topics.reconcile()) == hot
    assert _hot(topics) == 0
    assert len(topics.reconcile(sealed_too=True)) == hot
    assert topics.reconcile() == []

    topics.send([topics.event(5000, minutes=10)], partition=1)
    topics.batch()  # the batch alone, and strictly
    topics.send([topics.event(5001, minutes=10)], partition=2)
    topics.stream()
    assert _hot(topics) == 1
    topics.batch()
    assert [result.passed for result in topics.reconcile()] == [True]
    assert len(topics.numbers()) == 2002


@pytest.mark.parametrize(
    "is_landed", [pytest.param(True, marks=pytest.mark.full), False], ids=["landed", "in the journal"]
)
def test_what_comes_between_comparing_and_sealing_keeps_its_partition_open(
    topics: Topics, monkeypatch: pytest.MonkeyPatch, is_landed: bool
) -> None:
    topics.batch()
    topics.days_go_by()
    hot = _hot(topics)
    came: list[str] = []

    def meanwhile(name: str) -> None:
        if name == "reconcile.indexed" and not came:
            came.append(name)
            topics.send([topics.event(5000, minutes=10)], partition=1)
            if is_landed:
                topics.stream()
            else:
                assert topics.dies("stream", "stream.committed")

    monkeypatch.setattr(reconciling, "failpoint", meanwhile)
    topics.reconcile()
    assert came
    assert 0 < _hot(topics) <= hot

    topics.stream()
    topics.batch()
    assert all(result.passed for result in topics.reconcile())
    assert _hot(topics) == 0
    assert len(topics.numbers()) == 2001


@pytest.mark.full
def test_what_was_equal_is_compared_again_once_something_moves_in_it(topics: Topics) -> None:
    topics.send([topics.event(3000, user_id=1)], partition=1)
    topics.stream()
    topics.batch()
    assert len(topics.reconcile()) == _hot(topics)
    day = topics.began.date().isoformat()
    ways: tuple[Callable[[], object], ...] = (topics.stream, topics.batch)
    for number, take_in in enumerate(ways):
        topics.send([topics.event(3001 + number, user_id=1)], partition=1)
        take_in()
        topics.batch()
        found = topics.reconcile()
        assert {(one.table, one.partition) for one in found} == {
            ("fct_events", day),
            ("user_event_counts", day),
        }
        assert all(one.passed for one in found)
        topics.reconcile()  # what the batch has read itself was counted by the last
        assert topics.reconcile() == []
    _tamper(topics)
    topics.days_go_by()
    assert [one.table for one in topics.reconcile() if not one.passed] == [
        "fct_events"
    ]  # before it is sealed


def test_a_row_that_is_missing_and_one_too_many_are_found_told_and_made_right(topics: Topics) -> None:
    topics.batch()
    topics.days_go_by()
    before, writers = topics.rows(), topics.rows(WRITERS)
    _tamper(topics)

    (failed,) = (result for result in topics.reconcile() if not result.passed)

    assert (failed.failing_rows, failed.observed["only_published"]) == (2, 1)
    assert _found(failed) == [
        (2, 99, None, "only published", None),
        (0, 7, topics.topic(), "only in the batch", None),
    ]
    assert "1 rows were published that the batch did not compute, 1 that it did were miss" in failed.message
    assert topics.rows() == before
    assert len({*topics.rows(WRITERS)}.difference(writers)) == 1  # streams that live look there again
    assert topics.left_over() == []
    assert _hot(topics) == 0


def test_a_wrong_value_in_any_column_of_a_sealed_day_is_found_told_and_made_right(topics: Topics) -> None:
    topics.batch()
    topics.days_go_by()
    topics.reconcile()
    before = topics.rows()
    wrong = {3: "event_type = 'x'", 4: "user_id = 77", 5: "properties = '{}'", 6: "page = null"}
    with psycopg.connect(topics.world.warehouse_dsn, autocommit=True) as connection:
        for offset, value in wrong.items():
            connection.execute(
                f"update analytics.fct_events set {value} where kafka_offset = {offset}".encode()
            )

    results = topics.reconcile(sealed_too=True)

    (failed,) = (result for result in results if not result.passed)
    assert (failed.failing_rows, failed.observed["with_other_values"]) == (4, 4)
    assert sorted(_found(failed)) == [
        (0, 3, topics.topic(), "other values", ["event_type"]),
        (0, 4, topics.topic(), "other values", ["user_id"]),
        (0, 5, topics.topic(), "other values", ["properties"]),
        (0, 6, topics.topic(), "other values", ["page"]),
    ]
    assert "4 had other values (event_type, page, properties, user_id)" in failed.message
    assert topics.rows() == before
    assert all(result.passed for result in topics.reconcile(sealed_too=True))
    assert topics.left_over() == []


def test_the_check_of_the_stream_fails_until_all_is_compared_and_equal(
    topics: Topics, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check() -> tuple[int, str]:
        return main(["check", "--stream"]), capsys.readouterr().out

    monkeypatch.setenv("ANALYTICS_WAREHOUSE_DSN", topics.world.warehouse_dsn)
    monkeypatch.setenv("ANALYTICS_LAKE", str(topics.world.lake))
    monkeypatch.setenv("ANALYTICS_KAFKA_BOOTSTRAP", topics.world.kafka_bootstrap)
    days = _hot(topics)
    assert check() == (1, f"{days} partitions wait for the batch, which computes them: python -m flows\n")
    topics.batch()
    topics.reconcile()

    code, said = check()

    assert (code, said.count("stream and batch agree")) == (0, days)
    _tamper(topics)
    code, said = check()
    assert code == 1
    assert "are corrected; their keys, topics and offsets are in ops.check_result" in said
    assert topics.rows(
        "select failing_rows, jsonb_array_length(observed -> 'named') from ops.check_result "
        "where rule = 'stream_agrees' and not passed"
    ) == [(2, 2)]
    assert check()[0] == 0


def _found(failed: CheckResult) -> list[tuple[Any, ...]]:
    """(partition, offset, topic, what is wrong, columns) of each row that was found; each has its key."""
    rows: Any = failed.observed["named"]
    assert all({"event_id", "event_time"} <= row.keys() for row in rows)
    return [
        (row["kafka_partition"], row["kafka_offset"], row["topic"], row["is"], row.get("columns"))
        for row in rows
    ]


def test_a_warehouse_without_a_stream_needs_no_topic(topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    topics.batch()
    topics.days_go_by()
    topics.reconcile()
    monkeypatch.setattr(registry, "entities", list)

    assert reconcile(topics.world.services()) == []


def test_runs_and_upkeep_go_on_where_the_models_of_the_topics_were_taken_away(topics: Topics) -> None:
    topics.batch()
    known, services = registry.default(), topics.world.services()
    gone = {name for entity in topics.entities for name in known.downstream(entity.table)}
    models = {name: model for name, model in known.models.items() if name not in gone}
    before = topics.rows()
    with services.lake, mock.patch.object(registry, "default", return_value=Registry(models, known.entities)):
        assert reconcile(services) == []
        assert keep_once(services) == ""
        assert leaves_ahead(services) == []
    assert topics.rows() == before


def test_a_day_that_the_batch_has_no_row_for_is_compared_too(topics: Topics) -> None:
    topics.send([topics.event(7000, minutes=20_000)], partition=1)
    topics.stream()
    topics.send([topics.event(7000, minutes=20_000 - 3000)], partition=0)  # another day: it takes the place
    topics.stream()
    topics.batch()
    topics.days_go_by()

    assert all(result.passed for result in topics.reconcile())

    assert _hot(topics) == 0


@pytest.mark.full
@pytest.mark.parametrize(
    "name", ["agreement.written", "reconcile.corrected", "reconcile.indexed", "reconcile.before_commit"]
)
def test_a_kill_while_it_is_made_right_is_made_good_by_the_next_time(topics: Topics, name: str) -> None:
    topics.batch()
    topics.days_go_by()
    before = topics.rows()
    _tamper(topics)

    assert topics.dies("reconcile", name)
    topics.reconcile()

    assert topics.rows() == before
    assert _hot(topics) == 0
    assert topics.left_over() == []
