"""What SendGrid knows of the company's e-mail at a moment: whole objects for the simulated API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from flows.sandbox.apis import sendgrid_objects as shapes
from flows.sandbox.world.shape import DAY, SECOND, day_of
from flows.sandbox.world.state import latest

Object = dict[str, Any]
TIMES = ("sent_at", "delivered_at", "bounced_at", "blocked_at", "opened_at", "opened_again_at", "clicked_at")
SUPPRESSIONS = {
    "bounces": "bounced_at",
    "blocks": "blocked_at",
    "spam_reports": "reported_at",
    "unsubscribes": "unsubscribed_at",
}


def state(log: pl.DataFrame, now: int) -> pl.DataFrame:
    """Messages sent up to `now`: adds status, opens, clicks and last_at (microseconds, whole seconds)."""
    refused = pl.min_horizontal("bounced_at", "blocked_at") <= now
    return log.filter(pl.col("sent_at") <= now).with_columns(
        status=pl.when(refused)
        .then(pl.lit("not_delivered"))
        .when(pl.col("delivered_at") <= now)
        .then(pl.lit("delivered"))
        .otherwise(pl.lit("processed")),
        opens=(pl.col("opened_at") <= now).cast(pl.Int64) + (pl.col("opened_again_at") <= now).cast(pl.Int64),
        clicks=(pl.col("clicked_at") <= now).cast(pl.Int64),
        last_at=latest(now, *TIMES),
    )


def messages(log: pl.DataFrame, after: int, now: int) -> Iterator[Object]:
    """Messages something happened to in (after, now]."""
    changed = state(log, now).filter(pl.col("last_at") > after)
    text = changed.select(
        "message_id",
        "to",
        "subject",
        "status",
        "opens",
        "clicks",
        (pl.col("last_at") // SECOND * SECOND)
        .cast(pl.Datetime("us", "UTC"))
        .dt.to_string("%Y-%m-%dT%H:%M:%SZ"),
    )
    for message_id, to, subject, status, opens, clicks, at in text.iter_rows():
        yield shapes.message(
            msg_id=message_id,
            to_email=to,
            subject=subject,
            status=status,
            opens_count=opens,
            clicks_count=clicks,
            last_event_time=at,
        )


def daily(log: pl.DataFrame, now: int) -> pl.DataFrame:
    """Statistics by UTC day up to `now`: day and a count for each of SendGrid's metrics that occurs."""
    sources = {
        "requests": ("sent_at",),
        "processed": ("sent_at",),
        "delivered": ("delivered_at",),
        "bounces": ("bounced_at",),
        "blocks": ("blocked_at",),
        "opens": ("opened_at", "opened_again_at"),
        "unique_opens": ("opened_at",),
        "clicks": ("clicked_at",),
        "unique_clicks": ("clicked_at",),
        "spam_reports": ("reported_at",),
        "unsubscribes": ("unsubscribed_at",),
    }
    frames = [
        log.filter(pl.col(column) <= now).select(day_of(column).alias("day"), pl.lit(metric).alias("metric"))
        for metric, columns in sources.items()
        for column in columns
    ]
    return pl.concat(frames).group_by("day", "metric").len().sort("day", "metric")


def stats(log: pl.DataFrame, after: int, now: int) -> Iterator[Object]:
    """Statistics of the days since `after`."""
    rows = daily(log, now).filter(pl.col("day") >= pl.lit(after // DAY).cast(pl.Date))
    for (day,), metrics in rows.group_by("day", maintain_order=True):
        yield shapes.stats(
            date=str(day), **{metric: int(n) for metric, n in metrics.select("metric", "len").iter_rows()}
        )


def suppressed(log: pl.DataFrame, kind: str, now: int) -> pl.DataFrame:
    """The addresses on a suppression list: to, at (when it first happened)."""
    column = SUPPRESSIONS[kind]
    return log.filter(pl.col(column) <= now).group_by("to").agg(at=pl.col(column).min()).sort("at", "to")


def suppressions(log: pl.DataFrame, kind: str, after: int, now: int) -> Iterator[Object]:
    """What a suppression list gained in (after, now]."""
    for to, at in suppressed(log, kind, now).filter(pl.col("at") > after).iter_rows():
        created = at // SECOND
        if kind == "bounces":
            yield shapes.bounce(email=to, created=created, reason='550 5.1.1 The "address" does not exist')
        elif kind == "blocks":
            yield shapes.bounce(email=to, created=created, reason="421 4.7.0 try again later", status="4.7.0")
        elif kind == "spam_reports":
            yield shapes.spam_report(email=to, created=created, ip="192.0.2.7")
        else:
            yield shapes.unsubscribe(email=to, created=created)
