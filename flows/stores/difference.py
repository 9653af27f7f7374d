"""What differs between the content that is published and the content that was built, found in DuckDB."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from flows.stores.lake import Lake
from flows.stores.manifest import LakeFile
from transforms.contract import Table


@dataclass(frozen=True)
class Difference:
    """Rows by what has to happen to them: `new` and `changed` have all columns, `gone` has the key."""

    new: DuckDBPyRelation
    changed: DuckDBPyRelation
    gone: DuckDBPyRelation
    new_rows: int
    changed_rows: int
    gone_rows: int

    @property
    def rows(self) -> int:
        """How many rows have to be written."""
        return self.new_rows + self.changed_rows + self.gone_rows


def content(
    connection: DuckDBPyConnection, lake: Lake, table: Table, files: Iterable[LakeFile]
) -> DuckDBPyRelation:
    """The verified rows of files in the columns and types the table declares now.

    A column the files do not have yet is null; no files are no rows.
    """
    return _declared(connection, lake, table, files, "CAST")


def adapted(
    connection: DuckDBPyConnection, lake: Lake, table: Table, files: Iterable[LakeFile]
) -> DuckDBPyRelation:
    """The same for files that an older model wrote: a value the declared type can't hold is null."""
    return _declared(connection, lake, table, files, "TRY_CAST")


def _declared(
    connection: DuckDBPyConnection, lake: Lake, table: Table, files: Iterable[LakeFile], cast: str
) -> DuckDBPyRelation:
    wanted = list(files)
    if not wanted:
        items = ", ".join(
            f"CAST(NULL AS {column.type}) AS {_quoted(column.name)}" for column in table.columns
        )
        return connection.sql(f"SELECT {items} WHERE false")
    stored = lake.read(connection, wanted)
    casts: list[str] = []
    for column in table.columns:
        name = _quoted(column.name)
        casts.append(
            f"{cast}({name if column.name in stored.columns else 'NULL'} AS {column.type}) AS {name}"
        )
    return stored.project(", ".join(casts))


def difference(
    connection: DuckDBPyConnection,
    table: Table,
    pairs: Sequence[tuple[DuckDBPyRelation, DuckDBPyRelation]],
) -> Difference:
    """Compare published with built content by the table's key; `pairs` are (published, built) of each window.

    Every value is compared, null equal to null. The result is materialized: it is as large as the difference.
    """
    names = [column.name for column in table.columns]
    others = [name for name in names if name not in table.key]
    suffix = secrets.token_hex(4)
    upserts, gone = f"upserts_{suffix}", f"gone_{suffix}"
    for number, (published, built) in enumerate(pairs):
        # The relation API registers nothing: name both sides for the duration of the two statements.
        before, after = f"before_{suffix}", f"after_{suffix}"
        published.create_view(before)
        built.create_view(after)
        on = " AND ".join(f"b.{_quoted(name)} = a.{_quoted(name)}" for name in table.key)
        differs = (
            " OR ".join(f"a.{_quoted(name)} IS DISTINCT FROM b.{_quoted(name)}" for name in others) or "false"
        )
        first = f"b.{_quoted(table.key[0])}"
        upsert = (
            f"SELECT a.*, {first} IS NULL AS _is_new FROM {after} a LEFT JOIN {before} b ON {on} "
            f"WHERE {first} IS NULL OR {differs}"
        )
        keys = ", ".join(f"b.{_quoted(name)}" for name in table.key)
        vanished = f"SELECT {keys} FROM {before} b ANTI JOIN {after} a ON {on}"
        how = "CREATE TEMP TABLE {} AS {}" if number == 0 else "INSERT INTO {} {}"
        connection.execute(how.format(upserts, upsert))
        connection.execute(how.format(gone, vanished))
        connection.execute(f"DROP VIEW {before}; DROP VIEW {after}")
    listed = ", ".join(map(_quoted, names))
    new = connection.sql(f"SELECT {listed} FROM {upserts} WHERE _is_new")
    changed = connection.sql(f"SELECT {listed} FROM {upserts} WHERE NOT _is_new")
    lost = connection.sql(f"SELECT * FROM {gone}")
    return Difference(new, changed, lost, count(new), count(changed), count(lost))


def continuation(
    connection: DuckDBPyConnection,
    lake: Lake,
    table: Table,
    added: Iterable[LakeFile],
    lost: Mapping[LakeFile, Iterable[int]] | pa.Table,
) -> Difference:
    """The same where files were added to what is published and rows at these positions, or with these keys,
    no longer count.

    Nothing else is read: the cost follows what is new. A key that is both lost and added has changed.
    """
    rows = content(connection, lake, table, added)
    key = ", ".join(map(_quoted, table.key))
    suffix = secrets.token_hex(4)
    upserts, gone = f"added_{suffix}", f"lost_{suffix}"
    connection.execute(f"CREATE TEMP TABLE {upserts} AS {rows.sql_query()}")
    new = connection.sql(f"FROM {upserts}")
    if not (lost.num_rows if isinstance(lost, pa.Table) else lost):
        nothing = new.filter("false")
        return Difference(new, nothing, nothing.project(key), count(new), 0, 0)
    types = {column.name: column.type for column in table.columns}
    casts = ", ".join(f"CAST({_quoted(name)} AS {types[name]}) AS {_quoted(name)}" for name in table.key)
    if isinstance(lost, pa.Table):
        connection.register(f"keys_{suffix}", lost)
        connection.execute(f"CREATE TEMP TABLE {gone} AS SELECT {casts} FROM keys_{suffix}")
        connection.unregister(f"keys_{suffix}")
    else:
        connection.execute(f"CREATE TEMP TABLE {gone} AS SELECT {casts} FROM {lake.scan_at(lost)}")
    changed = connection.sql(f"SELECT * FROM {upserts} SEMI JOIN {gone} USING ({key})")
    rest = connection.sql(f"SELECT * FROM {upserts} ANTI JOIN {gone} USING ({key})")
    left = connection.sql(f"SELECT * FROM {gone} ANTI JOIN {upserts} USING ({key})")
    return Difference(rest, changed, left, count(rest), count(changed), count(left))


def count(relation: DuckDBPyRelation) -> int:
    """The number of rows."""
    return int(relation.aggregate("count(*)").fetchall()[0][0])


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
