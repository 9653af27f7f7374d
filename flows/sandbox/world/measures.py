"""Measures: rows of (table_name, day, group, measure, value)."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

Measured = pl.DataFrame


def measure(
    table: str,
    rows: pl.DataFrame,
    *,
    day: pl.Expr | None = None,
    group: pl.Expr | None = None,
    counts: Mapping[str, pl.Expr] | None = None,
    money: Mapping[str, pl.Expr] | None = None,
) -> Measured:
    """Measure rows by UTC day and group: their number, `counts` (whole numbers) and `money` (sums in
    hundredths).
    """
    keys = [
        (day if day is not None else pl.lit(None)).cast(pl.Date).alias("day"),
        (group if group is not None else pl.lit(None)).cast(pl.String).alias("group"),
    ]
    hundredths = {"rows": pl.len().cast(pl.Int64) * 100}
    hundredths |= {
        name: expression.fill_null(0).cast(pl.Int64) * 100 for name, expression in (counts or {}).items()
    }
    hundredths |= {name: expression.fill_null(0).cast(pl.Int64) for name, expression in (money or {}).items()}
    wide = rows.with_columns(keys).group_by("day", "group").agg(**hundredths)
    long = wide.unpivot(index=["day", "group"], variable_name="measure", value_name="value")
    return long.select(
        pl.lit(table).alias("table_name"),
        "day",
        "group",
        "measure",
        decimal(pl.col("value"), 38).alias("value"),
    )


def decimal(hundredths: pl.Expr, precision: int) -> pl.Expr:
    """Hundredths as an exact decimal with two places."""
    size = hundredths.abs()
    text = pl.concat_str(
        pl.when(hundredths < 0).then(pl.lit("-")).otherwise(pl.lit("")),
        (size // 100).cast(pl.String),
        pl.lit("."),
        (size % 100).cast(pl.String).str.zfill(2),
    )
    return text.cast(pl.Decimal(precision, 2))
