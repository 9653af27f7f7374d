"""Revenue, plans, prices and what Stripe collected against the same added up in plain Python, to the cent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import hypothesis.strategies as st
from duckdb import DuckDBPyConnection
from hypothesis import example, given

from tests.transforms.given_expect import Row
from tests.transforms.recomputed import ANY, EDGES, TICK, by, holds, moments, users

money = st.sampled_from([Decimal(text) for text in ("0", "0.01", "0.10", "19.99", "1000", "99999999.99")])
statuses = ["pending", "paid", "shipped", "delivered", "cancelled", "refunded"]
orders = st.lists(
    st.tuples(moments, money, st.sampled_from(["EUR", "JPY", "KWD"]), st.sampled_from(statuses)), max_size=6
)


def _orders(placed: Sequence[tuple[datetime, Decimal, str, str]]) -> list[dict[str, Any]]:
    return [
        {
            "order_id": UUID(int=number),
            "user_id": 1 + number % 2,
            "order_date": at.date(),
            "created_at": at,
            "revenue": amount,
            "currency": currency,
            "status": status,
        }
        for number, (at, amount, currency, status) in enumerate(placed)
    ]


@ANY
@given(
    orders, st.lists(st.tuples(moments, money, st.sampled_from(["EUR", "JPY"]), st.booleans()), max_size=4)
)
def test_revenue_of_a_day(
    duck: DuckDBPyConnection,
    placed: list[tuple[datetime, Decimal, str, str]],
    given_back: list[tuple[datetime, Decimal, str, bool]],
) -> None:
    facts = _orders(placed)
    refunds = [
        {"app_refund_id": number, "created_at": at, "amount": amount, "currency": currency,
         "status": "succeeded" if is_done else "failed"}
        for number, (at, amount, currency, is_done) in enumerate(given_back)
    ]  # fmt: skip
    days = {(row["order_date"], row["currency"]) for row in facts}
    days |= {(at.date(), currency) for at, _, currency, is_done in given_back if is_done}
    expect = []
    for day, currency in days:
        own = [row for row in facts if (row["order_date"], row["currency"]) == (day, currency)]
        kept = [row["revenue"] for row in own if row["status"] != "cancelled"]
        off = [row["revenue"] for row in own if row["status"] == "cancelled"]
        back = [amount for at, amount, of, done in given_back if done and (at.date(), of) == (day, currency)]
        expect.append(
            {"date": day, "currency": currency, "orders": len(kept), "revenue": sum(kept, Decimal("0.00")),
             "cancelled_orders": len(off), "cancelled_revenue": sum(off, Decimal("0.00")),
             "refunds": len(back), "refunded_amount": sum(back, Decimal("0.00")),
             "net_revenue": sum(kept, Decimal("0.00")) - sum(back, Decimal(0))}
        )  # fmt: skip
    holds(duck, "mart_daily_revenue", {"fct_orders": facts, "stg_app__refunds": refunds}, expect)


@ANY
@given(orders, st.lists(st.tuples(moments, st.sampled_from(["free", "pro", None])), max_size=5))
def test_revenue_by_the_plan_of_then(
    duck: DuckDBPyConnection,
    placed: list[tuple[datetime, Decimal, str, str]],
    plans: list[tuple[datetime, str | None]],
) -> None:
    history = sorted(dict(plans).items())
    facts = _orders(placed)
    versions = [{"user_id": 1, "valid_from": at, "plan": plan} for at, plan in history]
    told = [
        {**row, "month_date": row["order_date"].replace(day=1), "plan": _then(history, row)}
        for row in facts
        if row["status"] != "cancelled"
    ]
    expect = [
        {"month_date": month, "currency": currency, "plan": plan, "orders": len(some),
         "customers": users(some), "revenue": sum((row["revenue"] for row in some), Decimal("0.00"))}
        for (month, currency, plan), some in by(told, "month_date", "currency", "plan").items()
    ]  # fmt: skip
    holds(duck, "mart_plan_revenue", {"fct_orders": facts, "dim_users_history": versions}, expect)


def _then(history: Sequence[tuple[datetime, str | None]], order: Row) -> str:
    held = [plan for at, plan in history if order["user_id"] == 1 and at <= order["created_at"]]
    return (held[-1] if held else None) or "unknown"


DIGITS = {"JPY": 0, "KWD": 3}
MONTH = timedelta(days=31)
charges = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.sampled_from([timedelta(), MONTH, -MONTH, MONTH + TICK, -MONTH - TICK]),
        st.sampled_from([0, 10, 1990, 9999999990]),
        st.sampled_from(["EUR", "JPY", "KWD"]),
        st.sampled_from(["succeeded", "failed", "pending"]),
    ),
    max_size=6,
)


@ANY
@given(orders, charges, st.sets(st.integers(0, 6)))
@example(
    [(EDGES[0], Decimal("19.99"), "EUR", "paid")] * 3,
    [(of, off, 1990, "EUR", "succeeded") for of, off in enumerate([MONTH, -MONTH, MONTH + TICK])],
    set(),
)
def test_orders_against_what_stripe_collected(
    duck: DuckDBPyConnection,
    placed: list[tuple[datetime, Decimal, str, str]],
    charged: list[tuple[int, timedelta, int, str, str]],
    transferred: set[int],
) -> None:
    facts = _orders(placed)
    payments, collected = [], []
    for number, (of, off, minor, currency, status) in enumerate(charged):
        order = facts[of] if of < len(facts) else None
        at = (order["created_at"] if order else EDGES[0]) + off
        payments.append(
            {"payment_id": f"ch_{number}", "order_id": UUID(int=of), "occurred_at": at, "currency": currency,
             "status": status, "amount_captured_minor": minor}
        )  # fmt: skip
        if status == "succeeded" and minor:
            paid = order if order is not None and abs(off) <= MONTH else None
            amount = (Decimal(minor) / 10 ** DIGITS.get(currency, 2)).quantize(Decimal("0.01"))
            collected.append((paid, paid["order_date"] if paid else at.date(), currency, amount))
    due = [row for row in facts if row["status"] not in ("pending", "cancelled") and row["revenue"] > 0]
    with_charge = {row["order_id"] for row, *_ in collected if row is not None}
    days = {(row["order_date"], row["currency"]) for row in due} | {(day, of) for _, day, of, _ in collected}
    expect = []
    for day, currency in days:
        own = [row for row in due if (row["order_date"], row["currency"]) == (day, currency)]
        got = [(paid, amount) for paid, at, of, amount in collected if (at, of) == (day, currency)]
        bare = [row for row in own if row["order_id"] not in with_charge]
        other = sum((row["revenue"] for row in bare if row["order_id"].int in transferred), Decimal("0.00"))
        off_again = sum((a for paid, a in got if paid and paid["status"] == "cancelled"), Decimal("0.00"))
        lost = [amount for paid, amount in got if paid is None]
        sold, stripe = (
            sum((row["revenue"] for row in own), Decimal("0.00")),
            sum((a for _, a in got), Decimal("0.00")),
        )
        expect.append(
            {"date": day, "currency": currency, "orders": len(own), "orders_revenue": sold,
             "orders_without_charge": len(bare), "stripe_payments": len(got), "stripe_amount": stripe,
             "difference": sold - stripe, "other_revenue": other, "cancelled_amount": off_again,
             "unmatched_payments": len(lost), "unmatched_amount": sum(lost, Decimal("0.00")),
             "unexplained": sold - stripe - other + off_again + sum(lost, Decimal(0))}
        )  # fmt: skip
    transfers = [
        {"app_payment_id": number, "order_id": row["order_id"], "created_at": row["created_at"]}
        for number, row in enumerate(facts)
        if row["order_id"].int in transferred
    ]
    currencies = [{"currency": name, "minor_digits": digits} for name, digits in DIGITS.items()]
    given = {
        "fct_orders": facts,
        "fct_payments": payments,
        "dim_currencies": currencies,
        "stg_app__payments": transfers,
    }
    holds(duck, "mart_revenue_reconciliation", given, expect)


@ANY
@given(
    st.lists(st.tuples(moments, st.sampled_from(["a", "b"]), st.booleans()), min_size=1, max_size=4),
    st.lists(st.tuples(moments, st.none() | moments, money), max_size=5),
)
def test_the_price_that_stood(
    duck: DuckDBPyConnection,
    changes: list[tuple[datetime, str, bool]],
    listed: list[tuple[datetime, datetime | None, Decimal]],
) -> None:
    versions = sorted(changes, key=lambda change: change[0])  # of two at one moment the later read counts
    landed = [{"id": 1, "updated_at": at, "name": name, "is_active": on} for at, name, on in versions]
    prices = [
        {"product_price_id": number, "product_id": 1, "currency": "USD", "valid_from": begin, "valid_to": end,
         "amount": amount}
        for number, (begin, end, amount) in enumerate(listed)
    ]  # fmt: skip
    at_all = {at for at, *_ in versions}
    for begin, end, _ in listed:
        if end is None or end > begin:
            at_all |= {begin, *([end] if end is not None else [])}
    rows: list[tuple[datetime, tuple[Any, ...]]] = []
    for at in sorted(moment for moment in at_all if moment >= versions[0][0]):
        name, on = next((name, on) for since, name, on in reversed(versions) if since <= at)
        standing = [
            (begin, number, amount)
            for number, (begin, end, amount) in enumerate(listed)
            if begin <= at and (end is None or at < end)
        ]
        state = (name, on, max(standing)[2] if standing else None)
        if not rows or rows[-1][1] != state:
            rows.append((at, state))
    ends = [*(at for at, _ in rows[1:]), None]
    expect = [
        {"product_id": 1, "valid_from": at, "valid_to": end, "prev_to": at if number else None,
         "is_current": end is None, "name": name, "is_active": on, "unit_price_usd": price,
         "is_deleted": False}
        for number, ((at, (name, on, price)), end) in enumerate(zip(rows, ends, strict=True))
    ]  # fmt: skip
    holds(
        duck, "dim_products_history", {"raw_app__products": landed, "stg_app__product_prices": prices}, expect
    )
