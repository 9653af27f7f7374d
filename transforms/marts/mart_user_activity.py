"""mart_user_activity: what a user did on a day, in how many sittings; gaps between rows suit Polars."""

from __future__ import annotations

import polars as pl

from transforms.contract import Column
from transforms.model import polars_table

GAP = pl.duration(minutes=30)
"""A longer pause between two events ends a session; one of exactly this length does not."""

TABLE = polars_table(
    __file__,
    grain="one row per signed-in user and day with at least one event",
    description="Sessions are counted within the day: midnight (UTC) ends one.",
    key=["date", "user_id"],
    partition={"by": "date", "every": "day"},
    write="replace_partition",
    owner="data-team",
    freshness="1 hour",
    retention="1095 days",
    indexes={"idx_user_activity_user": ["user_id", "date desc"]},
    expect=[
        {"not_null": ["events", "sessions", "session_seconds", "first_event_at", "last_event_at"]},
        {"between": {"column": "sessions", "min": 1}},
        {"between": {"column": "session_seconds", "min": 0, "max": 86400}},
        {"references": {"column": "user_id", "table": "dim_users"}},
    ],
    columns=[
        Column("date", "date", "Day (UTC)"),
        Column("user_id", "bigint", "Signed-in user"),
        Column("events", "bigint", "Events of all kinds"),
        Column("page_views", "bigint", "Pages shown"),
        Column("clicks", "bigint", "Clicks"),
        Column("sessions", "bigint", "Sittings: events with pauses of at most 30 minutes between them"),
        Column("session_seconds", "bigint", "Whole seconds from first to last event of each session, summed"),
        Column("first_event_at", "timestamptz", "First event of the day (UTC)"),
        Column("last_event_at", "timestamptz", "Last event of the day (UTC)"),
    ],
)


def build(fct_events: pl.LazyFrame) -> pl.LazyFrame:
    """One row per user and day. A pause within a session counts to its length, one between two does not."""
    # Sorted rows are compared with the one before: a window over user and day would group them all once more.
    is_same_day = pl.all_horizontal(pl.col(name) == pl.col(name).shift() for name in ("user_id", "date"))
    pause = pl.when(is_same_day).then(pl.col("event_time").diff())
    return (
        fct_events.filter(pl.col("user_id").is_not_null())
        .select("user_id", "event_type", "event_time", pl.col("event_time").dt.date().alias("date"))
        .sort("user_id", "event_time")
        .with_columns(pause.alias("pause"))
        .group_by("date", "user_id")
        .agg(
            pl.len().cast(pl.Int64).alias("events"),
            (pl.col("event_type") == "page_view").sum().cast(pl.Int64).alias("page_views"),
            (pl.col("event_type") == "click").sum().cast(pl.Int64).alias("clicks"),
            ((pl.col("pause") > GAP).sum() + 1).cast(pl.Int64).alias("sessions"),
            pl.col("pause").filter(pl.col("pause") <= GAP).sum().dt.total_seconds().alias("session_seconds"),
            pl.col("event_time").min().alias("first_event_at"),
            pl.col("event_time").max().alias("last_event_at"),
        )
    )
