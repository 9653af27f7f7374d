"""Users, their addresses and what they change about themselves.

A user is a row of attributes at sign-up and the times at which it arrives, is deleted softly or for good.
Changes are rows of their own; `state.py` plays them back.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from flows.sandbox.world import words
from flows.sandbox.world.shape import BASE, DAY, HOUR, NEVER, Shape, between, chance, tokens

PLANS = np.array(["free", "pro", "team"])


def users(shape: Shape, period: int) -> pl.DataFrame:
    """Users who sign up in `period`, ids ascending with `created_at`. BASE gives those of the year before.

    `arrives_at` is when the row reaches the database (3 % of the new ones come hours or days late),
    `soft_deleted_at` sets deleted_at, `hard_deleted_at` takes the row away; a deletion never comes before
    the row is a day old.
    """
    rng = shape.rng("users", period)
    if period == BASE:
        first, count = 0, shape.base_users
        low, high = shape.start - 365 * DAY, shape.start
    else:
        first = shape.users_before(period)
        count = shape.users_before(period + 1) - first
        low, high = shape.period_start(period), shape.period_start(period + 1)
    ids = np.arange(first + 1, first + count + 1, dtype=np.int64)
    created = np.sort(between(rng, count, low, high))
    arrives = created.copy()
    if period != BASE:
        late = chance(rng, count, 0.03)
        if count:
            late[-1] = True  # every period has one, so that some order always waits for its user
        arrives[late] += between(rng, count, 12 * HOUR, 40 * HOUR)[late]
    soft = np.where(chance(rng, count, 0.05), np.maximum(created, shape.start - 60 * DAY), NEVER)
    soft = np.where(soft < NEVER, soft + 2 * DAY + between(rng, count, 0, 90 * DAY), soft)
    hard = np.where(chance(rng, count, 0.01), np.maximum(created, shape.start - 20 * DAY), NEVER)
    hard = np.where(hard < NEVER, hard + 3 * DAY + between(rng, count, 0, 60 * DAY), hard)
    home = rng.choice(
        len(words.COUNTRIES), count, p=[0.2, 0.05, 0.15, 0.1, 0.12, 0.12, 0.08, 0.1, 0.05, 0.03]
    )
    columns = list(zip(*words.COUNTRIES, strict=True))
    return (
        pl.DataFrame(
            {
                "user_id": ids,
                "token": tokens(rng, count, 14),
                "anonymous": tokens(rng, count, 10),
                "name": np.array(words.NAMES, dtype=object)[rng.integers(0, len(words.NAMES), count)],
                "has_name": ~chance(rng, count, 0.01),
                "mail_form": rng.integers(0, 20, count),
                "country": np.array(columns[0], dtype=object)[home],
                "locale": np.array(columns[1], dtype=object)[home],
                "zone": np.array(columns[2], dtype=object)[home],
                "currency": np.array(columns[3], dtype=object)[home],
                "plan": PLANS[rng.choice(3, count, p=[0.75, 0.2, 0.05])].astype(object),
                "marketing_opt_in": chance(rng, count, 0.6),
                "last_ip": rng.integers(0, 2**16, count),
                "created_at": created,
                "arrives_at": arrives,
                "soft_deleted_at": soft,
                "hard_deleted_at": hard,
            },
            schema_overrides={"name": pl.String, "country": pl.String, "locale": pl.String, "zone": pl.String}
            | {"currency": pl.String, "plan": pl.String},
        )
        .with_columns(
            name=pl.when("has_name").then("name"),
            country=pl.when(pl.col("user_id") % 97 != 0).then("country"),
            email=email(pl.col("user_id"), pl.col("mail_form"), pl.lit("")),
            last_ip=pl.when(pl.col("user_id") % 11 == 0)
            .then(pl.format("2001:db8::{}", pl.col("last_ip") % 10_000))
            .otherwise(pl.format("10.{}.{}.7", pl.col("last_ip") // 256, pl.col("last_ip") % 256)),
        )
        .drop("has_name", "mail_form")
    )


def email(user: pl.Expr, form: pl.Expr, tag: pl.Expr) -> pl.Expr:
    """An address that is unique to a user; a twentieth each is in capitals, quoted or internationalised."""
    return (
        pl.when(form == 0)
        .then(pl.format("USER{}{}@Example.COM", user, tag))
        .when(form == 1)
        .then(pl.format('"o\'user {}{}"@example.com', user, tag))
        .when(form == 2)
        .then(pl.format("пользователь{}{}@пример.example", user, tag))
        .otherwise(pl.format("user{}{}@example.com", user, tag))
    )


def changes(shape: Shape, period: int) -> pl.DataFrame:
    """What 1 % of the users change in `period`: columns user_id, at, kind and value (text)."""
    rng = shape.rng("user changes", period)
    known = shape.users_before(period)
    count = max(8, known // 100)
    start = shape.period_start(period)
    kinds = np.array(["plan", "marketing_opt_in", "country", "name", "email"], dtype=object)
    kind = rng.choice(5, count, p=[0.35, 0.3, 0.1, 0.15, 0.1])
    ids = rng.integers(1, known + 1, count)
    values = {
        0: PLANS[rng.integers(0, 3, count)],
        1: np.where(chance(rng, count, 0.3), "true", "false"),
        2: np.array([c[0] for c in words.COUNTRIES])[rng.integers(0, len(words.COUNTRIES), count)],
        3: np.array(words.NAMES)[rng.integers(0, len(words.NAMES), count)],
        4: np.array([f"user{i}+{period}@example.com" for i in ids.tolist()]),
    }
    return pl.DataFrame(
        {
            "user_id": ids,
            "at": between(rng, count, start, start + DAY),
            "kind": kinds[kind],
            "value": [str(values[k][i]) for i, k in enumerate(kind.tolist())],
        },
        schema_overrides={"kind": pl.String, "value": pl.String},
    )


def addresses(shape: Shape, owners: pl.DataFrame) -> pl.DataFrame:
    """One or two addresses for each of `owners`; a tenth of them moves house 1 to 30 days later."""
    rng = shape.rng("addresses", int(owners["user_id"][0]) if owners.height else 0)
    count = owners.height
    base = owners.select("user_id", "country", "created_at", "arrives_at", "hard_deleted_at").with_columns(
        number=pl.Series(rng.integers(1, 3, count)),
        city=pl.Series(np.array(words.CITIES)[rng.integers(0, len(words.CITIES), count)]),
        house=pl.Series(rng.integers(1, 300, count)),
        moved_at=pl.Series(
            np.where(chance(rng, count, 0.1), DAY + between(rng, count, 0, 30 * DAY), NEVER), dtype=pl.Int64
        ),
    )
    base = base.with_columns(
        moved_at=pl.when(pl.col("moved_at") < NEVER)
        .then(pl.max_horizontal("created_at", pl.lit(shape.start)) + pl.col("moved_at"))
        .otherwise(NEVER)
    )
    homes = base.with_columns(id=pl.col("user_id") * 2 - 1, kind=pl.lit("billing"), is_default=pl.lit(True))
    others = base.filter(pl.col("number") == 2).with_columns(
        id=pl.col("user_id") * 2, kind=pl.lit("shipping"), is_default=pl.lit(False), moved_at=pl.lit(NEVER)
    )
    return pl.concat([homes, others]).drop("number")
