"""Records that others than streams have landed and that no published table holds yet.

A batch lands what it reads, and publishes what it made of it once that is computed and checked: a stream that
begins in between finds none of it in PostgreSQL. A letter that is replayed waits for the next run. What comes
meanwhile of the same event is left to the batch, which then knows both and publishes the one that counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

from duckdb import DuckDBPyConnection
from psycopg import Connection

from flows.build.inputs import Reader
from flows.landed import BY, BY_STREAM
from flows.planner import WHOLE
from flows.services import Services
from flows.stores.ledger import Ledger
from flows.stores.ledger_reader import now_in
from flows.stores.manifest import LakeFile
from flows.stores.verified import DamagedFile
from flows.streaming.beside import read_up_to
from flows.streaming.route import Route
from transforms import engine, registry
from transforms.contract import Table
from transforms.engine import quoted

_ROWS_AT_ONCE = 30_720


class Unbuilt:
    """The identities of such records of one table, each with its time, in the stream's DuckDB: what is beyond
    its memory is on disk. For one thread.
    """

    def __init__(
        self,
        services: Services,
        connection: Connection[Any],
        duckdb: DuckDBPyConnection,
        way: Route,
        table: Table,
    ) -> None:
        """`connection` is in autocommit and nobody else uses it meanwhile."""
        assert table.partition is not None
        self._services = services
        self._ledger = Ledger(connection)
        self._duckdb = duckdb
        self._way = way
        self._table = table
        self._by = table.partition.by
        self._name = f"unbuilt_{table.name}"
        self._known: Sequence[Any] = ()
        """By what is told whether anything was landed, or built, since it was asked."""
        self._files: Mapping[str, frozenset[LakeFile]] = {}

    def leave_out(self, cursor: DuckDBPyConnection, fresh: str) -> None:
        """Take copies of such records, within the lookback, out of the temporary table `fresh`. Where nothing
        waits to be built that costs one question to PostgreSQL.

        What was published before this is known no more: who looks into the table from now on finds it there.
        """
        self._learn()
        if not self._waits:
            return
        same = " and ".join(f"{fresh}.{quoted(name)} = landed.{quoted(name)}" for name in self._way.identity)
        by = quoted(self._by)
        days = f"abs(date_diff('day', {fresh}.{by}::date, landed.{by}::date))"
        cursor.execute(
            f"delete from {fresh} using {self._name} as landed "
            f"where {same} and {days} <= {self._table.lookback.days}"
        )

    @property
    def _waits(self) -> bool:
        return any(self._files.values())

    def _learn(self) -> None:
        known = self._moved()
        if known == self._known:
            return
        files = {raw: frozenset(self._waiting(raw)) for raw in self._way.staging}
        if files != self._files:
            self._read(files)
        self._known, self._files = known, files

    def _moved(self) -> Sequence[Any]:
        """What was landed, and while something waits to be built what is."""
        built = [stage.name for stage in self._way.staging.values()] + [self._table.name]
        return self._ledger.connection.execute(
            "SELECT entity, version, 0 FROM ops.position WHERE entity = ANY(%s) UNION ALL "
            "SELECT table_name, sum(version), count(*) FROM ops.partition_state "
            "WHERE table_name = ANY(%s) GROUP BY table_name ORDER BY 1",
            (list(self._way.staging), built if self._waits else []),
        ).fetchall()

    def _waiting(self, raw: str) -> Iterator[LakeFile]:
        """The files of those landings that are not staged, and of those that touch a window which is built of
        what had been staged before. A record moves on from the one to the other, hence this order.
        """
        ledger, stage = self._ledger, self._way.staging[raw]
        reader = Reader(ledger, registry.tables())
        marker = ledger.states([stage.name], [WHOLE], with_files=False).get((stage.name, WHOLE))
        yield from _landed(ledger, reader, raw, read_up_to(marker, raw), None)
        states = ledger.states([stage.name, self._table.name], with_files=False)
        now = self._services.settings.now()
        for (name, window), staged in states.items():
            if name != stage.name or window == WHOLE or self._table.is_past_retention(window, now):
                continue
            built = states.get((self._table.name, window))
            of = str(built.based_on.get(stage.name, "")) if built is not None else ""
            if of != staged.token:
                yield from _landed(ledger, reader, raw, _staged_of(ledger, stage, raw, of), window)

    def _read(self, files: Mapping[str, frozenset[LakeFile]]) -> None:
        """As the models read them: what they can't read is in no published table. Nor is what a damaged file
        holds, and every run names that, so streams go on without it.
        """
        lake, names = self._services.lake, (*self._way.identity, self._by)
        types = ", ".join(f"{quoted(name)} {self._table.column(name).type}" for name in names)
        self._duckdb.execute(f"create or replace table {self._name} ({types})")
        for raw, found in files.items():
            paths = [path for file in sorted(found, key=attrgetter("path")) for path in self._whole(file)]
            if not paths:
                continue
            stage = self._way.staging[raw]
            with lake.duckdb(keeps_order=False) as session:
                rows = engine.compute(stage, session, {raw: paths}).rows
                alone = {name: rows if name == stage.name else None for name in self._table.upstreams}
                made = engine.compute(self._table, session, alone).select(*names)
                self._duckdb.from_arrow(made.to_arrow_reader(_ROWS_AT_ONCE)).insert_into(self._name)

    def _whole(self, file: LakeFile) -> list[str]:
        try:
            return self._services.lake.paths([file])
        except DamagedFile:
            return []


def _staged_of(ledger: Ledger, stage: Table, raw: str, token: str) -> str:
    """The landing up to which a staging table had read its topic when it had this token; '' if not known."""
    row = ledger.connection.execute(
        "SELECT marker.based_on ->> %s FROM ops.ledger AS marker JOIN ops.ledger AS staged "
        "ON staged.token = %s AND marker.sequence < staged.sequence "
        "WHERE (marker.table_name, marker.partition) = (%s, %s) AND marker.kind <> 'compact' "
        "ORDER BY marker.sequence DESC LIMIT 1",
        (raw, token, stage.name, WHOLE),
    ).fetchone()
    return str(row[0] or "") if row is not None else ""


def _landed(ledger: Ledger, reader: Reader, raw: str, since: str, window: str | None) -> Iterator[LakeFile]:
    """The files of what others than streams landed behind a token; of a `window` those that may have it."""
    others = [
        landing
        for landing in ledger.landed(raw, after=since)
        if landing.control.get(BY) != BY_STREAM
        and (window is None or not landing.windows.keys().isdisjoint({window, WHOLE}))
    ]
    if not others:
        return
    joined = ledger.joined(raw)
    counting = {file.path for landing in reader.landings_since(raw, since) for file in landing.add}
    for landing in others:
        for file in landing.add:
            now = now_in(file, joined)
            if now.path in counting:
                yield now
