"""The three topics: sessions of visitors and users, and what producers and networks make of them.

A row is one message to be delivered: when (`sent_at`), where (topic, partition), its bytes, and what is
known of it for the truth. Copies are rows of their own with the same event_id.
"""

from __future__ import annotations

import zlib

import numpy as np
import polars as pl

from flows.sandbox.world import words
from flows.sandbox.world.poison import poison
from flows.sandbox.world.shape import DAY, HOUR, LATEST, MINUTE, SECOND, Shape, between, chance, tokens, uuids

TOPICS = ("user_events", "page_views", "clicks")
PARTITIONS = 4
MILLI = 1000


def messages(shape: Shape, period: int, known: pl.DataFrame, orders: pl.DataFrame) -> pl.DataFrame:
    """Every message about what happened in `period`, invalid ones and copies included, in order of `sent_at`.

    `known` are the users who signed up before the period's end, `orders` those placed in it. Columns: topic,
    key, partition, value (binary, null for a message without one), sent_at, attempt, and for the truth
    event_id, event_type, event_time, user_id, session_id, page, copied (whether the event_id is on several
    rows), reason (why it is invalid, else null).
    """
    rng = shape.rng("events", period)
    events = _happenings(shape, rng, period, known, orders)
    events = _delivered(rng, events)
    events = _copied(rng, events)
    events = _keyed(events)
    events = _written(rng, events)
    bad = poison(rng, shape.period_start(period), max(24, shape.events_per_day // 1000))
    return pl.concat([events, bad.select(events.columns)]).sort("sent_at", maintain_order=True)


def _happenings(
    shape: Shape, rng: np.random.Generator, period: int, known: pl.DataFrame, orders: pl.DataFrame
) -> pl.DataFrame:
    start = shape.period_start(period)
    new = known.filter((pl.col("created_at") >= start) & (pl.col("created_at") < start + DAY))
    count = max(64, shape.events_per_day - new.height - orders.height)
    sizes = rng.geometric(0.09, count // 8 + 16)
    sizes = sizes[: int(np.searchsorted(np.cumsum(sizes), count)) + 1]
    sessions = len(sizes)
    # More people in the afternoon (UTC) than at night.
    begins = np.sort(start + (rng.beta(2.2, 1.8, sessions) * DAY).astype(np.int64))
    rows = np.repeat(np.arange(sessions), sizes)[:count]
    count = len(rows)
    gaps = rng.exponential(25 * SECOND, count)
    gaps[chance(rng, count, 0.01)] += (
        35 * MINUTE
    )  # somebody comes back to an old tab: another session to the analyst
    gaps[np.flatnonzero(np.diff(rows, prepend=-1))] = 0
    elapsed = np.cumsum(gaps)
    first = np.searchsorted(rows, np.arange(sessions))
    first = np.minimum(first, count - 1)
    times = begins[rows] + (elapsed - elapsed[first][rows]).astype(np.int64)

    users_then = np.searchsorted(known["created_at"].to_numpy(), begins)
    signed_in = (rng.random(sessions) < 0.65) & (users_then > 0)
    index = (users_then * rng.random(sessions) ** 1.7).astype(np.int64)
    strangers = tokens(rng, sessions, 10)
    visitors = (
        known[index]
        .select("user_id", "anonymous", "zone")
        .with_columns(
            signed_in=pl.Series(signed_in),
            stranger=strangers,
            session_id=pl.format("s-{}", tokens(rng, sessions, 12)),
        )
        .with_columns(
            user_id=pl.when("signed_in").then("user_id"),
            anonymous_id=pl.format("a-{}", pl.when("signed_in").then("anonymous").otherwise("stranger")),
        )
    )
    names, weights = zip(*words.EVENT_TYPES, *words.UNKNOWN_EVENT_TYPES, strict=True)
    kinds = rng.choice(len(names), count, p=np.array(weights) / sum(weights))
    topic = rng.choice(3, count, p=[0.2, 0.5, 0.3])
    own = np.array(names)[kinds]
    event_type = np.where(topic == 0, own, np.where(topic == 1, "page_view", "click"))
    browsing = (
        visitors[rows]
        .select("user_id", "anonymous_id", "session_id", "zone")
        .with_columns(
            topic=pl.Series(topic.astype(np.int8)),
            event_type=pl.Series(event_type.tolist()),
            event_time=pl.Series(times // MILLI * MILLI),
            order_id=pl.lit(None, pl.String),
        )
    )
    told = pl.concat(
        [
            new.select(
                "user_id",
                "created_at",
                pl.lit("signup").alias("event_type"),
                pl.lit(None, pl.String).alias("order_id"),
            ),
            orders.select("user_id", "created_at", pl.lit("order_placed").alias("event_type"), "order_id"),
        ]
    ).join(known.select("user_id", "anonymous", "zone"), on="user_id", how="left", maintain_order="left")
    told = told.select(
        "user_id",
        pl.format("a-{}", "anonymous").alias("anonymous_id"),
        pl.format("s-{}-{}-{}", "event_type", pl.lit(period), pl.int_range(pl.len())).alias("session_id"),
        "zone",
        pl.lit(0, pl.Int8).alias("topic"),
        "event_type",
        (pl.col("created_at") // MILLI * MILLI).alias("event_time"),
        "order_id",
    )
    everything = pl.concat([browsing, told.select(browsing.columns)])
    return everything.with_columns(event_id=uuids(rng, everything.height))


def _delivered(rng: np.random.Generator, events: pl.DataFrame) -> pl.DataFrame:
    """Most arrive within seconds; some an hour, a day or up to eight days late; so they come out of order."""
    count = events.height
    delay = (rng.exponential(2 * SECOND, count)).astype(np.int64) + 20 * MILLI
    lot = rng.random(count)
    delay = np.where(lot < 0.03, between(rng, count, MINUTE, HOUR), delay)
    delay = np.where(lot < 0.008, between(rng, count, HOUR, 25 * HOUR), delay)
    delay = np.where(lot < 0.003, between(rng, count, 25 * HOUR, LATEST - 3 * DAY), delay)
    delay = np.where(lot < 0.0005, between(rng, count, LATEST - 3 * DAY, LATEST), delay)
    return events.with_columns(sent_at=pl.col("event_time") + pl.Series(delay), attempt=pl.lit(1, pl.Int8))


def _copied(rng: np.random.Generator, events: pl.DataFrame) -> pl.DataFrame:
    """Producers send 2 % again, up to four times: seconds or days later, some with another event_time or
    user_id.

    Copies of an event lie less than two days apart in event_time and are sent at most 8 days after it.
    """
    chosen = np.flatnonzero(chance(rng, events.height, 0.02))
    repeated = np.repeat(chosen, rng.choice([1, 2, 3, 4], len(chosen), p=[0.85, 0.1, 0.03, 0.02]))
    count = len(repeated)
    copies = events[repeated]
    how = rng.random(count)
    lag = np.where(how < 0.7, between(rng, count, MILLI, 20 * SECOND), between(rng, count, MINUTE, 3 * DAY))
    shift = np.where(
        chance(rng, count, 0.15), between(rng, count, -DAY + HOUR, DAY - HOUR) // MILLI * MILLI, 0
    )
    shift = np.where(
        shift > 0, np.minimum(shift, lag // MILLI * MILLI), shift
    )  # nothing is told before it happens
    sent = np.minimum(copies["sent_at"].to_numpy() + lag, copies["event_time"].to_numpy() + LATEST)
    # Sent first before signing in, then with the user: another key, so mostly another partition.
    forgets = chance(rng, count, 0.1)
    copies = copies.with_columns(
        event_time=pl.col("event_time") + pl.Series(shift),
        sent_at=pl.Series(sent),
        attempt=pl.lit(2, pl.Int8),
        user_id=pl.when(~pl.Series(forgets)).then("user_id"),
    )
    marks = np.zeros(events.height, dtype=np.bool_)
    marks[chosen] = True
    return pl.concat([events.with_columns(copied=pl.Series(marks)), copies.with_columns(copied=pl.lit(True))])


def _keyed(events: pl.DataFrame) -> pl.DataFrame:
    """The key is the user or, without one, the visitor; the partition is its CRC-32, as librdkafka's default
    is.
    """
    events = events.with_columns(key=pl.coalesce(pl.col("user_id").cast(pl.String), "anonymous_id"))
    keys = events["key"].unique()
    partition = [zlib.crc32(key.encode()) % PARTITIONS for key in keys.to_list()]
    places = pl.DataFrame({"key": keys, "partition": pl.Series(partition, dtype=pl.Int32)})
    return events.join(places, on="key", how="left", maintain_order="left")


def _quoted(texts: tuple[str, ...], null: bool) -> pl.Series:
    import orjson

    return pl.Series([orjson.dumps(text).decode() for text in texts] + (["null"] if null else []))


def _written(rng: np.random.Generator, events: pl.DataFrame) -> pl.DataFrame:
    count = events.height
    page = rng.integers(0, len(words.PAGES) * 50, count)
    no_page = len(words.PAGES)
    page = np.where(page % 50 == 49, no_page, page % no_page)
    # A page view or click is always somewhere.
    page = np.where((events["topic"].to_numpy() != 0) & (page == no_page), 0, page)
    prop = rng.integers(0, len(words.PROPERTIES) * 2, count)
    number = pl.Series(rng.integers(0, 100_000, count))
    events = events.with_columns(
        page=pl.Series([*words.PAGES, None], dtype=pl.String).gather(page),
        page_json=_quoted(words.PAGES, null=True).gather(page),
        properties=pl.Series([*words.PROPERTIES, *["null"] * len(words.PROPERTIES)]).gather(prop),
        number=number,
        local=pl.Series(chance(rng, count, 0.2)),
    ).with_columns(
        properties=pl.when(pl.col("order_id").is_not_null())
        .then(pl.format('{{"order_id":"{}"}}', "order_id"))
        .when((pl.col("properties") == "null") & (pl.col("number") % 3 > 0))
        .then(pl.format('{{"n":{},"screen":[{},1080],"ok":true}}', "number", pl.col("number") % 4000))
        .otherwise("properties"),
        time_json=_time_text(),
        user_json=pl.coalesce(pl.col("user_id").cast(pl.String), pl.lit("null")),
    )
    head = (
        '{"event_id":"',
        "event_id",
        '","event_time":"',
        "time_json",
        '","user_id":',
        "user_json",
        ',"anonymous_id":"',
        "anonymous_id",
        '","session_id":"',
        "session_id",
        '",',
    )
    n = pl.col("number")
    views = (
        *head,
        '"path":',
        "page_json",
        ',"referrer":',
        _pick(words.REFERRERS, n, null=True),
        ',"title":',
        _pick(words.TITLES, n, null=False),
        ',"duration_ms":',
        pl.when(n % 9 > 0).then(n.cast(pl.String)).otherwise(pl.lit("null")),
        "}",
    )
    clicks = (
        *head,
        '"page":',
        "page_json",
        ',"element":',
        _pick(words.ELEMENTS, n, null=False),
        ',"x":',
        (n % 3840 - 10).cast(pl.String),
        ',"y":',
        (n % 2160).cast(pl.String),
        "}",
    )
    own = (*head, '"event_type":', _typed(), ',"page":', "page_json", ',"properties":', "properties", "}")
    parts = []
    for topic, pieces in enumerate((own, views, clicks)):
        parts.append(events.filter(pl.col("topic") == topic).with_columns(value=_joined(pieces)))
    return pl.concat(parts).select(
        "topic",
        "key",
        "partition",
        pl.col("value").cast(pl.Binary),
        "sent_at",
        "attempt",
        "event_id",
        "event_type",
        "event_time",
        "user_id",
        "session_id",
        "page",
        "copied",
        pl.lit(None, pl.String).alias("reason"),
    )


def _joined(pieces: tuple[str | pl.Expr, ...]) -> pl.Expr:
    names = {"event_id", "time_json", "user_json", "anonymous_id", "session_id", "page_json", "properties"}
    return pl.concat_str(
        *(
            pl.lit(p) if isinstance(p, str) and p not in names else pl.col(p) if isinstance(p, str) else p
            for p in pieces
        )
    )


def _typed() -> pl.Expr:
    kinds = [name for name, _ in words.EVENT_TYPES + words.UNKNOWN_EVENT_TYPES] + ["signup", "order_placed"]
    quoted = _quoted(tuple(kinds), null=False).to_list()
    return pl.col("event_type").replace_strict(kinds, quoted, default=None, return_dtype=pl.String)


def _pick(texts: tuple[str, ...], number: pl.Expr, *, null: bool) -> pl.Expr:
    quoted = _quoted(texts, null)
    return (number % len(quoted)).replace_strict(
        list(range(len(quoted))), quoted.to_list(), return_dtype=pl.String
    )


def _time_text() -> pl.Expr:
    """ISO 8601 with Z; a fifth in the visitor's own time with its offset, also on the days the clocks
    change.
    """
    time = pl.col("event_time").cast(pl.Datetime("us", "UTC"))
    text = time.dt.to_string("%Y-%m-%dT%H:%M:%S%.3fZ")
    for zone in words.ZONES:
        local = time.dt.convert_time_zone(zone).dt.to_string("%Y-%m-%dT%H:%M:%S%.3f%:z")
        text = pl.when(pl.col("local") & (pl.col("zone") == zone)).then(local).otherwise(text)
    return text
