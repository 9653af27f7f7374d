"""stg_stripe__balance_transactions: the fees of a movement are a list inside it, which Polars adds up."""

from __future__ import annotations

import polars as pl

from transforms.contract import Column
from transforms.json_text import decoded
from transforms.model import polars_table

TABLE = polars_table(
    __file__,
    grain="one row per movement of the Stripe balance, as it was when it was read",
    key=["balance_transaction_id"],
    partition={"by": "created_at", "every": "month"},
    write="merge",
    changed=["raw_stripe__balance_transactions"],
    by_key={"raw_stripe__balance_transactions": ["id"]},
    owner="data-team",
    freshness="1 hour",
    expect=[
        {"not_null": ["amount_minor", "fee_minor", "net_minor", "currency", "type", "created_at"]},
        {"not_null": ["stripe_fee_minor", "tax_minor", "other_fee_minor", "status", "available_on"]},
    ],
    columns=[
        Column("balance_transaction_id", "varchar", "Movement of the Stripe balance (txn_…)"),
        Column("type", "varchar", "What moved the balance: charge, payment, refund, adjustment, payout, …"),
        Column("source_id", "varchar", "Object that moved it: a charge, refund, dispute or payout"),
        Column("amount_minor", "bigint", "Gross amount, in minor units; negative when money left"),
        Column("fee_minor", "bigint", "All fees, in minor units"),
        Column("stripe_fee_minor", "bigint", "Part of the fees that Stripe takes, in minor units"),
        Column("tax_minor", "bigint", "Part of the fees that is tax, in minor units"),
        Column("other_fee_minor", "bigint", "Part of the fees that others take, in minor units"),
        Column("net_minor", "bigint", "What reaches the balance: gross less fees, in minor units"),
        Column("currency", "varchar", "ISO 4217 code of the amounts: the currency of the balance"),
        Column("status", "varchar", "available or pending then; no event tells of the change"),
        Column("available_on", "date", "Day from which it can be paid out (UTC)"),
        Column("created_at", "timestamptz", "When Stripe made it (UTC)"),
    ],
)

_OBJECT = pl.Struct(
    {
        "type": pl.String,
        "source": pl.String,
        "amount": pl.Int64,
        "fee": pl.Int64,
        "net": pl.Int64,
        "currency": pl.String,
        "status": pl.String,
        "available_on": pl.Int64,
        "created": pl.Int64,
        "fee_details": pl.List(pl.Struct({"amount": pl.Int64, "type": pl.String})),
    }
)


def _fees(of: pl.Expr) -> pl.Expr:
    """The sum of those fees of a movement whose type is as `of` says; 0 when there are none, null where
    nothing says whether there are.
    """
    amount = pl.element().struct.field("amount")
    return pl.col("fee_details").list.eval(amount.filter(of)).list.sum()


def _instant(column: str) -> pl.Expr:
    """A column of unix seconds as an instant."""
    return pl.from_epoch(column, time_unit="s").cast(pl.Datetime("us", "UTC"))


def build(raw_stripe__balance_transactions: pl.LazyFrame) -> pl.LazyFrame:
    """One row per movement: its latest version, its fees added up by who takes them."""
    kind = pl.element().struct.field("type")
    return (
        raw_stripe__balance_transactions.sort("_landed_at", "_seq")
        .unique("id", keep="last", maintain_order=True)
        .select("id", decoded(pl.col("object"), _OBJECT).alias("movement"))
        .unnest("movement")
        .select(
            pl.col("id").alias("balance_transaction_id"),
            pl.col("type"),
            pl.col("source").alias("source_id"),
            pl.col("amount").alias("amount_minor"),
            pl.col("fee").alias("fee_minor"),
            _fees(kind == "stripe_fee").alias("stripe_fee_minor"),
            _fees(kind == "tax").alias("tax_minor"),
            _fees(~kind.is_in(["stripe_fee", "tax"])).alias("other_fee_minor"),
            pl.col("net").alias("net_minor"),
            pl.col("currency").str.to_uppercase(),
            pl.col("status"),
            _instant("available_on").dt.date(),
            _instant("created").alias("created_at"),
        )
    )
