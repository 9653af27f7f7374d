"""The proof: every place that keeps anything is searched for a person, and what was found there is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from psycopg import Connection, sql

from flows.erasure import ops
from flows.erasure.person import Person
from flows.erasure.scrub import Scrubber
from flows.services import Services
from flows.stores.durable import TEMPORARY
from flows.stores.lake import QUARANTINE, SPILL
from flows.stores.ledger import Ledger
from transforms import registry
from transforms.contract import Layer, Table
from warehouse_ddl.statements import SCHEMAS, home

_ROWS = 65_536
_USER = "user_id"


@dataclass(frozen=True)
class Place:
    """One place that was searched: how much of it there is, and what in it names the person."""

    what: str
    searched: str
    found: int

    def __str__(self) -> str:
        return f"{self.what:<46} {self.searched:>26}   {self.found} found"


def everywhere(services: Services, ledger: Ledger, people: Sequence[Person]) -> list[Place]:
    """Search the lake file by file, in the decoded bytes of every column, and every table of the warehouse.

    Looked for are their addresses in every form, and in rows that are theirs by id everything that is
    declared to be personal.
    """
    places = []
    for layer in Layer:
        files = whole_files(services.lake.root / layer.value)
        found = sum(_still_naming(path, people) for path in files)
        places.append(Place(f"lake/{layer.value}", f"{len(files):,} files", found))
    left = whole_files(services.lake.root / QUARANTINE)
    found = sum(_still_naming(path, people) for path in left)
    places.append(Place("lake/quarantine", f"{len(left):,} files", found))
    places.append(_bytes(services.lake.root, people))
    schemas = [*SCHEMAS, *_rebuilt(ledger.connection)]
    for schema in schemas:
        places.append(_schema(ledger.connection, schema, people))
    places.append(_members(ledger.connection, people))
    return places


def whole_files(folder: Path) -> list[Path]:
    """The Parquet files below a folder but those that a run is writing, or a kill has left half written."""
    return sorted(path for path in folder.rglob("*.parquet") if not path.name.startswith(TEMPORARY))


def _still_naming(path: Path, people: Sequence[Person]) -> int:
    """As `naming`; what a run beside has removed since it was listed names nobody."""
    try:
        return naming(path, people)
    except FileNotFoundError:
        return 0


def naming(path: Path, people: Sequence[Person]) -> int:
    """Rows of one Parquet file of the lake, whatever it is of, that still name one of these people or hold
    what an erasure takes out of their rows.
    """
    table = owner(path)
    scrubber = scrubber_of(table, people)
    built = registry.tables().get(table)
    built = built if built is not None and built.layer is not Layer.RAW else None
    count = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS):
            rows = set(scrubber.batch(batch)[1])
            if built is not None:
                rows |= rows_of(batch, built, people)
            count += len(rows)
    return count


def scrubber_of(name: str, people: Sequence[Person]) -> Scrubber:
    """What takes people out of the files of a table: of raw by its entity, of a model that keeps whole
    objects of an API by that API's: an object need not hold an address to be somebody's.
    """
    entities = {entity.table: entity for entity in registry.entities()}
    table = registry.tables().get(name)
    told_by = [name]
    if table is not None and any(column.pii and column.type.lower() == "json" for column in table.columns):
        told_by += [one for one in table.upstreams if one in entities and entities[one].personal]
    return Scrubber(people, next((entities[one] for one in told_by if one in entities), None))


def theirs(path: Path, batch: pa.RecordBatch, people: Sequence[Person]) -> set[int]:
    """Rows of a file of a built table that are theirs by id and hold something personal."""
    built = registry.tables().get(owner(path))
    return rows_of(batch, built, people) if built is not None else set()


def rows_of(batch: pa.RecordBatch, table: Table, people: Sequence[Person]) -> set[int]:
    """Rows that are theirs by id with something in a personal column."""
    names = [name for name in table.personal if name in batch.schema.names]
    if not names or _USER not in batch.schema.names:
        return set()
    theirs = pc.is_in(batch.column(_USER), pa.array([p.user_id for p in people], batch.column(_USER).type))
    rows: set[int] = set()
    for name in names:
        full = pc.and_(theirs, pc.is_valid(batch.column(name)))
        aliases = pc.is_in(_text(batch.column(name)), pa.array([p.alias for p in people]))
        rows |= set(pc.indices_nonzero(pc.and_(full, pc.invert(aliases))).to_pylist())
    return rows


def _text(column: pa.Array) -> pa.Array:
    storage = column.storage if isinstance(column, pa.ExtensionArray) else column
    return storage if pa.types.is_string(storage.type) else storage.cast(pa.string())


def owner(path: Path) -> str:
    """The table of a file: <layer>/<table>/…"""
    for parent in path.parents:
        if parent.parent.name in {*(layer.value for layer in Layer), QUARANTINE}:
            return parent.name
    return path.parent.name


def _bytes(root: Path, people: Sequence[Person]) -> Place:
    """What is not Parquet: manifests, lake.sql, what a computation put on disk."""
    files = [
        path
        for path in root.rglob("*")
        if path.is_file()
        and (path.suffix != ".parquet" or SPILL in path.parts or path.name.startswith(TEMPORARY))
    ]
    found = 0
    for path in files:
        text = path.read_bytes().decode("utf-8", "replace")
        found += sum(person.is_named_in(text) for person in people)
    return Place("lake: manifests, temporary and other files", f"{len(files):,} files", found)


def _rebuilt(connection: Connection[Any]) -> list[str]:
    """Schemas that somebody made with `rebuild --as-of`."""
    rows = connection.execute(
        "SELECT nspname FROM pg_namespace WHERE nspname <> ALL(%s) AND nspname !~ '^pg_' ORDER BY 1",
        ([*SCHEMAS, "information_schema"],),
    ).fetchall()
    return [name for (name,) in rows]


def _schema(connection: Connection[Any], schema: str, people: Sequence[Person]) -> Place:
    found = 0
    looked = [one for one in ops.columns(connection, [schema]) if one[:2] != ("ops", "erasure")]
    for _, table, column, kind in looked:
        found += ops.naming(connection, schema, table, column, kind, people)
    tables = len({table for _, table, _, _ in looked})
    return Place(f"warehouse: schema {schema}", f"{len(looked)} columns, {tables} tables", found)


def _members(connection: Connection[Any], people: Sequence[Person]) -> Place:
    """Personal columns of the published rows that are theirs by id."""
    found = columns = 0
    for table in registry.build_order():
        if not table.is_published or not table.personal or _USER not in {c.name for c in table.columns}:
            continue
        for name in table.personal:
            query = sql.SQL(
                "SELECT count(*) FROM {} WHERE user_id = ANY(%s) AND {c} IS NOT NULL AND {c}::text <> ALL(%s)"
            ).format(sql.Identifier(home(table), table.name), c=sql.Identifier(name))
            row = connection.execute(
                query, ([person.user_id for person in people], [person.alias for person in people])
            ).fetchone()
            found += row[0] if row else 0
            columns += 1
    return Place("warehouse: personal columns of their rows", f"{columns} columns", found)


def suspects(services: Services, ledger: Ledger, people: Sequence[Person]) -> Iterator[tuple[str, str]]:
    """(table, partition) of what was built and names them still; what is no longer declared is not looked
    at (`leftovers.refuse`).
    """
    for (name, partition), state in ledger.states(registry.tables()).items():
        for file in state.files:
            if naming(services.lake.root / file.path, people):
                yield name, partition
                break
