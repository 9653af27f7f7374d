"""What Stripe knows of the company's orders at a moment: whole objects for the simulated API.

Stripe's times are whole seconds and its amounts minor units (an order's hundredths, or hundredths / 100 for
currencies without decimals). Each function gives what was created or changed in (after, now].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from flows.sandbox.apis import stripe_objects as shapes
from flows.sandbox.world import words
from flows.sandbox.world.shape import DAY, MINUTE, NEVER, SECOND
from flows.sandbox.world.state import latest

DISPUTE_FEE = 1500
Object = dict[str, Any]
CHARGE_TIMES = ("paid_at", "refund1_at", "refund2_at", "disputed_at", "dispute_closed_at")


def minor(cents: str) -> pl.Expr:
    """Hundredths of the major unit as the currency's minor units."""
    return (
        pl.when(pl.col("currency").is_in(list(words.ZERO_DECIMAL)))
        .then(pl.col(cents) // 100)
        .otherwise(pl.col(cents))
    )


def fee(amount: pl.Expr) -> pl.Expr:
    """2.9 % and 30 minor units."""
    return (amount * 29 + 500) // 1000 + 30


def by_card(log: pl.DataFrame) -> pl.DataFrame:
    """The orders Stripe hears of, with amounts in minor units: amount, part1, part2, fee."""
    return log.filter((pl.col("total") > 0) & ~pl.col("by_bank")).with_columns(
        amount=minor("total"), part1=minor("refund1"), part2=minor("refund2"), fee=fee(minor("total"))
    )


def _charge(row: Object, now: int, *, failed: bool = False) -> Object:
    refunded = (row["part1"] if row["refund1_at"] <= now else 0) + (
        row["part2"] if row["refund2_at"] <= now else 0
    )
    return shapes.charge(
        id=f"ch_{row['charge']}F" if failed else f"ch_{row['charge']}",
        amount=row["amount"],
        currency=row["currency"],
        created=row["failed_at" if failed else "paid_at"] // SECOND,
        customer=f"cus_{row['token']}",
        balance_transaction=None if failed else f"txn_{row['charge']}",
        status="failed" if failed else "succeeded",
        amount_refunded=0 if failed else refunded,
        disputed=not failed and row["disputed_at"] <= now,
        email=row["email"],
        name=row["name"],
        country=row["country"],
        metadata={"order_id": row["order_id"]},
    )


def _changed(cards: pl.DataFrame, columns: tuple[str, ...], after: int, now: int) -> Iterator[Object]:
    last = latest(now, *columns)
    return cards.filter((pl.col(columns[0]) <= now) & (last > after)).iter_rows(named=True)


def charges(cards: pl.DataFrame, after: int, now: int) -> Iterator[Object]:
    """Charges, failed attempts included."""
    for row in _changed(cards, ("failed_at",), after, now):
        yield _charge(row, now, failed=True)
    for row in _changed(cards, CHARGE_TIMES, after, now):
        yield _charge(row, now)


def refunds(cards: pl.DataFrame, after: int, now: int) -> Iterator[Object]:
    """Refunds; at most two a charge."""
    for n in (1, 2):
        for row in _changed(cards, (f"refund{n}_at",), after, now):
            yield shapes.refund(
                id=f"re_{row['charge']}{n}",
                charge=f"ch_{row['charge']}",
                amount=row[f"part{n}"],
                currency=row["currency"],
                created=row[f"refund{n}_at"] // SECOND,
                balance_transaction=f"txn_{row['charge']}r{n}",
                reason="requested_by_customer" if row["number"] % 3 else None,
                metadata={"order_id": row["order_id"]},
            )


def _dispute(row: Object, now: int) -> Object:
    closed = row["dispute_closed_at"] <= now
    return shapes.dispute(
        id=f"dp_{row['charge']}",
        charge=f"ch_{row['charge']}",
        amount=row["amount"],
        currency=row["currency"],
        created=row["disputed_at"] // SECOND,
        reason="fraudulent" if row["number"] % 2 else "product_not_received",
        status=("lost" if row["dispute_lost"] else "won") if closed else "needs_response",
        metadata={"order_id": row["order_id"]},
    )


def disputes(cards: pl.DataFrame, after: int, now: int) -> Iterator[Object]:
    """Disputes, open, won or lost."""
    for row in _changed(cards, ("disputed_at", "dispute_closed_at"), after, now):
        yield _dispute(row, now)


def movements(cards: pl.DataFrame, after: int, now: int) -> pl.DataFrame:
    """Balance transactions but payouts: id, source, type, currency, amount, fee, created_at
    (microseconds).
    """
    kinds = (
        ("paid_at", "txn_{}", "ch_{}", "charge", pl.col("amount"), pl.col("fee")),
        ("refund1_at", "txn_{}r1", "re_{}1", "refund", -pl.col("part1"), pl.lit(0)),
        ("refund2_at", "txn_{}r2", "re_{}2", "refund", -pl.col("part2"), pl.lit(0)),
        ("disputed_at", "txn_{}d", "dp_{}", "adjustment", -pl.col("amount"), pl.lit(DISPUTE_FEE)),
    )
    frames = [
        cards.filter((pl.col(at) > after) & (pl.col(at) <= now)).select(
            pl.format(form, "charge").alias("id"),
            pl.format(source, "charge").alias("source"),
            pl.lit(kind).alias("type"),
            "currency",
            value.alias("amount"),
            cost.cast(pl.Int64).alias("fee"),
            pl.col(at).alias("created_at"),
        )
        for at, form, source, kind, value, cost in kinds
    ]
    return pl.concat(frames)


def paid_out(cards: pl.DataFrame, after: int, now: int) -> pl.DataFrame:
    """Payouts: a day's balance per currency five minutes after its end. Columns id, currency, amount,
    created_at.
    """
    days = movements(cards, -1, now).with_columns(
        created_at=(pl.col("created_at") // DAY + 1) * DAY + 5 * MINUTE, net=pl.col("amount") - pl.col("fee")
    )
    sums = days.group_by("created_at", "currency").agg(amount=pl.col("net").sum())
    return (
        sums.filter((pl.col("amount") > 0) & (pl.col("created_at") > after) & (pl.col("created_at") <= now))
        .with_columns(id=pl.format("po_{}{}", pl.col("created_at") // DAY, "currency"))
        .sort("created_at", "currency")
    )


def balance_transactions(cards: pl.DataFrame, after: int, now: int) -> Iterator[Object]:
    """What moved the balance."""
    out = paid_out(cards, after, now).select(
        pl.format("txn_{}", "id").alias("id"),
        pl.col("id").alias("source"),
        pl.lit("payout").alias("type"),
        "currency",
        -pl.col("amount"),
        pl.lit(0, pl.Int64).alias("fee"),
        "created_at",
    )
    for row in pl.concat([movements(cards, after, now), out]).iter_rows(named=True):
        yield shapes.balance_transaction(created=row.pop("created_at") // SECOND, **row)


def payouts(cards: pl.DataFrame, after: int, now: int) -> Iterator[Object]:
    """Payouts to the bank."""
    for row in paid_out(cards, after, now).iter_rows(named=True):
        created = row.pop("created_at") // SECOND
        yield shapes.payout(
            created=created, arrival_date=created + 2 * 86400, balance_transaction=f"txn_{row['id']}", **row
        )


def _customer(row: Object) -> Object:
    return shapes.customer(
        id=f"cus_{row['token']}",
        created=row["created_at"] // SECOND,
        email=row["email"],
        name=row["name"],
        country=row["country"],
        metadata={"user_id": str(row["user_id"])},
    )


def customers(people: pl.DataFrame, after: int) -> Iterator[Object]:
    """A customer per user, with what state.people gave.

    Stripe keeps those whom the application deleted.
    """
    for row in people.filter(pl.col("updated_at") > after).iter_rows(named=True):
        yield _customer(row)


def events(cards: pl.DataFrame, people: pl.DataFrame, after: int, now: int) -> Iterator[Object]:
    """What happened in (after, now], each with the object as it was at that moment."""

    def tell(row: Object, kind: str, at: int, letter: str, thing: Object) -> Object:
        return shapes.event(id=f"evt_{row['charge']}{letter}", type=kind, created=at // SECOND, object=thing)

    for row in _changed(cards, ("failed_at",), after, now):
        yield tell(row, "charge.failed", row["failed_at"], "f", _charge(row, row["failed_at"], failed=True))
    for row in _changed(cards, CHARGE_TIMES, after, now):
        for column, kind, letter in (
            ("paid_at", "charge.succeeded", "s"),
            ("refund1_at", "charge.refunded", "1"),
            ("refund2_at", "charge.refunded", "2"),
        ):
            if after < row[column] <= now:
                yield tell(row, kind, row[column], letter, _charge(row, row[column]))
        for column, kind, letter in (
            ("disputed_at", "charge.dispute.created", "d"),
            ("dispute_closed_at", "charge.dispute.closed", "c"),
        ):
            if after < row[column] <= now:
                yield tell(row, kind, row[column], letter, _dispute(row, row[column]))
    # Stripe tells of more than its lists hold: of this object with neither id nor time of its own.
    for (at,), day in paid_out(cards, after, now).group_by("created_at", maintain_order=True):
        created = at // SECOND
        yield shapes.event(
            id=f"evt_balance{created}",
            type="balance.available",
            created=created,
            object=shapes.balance(available=dict(day.select("currency", "amount").iter_rows())),
        )
    changed = people.filter((pl.col("updated_at") > after) & (pl.col("updated_at") > pl.col("created_at")))
    for row in changed.filter(pl.col("updated_at") < NEVER).iter_rows(named=True):
        at = row["updated_at"]
        yield shapes.event(
            id=f"evt_{row['token']}{at // SECOND}",
            type="customer.updated",
            created=at // SECOND,
            object=_customer(row),
        )
