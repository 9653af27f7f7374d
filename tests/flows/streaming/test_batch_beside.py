"""What a batch publishes while a stream lives is known to it, in days that no stream ever wrote as well."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from flows import deadletters
from flows.stores.ledger import Conflict
from flows.stores.publication import BuiltPartition
from flows.streaming import taking_in
from flows.streaming.beside import not_built_yet
from flows.streaming.reconcile import waiting
from tests.flows.streaming.topics import Topics, until
from tests.house import House
from transforms import registry

BUILT, NEW = 4 * 24 * 60, 3 * 24 * 60
"""Minutes ago: a day that a batch built, and one that has no leaf."""
TAKEN_IN = "select coalesce(sum(next_offset), 0)::bigint from ops.stream_partition"


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    """Events of today and of the day that was built, and two letters."""
    topics = Topics.build(house, tmp_path)
    topics.send([topics.event(1), topics.event(2, minutes=BUILT), b"one", b"two"], partition=1)
    topics.batch()
    return topics


def test_copies_of_what_a_batch_published_meanwhile_are_left_out_or_take_its_place(topics: Topics) -> None:
    repaired = {b"one": topics.event(3, minutes=BUILT), b"two": topics.event(4, minutes=NEW)}
    with topics.living() as living:
        topics.send([topics.event(5)])
        until(lambda: topics.numbers()[-1][0] == 5)  # it has learned what stands
        services = topics.world.services()
        with services.warehouse.connect() as connection:
            stored = deadletters.load(connection, deadletters.waiting(connection))
        for letter in stored:
            assert letter.payload is not None
            topics.replay([letter.letter_id], given=json.dumps(repaired[letter.payload]).encode())
        topics.batch()
        assert [number for number, _, _ in topics.numbers()] == [1, 2, 3, 4, 5]

        topics.send([topics.event(3, minutes=1), topics.event(4, minutes=NEW)], partition=2)
        topics.send([topics.event(4, minutes=1), topics.event(6)], partition=0)
        until(lambda: living.done() or topics.rows(TAKEN_IN) == [(9,)])
        assert topics.numbers() == [(1, 1, 0), (2, 1, 1), (3, 1, 2), (4, 0, 1), (5, 0, 0), (6, 0, 2)]
    tally = living.result()
    assert tally.interruptions == 0
    before = topics.rows()
    topics.batch()
    assert topics.rows() == before
    assert [one.message for one in topics.reconcile() if not one.passed and one.table == "fct_events"] == []


def test_a_day_of_the_stream_is_made_equal_only_to_what_staging_holds_now_and_stands_still_meanwhile(
    house: House, tmp_path: Path
) -> None:
    topics = Topics.build(house, tmp_path)
    topics.send([topics.event(1)])
    topics.stream()
    services, table = topics.world.services(), registry.table("fct_events")
    built = BuiltPartition(table.name, topics.began.date().isoformat(), ())  # before staging held anything
    moved = replace(built, based_on={"stg_events__user_events": "of another build"})
    with (
        services.lake,
        services.warehouse.connect() as batch,
        psycopg.connect(topics.world.warehouse_dsn, autocommit=True) as streaming,
    ):
        with pytest.raises(Conflict, match="was changed by somebody else"), batch.transaction():
            not_built_yet(services, table, batch, [moved])
        streaming.execute("set lock_timeout = '100ms'")
        with batch.transaction():
            assert len(not_built_yet(services, table, batch, [built]).values) == 1
            with pytest.raises(psycopg.errors.LockNotAvailable):
                streaming.execute("insert into ops.stream_batch (batch_id) select '' where false")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                streaming.execute("delete from ops.stream_batch")
        streaming.execute("delete from ops.stream_batch")


def test_what_is_journaled_and_landed_nowhere_is_the_streams_too(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = Topics.build(house, tmp_path)
    monkeypatch.setattr(taking_in, "land", lambda *_, **__: None)
    topics.send([topics.event(1), b"no event"])
    topics.stream()
    topics.send([topics.event(2)], partition=1)
    topics.stream()
    services, table = topics.world.services(), registry.table("fct_events")
    built = BuiltPartition(table.name, topics.began.date().isoformat(), ())
    with services.lake, services.warehouse.connect() as batch, batch.transaction():
        streamed = not_built_yet(services, table, batch, [built])
    assert len(streamed.values) == 2


def test_a_day_that_only_batches_write_is_no_day_of_the_stream(topics: Topics) -> None:
    topics.send([topics.event(3, minutes=BUILT)], partition=1)
    topics.batch()

    assert topics.rows("select distinct last_batch is null, sealed_at is null from ops.hot_partition") == [
        (False, False)
    ]
    assert topics.reconcile(sealed_too=True) == []
    assert waiting(topics.world.services(), []) == 0
