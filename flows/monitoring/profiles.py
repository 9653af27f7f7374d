"""What published content looks like, by day: one pass of DuckDB over each partition of the lake that is new.

A run does this at its end, so that a monitor looks at figures and never at rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

import orjson
from psycopg import Connection
from psycopg.types.json import Jsonb

from flows.planner import WHOLE
from flows.services import Services
from flows.stores.manifest import LakeFile
from quality.monitors.drift import QUANTILES
from transforms import registry
from transforms.contract import VALID_FROM, Column, Table, Write
from transforms.engine import quoted

REMEMBERED = timedelta(days=84)
"""How far back content is looked at: a backfill of older days says nothing of how things are."""
ROWS_AT_ONCE = 2_000_000
"""Rows of partitions that one pass reads: bounds memory, not the result."""
_MOST_VALUES = 50
"""Values of a column that are told apart; the others are one."""
OTHERS = "(others)"
_NUMBERS = ("SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "DECIMAL", "FLOAT", "DOUBLE")


@dataclass(frozen=True)
class Fresh:
    """A partition whose content nobody has looked at."""

    partition: str
    token: str
    files: tuple[LakeFile, ...]

    @property
    def rows(self) -> int:
        """How many count."""
        return sum(file.rows for file in self.files)


@dataclass(frozen=True)
class Day:
    """One day of a table, as it was looked at. `hours`: hour of the day → rows. `columns`: name → nulls, and
    values or quantiles.
    """

    day: date
    rows: int
    columns_at: datetime
    """When its columns were looked at."""
    hours: Mapping[str, int] = field(default_factory=dict)
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def update(services: Services) -> int:
    """Profile every published partition that is new since the last time; returns how many there were.

    Raises DamagedFile for a file of the lake that is not what was written.
    """
    now, done = services.settings.now(), 0
    with services.warehouse.connect() as connection:
        for table in registry.build_order():
            if not table.is_published:
                continue
            for batch in _batches(list(_fresh(connection, table, now))):
                _enter(connection, table, batch, _looked_at(services, table, batch, now), now)
                done += len(batch)
    return done


def remembered(connection: Connection[Any], now: datetime) -> dict[str, dict[date, Day]]:
    """Each table that was looked at, with its days, oldest first."""
    found: dict[str, dict[date, Day]] = {}
    rows = connection.execute(
        "select table_name, day, row_count, columns_at, hours, columns "
        "from ops.partition_profile where day > %s order by day",
        (now.date() - REMEMBERED,),
    )
    for name, day, count, columns_at, hours, columns in rows:
        found.setdefault(name, {})[day] = Day(day, count, columns_at, hours, columns)
    return found


def nullable(table: Table) -> list[Column]:
    """The columns whose nulls are counted: those that may be null. A null elsewhere is never published."""
    return [column for column in table.columns if column.nullable and column.name not in table.tie_break]


def kinds(table: Table) -> list[Column]:
    """The columns of few values, by what their header says: flags, accepted values, patterns, lengths. No
    personal data.
    """
    spoken = {
        str(rule.arguments["column"]) for rule in table.expect if rule.check in ("accepted_values", "matches")
    }
    return [
        column
        for column in table.columns
        if not column.pii
        and column.name not in table.key
        and (column.type == "BOOLEAN" or column.name in spoken or column.max_length is not None)
    ]


def numbers(table: Table) -> list[Column]:
    """The columns that are amounts: numbers that name nothing. No personal data."""
    spoken = {*table.key, *table.tie_break, *(column.name for column in kinds(table))}
    return [
        column
        for column in table.columns
        if column.type.startswith(_NUMBERS)
        and "[" not in column.type
        and not column.pii
        and column.name not in spoken
        and not column.name.endswith("_id")
    ]


def _fresh(connection: Connection[Any], table: Table, now: datetime) -> Iterator[Fresh]:
    found = connection.execute(
        "select s.partition, s.token, s.files from ops.partition_state s where s.table_name = %s "
        "and s.published_at is not null and not exists (select from ops.partition_profile p "
        "where (p.table_name, p.partition, p.token) = (s.table_name, s.partition, s.token)) order by 1",
        (table.name,),
    ).fetchall()
    for partition, token, files in found:
        if (partition == WHOLE) != (table.partition is None):
            continue
        is_recent = table.partition is None or table.partition.span(partition)[1] > now - REMEMBERED
        if is_recent:
            yield Fresh(partition, token, tuple(LakeFile.from_json(file) for file in files))


def _batches(fresh: Sequence[Fresh]) -> Iterator[list[Fresh]]:
    batch: list[Fresh] = []
    for one in fresh:
        if batch and sum(each.rows for each in batch) + one.rows > ROWS_AT_ONCE:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def _looked_at(
    services: Services, table: Table, batch: Sequence[Fresh], now: datetime
) -> list[tuple[str, Day]]:
    """(partition, day) of each day that these hold. Of a history the versions that hold now: nobody can mend
    those before.
    """
    files = [file for one in batch for file in one.files if file.rows]
    if not files:
        return []
    by, form = table.partition, ""
    day = f"date '{now.date().isoformat()}'"
    hours = "null::json"
    if by is not None:
        moment = quoted(by.by)
        form = "%Y-%m-%d" if by.every == "day" else "%Y-%m"
        day = f"{moment}::date"
        if table.column(by.by).type.startswith("TIMESTAMP"):
            hours = f"to_json(histogram(extract(hour from {moment})))"
    window = f"strftime({quoted(by.by)}, '{form}')" if by is not None else "''"
    counted, of_kinds, of_numbers = nullable(table), kinds(table), numbers(table)
    measures = [
        *(f"count(*) - count({quoted(column.name)})" for column in counted),
        *(f"to_json(histogram({quoted(column.name)}::varchar))" for column in of_kinds),
        *(f"approx_quantile({quoted(column.name)}::double, {list(QUANTILES)})" for column in of_numbers),
        *(f"max({quoted(column.name)})::double" for column in of_numbers),
    ]
    source = services.lake.scan(files)
    if table.is_history:
        subject = ", ".join(quoted(name) for name in table.key if name != VALID_FROM)
        source = (
            f"(select * from {source} qualify row_number() over "
            f"(partition by {subject} order by {VALID_FROM} desc) = 1)"
        )
    with services.lake.duckdb() as session:
        found = session.execute(
            f"select {', '.join((window, day, 'count(*)', hours, *measures))} from {source} group by 1, 2"
        ).fetchall()
    looks = []
    for partition, on, count, by_hour, *seen in found:
        nulls = seen[: len(counted)]
        values = seen[len(counted) : len(counted) + len(of_kinds)]
        quantiles = seen[len(counted) + len(of_kinds) : -len(of_numbers) or None]
        most = seen[len(seen) - len(of_numbers) :]
        columns: dict[str, Any] = {
            column.name: {"nulls": int(number)} for column, number in zip(counted, nulls, strict=True)
        }
        for column, text in zip(of_kinds, values, strict=True):
            columns.setdefault(column.name, {})["values"] = _commonest(text)
        for column, at, top in zip(of_numbers, quantiles, most, strict=True):
            # The highest of numbers that are nowhere above zero DuckDB gives as 2.2e-308.
            columns.setdefault(column.name, {})["quantiles"] = at and [min(figure, top) for figure in at]
        looks.append((str(partition), Day(on, int(count), now, _counts(by_hour), columns)))
    return looks


def _counts(text: str | None) -> dict[str, int]:
    return dict(orjson.loads(text)) if text else {}


def _commonest(text: str | None) -> dict[str, int]:
    counts = sorted(_counts(text).items(), key=lambda item: -item[1])
    rest = sum(count for _, count in counts[_MOST_VALUES:])
    return dict(counts[:_MOST_VALUES]) | ({OTHERS: rest} if rest else {})


def _enter(
    connection: Connection[Any],
    table: Table,
    batch: Sequence[Fresh],
    looks: Sequence[tuple[str, Day]],
    now: datetime,
) -> None:
    """What was known of these partitions gives way; of a table without windows only what was of today."""
    tokens = {one.partition: one.token for one in batch}
    seen = {partition for partition, _ in looks}
    # A partition without a row is looked at, too: or each run would do it again.
    empty = [(name, Day(_first_day(table, name, now), 0, now)) for name in tokens if name not in seen]
    place = "table_name = %s and partition = any(%s) and (%s or day = %s)"
    where = (table.name, list(tokens), table.partition is not None, now.date())
    with connection.transaction(), connection.cursor() as cursor:
        kept = {}
        if table.partition is not None and table.write is not Write.APPEND:
            before = cursor.execute(
                f"select partition, day, columns, columns_at from ops.partition_profile where {place} "
                "and columns_at >= day + 1".encode(),
                where,
            )
            kept = {(partition, day): (columns, at) for partition, day, columns, at in before}
        cursor.execute(f"delete from ops.partition_profile where {place}".encode(), where)
        cursor.executemany(
            "insert into ops.partition_profile (table_name, partition, day, token, profiled_at, row_count, "
            "hours, columns, columns_at) values (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    table.name,
                    partition,
                    day.day,
                    tokens[partition],
                    now,
                    day.rows,
                    Jsonb(day.hours),
                    Jsonb(columns),
                    at,
                )
                for partition, day in (*looks, *empty)
                if partition in tokens
                for columns, at in [kept.get((partition, day.day), (day.columns, day.columns_at))]
            ],
        )


def _first_day(table: Table, partition: str, now: datetime) -> date:
    return now.date() if table.partition is None else table.partition.span(partition)[0].date()
