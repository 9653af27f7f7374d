"""What tests that add models up in plain Python share: rows that lie on every edge there is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
from duckdb import DuckDBPyConnection
from hypothesis import HealthCheck, settings

from tests.transforms.given_expect import Case, Row, difference
from transforms import registry

EDGES = [
    datetime(2024, 2, 29, tzinfo=UTC),
    datetime(2024, 3, 1, tzinfo=UTC),
    datetime(2025, 1, 1, tzinfo=UTC),
    datetime(2025, 10, 26, 1, tzinfo=UTC),
]
"""Midnights: of a leap day, a month, a year; and the moment at which Europe's clocks change."""
SECOND, MINUTE, TICK = timedelta(seconds=1), timedelta(minutes=1), timedelta(microseconds=1)
_STEPS = [timedelta(), TICK, -TICK, SECOND, 5 * MINUTE, 30 * MINUTE, 30 * MINUTE + TICK, -30 * MINUTE]


def _moment(edge: datetime, step: timedelta, more: timedelta) -> datetime:
    return edge + step + more


moments = st.builds(_moment, st.sampled_from(EDGES), st.sampled_from(_STEPS), st.sampled_from(_STEPS))
ANY = settings(
    max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def holds(
    duck: DuckDBPyConnection, table: str, given: Mapping[str, Sequence[Row]], expect: Sequence[Row]
) -> None:
    """The model gives exactly these rows of these."""
    assert difference(Case(table, "any", given, expect, None), duck, registry.default()) == ""


def by(rows: Sequence[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """The rows of each value of these columns."""
    found = defaultdict(list)
    for row in rows:
        found[tuple(row[name] for name in names)].append(row)
    return found


def users(rows: Sequence[Row]) -> int:
    """How many different users the rows name."""
    return len({row["user_id"] for row in rows} - {None})
