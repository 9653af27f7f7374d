"""Days, sittings and windows against the same counted in plain Python, at midnight and to the microsecond."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import hypothesis.strategies as st
from duckdb import DuckDBPyConnection
from hypothesis import example, given

from tests.transforms.given_expect import Row
from tests.transforms.recomputed import ANY, EDGES, MINUTE, SECOND, TICK, by, holds, moments, users

events = st.lists(
    st.fixed_dictionaries(
        {
            "event_time": moments,
            "user_id": st.sampled_from([None, 1, 2]),
            "event_type": st.sampled_from(["page_view", "click", "order_placed"]),
            "session_id": st.sampled_from([None, "s", "t"]),
        }
    ),
    max_size=12,
)


@ANY
@given(events)
@example(
    [
        {"event_time": EDGES[0] + pause, "user_id": 1, "event_type": "click", "session_id": None}
        for pause in (timedelta(), 30 * MINUTE, 60 * MINUTE + TICK)
    ]
)
def test_days_and_sittings(duck: DuckDBPyConnection, sent: list[dict[str, Any]]) -> None:
    rows: list[Row] = [
        {**row, "event_id": UUID(int=number), "day": row["event_time"].date()}
        for number, row in enumerate(sent)
    ]
    facts = {"fct_events": [{k: v for k, v in row.items() if k != "day"} for row in rows]}
    active, daily, kinds, signed_in = [], [], [], []
    for (day,), of_day in by(rows, "day").items():
        seen = [row for row in of_day if row["user_id"] is not None]
        active.append({"date": day, "daily_active_users": users(of_day)})
        daily.append(
            {
                "date": day,
                "total_events": len(of_day),
                "active_users": users(of_day),
                "signed_in_events": len(seen),
                "anonymous_events": len(of_day) - len(seen),
                "sessions": len({row["session_id"] for row in of_day} - {None}),
            }
        )
        kinds += [
            {"date": day, "event_type": kind, "events": len(some), "active_users": users(some)}
            for (kind,), some in by(of_day, "event_type").items()
        ]
        signed_in += [_sittings(day, user, some) for (user,), some in by(seen, "user_id").items()]
    holds(duck, "fct_daily_active_users", facts, active)
    holds(duck, "mart_daily_metrics", facts, daily)
    holds(duck, "mart_daily_event_types", facts, kinds)
    holds(duck, "mart_user_activity", facts, signed_in)
    months = [
        {
            "month": month,
            "user_id": user,
            "active_days": len(some),
            **{name: sum(row[name] for row in some) for name in ("events", "sessions", "session_seconds")},
            "first_event_at": min(row["first_event_at"] for row in some),
            "last_event_at": max(row["last_event_at"] for row in some),
        }
        for (month, user), some in by(
            [{**row, "month": row["date"].replace(day=1)} for row in signed_in], "month", "user_id"
        ).items()
    ]
    holds(duck, "mart_user_activity_monthly", {"mart_user_activity": signed_in}, months)


def _sittings(day: date, user: int, rows: Sequence[Row]) -> dict[str, Any]:
    times = sorted(row["event_time"] for row in rows)
    pauses = [later - before for before, later in pairwise(times)]
    kept = sum((pause for pause in pauses if pause <= 30 * MINUTE), timedelta())
    return {
        "date": day,
        "user_id": user,
        "events": len(rows),
        "page_views": sum(row["event_type"] == "page_view" for row in rows),
        "clicks": sum(row["event_type"] == "click" for row in rows),
        "sessions": 1 + sum(pause > 30 * MINUTE for pause in pauses),
        "session_seconds": kept // SECOND,
        "first_event_at": times[0],
        "last_event_at": times[-1],
    }


@ANY
@given(st.lists(st.tuples(moments, st.sampled_from([None, 1, 2])), max_size=12))
def test_windows_of_five_minutes(duck: DuckDBPyConnection, sent: list[tuple[datetime, int | None]]) -> None:
    counted: dict[tuple[int, datetime], int] = defaultdict(int)
    for at, user in sent:
        if user is not None:
            start = at.replace(second=0, microsecond=0) - timedelta(minutes=at.minute % 5)
            counted[user, start] += 1
    given = [
        {"event_id": UUID(int=number), "event_time": at, "user_id": user}
        for number, (at, user) in enumerate(sent)
    ]
    windows = [
        {"user_id": user, "window_start": at, "window_end": at + 5 * MINUTE, "event_count": count}
        for (user, at), count in counted.items()
    ]
    holds(duck, "user_event_counts", {"stg_events__user_events": given}, windows)
