"""The application's tables as they stand at a moment: every log played back up to it.

Each function gives the rows of one table in the order of app_schema.sql's columns, instants as timestamptz
and amounts as text with two decimals, ready for COPY. `now` is in microseconds.
"""

from __future__ import annotations

import polars as pl

from flows.sandbox.world import words
from flows.sandbox.world.orders import STATUS_TIMES, timeline
from flows.sandbox.world.shape import NEVER, instant


def amount(cents: str | pl.Expr) -> pl.Expr:
    """Hundredths as text with two decimals."""
    value = pl.col(cents) if isinstance(cents, str) else cents
    return pl.concat_str(
        (value // 100).cast(pl.String), pl.lit("."), (value % 100).cast(pl.String).str.zfill(2)
    )


def latest(now: int, *columns: str) -> pl.Expr:
    """The latest of the times that are not after `now`; 0 if none is."""
    return pl.max_horizontal(*(pl.when(pl.col(c) <= now).then(pl.col(c)).otherwise(0) for c in columns))


def people(users: pl.DataFrame, changes: pl.DataFrame, now: int) -> pl.DataFrame:
    """All users whose row ever arrived up to `now`, with their attributes then; deleted ones included.

    Adds updated_at; a change after a soft deletion never happens.
    """
    arrived = users.filter(pl.col("arrives_at") <= now)
    played = (
        changes.filter(pl.col("at") <= now)
        .join(arrived.select("user_id", "soft_deleted_at"), on="user_id")
        .filter(pl.col("at") < pl.col("soft_deleted_at"))
        .sort("at", maintain_order=True)
    )
    latest_values = played.group_by("user_id", "kind", maintain_order=True).last()
    result = arrived
    for kind in ("plan", "marketing_opt_in", "country", "name", "email"):
        values = latest_values.filter(pl.col("kind") == kind).select("user_id", pl.col("value").alias("new"))
        new = pl.col("new") == "true" if kind == "marketing_opt_in" else pl.col("new")
        result = (
            result.join(values, on="user_id", how="left", maintain_order="left")
            .with_columns(pl.when(pl.col("new").is_not_null()).then(new).otherwise(kind).alias(kind))
            .drop("new")
        )
    touched = played.group_by("user_id").agg(changed_at=pl.col("at").max())
    return (
        result.join(touched, on="user_id", how="left", maintain_order="left")
        .with_columns(pl.col("changed_at").fill_null(0))
        .with_columns(updated_at=latest(now, "arrives_at", "changed_at", "soft_deleted_at"))
        .drop("changed_at")
    )


def users(played: pl.DataFrame, now: int) -> pl.DataFrame:
    """The table users, from what `people` gave."""
    return played.filter(pl.col("hard_deleted_at") > now).select(
        pl.col("user_id").alias("id"),
        "email",
        "name",
        "country",
        "locale",
        "plan",
        "marketing_opt_in",
        "last_ip",
        instant("created_at"),
        instant("updated_at"),
        deleted_at=instant(
            pl.when(pl.col("soft_deleted_at") <= now).then("soft_deleted_at").otherwise(NEVER)
        ),
    )


def addresses(known: pl.DataFrame, now: int) -> pl.DataFrame:
    """The table addresses; an address lives as long as its user's row."""
    return known.filter((pl.col("arrives_at") <= now) & (pl.col("hard_deleted_at") > now)).select(
        "id",
        "user_id",
        "kind",
        pl.format('{} O\'Street "{}"', "house", "kind").alias("line1"),
        pl.when(pl.col("moved_at") <= now).then(pl.lit("Zürich")).otherwise("city").alias("city"),
        pl.format("{}-{}", "house", "user_id").alias("postal_code"),
        "country",
        "is_default",
        instant("created_at"),
        instant(latest(now, "arrives_at", "moved_at")).alias("updated_at"),
    )


def orders(log: pl.DataFrame, now: int) -> pl.DataFrame:
    """The table orders."""
    status = pl.lit("pending")
    for name, column in list(STATUS_TIMES.items())[1:]:
        status = pl.when(pl.col(column) <= now).then(pl.lit(name)).otherwise(status)
    return log.filter((pl.col("created_at") <= now) & (pl.col("hard_deleted_at") > now)).select(
        pl.col("order_id").alias("id"),
        "user_id",
        "product_id",
        "quantity",
        amount("unit_price").alias("unit_price"),
        amount("discount").alias("discount_amount"),
        amount("total").alias("total_amount"),
        "currency",
        "coupon_code",
        status.alias("status"),
        instant("created_at").alias("created_at"),
        instant(latest(now, *STATUS_TIMES.values())).alias("updated_at"),
    )


def order_events(log: pl.DataFrame, after: int, now: int) -> pl.DataFrame:
    """The rows order_events gains in (after, now], in order of time; the database gives the ids."""
    payload = (
        pl.when(pl.col("to_status") == "cancelled")
        .then(pl.lit('{"reason": "didn\'t pay", "by": null}'))
        .when(pl.col("number") % 5 == 0)
        .then(pl.format('{{"n": {}, "note": "größe \\"XL\\" 🦄"}}', "number"))
    )
    return (
        timeline(log)
        .filter((pl.col("at") > after) & (pl.col("at") <= now))
        .select(
            "order_id",
            "from_status",
            "to_status",
            actor=pl.when(pl.col("to_status") == "pending")
            .then(pl.lit("customer"))
            .otherwise(pl.lit("system")),
            payload=payload,
            occurred_at=instant("at"),
        )
    )


def payments(log: pl.DataFrame, now: int) -> pl.DataFrame:
    """The table payments: a row per attempt. Free orders are paid by coupon, some by bank: neither has a
    charge.
    """
    by_card = (pl.col("total") > 0) & ~pl.col("by_bank")
    failed = log.filter(pl.col("failed_at") <= now).select(
        (pl.col("number") * 2 + 1).alias("id"),
        "order_id",
        pl.format("ch_{}F", "charge").alias("stripe_charge_id"),
        amount("total").alias("amount"),
        "currency",
        pl.lit("card").alias("method"),
        pl.lit("failed").alias("status"),
        instant("failed_at").alias("created_at"),
        instant("failed_at").alias("updated_at"),
    )
    refunded = pl.when(pl.col("refund1_at") <= now).then("refund1").otherwise(0) + pl.when(
        pl.col("refund2_at") <= now
    ).then("refund2").otherwise(0)
    made = log.filter(pl.col("paid_at") <= now).select(
        (pl.col("number") * 2 + 2).alias("id"),
        "order_id",
        pl.when(by_card).then(pl.format("ch_{}", "charge")).alias("stripe_charge_id"),
        amount("total").alias("amount"),
        "currency",
        pl.when(pl.col("total") == 0)
        .then(pl.lit("coupon"))
        .when("by_bank")
        .then(pl.lit("bank_transfer"))
        .otherwise(pl.lit("card"))
        .alias("method"),
        pl.when(pl.col("disputed_at") <= now)
        .then(pl.lit("disputed"))
        .when(refunded == 0)
        .then(pl.lit("succeeded"))
        .when(refunded < pl.col("total"))
        .then(pl.lit("partially_refunded"))
        .otherwise(pl.lit("refunded"))
        .alias("status"),
        instant("paid_at").alias("created_at"),
        instant(latest(now, "paid_at", "refund1_at", "refund2_at", "disputed_at", "dispute_closed_at")).alias(
            "updated_at"
        ),
    )
    return pl.concat([failed, made])


def refunds(log: pl.DataFrame, now: int) -> pl.DataFrame:
    """The table refunds: at most two an order."""
    frames = []
    for n in (1, 2):
        frames.append(
            log.filter(pl.col(f"refund{n}_at") <= now).select(
                (pl.col("number") * 4 + n).alias("id"),
                (pl.col("number") * 2 + 2).alias("payment_id"),
                pl.when(~pl.col("by_bank"))
                .then(pl.format("re_{}" + str(n), "charge"))
                .alias("stripe_refund_id"),
                amount(f"refund{n}").alias("amount"),
                "currency",
                pl.when(pl.col("number") % 3 != 0).then(pl.lit("requested_by_customer")).alias("reason"),
                pl.lit("succeeded").alias("status"),
                instant(f"refund{n}_at").alias("created_at"),
                instant(f"refund{n}_at").alias("updated_at"),
            )
        )
    return pl.concat(frames)


def shipments(log: pl.DataFrame, now: int) -> pl.DataFrame:
    """The table shipments: a row from the moment an order is paid."""
    alive = log.filter(
        (pl.col("paid_at") <= now) & (pl.col("hard_deleted_at") > now) & (pl.col("shipped_at") < NEVER)
    )
    carriers = pl.col("carrier").replace_strict(dict(enumerate(words.CARRIERS)), return_dtype=pl.String)
    return alive.select(
        (pl.col("number") + 1).alias("id"),
        "order_id",
        carriers.alias("carrier"),
        pl.when(pl.col("shipped_at") <= now).then(pl.format("TR{}", "number")).alias("tracking_number"),
        pl.when(pl.col("delivered_at") <= now)
        .then(pl.lit("delivered"))
        .when(pl.col("shipped_at") <= now)
        .then(pl.lit("shipped"))
        .otherwise(pl.lit("packing"))
        .alias("status"),
        instant(pl.when(pl.col("shipped_at") <= now).then("shipped_at").otherwise(NEVER)).alias("shipped_at"),
        instant(pl.when(pl.col("delivered_at") <= now).then("delivered_at").otherwise(NEVER)).alias(
            "delivered_at"
        ),
        instant("paid_at").alias("created_at"),
        instant(latest(now, "paid_at", "shipped_at", "delivered_at")).alias("updated_at"),
    )


def reviews(log: pl.DataFrame, now: int) -> pl.DataFrame:
    """The table reviews."""
    title = (pl.col("number") % len(words.REVIEW_TITLES)).replace_strict(
        dict(enumerate(words.REVIEW_TITLES)), return_dtype=pl.String
    )
    return log.filter((pl.col("reviewed_at") <= now) & (pl.col("hard_deleted_at") > now)).select(
        (pl.col("number") + 1).alias("id"),
        "order_id",
        "user_id",
        "product_id",
        "rating",
        title.alias("title"),
        pl.when(pl.col("number") % 4 != 0)
        .then(pl.lit('line one\nline "two"\t🦄, it\'s fine\\'))
        .alias("body"),
        instant("reviewed_at").alias("created_at"),
        instant("reviewed_at").alias("updated_at"),
    )


def support_tickets(log: pl.DataFrame, now: int) -> pl.DataFrame:
    """The table support_tickets; messages is a nested list."""
    subject = (pl.col("number") % len(words.TICKET_SUBJECTS)).replace_strict(
        dict(enumerate(words.TICKET_SUBJECTS)), return_dtype=pl.String
    )
    closed = pl.col("ticket_closed_at") <= now
    opening = '[{"from": "customer", "text": "it\'s \\"late\\""}'
    return log.filter(pl.col("ticket_at") <= now).select(
        (pl.col("number") + 1).alias("id"),
        "user_id",
        pl.when(pl.col("number") % 5 != 0).then("order_id").alias("order_id"),
        subject.alias("subject"),
        pl.when(closed).then(pl.lit("closed")).otherwise(pl.lit("open")).alias("status"),
        pl.when(pl.col("number") % 7 == 0).then(pl.lit("high")).otherwise(pl.lit("normal")).alias("priority"),
        pl.when(closed)
        .then(pl.lit(opening + ', {"from": "agent", "text": "返品 ok"}]'))
        .otherwise(pl.lit(opening + "]"))
        .alias("messages"),
        instant("ticket_at").alias("opened_at"),
        instant(pl.when(closed).then("ticket_closed_at").otherwise(NEVER)).alias("closed_at"),
        instant(latest(now, "ticket_at", "ticket_closed_at")).alias("updated_at"),
    )
