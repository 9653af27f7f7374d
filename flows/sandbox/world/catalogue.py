"""The application's tables about what it sells, as they stand at a moment; see state.py."""

from __future__ import annotations

import polars as pl

from flows.sandbox.world import shop, words
from flows.sandbox.world.shape import BASE, DAY, NEVER, Shape, instant
from flows.sandbox.world.state import amount, latest


def categories(shape: Shape, now: int) -> pl.DataFrame:
    """The table categories; one is renamed half a day after the world's first now."""
    renamed = shape.start + shape.days * DAY + DAY // 2
    rows = [
        (
            i,
            parent,
            f"{name} & vouchers" if i == 12 and renamed <= now else name,
            renamed if i == 12 and renamed <= now else shape.start - shop.YEAR,
        )
        for i, parent, name in words.CATEGORIES
    ]
    frame = pl.DataFrame(rows, schema=["id", "parent_id", "name", "updated_at"], orient="row")
    return frame.with_columns(instant("updated_at"))


def suppliers(shape: Shape) -> pl.DataFrame:
    """The table suppliers."""
    rows = [
        (i, name, country, f"hello@supplier{i}.example", shape.start - shop.YEAR)
        for i, name, country in words.SUPPLIERS
    ]
    frame = pl.DataFrame(rows, schema=["id", "name", "country", "contact_email", "updated_at"], orient="row")
    return frame.with_columns(instant("updated_at"))


def products(shape: Shape, now: int) -> pl.DataFrame:
    """The table products."""
    known = shop.products(shape).filter(pl.col("created_at") <= now)
    quoted = pl.col("tags").list.eval(
        pl.concat_str(
            pl.lit('"'),
            pl.element()
            .str.replace_all("\\", "\\\\", literal=True)
            .str.replace_all('"', '\\"', literal=True),
            pl.lit('"'),
        )
    )
    number = pl.col("product_id")
    return known.select(
        number.alias("id"),
        pl.format("SKU-{}", number.cast(pl.String).str.zfill(6)).alias("sku"),
        pl.when(pl.col("renamed_at") <= now)
        .then(pl.format("{} (2nd gen.)", "name"))
        .otherwise("name")
        .alias("name"),
        "category_id",
        "supplier_id",
        pl.when(number % 3 != 0)
        .then(pl.lit('A "fine" thing;\nmade by hand, c\'est ça'))
        .alias("description"),
        pl.format('{{"colour": "{}", "size": {{"w": {}, "h": null}}}}', pl.lit("grün"), number).alias(
            "attributes"
        ),
        pl.when(number % 17 != 0)
        .then(pl.concat_str(pl.lit("{"), quoted.list.join(","), pl.lit("}")))
        .alias("tags"),
        pl.when(number % 10 == 0)
        .then(pl.format("\\x89504e470d0a1a0a00ff{}", number.cast(pl.String).str.zfill(6)))
        .alias("image"),
        pl.concat_str(
            (pl.col("grams") // 10**9).cast(pl.String),
            pl.lit("."),
            (pl.col("grams") % 10**9).cast(pl.String).str.zfill(9),
            pl.lit("000000001"),
        ).alias("weight_kg"),
        (pl.col("retired_at") > now).alias("is_active"),
        instant("created_at").alias("created_at"),
        instant(latest(now, "created_at", "renamed_at", "retired_at")).alias("updated_at"),
    )


def product_prices(shape: Shape, periods: int, now: int) -> pl.DataFrame:
    """The table product_prices; the end of a price is written when the next one starts."""
    ended = pl.col("valid_to") <= now
    return (
        shop.prices(shape, periods)
        .filter(pl.col("valid_from") <= now)
        .select(
            "id",
            "product_id",
            "currency",
            amount("cents").alias("amount"),
            instant("valid_from").alias("valid_from"),
            instant(pl.when(ended).then("valid_to").otherwise(NEVER)).alias("valid_to"),
            instant("valid_from").alias("created_at"),
            instant(latest(now, "valid_from", "valid_to")).alias("updated_at"),
        )
    )


def inventory(shape: Shape, now: int) -> pl.DataFrame:
    """The table inventory: counted once a UTC day."""
    midnight = now // DAY * DAY
    rng = shape.rng("inventory", BASE + midnight // DAY)
    stock = shop.products(shape).filter(pl.col("created_at") <= now).select("product_id")
    frame = stock.join(pl.DataFrame({"warehouse": list(words.WAREHOUSES)}), how="cross")
    return frame.with_columns(
        quantity=pl.Series(rng.integers(0, 500, frame.height)),
        reserved=pl.Series(rng.integers(0, 5, frame.height)),
        updated_at=pl.lit(midnight),
    ).with_columns(instant("updated_at"))


def coupons(shape: Shape) -> pl.DataFrame:
    """The table coupons."""
    until = (
        pl.when(pl.col("valid_to") < NEVER)
        .then(instant("valid_to").dt.to_string("iso:strict"))
        .otherwise(pl.lit(""))
    )
    return shop.coupons(shape).select(
        "code",
        amount(pl.col("percent") * 100).alias("percent_off"),
        pl.format('["{}","{}")', instant("valid_from").dt.to_string("iso:strict"), until)
        .str.replace(',""', ",")
        .alias("valid_during"),
        "max_uses",
        instant("created_at").alias("created_at"),
        instant("created_at").alias("updated_at"),
    )
