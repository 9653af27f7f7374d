"""What stands in the lake's quarantine: rule, reason, number of rows, some of them without personal data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from flows.portal.reading import as_json
from flows.services import Services
from flows.stores.lake import QUARANTINE
from transforms import registry

_FILES, _ROWS, _COLUMNS = 12, 5, 12


@dataclass(frozen=True)
class Kept:
    """One rule's rows of one file."""

    table: str
    rule: str
    reason: str
    rows: int
    columns: tuple[str, ...]
    sample: tuple[tuple[Any, ...], ...]
    sql: str


def quarantined(services: Services) -> list[Kept]:
    """The newest files. One that can't be read, or that somebody removes meanwhile, is left out."""
    folder = services.settings.lake_root / QUARANTINE
    files = sorted(folder.glob("*/*.parquet"), key=_age, reverse=True)[:_FILES]
    if not files:
        return []
    with services.lake.duckdb() as connection:
        return [kept for path in files for kept in _read(connection, path)]


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read(connection: duckdb.DuckDBPyConnection, path: Path) -> Iterator[Kept]:
    table = path.parent.name
    declared = registry.tables().get(table)
    if declared is None:
        return
    safe = {column.name for column in declared.columns if not column.pii and column.type.upper() != "JSON"}
    try:
        file = connection.read_parquet(str(path), hive_partitioning=False)
        columns = tuple(name for name in file.columns if name in safe)[:_COLUMNS]
        groups = file.aggregate("_rule, any_value(_reason), count(*)", "_rule").order("_rule").fetchall()
        for rule, reason, number in groups:
            listed = ", ".join(f'"{name}"' for name in columns)
            rows = file.filter(duckdb.ColumnExpression("_rule") == duckdb.ConstantExpression(rule))
            sample = rows.project(listed).limit(_ROWS).fetchall() if columns else []
            yield Kept(
                table,
                rule,
                reason,
                number,
                columns,
                tuple(tuple(str(as_json(value)) for value in row) for row in sample),
                f"from '{path.relative_to(path.parents[2])}' where _rule = '{rule}'",
            )
    except duckdb.Error:
        return
