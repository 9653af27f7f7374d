"""The truth about orders, payments, refunds and e-mail, from what was drawn for each order and message."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from flows.sandbox.world import sendgrid, state, stripe
from flows.sandbox.world.log import Log
from flows.sandbox.world.measures import Measured, decimal, measure
from flows.sandbox.world.shape import SECOND, day_of, instant


class Told(NamedTuple):
    """The rows of a table, where they are few enough to keep, and its measures."""

    rows: pl.DataFrame | None
    measures: list[Measured]


def tables(log: Log, periods: int, now: int) -> dict[str, Told]:
    """Every table about money and e-mail."""
    orders = _orders(log.read("orders", periods), now)
    alive = orders.filter(pl.col("hard_deleted_at") > now)
    payments = _payments(orders, now)
    refunds = _refunds(orders, now)
    return {
        "fct_orders": _fct_orders(alive),
        "fct_payments": _fct_payments(payments),
        "fct_refunds": _fct_refunds(refunds),
        "mart_daily_revenue": _daily_revenue(alive, orders, now),
        "mart_revenue_reconciliation": _reconciliation(alive, payments),
        **_mail(log, periods, now),
    }


def _orders(log: pl.DataFrame, now: int) -> pl.DataFrame:
    """Orders placed up to now, deleted ones included, with status and updated_at; amounts also in minor
    units.
    """
    placed = log.filter(pl.col("created_at") <= now)
    status = state.orders(placed.with_columns(hard_deleted_at=pl.lit(now + 1)), now).select(
        pl.col("id").alias("order_id"), "status", "updated_at"
    )
    return placed.join(status, on="order_id", maintain_order="left").with_columns(
        amount=stripe.minor("total"), part1=stripe.minor("refund1"), part2=stripe.minor("refund2")
    )


def _fct_orders(alive: pl.DataFrame) -> Told:
    rows = alive.select(
        "order_id",
        "user_id",
        "product_id",
        day_of("created_at").alias("order_date"),
        pl.col("quantity").cast(pl.Int32),
        decimal(pl.col("total"), 10).alias("revenue"),
        decimal(pl.col("discount"), 12).alias("discount_amount"),
        "currency",
        "coupon_code",
        "status",
        instant("created_at").alias("created_at"),
        "updated_at",
    )
    measures = measure(
        "fct_orders",
        alive,
        day=day_of("created_at"),
        group=pl.format("{}/{}", "currency", "status"),
        counts={
            "user_ids": pl.col("user_id").sum(),
            "product_ids": pl.col("product_id").sum(),
            "quantity": pl.col("quantity").sum(),
            "coupons": pl.col("coupon_code").count(),
        },
        money={"revenue": pl.col("total").sum(), "discount_amount": pl.col("discount").sum()},
    )
    return Told(rows, [measures])


def _payments(orders: pl.DataFrame, now: int) -> pl.DataFrame:
    """Charges, failed ones included. The user is known as long as the order is there."""
    cards = orders.filter((pl.col("total") > 0) & ~pl.col("by_bank")).with_columns(
        user_id=pl.when(pl.col("hard_deleted_at") > now).then("user_id"),
        customer_id=pl.format("cus_{}", "token"),
    )
    given_back = pl.when(pl.col("refund1_at") <= now).then("part1").otherwise(0) + pl.when(
        pl.col("refund2_at") <= now
    ).then("part2").otherwise(0)
    shared = ("order_id", "user_id", "customer_id", pl.col("amount").alias("amount_minor"), "currency")
    succeeded = cards.filter(pl.col("paid_at") <= now).select(
        pl.format("ch_{}", "charge").alias("payment_id"),
        *shared,
        pl.col("amount").alias("amount_captured_minor"),
        pl.lit("succeeded").alias("status"),
        (pl.col("disputed_at") <= now).alias("is_disputed"),
        given_back.alias("amount_refunded_minor"),
        stripe.fee(pl.col("amount")).alias("fee_minor"),
        pl.col("paid_at").alias("at"),
    )
    failed = cards.filter(pl.col("failed_at") <= now).select(
        pl.format("ch_{}F", "charge").alias("payment_id"),
        *shared,
        pl.lit(0, pl.Int64).alias("amount_captured_minor"),
        pl.lit("failed").alias("status"),
        pl.lit(False).alias("is_disputed"),
        pl.lit(0, pl.Int64).alias("amount_refunded_minor"),
        pl.lit(None, pl.Int64).alias("fee_minor"),
        pl.col("failed_at").alias("at"),
    )
    return pl.concat([succeeded, failed]).with_columns(pl.col("at") // SECOND * SECOND)


def _fct_payments(payments: pl.DataFrame) -> Told:
    rows = payments.with_columns(occurred_at=instant("at")).drop("at")
    measures = measure(
        "fct_payments",
        payments,
        day=day_of("at"),
        group=pl.format("{}/{}", "currency", "status"),
        counts={
            "orders": pl.col("order_id").count(),
            "user_ids": pl.col("user_id").sum(),
            "amount_minor": pl.col("amount_minor").sum(),
            "amount_captured_minor": pl.col("amount_captured_minor").sum(),
            "amount_refunded_minor": pl.col("amount_refunded_minor").sum(),
            "fee_minor": pl.col("fee_minor").sum(),
            "disputed": pl.col("is_disputed").sum(),
        },
    )
    return Told(rows, [measures])


def _refunds(orders: pl.DataFrame, now: int) -> pl.DataFrame:
    cards = orders.filter(~pl.col("by_bank")).with_columns(
        user_id=pl.when(pl.col("hard_deleted_at") > now).then("user_id")
    )
    return pl.concat(
        cards.filter(pl.col(f"refund{n}_at") <= now).select(
            pl.format("re_{}" + str(n), "charge").alias("refund_id"),
            pl.format("ch_{}", "charge").alias("payment_id"),
            "order_id",
            "user_id",
            pl.col(f"part{n}").alias("amount_minor"),
            "currency",
            pl.when(pl.col("number") % 3 != 0).then(pl.lit("requested_by_customer")).alias("reason"),
            pl.lit("succeeded").alias("status"),
            (pl.col(f"refund{n}_at") // SECOND * SECOND).alias("at"),
        )
        for n in (1, 2)
    )


def _fct_refunds(refunds: pl.DataFrame) -> Told:
    measures = measure(
        "fct_refunds",
        refunds,
        day=day_of("at"),
        group=pl.format("{}/{}", "currency", "status"),
        counts={
            "user_ids": pl.col("user_id").sum(),
            "amount_minor": pl.col("amount_minor").sum(),
            "reasons": pl.col("reason").count(),
        },
    )
    return Told(refunds.with_columns(occurred_at=instant("at")).drop("at"), [measures])


def _daily_revenue(alive: pl.DataFrame, orders: pl.DataFrame, now: int) -> Told:
    cancelled = pl.col("status") == "cancelled"
    placed = alive.group_by(day_of("created_at").alias("date"), "currency").agg(
        orders=(~cancelled).sum(),
        revenue=pl.col("total").filter(~cancelled).sum(),
        cancelled_orders=cancelled.sum(),
        cancelled_revenue=pl.col("total").filter(cancelled).sum(),
        refunds=pl.lit(0),
        refunded_amount=pl.lit(0, pl.Int64),
    )
    # Refunds by bank count here: the application knows them, Stripe does not.
    back = pl.concat(
        orders.filter(pl.col(f"refund{n}_at") <= now).select(
            day_of(f"refund{n}_at").alias("date"), "currency", pl.col(f"refund{n}").alias("cents")
        )
        for n in (1, 2)
    )
    returned = back.group_by("date", "currency").agg(refunds=pl.len(), refunded_amount=pl.col("cents").sum())
    days = (
        pl.concat([placed, returned], how="diagonal_relaxed")
        .group_by("date", "currency")
        .agg(pl.all().fill_null(0).sum())
    )
    money = ("revenue", "cancelled_revenue", "refunded_amount")
    measures = measure(
        "mart_daily_revenue",
        days,
        day=pl.col("date"),
        group=pl.col("currency"),
        counts={name: pl.col(name).sum() for name in ("orders", "cancelled_orders", "refunds")},
        money={name: pl.col(name).sum() for name in money}
        | {"net_revenue": (pl.col("revenue") - pl.col("refunded_amount")).sum()},
    )
    rows = days.with_columns(decimal(pl.col(name), 18).alias(name) for name in money).sort("date", "currency")
    return Told(rows, [measures])


def _reconciliation(alive: pl.DataFrame, payments: pl.DataFrame) -> Told:
    collected = payments.filter((pl.col("status") == "succeeded") & (pl.col("amount_captured_minor") > 0))
    charged = collected.select("order_id", "at").with_columns(charged=pl.lit(True))
    due = pl.col("status").is_in(["paid", "shipped", "delivered", "refunded"]) & (pl.col("total") > 0)
    sold = (
        alive.filter(due)
        .join(charged, on="order_id", how="left")
        .with_columns(pl.col("charged").fill_null(False))
    )
    sales = sold.group_by(day_of("created_at").alias("date"), "currency").agg(
        orders=pl.len(),
        orders_revenue=pl.col("total").sum(),
        orders_without_charge=(~pl.col("charged")).sum(),
        other_revenue=pl.col("total").filter(pl.col("by_bank")).sum(),
    )
    scale = pl.when(pl.col("currency").is_in(["JPY", "KRW"])).then(100).otherwise(1)
    taken = collected.with_columns(cents=pl.col("amount_captured_minor") * scale)
    taken = taken.join(
        alive.select(
            "order_id", pl.col("created_at").alias("placed_at"), pl.col("status").alias("order_status")
        ),
        on="order_id",
        how="left",
    )
    unmatched = pl.col("placed_at").is_null()
    charges = taken.group_by(day_of(pl.coalesce("placed_at", "at")).alias("date"), "currency").agg(
        stripe_payments=pl.len(),
        stripe_amount=pl.col("cents").sum(),
        cancelled_amount=pl.col("cents").filter(pl.col("order_status") == "cancelled").sum(),
        unmatched_payments=unmatched.sum(),
        unmatched_amount=pl.col("cents").filter(unmatched).sum(),
    )
    days = (
        pl.concat([sales, charges], how="diagonal_relaxed")
        .group_by("date", "currency")
        .agg(pl.all().fill_null(0).sum())
    )
    days = days.with_columns(
        difference=pl.col("orders_revenue") - pl.col("stripe_amount"),
        unexplained=pl.col("orders_revenue")
        - pl.col("stripe_amount")
        - pl.col("other_revenue")
        + pl.col("cancelled_amount")
        + pl.col("unmatched_amount"),
    )
    counts = ("orders", "orders_without_charge", "stripe_payments", "unmatched_payments")
    money = (
        "orders_revenue",
        "stripe_amount",
        "difference",
        "other_revenue",
        "cancelled_amount",
        "unmatched_amount",
        "unexplained",
    )
    measures = measure(
        "mart_revenue_reconciliation",
        days,
        day=pl.col("date"),
        group=pl.col("currency"),
        counts={name: pl.col(name).sum() for name in counts},
        money={name: pl.col(name).sum() for name in money},
    )
    return Told(
        days.with_columns(decimal(pl.col(name), 18).alias(name) for name in money).sort("date", "currency"),
        [measures],
    )


def _mail(log: Log, periods: int, now: int) -> dict[str, Told]:
    mails = log.read("mails", periods)
    sent = sendgrid.state(mails, now)
    users = state.people(log.read("users", periods), log.read("changes", periods), now).filter(
        (pl.col("soft_deleted_at") > now) & (pl.col("hard_deleted_at") > now)
    )
    owners = users.group_by(pl.col("email").str.to_lowercase().alias("address")).agg(
        owner=pl.col("user_id").min()
    )
    sent = sent.with_columns(address=pl.col("to").str.to_lowercase()).join(owners, on="address", how="left")
    facts = measure(
        "fct_emails",
        sent,
        day=day_of("last_at"),
        group=pl.format("{}/{}", "status", "subject"),
        counts={
            "opens": pl.col("opens").sum(),
            "clicks": pl.col("clicks").sum(),
            "known_users": pl.col("owner").count(),
            "user_ids": pl.col("owner").sum(),
        },
    )
    rows = sent.select(
        "message_id",
        pl.col("owner").alias("user_id"),
        "subject",
        "status",
        "opens",
        "clicks",
        instant(pl.col("last_at") // SECOND * SECOND).alias("last_event_at"),
        instant(pl.col("sent_at") // SECOND * SECOND).alias("sent_at"),
    )
    names = {
        "requests": "requests",
        "processed": "sent",
        "delivered": "delivered",
        "opens": "opens",
        "unique_opens": "opened",
        "clicks": "clicks",
        "unique_clicks": "clicked",
        "bounces": "bounced",
        "blocks": "blocked",
        "spam_reports": "spam_reports",
        "unsubscribes": "unsubscribes",
    }
    daily = sendgrid.daily(mails, now)
    numbers = {name: pl.col("len").filter(pl.col("metric") == metric).sum() for metric, name in names.items()}
    engagement = measure("mart_email_engagement", daily, day=pl.col("day"), counts=numbers)
    one_a_day = measure("mart_email_engagement", daily.select("day").unique(), day=pl.col("day"))
    engagement = pl.concat([engagement.filter(pl.col("measure") != "rows"), one_a_day])
    return {"fct_emails": Told(rows, [facts]), "mart_email_engagement": Told(None, [engagement])}
