"""What a comparison found, as those who read ops.check_result get it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pyarrow as pa
import pytest

from flows.build import guard
from flows.monitoring.kept import kept_of
from flows.portal import reading
from flows.streaming import findings
from flows.streaming.agreement import Place, Rows
from quality import CheckResult
from quality.published import published_arrivals
from tests.house import Server
from transforms import registry

NOW = datetime(2025, 10, 20, 12, tzinfo=UTC)
EVENTS, COUNTS = registry.table("fct_events"), registry.table("user_event_counts")
DAY = "2025-10-19"


def _places(count: int) -> Sequence[Place]:
    return [(UUID(int=number), NOW, 0, 0, number) for number in range(count)]


def _of_rows(count: int) -> CheckResult:
    surplus = _places(count)
    return findings.of_rows(EVENTS, DAY, Rows(surplus, [], []), dict.fromkeys(surplus, "page_views"))


def _of_counts(count: int) -> CheckResult:
    assert COUNTS.windowed is not None
    names = (*COUNTS.key, COUNTS.windowed.adds)
    added = pa.table({name: [str(number) for number in range(count)] for name in names})
    return findings.of_counts(COUNTS, DAY, added, by_batch=False)


@pytest.mark.parametrize("of", [_of_rows, _of_counts])
def test_a_finding_names_a_thousand_rows_at_most_and_says_so(of: Callable[[int], CheckResult]) -> None:
    few, many = of(1000), of(1001)

    assert [result.failing_rows for result in (few, many)] == [1000, 1001]
    for result in (few, many):
        named: Any = result.observed.get("named", result.observed.get("windows"))
        assert len(named) == 1000
    assert "of 1,000 of them" not in few.message
    assert ", of 1,000 of them, " in many.message
    assert "1,001" in many.message


def test_a_finding_is_a_failure_to_people_and_disturbs_no_figure_that_counts_checked_rows(
    postgres18: Server,
) -> None:
    with psycopg.connect(postgres18.database(), autocommit=True) as connection:
        guard.record(connection, "run", [_of_rows(2), _of_counts(3), _of_rows(0)], NOW)

        kept = kept_of(connection, "quality", NOW - timedelta(days=1), NOW + timedelta(days=1))
        late = connection.execute(published_arrivals(NOW, [EVENTS, COUNTS]).encode()).fetchall()
        shown = connection.execute(reading.queries("quality", NOW)["failures"].encode()).fetchall()

    assert (kept.good, kept.bad) == (0, 0)
    assert late == []  # no gate has refused anything
    assert [(row[1], row[6], row[7]) for row in shown] == [
        ("fct_events", "postgresql", 2),
        ("user_event_counts", "postgresql", 3),
    ]
