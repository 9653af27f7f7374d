"""The truth about events: of the copies of an event the one with the lowest partition, then offset,
counts.
"""

from __future__ import annotations

import polars as pl

from flows.sandbox.world.clickstream import TOPICS
from flows.sandbox.world.log import Log
from flows.sandbox.world.measures import Measured, measure
from flows.sandbox.world.shape import DAY, LATEST, MINUTE, SECOND, Shape, day_of, moment

PAUSE = 30 * MINUTE
"""A longer pause between two events of a user ends a session; midnight (UTC) does too."""
_MONTH = day_of("first").dt.truncate("1mo")
_TOPIC_NAMES = dict(enumerate(TOPICS))


def dead_letters(log: Log, periods: int) -> pl.DataFrame:
    """Every message sent that is no event: topic, kafka_partition, kafka_offset and the class of its
    fault.
    """
    return (
        log.scan("deliveries", 0, periods)
        .filter(pl.col("reason").is_not_null())
        .select(
            _topic(),
            pl.col("partition").alias("kafka_partition"),
            pl.col("offset").alias("kafka_offset"),
            "reason",
        )
        .sort("topic", "kafka_partition", "kafka_offset")
        .collect()
    )


def measures(shape: Shape, log: Log, periods: int) -> list[Measured]:
    """Everything that is counted of events, a UTC day at a time, so that memory does not grow with the world.

    The users that events mention are kept with the log for `mentioned`.
    """
    copies = log.scan("deliveries", 0, periods).filter(pl.col("copied") & pl.col("reason").is_null())
    winners = (
        copies.select("topic", "event_id", "partition", "offset")
        .sort("partition", "offset")
        .unique(["topic", "event_id"], keep="first", maintain_order=True)
        .collect()
    )
    result: list[Measured] = []
    users: set[int] = set()
    month = pl.DataFrame()
    first, last = shape.start // DAY - 1, shape.period_start(periods) // DAY
    for day in range(first, last + 1):
        events = _events_of(shape, log, periods, day, winners)
        if not events.height:
            continue
        users.update(events["user_id"].drop_nulls().unique().to_list())
        result += _day(events)
        if (active := _active_users(events)).height:
            result.append(_activity("mart_user_activity", active, day_of("first")))
            if month.height and _month(month) != _month(active):
                result.append(_activity("mart_user_activity_monthly", month, _MONTH))
                month = pl.DataFrame()
            month = _added_up(pl.concat([month, active])) if month.height else active
    if month.height:
        result.append(_activity("mart_user_activity_monthly", month, _MONTH))
    sent = log.scan("deliveries", 0, periods).group_by("topic", pl.col("reason").alias("why")).len().collect()
    sent = sent.select(_topic(), "why", "len")
    number = pl.col("len").sum()
    result.append(
        measure("topics", sent, group=pl.col("topic"), counts={"messages": number}).filter(
            pl.col("measure") != "rows"
        )
    )
    bad = sent.filter(pl.col("why").is_not_null())
    classes = pl.format("{}/{}", "topic", "why")
    result.append(
        measure("dead_letters", bad, group=classes, counts={"messages": number}).filter(
            pl.col("measure") != "rows"
        )
    )
    log.write("mentioned", periods, pl.DataFrame({"user_id": sorted(users)}, schema={"user_id": pl.Int64}))
    return result


def _topic() -> pl.Expr:
    return pl.col("topic").cast(pl.Int64).replace_strict(_TOPIC_NAMES, return_dtype=pl.String).alias("topic")


def _events_of(shape: Shape, log: Log, periods: int, day: int, winners: pl.DataFrame) -> pl.DataFrame:
    low, high = day * DAY, (day + 1) * DAY
    start = max(0, (low - shape.start) // DAY)
    end = min(periods, (high + LATEST - shape.start) // DAY + 1)
    if start >= end:
        return pl.DataFrame()
    there = (
        log.scan("deliveries", start, end)
        .filter(pl.col("reason").is_null() & (pl.col("event_time") >= low) & (pl.col("event_time") < high))
        .select(
            "topic",
            "event_id",
            "partition",
            "offset",
            "event_type",
            "event_time",
            "user_id",
            "session_id",
            "page",
            "copied",
        )
        .collect()
    )
    key = ["topic", "event_id", "partition", "offset"]
    return pl.concat(
        [there.filter(~pl.col("copied")), there.filter("copied").join(winners, on=key, how="semi")]
    )


def _day(events: pl.DataFrame) -> list[Measured]:
    day = day_of("event_time")
    user = pl.col("user_id")
    result = [
        measure(
            "fct_events",
            events,
            day=day,
            group=pl.col("event_type"),
            counts={
                "signed_in": user.count(),
                "user_ids": user.sum(),
                "pages": pl.col("page").count(),
                "milliseconds": (pl.col("event_time") % DAY // 1000).sum(),
                "partitions": pl.col("partition").sum(),
                "offsets": pl.col("offset").sum(),
                "sessions": pl.col("session_id").n_unique(),
            },
        ),
        measure(
            "mart_daily_metrics",
            events,
            day=day,
            counts={
                "total_events": pl.len(),
                "active_users": user.drop_nulls().n_unique(),
                "signed_in_events": user.count(),
                "anonymous_events": user.is_null().sum(),
                "sessions": pl.col("session_id").n_unique(),
            },
        ).filter(pl.col("measure") != "rows"),
        measure(
            "mart_daily_event_types",
            events,
            day=day,
            group=pl.col("event_type"),
            counts={"events": pl.len(), "active_users": user.drop_nulls().n_unique()},
        ).filter(pl.col("measure") != "rows"),
        measure(
            "fct_daily_active_users",
            events,
            day=day,
            counts={"daily_active_users": user.drop_nulls().n_unique()},
        ).filter(pl.col("measure") != "rows"),
    ]
    ones = pl.DataFrame({"day": [moment(int(events["event_time"][0])).date()]})
    result += [
        measure(table, ones, day=pl.col("day")) for table in ("mart_daily_metrics", "fct_daily_active_users")
    ]
    types = events.select("event_type").unique().join(ones, how="cross")
    result.append(measure("mart_daily_event_types", types, day=pl.col("day"), group=pl.col("event_type")))
    return result + _windows(events.filter(user.is_not_null()))


def _active_users(events: pl.DataFrame) -> pl.DataFrame:
    """What each signed-in user did on the one day that these events are of."""
    sorted_events = (
        events.filter(pl.col("user_id").is_not_null())
        .sort("user_id", "event_time")
        .with_columns(
            pause=(pl.col("event_time") - pl.col("event_time").shift(1).over("user_id")).fill_null(0)
        )
    )
    return sorted_events.group_by("user_id").agg(
        days=pl.lit(1, pl.Int64),
        events=pl.len().cast(pl.Int64),
        page_views=(pl.col("topic") == 1).sum().cast(pl.Int64),
        clicks=(pl.col("topic") == 2).sum().cast(pl.Int64),
        sessions=1 + (pl.col("pause") > PAUSE).sum().cast(pl.Int64),
        seconds=pl.col("pause").filter(pl.col("pause") <= PAUSE).sum() // SECOND,
        first=pl.col("event_time").min(),
        last=pl.col("event_time").max(),
    )


def _added_up(users: pl.DataFrame) -> pl.DataFrame:
    """Days of a user, together."""
    numbers = ("days", "events", "page_views", "clicks", "sessions", "seconds")
    return users.group_by("user_id").agg(pl.col(*numbers).sum(), pl.col("first").min(), pl.col("last").max())


def _month(users: pl.DataFrame) -> object:
    return users.select(_MONTH.min()).item()


def _activity(table: str, users: pl.DataFrame, day: pl.Expr) -> Measured:
    return measure(
        table,
        users,
        day=day,
        counts={
            "user_ids": pl.col("user_id").sum(),
            "active_days": pl.col("days").sum(),
            "events": pl.col("events").sum(),
            "page_views": pl.col("page_views").sum(),
            "clicks": pl.col("clicks").sum(),
            "sessions": pl.col("sessions").sum(),
            "session_seconds": pl.col("seconds").sum(),
            "first_milliseconds": (pl.col("first") % DAY // 1000).sum(),
            "last_milliseconds": (pl.col("last") % DAY // 1000).sum(),
        },
    )


def _windows(events: pl.DataFrame) -> list[Measured]:
    own = events.filter(pl.col("topic") == 0)
    if not own.height:
        return []
    windows = own.group_by(
        "user_id", (pl.col("event_time") // (5 * MINUTE) * (5 * MINUTE)).alias("start")
    ).len()
    return [
        measure(
            "user_event_counts",
            windows,
            day=day_of("start"),
            counts={
                "user_ids": pl.col("user_id").sum(),
                "event_count": pl.col("len").sum(),
                "squares": (pl.col("len") * pl.col("len")).sum(),
                "start_minutes": (pl.col("start") % DAY // MINUTE).sum(),
            },
        )
    ]
