"""A table that a changed model has built beside and swapped keeps what streams wrote, and how it was told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from flows.stores import in_force, rebuilding
from flows.stores.migrate import ConsentNeeded, arrange, migrate
from tests.flows.streaming.counting import assert_told_once, counted, published
from tests.flows.streaming.topics import Topics
from tests.house import House
from transforms import registry
from transforms.contract import Column, Partition
from transforms.registry import Registry

EVENTS, COUNTS = "fct_events", "user_event_counts"
STAGED = tuple(f"stg_events__{topic}" for topic in ("user_events", "page_views", "clicks"))
NOTED = "select partition from ops.hot_partition where table_name = 'fct_events'"
LEAVES = (
    "select inhrelid::regclass::text from pg_inherits "
    "where inhparent = 'analytics.user_event_counts'::regclass order by 1"
)


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    return Topics.build(house, tmp_path)


@contextmanager
def _changed(name: str, *columns: Column) -> Iterator[None]:
    """The models as they would be if this one gave these columns."""
    known = registry.default()
    model = known.models[name]
    other = replace(model, table=replace(model.table, columns=columns))
    with mock.patch.object(
        registry, "default", return_value=Registry({**known.models, name: other}, known.entities)
    ):
        yield


@contextmanager
def _monthly() -> Iterator[None]:
    """The models as they would be if events had one partition a month."""
    known = registry.default()
    models = dict(known.models)
    for name in (*STAGED, EVENTS):
        monthly = replace(models[name].table, partition=Partition("event_time", "month"))
        models[name] = replace(models[name], table=monthly)
    with mock.patch.object(registry, "default", return_value=Registry(models, known.entities)):
        yield


def _without_page() -> list[Column]:
    return [column for column in registry.table(EVENTS).columns if column.name != "page"]


def _migrated(topics: Topics, name: str) -> None:
    """As a run of this code prepares the warehouse."""
    services = topics.world.services()
    with services.lake, services.warehouse.connect() as connection:
        in_force.put(connection, registry.build_order())
        assert migrate(services.warehouse, services.lake, registry.table(name), yes=True).rebuild


def test_rows_that_no_build_knows_yet_are_there_at_every_moment(topics: Topics) -> None:
    topics.send([topics.event(number) for number in range(50)])
    topics.stream()
    topics.batch()
    topics.send([topics.event(number) for number in range(50, 100)])
    topics.send([topics.event(100, minutes=3 * 24 * 60)])
    topics.stream()
    before = topics.numbers()

    with _changed(EVENTS, *_without_page()):
        _migrated(topics, EVENTS)
        assert topics.numbers() == before
        topics.send([topics.event(number) for number in range(101, 110)])
        topics.stream()
        topics.batch()
        assert all(result.passed for result in topics.reconcile())
    assert [number for number, _, _ in topics.numbers()] == list(range(110))


def test_rows_that_a_stream_commits_meanwhile_are_kept(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics.send([topics.event(1), topics.event(2)], partition=1)
    topics.stream()
    # A copy that counts in the place of the one there, and an event of a day that is loaded already.
    topics.send([topics.event(2, page="/there"), topics.event(3)])

    def meanwhile(name: str) -> None:
        if name == "migrate.loaded":
            topics.stream()

    monkeypatch.setattr(rebuilding, "failpoint", meanwhile)
    with _changed(EVENTS, *_without_page()):
        _migrated(topics, EVENTS)
    assert topics.numbers() == [(1, 1, 0), (2, 0, 0), (3, 0, 1)]


@pytest.mark.parametrize("built", [0, 50])
def test_events_that_no_build_knows_yet_come_into_other_partitions_once_somebody_agrees(
    topics: Topics, built: int
) -> None:
    topics.send([topics.event(number) for number in range(built)])
    topics.stream()
    if built:
        topics.batch()
    topics.send([topics.event(number, minutes=45 * 24 * 60) for number in range(50, 60)])
    topics.stream()
    before = topics.numbers()
    services = topics.world.services()
    with _monthly(), services.lake:
        with pytest.raises(ConsentNeeded, match=r"^fct_events: .* 10 rows .* run --yes$"):
            migrate(services.warehouse, services.lake, registry.table(EVENTS))
        assert topics.numbers() == before
        for name in STAGED:
            arrange(services.warehouse, services.lake, registry.table(name))
        _migrated(topics, EVENTS)
        for _ in range(2):  # the run that follows finds nothing to change any more
            topics.send([topics.event(100), topics.event(101)])
            topics.stream()
            topics.batch()
            assert all(result.passed for result in topics.reconcile())
            assert [number for number, _, _ in topics.numbers()] == [*range(built), *range(50, 60), 100, 101]
            assert not migrate(services.warehouse, services.lake, registry.table(EVENTS)).is_needed
        noted = {key for (key,) in topics.rows(NOTED)}
        assert noted
        assert {len(key) for key in noted} == {len("2025-10")}


@pytest.mark.full
def test_counts_keep_their_revisions_and_each_is_told_once(topics: Topics) -> None:
    sent = []
    for turn in range(3):
        sent += [topics.event(10 * turn + number, minutes=1, user_id=1) for number in range(10)]
        topics.send(sent[-10:])
        topics.stream()
        if turn == 1:
            topics.batch()
            assert all(result.passed for result in topics.reconcile())
    before = topics.counts()

    columns = registry.table(COUNTS).columns
    smaller = [replace(c, type="INTEGER") if c.name == "event_count" else c for c in columns]
    with _changed(COUNTS, *smaller):
        _migrated(topics, COUNTS)
        assert topics.counts() == before
        sent += [topics.event(number, minutes=1, user_id=1) for number in range(30, 40)]
        topics.send(sent[-10:])
        topics.stream()
        topics.batch()
        assert all(result.passed for result in topics.reconcile())
    assert published(topics) == counted(sent)
    assert_told_once(topics)


def test_counts_are_not_partitioned_otherwise_unasked_since_their_revisions_would_begin_again(
    topics: Topics,
) -> None:
    topics.send([topics.event(1, user_id=1)])
    topics.stream()
    own = registry.table(COUNTS)
    monthly = replace(own, partition=Partition("window_start", "month"))
    services = topics.world.services()
    for _ in range(2):  # before anything is built, and after it
        told, leaves = topics.counts(), topics.rows(LEAVES)
        with services.lake, pytest.raises(ConsentNeeded, match=r"revisions .* topic .* run --yes$"):
            migrate(services.warehouse, services.lake, monthly)
        assert (topics.counts(), topics.rows(LEAVES)) == (told, leaves)
        topics.batch()
    with services.lake:
        assert migrate(services.warehouse, services.lake, monthly, yes=True).rebuild
    assert [count for count, _, _ in topics.counts().values()] == [1]
