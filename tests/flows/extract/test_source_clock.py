"""When a change was committed, in the rows' time: moving a sandbox's clock on does not move the past."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import duckdb

from flows.extract.source_clock import SourceClock

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def _at(clock: SourceClock, moment: datetime) -> datetime:
    with duckdb.connect() as connection:
        micros = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        row = connection.execute(f"select {clock.sql('?::bigint').replace('?', str(micros))}").fetchone()
    assert row is not None
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=row[0])


def test_a_source_whose_clock_is_the_rows_own_says_when_it_was() -> None:
    assert _at(SourceClock(), NOON) == NOON


def test_what_was_committed_before_the_clock_moved_on_keeps_its_time() -> None:
    moves = ((NOON, timedelta(days=-3)), (NOON + timedelta(hours=1), timedelta(days=-2)))
    clock = SourceClock(timedelta(days=-1), moves)
    microsecond = timedelta(microseconds=1)
    for moment, ahead in (
        (NOON - microsecond, -3),
        (NOON, -2),
        (NOON + timedelta(hours=1) - microsecond, -2),
        (NOON + timedelta(hours=1), -1),
        (NOON + timedelta(days=400), -1),
    ):
        assert _at(clock, moment) == moment + timedelta(days=ahead)
