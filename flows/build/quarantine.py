"""What was refused is kept: the rows that broke a rule, each with the rule and the reason."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
from duckdb import DuckDBPyConnection

import quality
from flows.build.guard import Judged, complete_windows, loaded
from flows.failpoints import failpoint
from flows.services import Services
from flows.stores.durable import fsync_folder
from flows.stores.lake import QUARANTINE, Lake, encode_value
from quality import CheckResult
from transforms import engine, registry
from transforms.contract import Table
from transforms.engine import quoted
from warehouse_ddl.statements import home


def put_aside(
    lake: Lake,
    connection: DuckDBPyConnection,
    table: Table,
    results: Sequence[CheckResult],
    judged: Judged,
    references: Mapping[str, str],
    partitions: Sequence[str],
    batch_id: str,
) -> Path:
    """Keep the rows of new content that broke a rule at the gate, as one Parquet file; returns its path.
    Those that stand and break a rule together with new ones are among them.
    """
    windows = complete_windows(partitions)
    rules = {rule.name: rule for rule in quality.all_rules(table)}
    broken = []
    for result in results:
        rule = rules[result.rule]
        rows = quality.failing_rows(connection, table, rule, judged.relation(rule), references, windows)
        broken.append((result, rows.sql_query()))
    return _write(lake, connection, table, broken, batch_id)


def put_loaded_aside(
    services: Services,
    table: Table,
    results: Sequence[CheckResult],
    schema: str,
    names: Mapping[str, str],
    batch_id: str,
) -> Path:
    """Keep the rows that broke a rule in what was loaded (`guard.audit`), as PostgreSQL holds them.

    Raises WarehouseError where they can't be read.
    """
    windows, tables = complete_windows(sorted(names)), loaded(schema, names)
    rules = {rule.name: rule for rule in quality.all_rules(table)}
    catalog = registry.tables()
    with services.lake.duckdb() as connection, ExitStack() as opened:
        broken = []
        for number, result in enumerate(results):
            rule = rules[result.rule]
            known = catalog.keys() & set(quality.requires([rule], table.name))
            references = {name: f"{home(catalog[name])}.{quoted(name)}" for name in known}
            query = quality.breaking_query(rule, table, tables, references, windows)
            rows = _plain(opened.enter_context(services.warehouse.reading(query)))
            # The name is temporary; what reads the rows once is the file that is written.
            name = f"breaking_{number}"
            connection.register(name, rows)
            opened.callback(connection.unregister, name)
            broken.append((result, f"select {_declared(table, rows.schema.names)} from {name}"))
        return _write(services.lake, connection, table, broken, batch_id)


def _write(
    lake: Lake,
    connection: DuckDBPyConnection,
    table: Table,
    broken: Sequence[tuple[CheckResult, str]],
    batch_id: str,
) -> Path:
    """One Parquet file of these rows, each with the rule and the reason. The very same rows are kept once,
    however often they are refused.

    It stands in `<lake>/quarantine/<table>/`, is no part of the lake's tables, and stays until somebody
    removes it.
    """
    folder = lake.root / QUARANTINE / table.name
    folder.mkdir(parents=True, exist_ok=True)
    parts = [
        f"(select *, {engine.text_literal(result.rule)} as _rule, "
        f"{engine.text_literal(result.message)} as _reason from ({query}) as broken)"
        for result, query in broken
    ]
    rows = connection.sql(" union all by name ".join(parts))
    temporary = folder / f".tmp-{os.getpid()}-{encode_value(batch_id)}.parquet"
    rows.to_parquet(str(temporary), compression="zstd")
    failpoint("quarantine.written")
    content = connection.execute(
        "select count(*), sum(hash(row)) from "
        "(select * exclude (_reason) from read_parquet(?, hive_partitioning = false)) as row",
        [str(temporary)],
    ).fetchall()
    digest = hashlib.sha256(repr(content).encode()).hexdigest()[:8]
    if kept := sorted(folder.glob(f"*-{digest}.parquet")):
        temporary.unlink()
        return kept[0]
    path = folder / f"{encode_value(batch_id)}-{digest}.parquet"
    temporary.replace(path)
    fsync_folder(folder)
    return path


def _declared(table: Table, names: Sequence[str]) -> str:
    """These columns in the types that the table declares; a column of a rule's own select may be another
    thing of the same name.
    """
    types = {column.name: column.type for column in table.columns}
    return ", ".join(
        f"try_cast({quoted(name)} as {types[name]}) as {quoted(name)}" if name in types else quoted(name)
        for name in names
    )


def _plain(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """PostgreSQL's numerics come in a type that DuckDB does not know: as text."""
    fields = [
        field.with_type(field.type.storage_type) if isinstance(field.type, pa.OpaqueType) else field
        for field in reader.schema
    ]
    schema = pa.schema(fields)
    return pa.RecordBatchReader.from_batches(
        schema,
        (
            pa.record_batch(
                [
                    column.storage if isinstance(column.type, pa.OpaqueType) else column
                    for column in batch.columns
                ],
                schema=schema,
            )
            for batch in reader
        ),
    )
