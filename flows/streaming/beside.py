"""What a stream has shown of a table beside what was built: records that no build can know yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import Connection

from flows.build.inputs import Reader
from flows.planner import WHOLE
from flows.services import Services
from flows.stores import apply
from flows.stores.ledger import Conflict, Ledger, PartitionState
from flows.stores.manifest import LakeFile
from flows.stores.publication import BuiltPartition, Streamed
from flows.streaming.journal import Journal
from flows.streaming.route import Route, route
from transforms import engine, registry
from transforms.contract import Table
from transforms.engine import quoted


def not_built_yet(
    services: Services, table: Table, connection: Connection[Any], built: Sequence[BuiltPartition]
) -> Streamed:
    """The records that are journaled, or landed and not staged: in hot leaves they are the stream's alone.

    To be called first in the transaction that makes leaves equal. The order of the questions keeps a record
    that moves on meanwhile from being in none of the answers:

    1. The journal is locked: until the transaction ends nothing is streamed, neither written nor taken back.
    2. Up to which landing staging is built; then that these partitions are built of what staging holds now.
       Raises Conflict otherwise.
    3. What is journaled, and what is landed behind that.
    """
    connection.execute("LOCK TABLE ops.stream_batch IN SHARE MODE")
    if not apply.hot_partitions(connection, table.name).intersection(item.partition for item in built):
        return Streamed()
    way = route(registry.entities())
    ledger = Ledger(connection)
    staged = ledger.states([stage.name for stage in way.staging.values()], [WHOLE], with_files=False)
    _refuse_old(ledger, table, built)
    waiting = {}
    for raw, stage in way.staging.items():
        since = read_up_to(staged.get((stage.name, WHOLE)), raw)
        landings = Reader(ledger, registry.tables()).landings_since(raw, since)
        files = [batch.file for batch in Journal(connection).unlanded(raw)]
        waiting[raw] = [*files, *(file for landing in landings for file in landing.add)]
    return Streamed(way.identity, _identities(services, way, waiting))


def read_up_to(marker: PartitionState | None, raw: str) -> str:
    """The landing up to which a staging table had read its topic, by what it noted of that last."""
    return str(marker.based_on.get(raw, "")) if marker is not None else ""


def _refuse_old(ledger: Ledger, table: Table, built: Sequence[BuiltPartition]) -> None:
    names, windows = list(table.upstreams), [item.partition for item in built]
    states = ledger.states(names, windows, with_files=False)
    for item in built:
        now = {name: states[name, item.partition].token for name in names if (name, item.partition) in states}
        if now != dict(item.based_on):
            raise Conflict(
                f"What {table.name} {item.partition} is made of was changed by somebody else in the "
                "meantime; this work on it was given up. Run again."
            )


def _identities(
    services: Services, way: Route, waiting: Mapping[str, Sequence[LakeFile]]
) -> list[tuple[Any, ...]]:
    """As the staging models read them: what they can't read is in no published table."""
    found: set[tuple[Any, ...]] = set()
    for raw, files in waiting.items():
        if not files:
            continue
        with services.lake.duckdb(keeps_order=False) as session:
            computed = engine.compute(way.staging[raw], session, {raw: services.lake.paths(files)})
            found.update(computed.rows.project(", ".join(map(quoted, way.identity))).fetchall())
    return sorted(found, key=str)
