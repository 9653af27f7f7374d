"""The lake for everybody: `lake.sql`, a view for each table over exactly the files that count, and a prompt
on it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import duckdb

from flows import evolution
from flows.errors import FlowsError
from flows.landed import LANDED_ON, OFFSETS
from flows.stores.durable import written_whole
from flows.stores.files import written
from flows.stores.lake import Lake, LakeFile, partition_folder
from flows.stores.manifest import fold
from flows.stores.scan import counting
from transforms import changes, registry
from transforms.contract import Column, Layer, Table
from transforms.engine import quoted, text_literal
from transforms.entities import Postgres, SourceEntity

SHOWN = (Layer.RAW, Layer.STAGING, Layer.DIMENSIONS, Layer.FACTS, Layer.MARTS)
_MAX_SHOWN_ROWS = 40


class LakeQueryError(FlowsError):
    """A query on the lake failed; the message is DuckDB's."""

    exit_code = 1


def lake_sql(
    root: Path,
    tables: Iterable[Table],
    files: Mapping[str, Iterable[LakeFile]],
    entities: Mapping[str, SourceEntity] | None = None,
    changed: Collection[str] = (),
) -> str:
    """The text of `lake.sql`. A table that has no file yet is a view of no rows with the right columns.

    Views name their files, so a file that nobody committed is never read; the folder's value
    (`event_time_day`, …) is a column by which DuckDB skips files without opening them. `entities` are
    those of a database's tables, with the columns that nobody declared; the views of those among them that
    are `changed`, whose files hold change records, show typed rows.
    """
    lines = [
        "-- Written by each run. Views over the lake's tables: exactly the files that the manifests name.",
        "-- Open with: duckdb -init lake.sql",
        f"set file_search_path = {text_literal(str(root))};",
        "set timezone = 'UTC';",
    ]
    # DuckDB takes a comma in that setting for the end of a folder, and a backslash for no letter.
    base = f"{root}/" if {",", "\\"} & set(str(root)) else ""
    for table in tables:
        named = sorted((f"{base}{file.path}", file) for file in files.get(table.name, ()))
        if table.description or table.grain:
            lines.append(f"\n-- {table.description or table.grain}".replace("\r", " "))
        if named:
            options = "hive_partitioning = " + ("true" if _folder(table) else "false")
            source = f"select * from {counting(named, options)}"
            entity = (entities or {}).get(table.name)
            if entity and table.name in changed:
                source = _typed(entity, source)
            elif entity and any(column.formerly for column in entity.columns):
                source = _renamed(entity, table, source)
            elif any(column.name == "_lsn" for column in table.columns):
                # What was read has no place in the source's log.
                source = f"{_nothing({c.name: c.type for c in table.columns})} union all by name {source}"
            elif table.passes:
                # Files lack what came later, and have what the source has no more.
                own = ", ".join(map(quoted, [*(c.name for c in table.columns), *_folders(table)]))
                nothing = _nothing({c.name: c.type for c in table.columns})
                source = f"select {own} from ({nothing} union all by name {source})"
            if entity and changes.marks_deleted(entity):
                own = "select * exclude (_deleted_at)" if table.name not in changed else "select *"
                source = f"{own}, {changes.DELETED_AT} as _deleted_at from ({source})"
        else:
            columns = ", ".join(f"cast(null as {c.type}) as {quoted(c.name)}" for c in table.columns)
            folder = f", cast(null as {_folder_type(table)}) as {_folder(table)}" if _folder(table) else ""
            source = f"select {columns}{folder} where false"
        lines.append(f"create or replace view {table.name} as {source};")
    return "\n".join(lines) + "\n"


def write(lake: Lake, tables: Iterable[Table]) -> Path:
    """Write `<lake>/lake.sql` from the manifests, whole or not at all; returns its path. Raises LakeError for
    what the disk says.
    """
    found, changed = {}, set()
    for entity in registry.entities():
        if not isinstance(entity.read, Postgres):
            continue
        commits = lake.manifest(Layer.RAW, entity.table)
        found[entity.table] = evolution.found(entity, commits[-1].positions if commits else {})
        if any(OFFSETS in commit.control for commit in commits):
            changed.add(entity.table)
    evolved = registry.default().with_found(found)
    entities = {name: evolved.entities[name] for name in found}
    shown = [evolved.table(table.name) for table in tables if table.layer in SHOWN]
    files = {table.name: fold(lake.manifest(table.layer, table.name)) for table in shown}
    path = lake.root / "lake.sql"
    with written(lake.root):
        lake.root.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as handle:
            handle.write(lake_sql(lake.root, shown, files, entities, changed).encode())
    return path


def _typed(entity: SourceEntity, source: str) -> str:
    """The rows of change records, and of those that were read before: whatever columns the files have."""
    kinds = {c.name: c.type for c in (*entity.columns, *_former(entity))} | changes.FOUND
    return changes.typed(entity, f"{_nothing(kinds)} union all by name {source}", kinds, LANDED_ON)


def _renamed(entity: SourceEntity, table: Table, source: str) -> str:
    """Rows that were read, the older of which stand in their files under names of then."""
    former = _former(entity)
    kinds = {column.name: column.type for column in (*table.columns, *former)}
    own = [
        f"{changes.as_read(column, kinds)} as {quoted(column.name)}"
        for column in entity.columns
        if column.formerly
    ]
    left_out = ", ".join(quoted(column.name) for column in former)
    everything = f"{_nothing(kinds)} union all by name {source}"
    return f"select * exclude ({left_out}) replace ({', '.join(own)}) from ({everything})"


def _former(entity: SourceEntity) -> list[Column]:
    """The columns under the names that the source had for them."""
    return [replace(column, name=name) for column in entity.columns for name in column.formerly]


def _nothing(kinds: Mapping[str, str]) -> str:
    columns = ", ".join(f"cast(null as {kind}) as {quoted(name)}" for name, kind in kinds.items())
    return f"from (select {columns} where false)"


def _folder(table: Table) -> str | None:
    return LANDED_ON if table.layer is Layer.RAW else partition_folder(table)


def _folders(table: Table) -> list[str]:
    folder = _folder(table)
    return [folder] if folder else []


def _folder_type(table: Table) -> str:
    return (
        "date"
        if table.layer is Layer.RAW or (table.partition and table.partition.every == "day")
        else "varchar"
    )


def command(arguments: argparse.Namespace) -> int:
    """`python -m flows lake ["SQL"]`: print an answer, or read queries from a prompt until the end of
    input.
    """
    from flows.settings import load

    path = load().lake_root / "lake.sql"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FlowsError(
            f"There is no lake at {path.parent} yet. Run the batch first: python -m flows"
        ) from None
    except OSError as error:
        raise FlowsError(
            f"The lake can't be read at {path}: {error.strerror}. See after its disk and whose the file is, "
            "or correct ANALYTICS_LAKE, and ask again."
        ) from None
    connection = duckdb.connect()
    for problem in _opened(connection, text):
        print(problem, file=sys.stderr)
    if arguments.sql is not None:
        _answer(connection, arguments.sql)
        return 0
    interactive = sys.stdin.isatty()
    if interactive:
        print("The lake, read with DuckDB. `show tables;` lists it; end a query with ';', leave with Ctrl-D.")
    for query in _queries(interactive):
        try:
            _answer(connection, query)
        except LakeQueryError as error:
            print(error, file=sys.stderr)
    return 0


def _opened(connection: duckdb.DuckDBPyConnection, text: str) -> Iterable[str]:
    """Make the views; a sentence for each that can't be: the others are there all the same."""
    for statement in connection.extract_statements(text):
        try:
            connection.execute(statement)
        except duckdb.Error as error:
            view = re.search(r"create or replace view (\w+)", statement.query)
            name = view[1] if view else "A setting"
            said = str(error).splitlines()[0]
            yield f"{name} is left out: {said}. What was lost, and the way back: docs/recovery.md."


def _queries(interactive: bool) -> Iterable[str]:
    lines: list[str] = []
    while True:
        try:
            line = input(("lake> " if not lines else " ...> ") if interactive else "")
        except EOFError:
            if any(part.strip() for part in lines):
                yield "\n".join(lines)
            return
        lines.append(line)
        if line.rstrip().endswith(";"):
            yield "\n".join(lines)
            lines = []


def _answer(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Print what a query gives. It runs in a thread of its own: in the main one DuckDB hears Ctrl-C now and
    then only when the query has ended. Raises LakeQueryError.
    """

    def show() -> None:
        answer = connection.sql(query)
        if answer is not None:
            answer.show(max_rows=_MAX_SHOWN_ROWS)

    with ThreadPoolExecutor(1) as beside:
        shown = beside.submit(show)
        try:
            shown.result()
        except duckdb.Error as error:
            raise LakeQueryError(f"The lake can't answer that: {error}") from None
        except KeyboardInterrupt:
            connection.interrupt()
            raise
