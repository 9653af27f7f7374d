"""The queries of a page, and what they give: all pages of one writing are read at one moment.

`queries/<page>.sql` holds the queries of a page that has some, each behind `-- name: what it is`. `:as_of` in
them is the moment of the writing, `:late_after` after how long a run is late, both written out, so that the
text which a page shows can be run as it stands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection

from flows.alerting.runs import LATE_AFTER
from flows.services import Services

_FOLDER = Path(__file__).with_name("queries")
_HEAD = re.compile(r"^-- name: (?P<name>[a-z_]+)\n", re.MULTILINE)
_SECONDS_A_QUERY = 20
"""One that takes longer leaves its place on the page empty, with the reason; a run does not wait for it."""


@dataclass(frozen=True)
class Result:
    """What a query gave, as JSON values: numbers that are exact are text, times ISO 8601 in UTC."""

    name: str
    sql: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    problem: str = ""
    """Why there is nothing: a table that no run has made yet, or a query that took too long."""
    _places: Mapping[str, int] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", {name: place for place, name in enumerate(self.columns)})

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dict(zip(self.columns, row, strict=True)) for row in self.rows)

    def value(self, column: str, row: int = 0) -> Any:
        """One value; None where there is no such row."""
        return self.rows[row][self._places[column]] if row < len(self.rows) else None

    def as_json(self) -> dict[str, Any]:
        """What a page's scripts read."""
        return {"columns": list(self.columns), "rows": [list(row) for row in self.rows]}


class Reading:
    """The warehouse at one moment: one transaction that changes nothing, for every page of one writing."""

    def __init__(self, connection: Connection[Any], as_of: datetime, written: float) -> None:
        """`written` is the machine's own time, seconds since 1970: readers' clocks can be held against it."""
        self.connection = connection
        self.written = written
        self.as_of = as_of.astimezone(UTC).replace(microsecond=0)

    def page(self, name: str) -> dict[str, Result]:
        """The results of a page's queries, by name."""
        return {query: self.query(query, sql) for query, sql in queries(name, self.as_of).items()}

    def query(self, name: str, sql: str) -> Result:
        """One query. What keeps it from answering is told in the result."""
        try:
            with self.connection.transaction():
                cursor = self.connection.execute(sql.encode())
                columns = [column.name for column in cursor.description or ()]
                return Result(name, sql, columns, [[as_json(cell) for cell in row] for row in cursor])
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
            return Result(name, sql, problem="The warehouse has no such table yet: python -m flows makes it.")
        except psycopg.errors.QueryCanceled:
            return Result(name, sql, problem=f"The query took more than {_SECONDS_A_QUERY} seconds.")


@contextmanager
def reading(services: Services) -> Iterator[Reading]:
    """A moment of the warehouse, for this block."""
    with services.warehouse.connect() as connection, connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        connection.execute(f"set local statement_timeout = '{_SECONDS_A_QUERY}s'".encode())
        # What pages need is small: compiling a query would take longer than running it.
        connection.execute("set local jit = off")
        yield Reading(connection, services.settings.now(), services.settings.machine_time())


def queries(page: str, as_of: datetime) -> dict[str, str]:
    """The queries of a page by name, with the moment written out, and after how long a run is late."""
    path = _FOLDER / f"{page}.sql"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    parts = _HEAD.split(text)[1:]
    late_after = f"interval '{LATE_AFTER.total_seconds():.0f} seconds'"
    moment = f"timestamptz '{as_of:%Y-%m-%d %H:%M:%S}+00'"
    return {
        name: sql.strip().removesuffix(";").replace(":as_of", moment).replace(":late_after", late_after)
        for name, sql in zip(parts[::2], parts[1::2], strict=True)
    }


def as_json(value: Any) -> Any:
    """A cell as a JSON value."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such number
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if value is None or isinstance(value, bool | int | float | str | list | dict):
        return value
    return str(value)
