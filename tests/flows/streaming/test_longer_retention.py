"""A day whose leaf the retention dropped comes back once that is lengthened and somebody asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from unittest import mock

import psycopg
import pytest

from flows import backfill
from flows.build.job import build_due
from flows.durations import BadRange
from flows.planner import ASKED_FOR, REPLAYED
from flows.stores.upkeep import retire
from tests.flows.replaying import DAY, FACT, STAGING, day, execute
from tests.flows.streaming.topics import Topics
from tests.house import House
from transforms import catalog, registry
from transforms.registry import Registry

AGO = 40
"""Days: what is published of it is kept for three years, and for a while for 30 days."""
COUNTS = "user_event_counts"
PUBLISHED = (FACT, COUNTS)
WAITING = "select table_name, partition from ops.pending_publish"


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    """One event of today, one of the day that was dropped from the facts and the counts."""
    topics = Topics.build(house, tmp_path)
    topics.send([topics.event(1, user_id=1), topics.event(2, user_id=1, minutes=AGO * DAY)])
    topics.batch()
    assert topics.numbers() == [(1, 0, 0), (2, 0, 1)]
    with _short():
        _retire(topics)
    assert topics.numbers() == [(1, 0, 0)]
    return topics


@contextmanager
def _short() -> Iterator[None]:
    """The headers of what is published say 30 days as long as the block lasts."""
    known = registry.default()
    shorter = {
        name: replace(model, table=replace(model.table, retention=timedelta(days=30)))
        for name, model in known.models.items()
        if name in PUBLISHED
    }
    declared = Registry({**known.models, **shorter}, known.entities)
    with mock.patch.object(registry, "default", return_value=declared):
        yield


def _retire(topics: Topics) -> None:
    services = topics.world.services()
    with services.lake:
        for name in PUBLISHED:
            table = registry.table(name)
            retire(services.warehouse, services.lake, table, services.settings.now())


def _ask(topics: Topics, fingerprint: str, *names: str) -> None:
    """What `backfill` of the day and `rebuild` of the tables begin with."""
    days = (topics.began - timedelta(days=AGO)).replace(hour=0, minute=0, second=0, microsecond=0)
    given = (days, days + timedelta(days=1)) if fingerprint == ASKED_FOR else None
    with mock.patch.object(backfill, "open_services", return_value=topics.world.services()):
        assert backfill._mark(names, fingerprint, given)


def _build(topics: Topics, name: str) -> list[str]:
    services = topics.world.services()
    with services.lake:
        return build_due(services, registry.table(name), catalog.fingerprint(name), "run").partitions


def _starts(topics: Topics) -> list[str]:
    return sorted({start.date().isoformat() for _, start in topics.counts()})


@pytest.mark.parametrize("fingerprint", [ASKED_FOR, REPLAYED], ids=["backfill", "rebuild"])
def test_a_day_that_was_dropped_is_shown_again_when_it_is_asked_for(topics: Topics, fingerprint: str) -> None:
    topics.batch()
    assert topics.numbers() == [(1, 0, 0)]  # nobody asked

    _ask(topics, fingerprint, FACT, COUNTS)
    assert day(topics, AGO) in _build(topics, FACT)
    assert day(topics, AGO) in _build(topics, COUNTS)

    assert topics.numbers() == [(1, 0, 0), (2, 0, 1)]
    assert _starts(topics) == [day(topics, AGO), day(topics, 0)]
    assert topics.rows(
        "select count(*) from ops.partition_state where fingerprint in ('backfill', 'replay')"
    ) == [(0,)]
    assert topics.left_over() == []
    before = topics.rows()
    _ask(topics, fingerprint, FACT)
    assert _build(topics, FACT) == []
    topics.batch()
    assert topics.rows() == before
    assert all(result.passed for result in topics.reconcile(sealed_too=True))


@pytest.mark.parametrize(
    "fingerprint", [pytest.param(ASKED_FOR, marks=pytest.mark.full), REPLAYED], ids=["backfill", "rebuild"]
)
def test_what_the_stream_has_written_into_the_day_since_is_kept(topics: Topics, fingerprint: str) -> None:
    topics.send([topics.event(3, user_id=1, minutes=AGO * DAY)])
    topics.stream()
    assert topics.numbers() == [(1, 0, 0), (3, 0, 2)]

    _ask(topics, fingerprint, FACT, COUNTS)
    _build(topics, FACT)
    _build(topics, COUNTS)

    assert topics.numbers() == [(1, 0, 0), (2, 0, 1), (3, 0, 2)]
    topics.batch()
    topics.reconcile()
    assert topics.numbers() == [(1, 0, 0), (2, 0, 1), (3, 0, 2)]
    assert {start.date().isoformat(): count for (_, start), (count, _, _) in topics.counts().items()} == {
        day(topics, AGO): 2,
        day(topics, 0): 1,
    }


@pytest.mark.full
def test_what_a_lock_keeps_from_coming_back_comes_with_the_next_run(topics: Topics) -> None:
    _ask(topics, ASKED_FOR, FACT)
    with psycopg.connect(topics.world.warehouse_dsn) as somebody:
        somebody.execute("lock table only analytics.fct_events in share mode")
        assert _build(topics, FACT) == []
        assert topics.rows(WAITING) == [(FACT, day(topics, AGO))]
        somebody.rollback()

    assert _build(topics, FACT) == [day(topics, AGO)]
    assert topics.numbers() == [(1, 0, 0), (2, 0, 1)]
    assert topics.rows(WAITING) == []


def test_a_day_that_is_past_the_retention_still_is_not_shown_whatever_is_built_anew(topics: Topics) -> None:
    """Its upstream is written anew, so that the day is computed again, with the same outcome."""
    of = f"where (table_name, partition) = ('{{}}', '{day(topics, AGO)}')"
    file = f"select files -> 0 ->> 'path' from ops.partition_state {of.format(STAGING)}"
    ((path,),) = topics.rows(file)
    (topics.world.lake / path).write_bytes(b"damaged")
    execute(topics, f"update ops.partition_state set fingerprint = 'replay' {of.format(STAGING)}")
    with _short():
        topics.batch()
        assert topics.rows(file) != [(path,)]
        done = topics.rows(f"select kind from ops.ledger {of.format(FACT)} order by sequence")
        assert done == [("publish",), ("publish",), ("build",)]  # shown, dropped, computed again
        assert topics.numbers() == [(1, 0, 0)]
        with pytest.raises(BadRange, match="past its retention"):
            _ask(topics, ASKED_FOR, FACT)
