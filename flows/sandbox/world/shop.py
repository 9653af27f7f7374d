"""What the company sells: products, their prices over time, stock, coupons. Small; made whole for any
moment.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import polars as pl

from flows.sandbox.world import words
from flows.sandbox.world.shape import BASE, DAY, NEVER, Shape, between, chance

PRODUCTS = 300
YEAR = 365 * DAY


@lru_cache(maxsize=4)
def products(shape: Shape) -> pl.DataFrame:
    """All products of all times, ids ascending with `created_at`; a tenth appears after the world's start."""
    rng = shape.rng("products", BASE)
    old = PRODUCTS * 9 // 10
    created = np.concatenate(
        [
            np.sort(between(rng, old, shape.start - YEAR, shape.start)),
            np.sort(between(rng, PRODUCTS - old, shape.start, shape.start + 2 * shape.days * DAY)),
        ]
    )
    ids = np.arange(1, PRODUCTS + 1)
    names = [
        f"{words.PRODUCT_STYLES[a]} {words.PRODUCT_WORDS[b]} {i}"
        for i, a, b in zip(
            ids.tolist(), rng.integers(0, 8, PRODUCTS), rng.integers(0, 10, PRODUCTS), strict=True
        )
    ]
    tags = [
        [words.TAGS[t] for t in sorted(set(row[:n].tolist()))]
        for row, n in zip(
            rng.integers(0, len(words.TAGS), (PRODUCTS, 3)), rng.integers(0, 4, PRODUCTS), strict=True
        )
    ]
    return pl.DataFrame(
        {
            "product_id": ids,
            "name": names,
            "category_id": rng.integers(2, len(words.CATEGORIES) + 1, PRODUCTS),
            "supplier_id": rng.integers(1, len(words.SUPPLIERS) + 1, PRODUCTS),
            "tags": tags,
            "dollar_cents": rng.integers(199, 25000, PRODUCTS),
            "grams": rng.integers(10, 50_000_000_000, PRODUCTS),
            "created_at": created,
            "renamed_at": np.where(
                chance(rng, PRODUCTS, 0.2), created + between(rng, PRODUCTS, DAY, YEAR), NEVER
            ),
            "retired_at": np.where(
                chance(rng, PRODUCTS, 0.1), created + between(rng, PRODUCTS, DAY, 2 * YEAR), NEVER
            ),
        }
    )


@lru_cache(maxsize=4)
def _changes(shape: Shape, periods: int) -> pl.DataFrame:
    frames = []
    for period in range(periods):
        rng = shape.rng("prices", period)
        ids = np.sort(rng.choice(PRODUCTS, 5, replace=False)) + 1
        start = shape.period_start(period)
        frames.append(
            pl.DataFrame(
                {
                    "product_id": ids,
                    "valid_from": between(rng, 5, start, start + DAY),
                    "factor": rng.uniform(0.7, 1.4, 5),
                    "number": np.full(5, period),
                }
            )
        )
    return pl.concat(frames)


@lru_cache(maxsize=4)
def prices(shape: Shape, periods: int) -> pl.DataFrame:
    """Every price in every currency, [valid_from, valid_to), set before period `periods` starts.

    Columns id, product_id, currency, cents (hundredths of the major unit), valid_from, valid_to. Five
    products change price each period; a currency without decimals has whole amounts.
    """
    known = products(shape).select("product_id", "dollar_cents", "created_at")
    first = known.with_columns(valid_from="created_at", factor=pl.lit(1.0), number=pl.lit(-1, pl.Int64)).drop(
        "created_at"
    )
    later = (
        _changes(shape, periods)
        .join(known, on="product_id")
        .filter(pl.col("valid_from") > pl.col("created_at"))
        .select(first.columns)
    )
    rates = pl.DataFrame(
        {"currency": list(words.CURRENCIES), "rate": [words.RATES[c] for c in words.CURRENCIES]}
    )
    exact = (pl.col("dollar_cents") * pl.col("factor") * pl.col("rate")).round().cast(pl.Int64)
    number_of = pl.col("currency").replace_strict(
        {c: i for i, c in enumerate(words.CURRENCIES)}, return_dtype=pl.Int64
    )
    return (
        pl.concat([first, later])
        .join(rates, how="cross")
        .with_columns(
            cents=pl.when(pl.col("currency").is_in(list(words.ZERO_DECIMAL)))
            .then((exact + 99) // 100 * 100)
            .otherwise(exact),
            id=((pl.col("number") + 1) * PRODUCTS + pl.col("product_id")) * 10 + number_of,
        )
        .sort("product_id", "currency", "valid_from")
        .with_columns(valid_to=pl.col("valid_from").shift(-1).over("product_id", "currency").fill_null(NEVER))
        .select("id", "product_id", "currency", "cents", "valid_from", "valid_to")
    )


@lru_cache(maxsize=4)
def coupons(shape: Shape) -> pl.DataFrame:
    """Coupons: code, percent, [valid_from, valid_to), max_uses. WELCOME100 makes an order free."""
    rows = [
        ("WELCOME100", 100, 0),
        ("AUTUMN10", 10, 1),
        ("IT'S-20", 20, 2),
        ("½PRICE", 50, 3),
        ("ZERO", 0, 4),
    ]
    return pl.DataFrame(
        {
            "code": [row[0] for row in rows],
            "percent": [row[1] for row in rows],
            "valid_from": [shape.start - 30 * DAY] * 5,
            "valid_to": [shape.start + 3650 * DAY] * 4 + [NEVER],
            "max_uses": [None, 10_000, 5_000, 100, None],
            "created_at": [shape.start - (30 + row[2]) * DAY for row in rows],
        }
    )
