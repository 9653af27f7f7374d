"""What a table holds, in a few numbers that two servers can compare: rows, sums, a hash of the content."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

from psycopg import Connection, sql

from warehouse_ddl.statements import LASTING

_SUMMED = ["int2", "int4", "int8", "numeric"]
_AS_TEXT = (
    "SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'postgres'; "
    "SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex'"
)
"""What the text of a value depends on."""


@dataclass(frozen=True)
class Note:
    """The content of one table, leaf or materialized view. `digest` does not depend on the order of rows or
    columns, nor on PostgreSQL's version.
    """

    rows: int
    digest: str
    sums: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"rows": self.rows, "digest": self.digest, "sums": dict(self.sums)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The note that a JSON object holds."""
        return cls(value["rows"], value["digest"], value["sums"])

    def differs(self, other: Note) -> str:
        """What is other in `other`, as the end of a sentence; '' where nothing is."""
        if self == other:
            return ""
        if self.rows != other.rows:
            return f"{other.rows:,} rows in place of {self.rows:,}"
        for name, value in self.sums.items():
            if other.sums.get(name) != value:
                return f"the sum of {name} is {other.sums.get(name)} in place of {value}"
        return f"as many rows ({self.rows:,}), but not the same ones"


Shape = Mapping[str, Collection[str]]
"""`schema.table` → its columns, for tables, leaves and materialized views."""


def take(
    connection: Connection[Any], schemas: tuple[str, ...] = LASTING, shared: Shape | None = None
) -> dict[str, Note]:
    """`schema.table` → its note, for every table, leaf and materialized view of these schemas. `shared`: of
    the tables in it only these columns count.

    To be called in a transaction of one snapshot (REPEATABLE READ): each leaf is read by itself, since a
    parent shows leaves that were attached after the snapshot.
    """
    connection.execute(_AS_TEXT)
    notes = {}
    for schema, name, columns, summed in _found(connection, schemas):
        counted = (shared or {}).get(f"{schema}.{name}", columns)
        notes[f"{schema}.{name}"] = _note(
            connection,
            schema,
            name,
            [column for column in columns if column in counted],
            [column for column in summed if column in counted],
        )
    return notes


def shape(connection: Connection[Any], schemas: tuple[str, ...]) -> Shape:
    """What `take` would look at."""
    return {f"{schema}.{name}": columns for schema, name, columns, _ in _found(connection, schemas)}


def _found(
    connection: Connection[Any], schemas: tuple[str, ...]
) -> list[tuple[str, str, list[str], list[str]]]:
    """Schema, name, columns and those that are summed."""
    return connection.execute(
        """
        SELECT n.nspname, c.relname,
            array_agg(a.attname ORDER BY a.attname),
            coalesce(array_agg(a.attname ORDER BY a.attname) FILTER (
                WHERE t.typname = ANY(%s) AND a.attname NOT LIKE '%%\\_id'), '{}')
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        JOIN pg_type t ON t.oid = a.atttypid
        WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'm') AND (c.relkind = 'r' OR c.relispopulated)
        GROUP BY 1, 2 ORDER BY 1, 2
        """,
        (_SUMMED, list(schemas)),
    ).fetchall()


def _note(connection: Connection[Any], schema: str, name: str, columns: list[str], summed: list[str]) -> Note:
    whole = sql.SQL("ROW({})").format(sql.SQL(", ").join(map(sql.Identifier, columns)))
    sums = [sql.SQL("sum({})::text").format(sql.Identifier(column)) for column in summed]
    row = connection.execute(
        sql.SQL("SELECT {} FROM ONLY {}").format(
            sql.SQL(", ").join(
                [
                    sql.SQL("count(*)"),
                    # A sum knows no order, and counts a row that is there twice.
                    sql.SQL(
                        "coalesce(sum(('x' || left(md5({}::text), 16))::bit(64)::bigint::numeric), 0)::text"
                    ).format(whole),
                    *sums,
                ]
            ),
            sql.Identifier(schema, name),
        )
    ).fetchone()
    assert row is not None
    return Note(int(row[0]), str(row[1]), dict(zip(summed, (str(value) for value in row[2:]), strict=True)))
