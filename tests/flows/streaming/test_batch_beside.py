"""What a batch publishes while a stream lives is known to it, in days that no stream ever wrote as well."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flows import deadletters, landing
from flows.stores.ledger import Conflict
from flows.stores.publication import BuiltPartition
from flows.streaming import taking_in
from flows.streaming.beside import not_built_yet
from flows.streaming.journal import Journal
from flows.streaming.reconcile import waiting
from flows.streaming.rollup import land_journal
from tests.flows.streaming.topics import MODELS, Topics, until
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
        for letter, event in _letters(topics, repaired):
            topics.replay([letter], given=event)
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


@pytest.mark.parametrize(
    "built",
    [0, *(pytest.param(built, marks=pytest.mark.full) for built in (3, 4))],
    ids=["landed", "staged", "with its users"],
)
def test_copies_of_what_a_batch_has_landed_and_not_published_are_left_to_the_batch(
    topics: Topics, built: int
) -> None:
    """A stream begins while a batch stands between the two. Of 4 the later copy counts, of 3 the first."""
    topics.send([topics.event(number, minutes=BUILT) for number in (3, 4)], partition=1)
    topics.send([topics.event(5, minutes=NEW)], partition=1, topic="clicks")
    topics.land()
    topics.build_due(MODELS[:built])
    with topics.living() as living:
        topics.send([topics.event(3, minutes=1), topics.event(6)], partition=2)
        topics.send([topics.event(4, minutes=NEW), topics.event(5, minutes=1)], partition=0)
        until(lambda: living.done() or topics.rows(TAKEN_IN) == [(11,)])
        shown = topics.numbers()
        topics.build_due()
        both = topics.numbers()
    assert [number for number, _, _ in shown] == [1, 2, 6]
    assert [number for number, _, _ in both] == [1, 2, 3, 4, 5, 6]
    topics.batch()
    expected = [(1, 1, 0), (2, 1, 1), (3, 1, 4), (4, 0, 0), (5, 0, 1), (6, 2, 1)]
    assert topics.numbers() == expected
    assert [one.message for one in topics.reconcile() if not one.passed and one.table == "fct_events"] == []
    assert topics.numbers() == expected


def test_copies_of_a_letter_that_was_replayed_and_not_published_are_left_to_the_batch(topics: Topics) -> None:
    """The stream lives before and behind the replay. Of 3 the letter counts, of 4 the copy."""
    repaired = {b"one": topics.event(3, minutes=BUILT), b"two": topics.event(4, minutes=NEW)}
    with topics.living() as living:
        topics.send([topics.event(5)])
        until(lambda: topics.numbers()[-1][0] == 5)
        for letter, event in _letters(topics, repaired):
            topics.replay([letter], given=event)
        topics.send([topics.event(3, minutes=1), topics.event(6)], partition=2)
        topics.send([topics.event(4, minutes=1)], partition=0)
        until(lambda: living.done() or topics.rows(TAKEN_IN) == [(8,)])
        assert [number for number, _, _ in topics.numbers()] == [1, 2, 5, 6]
        topics.build_due()
        assert [number for number, _, _ in topics.numbers()] == [1, 2, 3, 4, 5, 6]

        # From now on the stream knows what stands: the letter is found there, and gives way to a copy.
        topics.send([topics.event(3, minutes=2), topics.event(7)], partition=0)
        until(lambda: living.done() or topics.rows(TAKEN_IN) == [(10,)])
        assert topics.numbers()[2] == (3, 0, 2)
    topics.batch()
    assert topics.numbers() == [(1, 1, 0), (2, 1, 1), (3, 0, 2), (4, 0, 1), (5, 0, 0), (6, 2, 1), (7, 0, 3)]


def test_a_letter_is_landed_behind_what_the_stream_has_taken_in(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that builds it has landed its topics before the stream took the copy in."""
    with monkeypatch.context() as only_taking_in:
        only_taking_in.setattr(taking_in, "land", lambda *_, **__: None)
        topics.send([topics.event(3), topics.event(5)])
        topics.stream()
    for letter, event in _letters(topics, {b"one": topics.event(3, minutes=BUILT)}):
        topics.replay([letter], given=event)
    topics.build_due()
    assert topics.numbers() == [(1, 1, 0), (2, 1, 1), (3, 0, 0), (5, 0, 1)]


def test_no_stream_takes_in_between_the_landing_of_its_journal_and_the_reading_of_the_topic(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    entity = topics.entity()
    services = topics.world.services()

    def landed(*given: Any) -> int:
        rows = land_journal(*given)
        with services.warehouse.connect() as streaming:
            asked.append(Journal(streaming).join([entity.table]))
        return rows

    monkeypatch.setattr(landing, "land_journal", landed)
    with services.lake:
        landing.land(services, entity, "batch")
    assert asked == [entity.table]


def _letters(topics: Topics, repaired: Mapping[bytes, Mapping[str, Any]]) -> list[tuple[str, bytes]]:
    """Id, and what is to be replayed for it, of each letter with one of these payloads."""
    with topics.world.services().warehouse.connect() as connection:
        stored = deadletters.load(connection, deadletters.waiting(connection))
    return [
        (letter.letter_id, json.dumps(repaired[letter.payload]).encode())
        for letter in stored
        if letter.payload is not None and letter.payload in repaired
    ]


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
