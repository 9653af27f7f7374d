"""People in windows that are past their retention: these are not built anew, raw of them may be gone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from flows.erasure import search
from flows.erasure.person import Person
from flows.erasure.scrub import with_cells
from flows.failpoints import failpoint
from flows.services import Services
from flows.stores.lake import partition_folder
from flows.stores.ledger import Ledger
from flows.stores.manifest import Commit, LakeFile
from flows.stores.upkeep import retire
from transforms import registry
from transforms.contract import Table

_ROWS = 65_536


def rewrite(
    services: Services,
    ledger: Ledger,
    places: Sequence[tuple[str, str]],
    people: Sequence[Person],
    run_id: str,
) -> None:
    """Write the files of these (table, partition)s anew without what names these people: row for row, so that
    nothing becomes due. The leaf of a published one goes first, as a run would drop it.

    Each partition is one entry in the ledger. A crash leaves files that nobody names, and the same call goes
    on.
    """
    for name in sorted({name for name, _ in places}):
        retire(services.warehouse, services.lake, registry.table(name), services.settings.now(), run_id)
    for name, partition in places:
        table = registry.table(name)
        with ledger.locked("build", name):
            state = ledger.states([name], [partition])[name, partition]
            new = [_without(services, table, file, people) for file in state.files]
            failpoint("erase.past_written")
            paths = tuple(file.path for file in state.files)
            commit = Commit(
                token=f"erased-{name}-{partition}-{_short(*paths)}",
                kind="compact",
                layer=table.layer.value,
                table=name,
                partition=partition,
                run_id=run_id,
                add=tuple(new),
                remove=paths,
                row_count=state.row_count,
            )
            ledger.record(services.lake, commit, version=state.version)
            failpoint("erase.past_recorded")


def _without(services: Services, table: Table, file: LakeFile, people: Sequence[Person]) -> LakeFile:
    (path,) = services.lake.paths([file])
    reader = pa.RecordBatchReader.from_batches(pq.read_schema(path), _batches(path, table, people))
    written = services.lake.write(
        file.layer,
        file.table,
        partition_folder(table),
        file.partition,
        f"erased-{_short(file.path, people[0].alias)}",
        reader,
        measured=None,
    )
    return replace(file, path=written.path, bytes=written.bytes, sha256=written.sha256)


def _batches(path: str, table: Table, people: Sequence[Person]) -> Iterator[pa.RecordBatch]:
    scrubber = search.scrubber_of(table.name, people)
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS):
            scrubbed, _ = scrubber.batch(batch)
            theirs = dict.fromkeys(search.rows_of(scrubbed, table, people))
            columns = [
                with_cells(column, theirs) if theirs and field.name in table.personal else column
                for field, column in zip(scrubbed.schema, scrubbed.columns, strict=True)
            ]
            yield pa.record_batch(columns, schema=scrubbed.schema)


def _short(*parts: str) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:20]
