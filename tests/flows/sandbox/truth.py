"""Hold a warehouse to the truth of the sandbox's world: every published table, to the row and the cent.

    differences(connection, folder / "truth")        # [] or lines like "fct_orders 2025-10-21 EUR/paid
    revenue: 12.34, not 12.35"

`MEASURES` says in SQL what `truth/measures.parquet` says in numbers; it runs in PostgreSQL and in DuckDB
(over the lake).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import polars as pl

Key = tuple[date | None, str | None, str]


class Connection(Protocol):
    """What psycopg's and DuckDB's connections have in common."""

    def execute(self, query: Any, /) -> Any: ...


@dataclass(frozen=True)
class Measures:
    """How a table is measured: by which day, in which groups, and what besides its rows."""

    day: str
    group: str = "null"
    of: Mapping[str, str] = field(default_factory=dict)

    def sql(self, relation: str) -> str:
        """One row per day and group: day, group, rows, then the measures in order."""
        columns = "".join(f", coalesce({expression}, 0)" for expression in self.of.values())
        return f"select {self.day}, {self.group}, count(*){columns} from {relation} group by 1, 2"


def _sums(*columns: str) -> dict[str, str]:
    return {column: f"sum({column})" for column in columns}


def _flag(column: str) -> str:
    return f"count(*) filter (where {column})"


def _milliseconds(column: str) -> str:
    return f"sum(extract(epoch from {column} - date_trunc('day', {column})) * 1000)"


_SINCE = {
    "microseconds": "sum(extract(epoch from valid_from - date_trunc('day', valid_from)) * 1000000)",
}
_USER_IDS = {"user_ids": "sum(user_id)"}
_PRODUCT_IDS = {"product_ids": "sum(product_id)"}
_ACTIVITY = _sums("events", "page_views", "clicks", "sessions", "session_seconds") | {
    "first_milliseconds": _milliseconds("first_event_at"),
    "last_milliseconds": _milliseconds("last_event_at"),
}
_PLAN_AND_COUNTRY = "coalesce(plan, '-') || '/' || coalesce(country, '-')"

MEASURES: dict[str, Measures] = {
    "dim_date": Measures("null"),
    "dim_users": Measures(
        "signup_date",
        _PLAN_AND_COUNTRY,
        _USER_IDS
        | {
            "emails": "count(email)",
            "opted_in": _flag("marketing_opt_in"),
            "deleted": _flag("is_deleted"),
            "inferred": _flag("is_inferred"),
        },
    ),
    "dim_users_history": Measures(
        "valid_from::date",
        _PLAN_AND_COUNTRY,
        _USER_IDS
        | {
            "current": _flag("is_current"),
            "opted_in": _flag("marketing_opt_in"),
            "deleted": _flag("is_deleted"),
        }
        | _SINCE,
    ),
    "dim_products": Measures(
        "created_at::date",
        "category_id::varchar",
        _PRODUCT_IDS
        | {"active": _flag("is_active"), "name_lengths": "sum(length(name))"}
        | _sums("unit_price_usd"),
    ),
    "dim_products_history": Measures(
        "valid_from::date",
        "category_id::varchar",
        _PRODUCT_IDS
        | {"current": _flag("is_current"), "active": _flag("is_active")}
        | _SINCE
        | _sums("unit_price_usd"),
    ),
    "fct_orders": Measures(
        "order_date",
        "currency || '/' || status",
        _USER_IDS
        | _PRODUCT_IDS
        | {"coupons": "count(coupon_code)"}
        | _sums("quantity", "revenue", "discount_amount"),
    ),
    "fct_events": Measures(
        "event_time::date",
        "event_type",
        _USER_IDS
        | {
            "signed_in": "count(user_id)",
            "pages": "count(page)",
            "milliseconds": _milliseconds("event_time"),
            "partitions": "sum(kafka_partition)",
            "offsets": "sum(kafka_offset)",
            "sessions": "count(distinct session_id)",
        },
    ),
    "fct_payments": Measures(
        "occurred_at::date",
        "currency || '/' || status",
        _USER_IDS
        | {"orders": "count(order_id)", "disputed": _flag("is_disputed")}
        | _sums("amount_minor", "amount_captured_minor", "amount_refunded_minor", "fee_minor"),
    ),
    "fct_refunds": Measures(
        "occurred_at::date",
        "currency || '/' || status",
        _USER_IDS | {"reasons": "count(reason)"} | _sums("amount_minor"),
    ),
    "fct_emails": Measures(
        "last_event_at::date",
        "status || '/' || subject",
        _USER_IDS | {"known_users": "count(user_id)"} | _sums("opens", "clicks"),
    ),
    "fct_daily_active_users": Measures("date", of=_sums("daily_active_users")),
    "mart_daily_event_types": Measures("date", "event_type", _sums("events", "active_users")),
    "mart_daily_metrics": Measures(
        "date", of=_sums("total_events", "active_users", "signed_in_events", "anonymous_events", "sessions")
    ),
    "mart_daily_revenue": Measures(
        "date",
        "currency",
        _sums(
            "orders",
            "revenue",
            "cancelled_orders",
            "cancelled_revenue",
            "refunds",
            "refunded_amount",
            "net_revenue",
        ),
    ),
    "mart_user_activity": Measures("date", of=_USER_IDS | {"active_days": "count(*)"} | _ACTIVITY),
    "mart_user_activity_monthly": Measures("month", of=_USER_IDS | _sums("active_days") | _ACTIVITY),
    "mart_revenue_reconciliation": Measures(
        "date",
        "currency",
        _sums(
            "orders",
            "orders_revenue",
            "orders_without_charge",
            "stripe_payments",
            "stripe_amount",
            "difference",
            "other_revenue",
            "cancelled_amount",
            "unmatched_payments",
            "unmatched_amount",
            "unexplained",
        ),
    ),
    "mart_email_engagement": Measures(
        "date",
        of=_sums(
            "requests",
            "sent",
            "delivered",
            "opens",
            "opened",
            "clicks",
            "clicked",
            "bounced",
            "blocked",
            "spam_reports",
            "unsubscribes",
        ),
    ),
    "user_event_counts": Measures(
        "window_start::date",
        of=_USER_IDS
        | _sums("event_count")
        | {
            "squares": "sum(event_count * event_count)",
            "start_minutes": "sum(extract(epoch from window_start - date_trunc('day', window_start)) / 60)",
        },
    ),
}
"""Every published table of the star schema. dim_currencies is a constant of the models, not of the world."""


def expected(truth: Path, table: str) -> dict[Key, Decimal]:
    """What the truth says of a table."""
    rows = pl.scan_parquet(truth / "measures.parquet").filter(pl.col("table_name") == table).collect()
    return {(day, group, name): value for day, group, name, value in rows.drop("table_name").iter_rows()}


def found(connection: Connection, table: str, schema: str = "analytics") -> dict[Key, Decimal]:
    """What a warehouse says of a table. The session must run in UTC."""
    measures = MEASURES[table]
    relation = f"{schema}.{table}" if schema else table
    result: dict[Key, Decimal] = {}
    for day, group, *values in connection.execute(measures.sql(relation)).fetchall():
        for name, value in zip(("rows", *measures.of), values, strict=True):
            result[day, group, name] = Decimal(str(value)).quantize(Decimal("0.01"))
    return result


def differences(
    connection: Connection, truth: Path, *, schema: str = "analytics", tables: Iterable[str] = MEASURES
) -> list[str]:
    """One line per measure in which a warehouse is not as the truth says; nothing when it is."""
    connection.execute("set timezone to 'UTC'")
    lines = []
    for table in tables:
        want, have = expected(truth, table), found(connection, table, schema)
        assert want, f"the truth says nothing about {table}"
        for key in sorted(want.keys() | have.keys(), key=str):
            if want.get(key) != have.get(key):
                day, group, name = key
                lines.append(
                    f"{table} {day or ''} {group or ''} {name}: {have.get(key)}, not {want.get(key)}"
                )
    return lines


def row_differences(
    connection: Connection, truth: Path, table: str, key: str, schema: str = "analytics"
) -> pl.DataFrame:
    """The rows of a table in which warehouse and truth differ, both sides, ordered by its key: column `side`
    says whose it is.

    Only for tables with a file in truth/rows. Columns are compared as text.
    """
    connection.execute("set timezone to 'UTC'")
    want = pl.read_parquet(truth / "rows" / f"{table}.parquet")
    relation = f"{schema}.{table}" if schema else table
    names = [
        row[0]
        for row in connection.execute(
            f"select column_name from information_schema.columns "
            f"where table_name = '{table}' and table_schema = '{schema}'"
        ).fetchall()
    ]
    columns = [column for column in want.columns if column in set(names)]
    rows = connection.execute(f"select {', '.join(columns)} from {relation}").fetchall()
    have = pl.DataFrame(
        [[_text(value) for value in row] for row in rows],
        schema=dict.fromkeys(columns, pl.String),
        orient="row",
    )
    want = pl.DataFrame(
        [[_text(v) for v in row] for row in want.select(columns).iter_rows()],
        schema=have.schema,
        orient="row",
    )
    sides = [
        left.join(right, on=columns, how="anti", nulls_equal=True).with_columns(side=pl.lit(side))
        for left, right, side in ((want, have, "truth"), (have, want, "warehouse"))
    ]
    return pl.concat(sides).sort(key, "side")


def _text(value: object) -> str | None:
    if value is None:
        return None
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
