"""E-mail that the company sends: a welcome, a confirmation for every paid order, a newsletter on Tuesdays.

A row is one message with all that will happen to it; times are NEVER where a thing does not happen.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from flows.sandbox.world import words
from flows.sandbox.world.shape import DAY, HOUR, MINUTE, NEVER, SECOND, Shape, between, chance, tokens

TUESDAY_EPOCH = 5
"""1970-01-06, five days after the epoch, was a Tuesday."""


def mails(shape: Shape, period: int, known: pl.DataFrame, orders: pl.DataFrame) -> pl.DataFrame:
    """What is sent because of `period`: message_id, user_id, to, subject, kind, sent_at and everything that
    follows.

    Following times: delivered_at, bounced_at, blocked_at, opened_at, opened_again_at, clicked_at,
    reported_at (as spam), unsubscribed_at. The message id holds the second it was sent at in hexadecimal, as
    SendGrid's do.
    """
    rng = shape.rng("mails", period)
    start = shape.period_start(period)
    new = known.filter(pl.col("created_at") >= start)
    paid = orders.filter(pl.col("paid_at") < NEVER)
    parts = [
        new.select(
            "user_id", "email", pl.lit(1).alias("kind"), (pl.col("created_at") + MINUTE).alias("sent_at")
        ),
        paid.select(
            "user_id", "email", pl.lit(0).alias("kind"), (pl.col("paid_at") + 5 * SECOND).alias("sent_at")
        ),
    ]
    midnight = -(-start // DAY) * DAY
    if (midnight // DAY - TUESDAY_EPOCH) % 7 == 0:
        readers = known.filter(pl.col("marketing_opt_in") & (pl.col("soft_deleted_at") > start))
        news = readers.select("user_id", "email", pl.lit(2).alias("kind"), pl.lit(midnight).alias("sent_at"))
        news = news.with_columns(pl.col("sent_at") + pl.Series(between(rng, news.height, 0, 2 * HOUR)))
        parts.append(news.with_columns(kind=2 + pl.col("user_id") % 2))
    frame = pl.concat([part.with_columns(pl.col("kind").cast(pl.Int64)) for part in parts])
    count = frame.height
    sent = frame["sent_at"].to_numpy()
    lot = rng.random(count)
    news_like = frame["kind"].to_numpy() >= 2

    def after(base: np.ndarray, happens: np.ndarray, low: int, high: int) -> np.ndarray:
        return np.where(happens & (base < NEVER), base + between(rng, count, low, high), NEVER)

    delivered = after(sent, lot >= 0.02, SECOND, MINUTE)
    delivered = np.where(chance(rng, count, 0.02) & (delivered < NEVER), delivered + 6 * HOUR, delivered)
    opened = after(delivered, chance(rng, count, 0.45), MINUTE, 2 * DAY)
    again = after(opened, chance(rng, count, 0.3), MINUTE, 4 * DAY)
    clicked = after(opened, chance(rng, count, 0.25), SECOND, HOUR)
    stamps = [f"{second:X}" for second in (sent // SECOND).tolist()]
    return frame.with_columns(
        subject=pl.col("kind").replace_strict(dict(enumerate(words.SUBJECTS)), return_dtype=pl.String),
        message_id=pl.format(
            "{}.recvd-{}-1-{}-{}.0",
            tokens(rng, count, 22),
            tokens(rng, count, 10).str.to_lowercase(),
            pl.Series(stamps, dtype=pl.String),
            pl.int_range(pl.len()),
        ),
        delivered_at=pl.Series(delivered),
        bounced_at=pl.Series(after(sent, lot < 0.012, SECOND, HOUR)),
        blocked_at=pl.Series(after(sent, (lot >= 0.012) & (lot < 0.02), SECOND, HOUR)),
        opened_at=pl.Series(opened),
        opened_again_at=pl.Series(again),
        clicked_at=pl.Series(clicked),
        reported_at=pl.Series(after(opened, chance(rng, count, 0.003), SECOND, HOUR)),
        unsubscribed_at=pl.Series(after(opened, news_like & chance(rng, count, 0.02), SECOND, HOUR)),
    ).rename({"email": "to"})
