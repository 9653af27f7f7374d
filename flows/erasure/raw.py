"""The raw layer without a person: files that name them are written anew and take the old ones' places, in the
ledger, the manifest and every entry that ever named them, as if they had always been so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from flows.erasure.person import Person
from flows.erasure.scrub import Scrubber
from flows.erasure.search import whole_files
from flows.failpoints import failpoint
from flows.landed import CLOCK, LANDED_ON, landed_on, landing_time, rows_by_window, with_place
from flows.services import Services
from flows.stores import sessions
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.ledger_rows import commit_of
from flows.stores.manifest import Commit, LakeFile
from transforms import changes
from transforms.contract import Layer
from transforms.entities import Postgres, SourceEntity

_PLACE = ("_batch_id", "_landed_at", "_seq")
_ROWS = 65_536


def rewrite(services: Services, ledger: Ledger, entity: SourceEntity, people: Sequence[Person]) -> int:
    """Write the raw files anew that name these people; returns how many. Under the table's landing lock.

    1. Each such file is read, verified, and written beside, row for row in the same order.
    2. In one transaction everything in the ledger that names the old file names the new one.
    3. The manifest follows. The old files are left to `remove_replaced`.

    A crash before 2 leaves files that nobody names, one after it a manifest that `true_manifest` completes.
    """
    scrubber = Scrubber(people, entity)
    new: dict[str, LakeFile] = {}
    for file in ledger.files(entity.table):
        if not _changes(services.lake, file, scrubber):
            continue
        name = f"erased-{hashlib.sha256(f'{file.path} {people[0].alias}'.encode()).hexdigest()[:20]}"
        (path,) = services.lake.paths([file])
        reader = pa.RecordBatchReader.from_batches(pq.read_schema(path), scrubber.batches(_read(path)))
        written = services.lake.write(
            Layer.RAW.value,
            entity.table,
            LANDED_ON,
            landed_on(file),
            name,
            reader,
            measured=None,
        )
        new[file.path] = replace(file, path=written.path, bytes=written.bytes, sha256=written.sha256)
        failpoint("erase.file_written")
    if new:
        substitute(ledger, entity.table, new)
        failpoint("erase.substituted")
    true_manifest(services.lake, ledger, Layer.RAW.value, entity.table)
    return len(new)


def substitute(ledger: Ledger, table: str, new: Mapping[str, LakeFile]) -> None:
    """Let every entry of the ledger, and every state, that names one of these paths name the file given for
    it. No content changes: tokens, positions and what is based on them stay.
    """
    with ledger.connection.transaction():
        # Nobody names the old ones after this: a try that comes after a kill knows them by it.
        ledger.connection.execute(
            "UPDATE ops.erasure SET found = jsonb_set(found, '{replaced}', "
            "coalesce(found -> 'replaced', '[]') || %s) WHERE finished_at IS NULL",
            (Jsonb(list(new)),),
        )
        with ledger.connection.cursor(row_factory=dict_row) as cursor:
            rows = cursor.execute(
                "SELECT * FROM ops.ledger WHERE table_name = %s ORDER BY sequence FOR UPDATE", (table,)
            ).fetchall()
        for row in rows:
            commit = commit_of(row)
            named = {*commit.remove, *(file.path for file in commit.add)}
            if named.isdisjoint(new):
                continue
            after = replace(
                commit,
                add=tuple(_instead(file, new) for file in commit.add),
                remove=tuple(new[path].path if path in new else path for path in commit.remove),
            )
            ledger.connection.execute(
                "UPDATE ops.ledger SET files = %(files)s, removed = %(removed)s, manifest_hash = %(hash)s "
                "WHERE token = %(token)s",
                {
                    "files": Jsonb([file.as_json() for file in after.add]),
                    "removed": Jsonb(list(after.remove)),
                    "hash": after.manifest_hash,
                    "token": commit.token,
                },
            )


def true_manifest(lake: Lake, ledger: Ledger, layer: str, table: str) -> None:
    """Write the entries of a manifest anew that name other files than the ledger."""
    with ledger.connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "SELECT * FROM ops.ledger WHERE table_name = %s AND in_manifest", (table,)
        ).fetchall()
    ledgers = {commit.token: commit for commit in map(commit_of, rows)}
    differing = {
        entry.token: replace(entry, add=ledgers[entry.token].add, remove=ledgers[entry.token].remove)
        for entry in lake.manifest(layer, table)
        if entry.token in ledgers
        and (entry.add, entry.remove) != (ledgers[entry.token].add, ledgers[entry.token].remove)
    }
    if differing:
        lake.rewrite_manifest(layer, table, differing, ())
        failpoint("erase.manifest_true")


def land_deletion(
    services: Services, ledger: Ledger, entity: SourceEntity, person: Person, run_id: str
) -> bool:
    """Land that the user is gone, as a record of the source would say it; False where raw has no such user,
    or knows that already. What depends on it is due by that. Under the table's landing lock.
    """
    rows = _last_row(services, ledger, entity, person.user_id)
    if rows is None or rows["_op"].to_pylist() == ["d"]:
        return False
    position = ledger.positions(entity.table)
    landed_at = landing_time(services.settings.now(), position)
    token = f"erase-{entity.table}-{person.user_id}-{position.version}"
    gone = _as_deleted(rows, landed_at)
    batch = with_place(gone.combine_chunks().to_batches()[0], token, landed_at)
    file = services.lake.write(
        Layer.RAW.value,
        entity.table,
        LANDED_ON,
        f"{landed_at:%Y-%m-%d}",
        token,
        pa.Table.from_batches([batch]),
        measured="_landed_at",
    )
    failpoint("erase.deletion_written")
    with services.lake.duckdb() as session:
        among = changes.VISIBLE if changes.is_of_changes(batch.schema.names) else "true"
        windows = rows_by_window(session, entity, [str(services.lake.root / file.path)], among)
    commit = Commit(
        token=token,
        kind="land",
        layer=Layer.RAW.value,
        table=entity.table,
        run_id=run_id,
        add=(file,),
        positions={**position.positions, CLOCK: landed_at.isoformat()},
        windows=windows,
        row_count=file.rows,
        landed_at=landed_at,
    )
    ledger.record(services.lake, commit, version=position.version)
    failpoint("erase.deletion_landed")
    return True


def remove_replaced(services: Services, ledger: Ledger, tables: Mapping[str, str]) -> int:
    """Remove at once, without the grace that readers have otherwise, every file of these tables (name →
    layer) that is not their content any more; returns how many.

    What no entry ever named, and is younger than the oldest living writer, may be about to be committed by
    that one: it stays.
    """
    removed = 0
    living = sessions.oldest(services.lake.root)
    for name, layer in tables.items():
        kept, named = _named(ledger, name, layer)
        for path in whole_files(services.lake.root / layer / name):
            relative = path.relative_to(services.lake.root).as_posix()
            if relative in kept or (relative not in named and path.lstat().st_mtime >= living):
                continue
            path.unlink(missing_ok=True)
            removed += 1
            failpoint("erase.file_removed")
    return removed


def _named(ledger: Ledger, name: str, layer: str) -> tuple[set[str], set[str]]:
    """Paths that are a table's content, and those that its entries ever named."""
    kept = {file.path for file in ledger.files(name)} if layer == Layer.RAW.value else set()
    for state in ledger.states([name]).values():
        kept |= {file.path for file in state.files}
    waiting = ledger.connection.execute(
        "SELECT file ->> 'path' FROM ops.stream_batch WHERE entity = %s", (name,)
    ).fetchall()
    named = ledger.connection.execute(
        "SELECT file ->> 'path' FROM ops.ledger, jsonb_array_elements(files) AS file "
        "WHERE table_name = %(table)s "
        "UNION SELECT path FROM ops.ledger, jsonb_array_elements_text(removed) AS path "
        "WHERE table_name = %(table)s "
        "UNION SELECT path FROM ops.erasure, jsonb_array_elements_text(found -> 'replaced') AS path "
        "WHERE finished_at IS NULL",
        {"table": name},
    ).fetchall()
    return kept | {path for (path,) in waiting}, {path for (path,) in named}


def _changes(lake: Lake, file: LakeFile, scrubber: Scrubber) -> bool:
    (path,) = lake.paths([file])
    return any(scrubber.batch(batch)[1] for batch in _read(path))


def _read(path: str) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=_ROWS)


def _instead(file: LakeFile, new: Mapping[str, LakeFile]) -> LakeFile:
    if file.path not in new:
        return file
    found = new[file.path]
    return replace(file, path=found.path, bytes=found.bytes, sha256=found.sha256)


def _last_row(services: Services, ledger: Ledger, entity: SourceEntity, user_id: int) -> pa.Table | None:
    files = ledger.files(entity.table)
    if not files:
        return None
    with services.lake.duckdb() as session:
        rows = services.lake.read(session, files)
        query = (
            f"select * from ({rows.sql_query()}) where {entity.person} = {int(user_id)} "
            "order by _landed_at desc, _seq desc limit 1"
        )
        found = session.sql(query).to_arrow_table()
    if found.num_rows == 0:
        return None
    return found


def _as_deleted(row: pa.Table, at: datetime) -> pa.Table:
    """The row with its key alone, saying that it is gone."""
    assert row.num_rows == 1
    known: dict[str, Any] = {"_op": "d", "_change": "d", "_changed_at": at}
    columns = []
    for field in row.schema:
        if field.name in _PLACE:
            continue
        keep = field.name in ("id", "topic", "kafka_partition", "kafka_timestamp")
        value = known.get(field.name) if not keep else None
        column = row.column(field.name) if keep else pa.chunked_array([_value(value, field.type)])
        columns.append((field, column))
    return pa.table([column for _, column in columns], schema=pa.schema([field for field, _ in columns]))


def _value(value: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.nulls(1, kind.storage_type))
    return pa.array([value], kind)


def is_account(entity: SourceEntity) -> bool:
    """Whether its rows are the users themselves."""
    return isinstance(entity.read, Postgres) and entity.person == "id"


__all__ = ["is_account", "land_deletion", "remove_replaced", "rewrite", "substitute", "true_manifest"]
