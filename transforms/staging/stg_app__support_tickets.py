"""stg_app__support_tickets: a ticket's messages are a JSON list, which Polars measures better than SQL."""

from __future__ import annotations

import polars as pl

from transforms.contract import Column
from transforms.json_text import decoded
from transforms.model import polars_table

TABLE = polars_table(
    __file__,
    grain="one row per conversation of a user with support",
    key=["ticket_id"],
    partition={"by": "opened_at", "every": "month"},
    write="merge",
    changed=["raw_app__support_tickets"],
    by_key={"raw_app__support_tickets": ["id"]},
    passes=["raw_app__support_tickets"],
    owner="data-team",
    freshness="1 hour",
    pii=["subject"],
    expect=[
        {"not_null": ["opened_at", "status"]},
        {"not_null": ["messages"], "severity": "warning"},
        {"between": {"column": "messages", "min": 0}},
    ],
    columns=[
        Column("ticket_id", "bigint", "Identifies the ticket"),
        Column("user_id", "bigint", "User who asked"),
        Column("order_id", "uuid", "Order it is about; null when about none"),
        Column("subject", "varchar", "Subject, as the user wrote it"),
        Column("status", "varchar", "Where the conversation stands, in the application's words"),
        Column("priority", "varchar", "How urgent support finds it"),
        Column(
            "messages",
            "bigint",
            "Messages written so far, by both sides; null where the application has something else than a "
            "list of messages",
        ),
        Column("customer_messages", "bigint", "Messages among them that the user wrote; null as messages is"),
        Column("is_answered", "boolean", "Whether somebody else than the user wrote; null as messages is"),
        Column("opened_at", "timestamptz", "When the user first wrote (UTC)"),
        Column("closed_at", "timestamptz", "When it was closed (UTC); null while it is open"),
        Column("updated_at", "timestamptz", "When the row last changed in the application (UTC)"),
    ],
)

_MESSAGES = pl.List(pl.Struct({"from": pl.String}))


def build(raw_app__support_tickets: pl.LazyFrame) -> pl.LazyFrame:
    """One row per ticket: its latest version, deleted ones left out, its messages counted."""
    by_customer = pl.element().struct.field("from") == "customer"
    is_none = pl.col("messages").is_null() | (pl.col("messages") == "null")
    none = pl.when(is_none).then(0)
    written = pl.col("thread").list.len().fill_null(none).cast(pl.Int64)
    by_user = pl.col("thread").list.eval(by_customer).list.sum().fill_null(none).cast(pl.Int64)
    return (
        raw_app__support_tickets.sort("_landed_at", "_seq")
        .unique("id", keep="last", maintain_order=True)
        .filter(pl.col("_op") != "d")
        .with_columns(decoded(pl.col("messages"), _MESSAGES).alias("thread"))
        .with_columns(
            pl.col("id").alias("ticket_id"),
            pl.col("user_id"),
            pl.col("order_id"),
            pl.col("subject").str.strip_chars(),
            pl.col("status"),
            pl.col("priority"),
            written.alias("messages"),
            by_user.alias("customer_messages"),
            (written > by_user).alias("is_answered"),
            pl.col("opened_at"),
            pl.col("closed_at"),
            pl.col("updated_at"),
        )
    )
