"""Orders and everything that follows from one: payments, refunds, disputes, shipping, a review, a support
ticket.

An order's whole future is drawn when it is placed; what has not come to pass yet is simply later than the
world's now. Amounts are in hundredths of the currency's major unit, also for currencies without decimals
(then multiples of 100).
"""

from __future__ import annotations

import numpy as np
import polars as pl

from flows.sandbox.world import shop, words
from flows.sandbox.world.shape import DAY, HOUR, MINUTE, NEVER, SECOND, Shape, between, chance, tokens, uuids

LONGEST = 45 * DAY
"""Nothing happens to an order later than this after it was placed."""


def orders(shape: Shape, period: int, known: pl.DataFrame) -> pl.DataFrame:
    """The orders placed in `period`, with their future. `known` are the users who signed up before its end.

    Times are NEVER where a thing does not happen: failed_at, paid_at, shipped_at, delivered_at, cancelled_at,
    refund1_at/refund2_at (amounts refund1/refund2), refunded_at (status), disputed_at, dispute_closed_at,
    reviewed_at, ticket_at, ticket_closed_at, hard_deleted_at.
    """
    rng = shape.rng("orders", period)
    first = shape.orders_before(period)
    count = shape.orders_before(period + 1) - first
    start = shape.period_start(period)
    created = np.sort(start + between(rng, count, 0, DAY))
    signed_up = known["created_at"].to_numpy()
    users_then = np.searchsorted(signed_up, created)
    index = (users_then * rng.random(count) ** 1.5).astype(np.int64)

    # Users whose row arrives late order at once: their order is there before them.
    waiting = np.flatnonzero((known["arrives_at"].to_numpy() > signed_up) & (signed_up >= start))[:count]
    places = rng.permutation(count)[: len(waiting)]
    index[places] = waiting
    created[places] = signed_up[waiting] + between(rng, len(waiting), MINUTE, HOUR)

    buyers = known[index].select("user_id", "currency", "country", "token", "email", "name")
    frame = buyers.with_columns(
        number=pl.Series(np.arange(first, first + count)),
        order_id=uuids(rng, count),
        charge=tokens(rng, count, 24),
        created_at=pl.Series(created),
        product_id=pl.Series(rng.integers(1, shop.PRODUCTS * 9 // 10 + 1, count)),
        quantity=pl.Series(rng.choice([1, 1, 1, 2, 3, 5], count)),
        coupon=pl.Series(rng.choice([-1, 0, 1, 2, 3, 4], count, p=[0.8, 0.02, 0.08, 0.05, 0.03, 0.02])),
        by_bank=pl.Series(chance(rng, count, 0.02)),
    ).with_columns(currency=pl.when(pl.col("number") % 13 == 0).then(pl.lit("EUR")).otherwise("currency"))
    codes = (
        shop.coupons(shape)
        .with_row_index("coupon")
        .select(pl.col("coupon").cast(pl.Int64), pl.col("code").alias("coupon_code"), "percent")
    )
    zero = pl.col("currency").is_in(list(words.ZERO_DECIMAL))
    step = pl.when(zero).then(100).otherwise(1)
    frame = (
        frame.sort("created_at")
        .join_asof(
            shop.prices(shape, period + 1)
            .select("product_id", "currency", "valid_from", "cents")
            .sort("valid_from"),
            left_on="created_at",
            right_on="valid_from",
            by=["product_id", "currency"],
            check_sortedness=False,
        )
        .join(codes, on="coupon", how="left", maintain_order="left")
        .rename({"cents": "unit_price"})
        .with_columns(gross=pl.col("quantity") * pl.col("unit_price"))
        .with_columns(discount=(pl.col("gross") * pl.col("percent").fill_null(0) // 100 // step) * step)
        .with_columns(total=pl.col("gross") - pl.col("discount"))
        .drop("coupon", "percent", "gross", "valid_from")
        .sort("number")
    )
    return _future(rng, frame)


def _future(rng: np.random.Generator, frame: pl.DataFrame) -> pl.DataFrame:
    count = frame.height
    created = frame["created_at"].to_numpy()
    total = frame["total"].to_numpy()
    free = total == 0
    step = np.where(frame["currency"].is_in(list(words.ZERO_DECIMAL)).to_numpy(), 100, 1)

    def after(
        base: object, happens: object, low: int, high: int
    ) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.where(happens, base + between(rng, count, low, high), NEVER)  # type: ignore[operator, call-overload, no-any-return]

    fate = rng.random(count)
    paid = after(created, (fate < 0.9) | free, 20 * SECOND, 40 * MINUTE)
    failed = np.where(
        chance(rng, count, 0.06) & ~free & ~frame["by_bank"].to_numpy(),
        created + between(rng, count, SECOND, 19 * SECOND),
        NEVER,
    )
    abandoned = after(created, paid == NEVER, DAY, 3 * DAY)
    works = (paid < NEVER) & ~free
    called_off = works & (fate < 0.03)
    cancelled = np.minimum(abandoned, after(paid, called_off, HOUR, 12 * HOUR))
    shipped = after(paid, (paid < NEVER) & ~called_off, 12 * HOUR, 3 * DAY)
    delivered = after(shipped, (shipped < NEVER) & ~chance(rng, count, 0.01), DAY, 6 * DAY)
    there = (delivered < NEVER) & works
    returned = there & (fate >= 0.03) & (fate < 0.07)
    refunded = after(delivered, returned, DAY, 10 * DAY)
    partly = there & (fate >= 0.07) & (fate < 0.12)
    twice = partly & (fate >= 0.105)
    refund1_at = np.where(
        called_off, cancelled, np.where(returned, refunded, after(delivered, partly, HOUR, 5 * DAY))
    )
    part = np.maximum(step, (total * rng.uniform(0.1, 0.45, count) / step).astype(np.int64) * step)
    part = np.minimum(part, total)
    twice &= 2 * part <= total
    refund2_at = after(refund1_at, twice, DAY, 5 * DAY)
    disputed = after(paid, works & (fate >= 0.12) & (fate < 0.135), 2 * DAY, 12 * DAY)
    # A hard deletion never meets an order younger than two days: every reader had the chance to see it.
    deleted = after(created, chance(rng, count, 0.002), 2 * DAY, 10 * DAY)
    ticket = after(created, chance(rng, count, 0.03), HOUR, 8 * DAY)
    return frame.with_columns(
        paid_at=pl.Series(paid),
        failed_at=pl.Series(failed),
        shipped_at=pl.Series(shipped),
        delivered_at=pl.Series(delivered),
        cancelled_at=pl.Series(cancelled),
        refunded_at=pl.Series(refunded),
        refund1_at=pl.Series(refund1_at),
        refund1=pl.Series(np.where(partly, part, np.where(called_off | returned, total, 0))),
        refund2_at=pl.Series(refund2_at),
        refund2=pl.Series(np.where(twice, part, 0)),
        disputed_at=pl.Series(disputed),
        dispute_closed_at=pl.Series(after(disputed, disputed < NEVER, 5 * DAY, 10 * DAY)),
        dispute_lost=pl.Series(chance(rng, count, 0.4)),
        reviewed_at=pl.Series(after(delivered, there & chance(rng, count, 0.2), HOUR, 9 * DAY)),
        rating=pl.Series(rng.integers(1, 6, count)),
        ticket_at=pl.Series(ticket),
        ticket_closed_at=pl.Series(after(ticket, (ticket < NEVER) & chance(rng, count, 0.8), HOUR, 4 * DAY)),
        hard_deleted_at=pl.Series(deleted),
        carrier=pl.Series(rng.integers(0, len(words.CARRIERS), count)),
    )


def timeline(orders: pl.DataFrame) -> pl.DataFrame:
    """Every change of status of every order: order_id, number, at, from_status, to_status, in order of
    time.
    """
    steps = []
    for status, column in STATUS_TIMES.items():
        steps.append(
            orders.filter(pl.col(column) < NEVER).select(
                "order_id", "number", pl.col(column).alias("at"), pl.lit(status).alias("to_status")
            )
        )
    return (
        pl.concat(steps)
        .sort("number", "at", maintain_order=True)
        .with_columns(from_status=pl.col("to_status").shift(1).over("number", order_by="at"))
        .sort("at", "number")
    )


STATUS_TIMES = {
    "pending": "created_at",
    "paid": "paid_at",
    "shipped": "shipped_at",
    "delivered": "delivered_at",
    "cancelled": "cancelled_at",
    "refunded": "refunded_at",
}
