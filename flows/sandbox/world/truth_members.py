"""The truth about users, products and their histories, as somebody knows them who saw every commit."""

from __future__ import annotations

from typing import Any

import polars as pl

from flows.sandbox.world import catalogue, shop, state
from flows.sandbox.world.app import tables as app_tables
from flows.sandbox.world.log import Log
from flows.sandbox.world.measures import Measured, decimal, measure
from flows.sandbox.world.shape import DAY, Shape, day_of, instant
from flows.sandbox.world.truth_money import Told

AMOUNTS = {"orders": "total_amount", "payments": "amount", "refunds": "amount", "product_prices": "amount"}


def tables(
    shape: Shape, log: Log, periods: int, stops: tuple[int, ...], commits: tuple[int, ...]
) -> dict[str, Told]:
    """Dimensions, histories and the application's own tables."""
    now = stops[-1]
    users = log.read("users", periods)
    changes = log.read("changes", periods)
    looks = [_look(users, changes, stop, number) for number, stop in enumerate(stops)]
    return {
        "dim_users": _dim_users(shape, log, periods, stops, looks),
        "dim_users_history": _users_history(looks, commits),
        "dim_products": _dim_products(shape, periods, now),
        "dim_products_history": _products_history(shape, periods, stops, commits),
        "dim_date": Told(None, [_days()]),
        "app": Told(None, _application(shape, log, periods, now)),
    }


def _look(users: pl.DataFrame, changes: pl.DataFrame, stop: int, number: int) -> pl.DataFrame:
    """The users whose row is there at a stop."""
    there = state.people(users, changes, stop).filter(pl.col("hard_deleted_at") > stop)
    return there.with_columns(look=pl.lit(number), is_deleted=pl.col("soft_deleted_at") <= stop)


def _dim_users(
    shape: Shape, log: Log, periods: int, stops: tuple[int, ...], looks: list[pl.DataFrame]
) -> Told:
    last = len(stops) - 1
    seen = pl.concat(looks).sort("look").unique("user_id", keep="last", maintain_order=True)
    known = seen.with_columns(is_deleted=pl.col("is_deleted") | (pl.col("look") < last))
    alive = ~pl.col("is_deleted")
    members = known.select(
        "user_id",
        pl.when(alive).then("email").alias("email"),
        "country",
        "plan",
        pl.when(alive).then("marketing_opt_in").alias("marketing_opt_in"),
        day_of("created_at").alias("signup_date"),
        instant("created_at").alias("created_at"),
        "is_deleted",
        pl.lit(False).alias("is_inferred"),
    )
    orders = log.read("orders", periods)
    mentioned = [
        orders.filter((pl.col("created_at") <= stop) & (pl.col("hard_deleted_at") > stop)).select("user_id")
        for stop in stops
    ]
    mentioned += [
        log.scan("mentioned", p, p + 1).collect() for p in ((stop - shape.start) // DAY for stop in stops)
    ]
    unknown = pl.concat(mentioned).unique().join(known, on="user_id", how="anti")
    inferred = unknown.select("user_id", pl.lit(False).alias("is_deleted"), pl.lit(True).alias("is_inferred"))
    rows = pl.concat([members, inferred], how="diagonal").sort("user_id")
    measures = measure(
        "dim_users",
        rows,
        day=pl.col("signup_date"),
        group=pl.concat_str(pl.col("plan").fill_null("-"), pl.lit("/"), pl.col("country").fill_null("-")),
        counts={
            "user_ids": pl.col("user_id").sum(),
            "emails": pl.col("email").count(),
            "opted_in": pl.col("marketing_opt_in").sum(),
            "deleted": pl.col("is_deleted").sum(),
            "inferred": pl.col("is_inferred").sum(),
        },
    )
    return Told(rows, [measures])


def _users_history(looks: list[pl.DataFrame], commits: tuple[int, ...]) -> Told:
    """A version begins with the commit that brought it, also the one without the row; of a row that was there
    when the capture began nobody knows its commit, so that it holds since the row says it was changed.
    """
    alive = ~pl.col("is_deleted")
    versions = [
        look.select(
            "user_id",
            "look",
            (pl.lit(commits[number]) if number else pl.col("updated_at")).alias("from"),
            "is_deleted",
            *(
                pl.when(alive).then(column).alias(column)
                for column in ("country", "plan", "marketing_opt_in")
            ),
        )
        for number, look in enumerate(looks)
    ]
    gone = [
        looks[n - 1]
        .join(looks[n], on="user_id", how="anti")
        .select(
            "user_id",
            pl.lit(n).alias("look"),
            pl.lit(commits[n]).alias("from"),
            pl.lit(True).alias("is_deleted"),
            pl.lit(None, pl.String).alias("country"),
            pl.lit(None, pl.String).alias("plan"),
            pl.lit(None, pl.Boolean).alias("marketing_opt_in"),
        )
        for n in range(1, len(looks))
    ]
    tracked = pl.concat_str(
        pl.col(c).cast(pl.String).fill_null("-")
        for c in ("is_deleted", "country", "plan", "marketing_opt_in")
    )
    rows = (
        pl.concat([*versions, *gone])
        .sort("user_id", "look")
        .with_columns(tracked=tracked)
        .filter((pl.col("tracked") != pl.col("tracked").shift(1).over("user_id")).fill_null(True))
        .with_columns(is_current=pl.col("look") == pl.col("look").max().over("user_id"))
    )
    measures = measure(
        "dim_users_history",
        rows,
        day=day_of("from"),
        group=pl.concat_str(pl.col("plan").fill_null("-"), pl.lit("/"), pl.col("country").fill_null("-")),
        counts={
            "user_ids": pl.col("user_id").sum(),
            "current": pl.col("is_current").sum(),
            "opted_in": pl.col("marketing_opt_in").sum(),
            "deleted": pl.col("is_deleted").sum(),
            "microseconds": (pl.col("from") % DAY).sum(),
        },
    )
    return Told(None, [measures])


def _names(shape: Shape, stop: int) -> pl.DataFrame:
    rows = catalogue.products(shape, stop).select(
        "id", "sku", "name", "category_id", "supplier_id", "is_active", "created_at", "updated_at"
    )
    return rows.rename({"id": "product_id"})


def _dim_products(shape: Shape, periods: int, now: int) -> Told:
    prices = shop.prices(shape, periods).filter(
        (pl.col("currency") == "USD") & (pl.col("valid_from") <= now) & (pl.col("valid_to") > now)
    )
    frame = _names(shape, now).join(prices.select("product_id", "cents"), on="product_id", how="left")
    rows = frame.with_columns(unit_price_usd=decimal(pl.col("cents"), 12), is_inferred=pl.lit(False))
    measures = measure(
        "dim_products",
        frame,
        day=pl.col("created_at").dt.date(),
        group=pl.col("category_id"),
        counts={
            "product_ids": pl.col("product_id").sum(),
            "active": pl.col("is_active").sum(),
            "name_lengths": pl.col("name").str.len_chars().sum(),
        },
        money={"unit_price_usd": pl.col("cents").sum()},
    )
    return Told(rows.drop("cents"), [measures])


def _products_history(shape: Shape, periods: int, stops: tuple[int, ...], commits: tuple[int, ...]) -> Told:
    """Versions of the row as the commits brought them, cut where the US price changed."""
    versions: dict[int, list[tuple[int, Any]]] = {}
    for stop, commit in zip(stops, commits, strict=True):
        for row in (
            _names(shape, stop).with_columns(at=pl.col("updated_at").dt.epoch("us")).iter_rows(named=True)
        ):
            known = versions.setdefault(row["product_id"], [])
            seen = (row["name"], row["category_id"], row["is_active"])
            if not known or known[-1][1] != seen:
                known.append((row["at"] if stop == stops[0] else commit, seen))
    prices: dict[int, list[tuple[int, int]]] = {}
    for product, at, cents in (
        shop.prices(shape, periods)
        .filter((pl.col("currency") == "USD") & (pl.col("valid_from") <= stops[-1]))
        .select("product_id", "valid_from", "cents")
        .iter_rows()
    ):
        prices.setdefault(product, []).append((at, cents))
    rows = []
    for product, known in versions.items():
        before: object = None
        moments = sorted(
            {at for at, _ in known} | {at for at, _ in prices.get(product, []) if at >= known[0][0]}
        )
        chain = []
        for at in moments:
            name, category, active = [values for since, values in known if since <= at][-1]
            price = next((cents for since, cents in reversed(prices.get(product, [])) if since <= at), None)
            values = (name, category, active, price)
            if values != before:
                chain.append((product, at, category, active, price))
            before = values
        rows += [(*row, row is chain[-1]) for row in chain]
    frame = pl.DataFrame(
        rows,
        schema={
            "product_id": pl.Int64,
            "from": pl.Int64,
            "category_id": pl.Int64,
            "is_active": pl.Boolean,
            "cents": pl.Int64,
            "is_current": pl.Boolean,
        },
        orient="row",
    )
    measures = measure(
        "dim_products_history",
        frame,
        day=day_of("from"),
        group=pl.col("category_id"),
        counts={
            "product_ids": pl.col("product_id").sum(),
            "current": pl.col("is_current").sum(),
            "active": pl.col("is_active").sum(),
            "microseconds": (pl.col("from") % DAY).sum(),
        },
        money={"unit_price_usd": pl.col("cents").sum()},
    )
    return Told(None, [measures])


def _days() -> Measured:
    all_days = pl.date_range(pl.date(2015, 1, 1), pl.date(2035, 12, 31), eager=True)
    return measure("dim_date", pl.DataFrame({"date": all_days}))


def _application(shape: Shape, log: Log, periods: int, now: int) -> list[Measured]:
    """The application's tables themselves, as `app.<table>`, by the day of updated_at."""
    result = []
    for name, rows in app_tables(shape, log, periods, now):
        money = {}
        if name in AMOUNTS:
            column = AMOUNTS[name]
            money = {column: (pl.col(column).cast(pl.Decimal(18, 2)) * 100).cast(pl.Int64).sum()}
        result.append(measure(f"app.{name}", rows, day=pl.col("updated_at").dt.date(), money=money))
    events = state.order_events(log.read("orders", periods), 0, now)
    result.append(measure("app.order_events", events, day=pl.col("occurred_at").dt.date()))
    return result
