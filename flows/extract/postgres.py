"""Tables of a PostgreSQL database: whole (`snapshot`) or what changed since a mark (`incremental`).

Everything is read in one exported snapshot: rows, keys and control totals belong together. What was landed
already is found by comparing whole rows with the landings that can still hold them, so nothing lands twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection, DuckDBPyRelation
from psycopg import sql

from flows.extract import DeadLetter, Extract, SourceRefused
from flows.extract.control_totals import control_totals
from flows.extract.postgres_ahead import Ahead, as_column
from flows.extract.postgres_changes import Changes
from flows.extract.postgres_marks import HOW, Mark, as_json, continued, how, is_anew, parsed, reaches
from flows.extract.postgres_session import Snapshot
from flows.extract.postgres_types import PAYLOAD, PROBLEM, convert, fitted, problem, schema
from flows.extract.schema_contract import CATALOG, Contract
from transforms.entities import Postgres, SourceEntity

_LONG = timedelta(minutes=15)


@dataclass(frozen=True)
class Landed:
    """What was landed before: `relation(since, entity)` gives the raw rows of the landings since a time
    (None: all), with the entity's columns. `arriving` gives of rows what is landed of them.

    The relation, if there are such landings, belongs to `connection`.
    """

    connection: DuckDBPyConnection
    relation: Callable[[datetime | None, SourceEntity], DuckDBPyRelation | None]
    arriving: Callable[[pa.RecordBatch], pa.RecordBatch]


def read(
    entity: SourceEntity,
    dsn: str,
    positions: Mapping[str, Any],
    landed: Landed,
    landed_at: datetime,
    *,
    clock_offset: timedelta = timedelta(0),
    workers: int = 2,
) -> Extract:
    """Read what the table holds and was not landed yet; nothing is connected before the first batch is
    wanted.

    `landed_at` is the time this landing will carry; `clock_offset` how far the rows' times are from the
    server's clock (only a sandbox has one). Raises SourceError, then nothing may be committed.
    """
    if not isinstance(entity.read, Postgres):
        raise TypeError(f"{entity.table} is not read from PostgreSQL")
    extract = Extract(schema(entity), iter(()), dict(positions))
    run = _Read(entity, entity.read, dsn, landed, landed_at, clock_offset, workers, extract)
    extract.batches = run.batches()
    return extract


@dataclass
class _Read:
    entity: SourceEntity
    how: Postgres
    dsn: str
    landed: Landed
    landed_at: datetime
    clock_offset: timedelta
    workers: int
    extract: Extract

    @property
    def name(self) -> str:
        return f"{self.entity.source}.{self.entity.name}"

    @property
    def table(self) -> sql.Identifier:
        return sql.Identifier(self.how.schema, self.how.table)

    def batches(self) -> Iterator[pa.RecordBatch]:
        with Snapshot(self.dsn, self.name, self.table) as snapshot:
            found = snapshot.columns()
            before = self.extract.positions
            contract = Contract(self.entity, found, before.get(CATALOG), self.landed_at)
            contract.hold(self.extract, by_record=False)
            self.entity = contract.entity
            self.extract.schema = schema(self.entity)
            self.columns = fitted(self.entity, {c.name: contract.column(c.name) for c in self.entity.columns})
            self.problem = problem(self.columns, self.entity.required, contract.refusals())
            if self.entity.control is not None:
                self.extract.control = control_totals(snapshot, self.entity, self.table, self.problem)
            self._go_on(next((column.table for column in found), 0), snapshot.activity.log)
            changes = Changes(self.entity, self.extract.schema, self.landed.connection)
            with snapshot.errors_told():
                if self.how.mode == "snapshot":
                    yield from self._whole(snapshot, changes)
                elif self.how.mode == "incremental":
                    yield from self._incremental(snapshot, changes)
                else:
                    raise SourceRefused(
                        f"{self.name}: mode cdc is not read from the database but from Debezium's topics. "
                        "Declare incremental or snapshot."
                    )
            own = {HOW: how(self.entity, self.how, snapshot.activity.log), **contract.stored()}
            self.extract.positions = {**self.extract.positions, **own}

    def _go_on(self, table: int, log: tuple[str, int]) -> None:
        """From where the position says, as far as that is of this way of reading this table."""
        now = how(self.entity, self.how, log)
        self.extract.positions, otherwise = continued(self.extract.positions, now, table)
        if otherwise:
            what = f"{self.name}: {' and '.join(otherwise)}"
            self.extract.warnings.append(f"{what}; so all of it was read, and compared with what was landed.")

    # ---------------------------------------------------------------------------------------- the two modes

    def _whole(self, snapshot: Snapshot, changes: Changes) -> Iterator[pa.RecordBatch]:
        """Everything, when its content is another than last time; keys that are gone come as deletes."""
        digest = changes.spool(self._rows(snapshot, sql.SQL("true")))
        if digest == self.extract.positions.get("content"):
            return
        since = _time(self.extract.positions.get("last"))
        before = self.landed.relation(since, self.entity) if since else None
        self.extract.positions = {"content": digest, "last": self.landed_at.isoformat()}
        yield from changes.spooled()
        if before is not None:
            yield from changes.deleted(before)

    def _incremental(self, snapshot: Snapshot, changes: Changes) -> Iterator[pa.RecordBatch]:
        """Rows at or behind the mark less the lookback; then, when due, what a comparison of keys finds.

        There is no upper bound: what the snapshot shows is taken, and the *mark* stays behind everything that
        an open transaction could still commit. What is read again next time is recognised and left out.
        """
        cursor = self.how.cursor
        if cursor is None:
            raise SourceRefused(f"{self.name}: mode incremental needs a cursor column. Declare one.")
        kind = self.extract.schema.field(cursor).type
        if not (pa.types.is_timestamp(kind) or pa.types.is_integer(kind)):
            raise SourceRefused(
                f"{self.name}: the cursor column {cursor} is neither a time nor a whole number. "
                "Declare another one, or mode snapshot or cdc."
            )
        before = self.extract.positions
        mark = parsed(before.get("mark"))
        lower = mark - self.how.lookback if isinstance(mark, datetime) else mark
        bound = as_column(lower, kind) if isinstance(lower, datetime) else lower
        recent = [(_must(since), parsed(high)) for since, high in before.get("recent", [])]
        needed = [(since, high) for since, high in recent if lower is None or reaches(high, lower)]
        if needed:
            overlap = self.landed.relation(min(since for since, _ in needed), self.entity)
            changes.remember(overlap, cursor, bound)
        column = sql.Identifier(cursor)
        where: sql.Composable = sql.SQL("true")
        if bound is not None:
            # Rows without a cursor would never be seen again: they come as dead letters.
            where = sql.SQL("({0} >= {1} or {0} is null)").format(column, sql.Literal(bound))
        highest: list[Mark] = []
        given = 0
        ahead = Ahead(cursor, snapshot.activity.clock + self.clock_offset, before)
        # Compared is what would be landed: the source may say more of a row than raw may hold.
        rows = map(self.landed.arriving, self._rows(snapshot, where, parallel=lower is None))
        for batch in changes.new(rows, cursor, highest, ahead):
            given += batch.num_rows
            yield batch
        compare = self._is_comparison_due(before)
        if compare:
            for batch in self._compare_keys(snapshot, changes, bound):
                given += batch.num_rows
                yield batch
        high = max(highest, default=None)
        after: dict[str, Any] = {**self._advance(snapshot, mark, high, before), **ahead.position}
        high = ahead.top(high)
        # What was landed before the table was read by its rows reaches as far as this whole read of it.
        after["recent"] = [
            [since.isoformat(), as_json(high if top is None else top)] for since, top in needed
        ]
        if given:
            after["recent"].append([self.landed_at.isoformat(), as_json(high)])
        after["compared_at"] = self.landed_at.isoformat() if compare else before.get("compared_at")
        self.extract.positions = after

    def _advance(
        self, snapshot: Snapshot, mark: Mark | None, high: Mark | None, before: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The next mark: never past what an open transaction may still commit behind our back."""
        activity = snapshot.activity
        if activity.unknown:
            self.extract.warnings.append(
                f"{self.name}: {activity.unknown}; so the mark stays and the same rows are compared in "
                f"every run."
            )
            return {"mark": as_json(mark), "pending": before.get("pending")}
        if isinstance(high, datetime) or isinstance(mark, datetime):
            cap = min(activity.clock, activity.oldest or activity.clock) + self.clock_offset
            if activity.oldest and activity.clock - activity.oldest > _LONG:
                self.extract.warnings.append(
                    f"{self.name}: backend {activity.oldest_pid} has a transaction open since "
                    f"{activity.oldest:%Y-%m-%d %H:%M:%S} UTC; rows after that are compared in every run. "
                    "End it if it was forgotten."
                )
            # Where the newest rows are gone nothing was read, and the mark stays.
            reached = [mark, min(cap, high) if isinstance(high, datetime) else None]
            return {"mark": as_json(max(at for at in reached if isinstance(at, datetime)))}
        # A number was handed out before its transaction commits. Once no transaction is open that began
        # before we saw the highest one, nothing below it can come any more.
        pending = before.get("pending")
        if pending and (activity.oldest is None or activity.oldest > _must(pending["at"])):
            mark, pending = pending["high"], None
        if pending is None and isinstance(high, int):
            pending = {"high": high, "at": snapshot.clock.isoformat()}
        return {"mark": mark, "pending": pending}

    # ------------------------------------------------------------------------------------------------- keys

    def _is_comparison_due(self, before: Mapping[str, Any]) -> bool:
        every, last = self.how.deletes_every, _time(before.get("compared_at"))
        if is_anew(before):
            return True
        # The first read has nothing to compare with.
        return every is not None and bool(before) and (last is None or self.landed_at - last >= every)

    def _compare_keys(
        self, snapshot: Snapshot, changes: Changes, lower: Mark | None
    ) -> Iterator[pa.RecordBatch]:
        """Deletes, and rows that came to lie below the mark unseen (restored, or given an old time)."""
        before = self.landed.relation(None, self.entity)
        if before is None:
            return
        cursor = sql.Identifier(str(self.how.cursor))
        below = (
            sql.SQL("{} < {}").format(cursor, sql.Literal(lower)) if lower is not None else sql.SQL("false")
        )
        wanted = [column for column in self.columns if column.landed_as in self.entity.key]
        query = sql.SQL("select {}, ({}) is null and {} as is_below from {}").format(
            sql.SQL(", ").join([_as(column.expression, column.landed_as) for column in wanted]),
            self.problem,
            below,
            self.table,
        )
        changes.keep_keys(snapshot.stream(query))
        yield from changes.deleted(before)
        for keys in changes.missed(before):
            for batch in map(self.landed.arriving, self._rows(snapshot, self._is_one_of(keys))):
                # Not who is gone for us though the source has them still: that was landed.
                if (there := batch.filter(pc.equal(batch.column("_op"), "r"))).num_rows:
                    yield there

    def _is_one_of(self, keys: Sequence[tuple[str, ...]]) -> sql.Composable:
        names = sql.SQL(", ").join(sql.Identifier(name) for name in self.entity.key)
        kinds = {column.landed_as: column.pg_type for column in self.columns}
        values = sql.SQL(", ").join(
            sql.SQL("({})").format(
                sql.SQL(", ").join(
                    sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(kinds[name]))
                    for name, value in zip(self.entity.key, key, strict=True)
                )
            )
            for key in keys
        )
        return sql.SQL("({}) in ({})").format(names, values)

    # ------------------------------------------------------------------------------------------------- rows

    def _rows(
        self, snapshot: Snapshot, where: sql.Composable, *, parallel: bool = True
    ) -> Iterator[pa.RecordBatch]:
        """Rows in the declared types with `_op` 'r'; those that can't be held become dead letters."""
        parts = snapshot.parts(self.workers) if parallel else [sql.SQL("true")]
        values = [_as(column.expression, column.landed_as) for column in self.columns]
        queries: list[sql.Composable] = [
            sql.SQL(
                "select {values}, {problem_name}, case when {problem_name} is not null "
                "then to_json(source.*)::text end as {payload} from (select *, {problem} as {problem_name} "
                "from {table} as source where {part} and {where}) as source"
            ).format(
                values=sql.SQL(", ").join(values),
                problem_name=sql.Identifier(PROBLEM),
                payload=sql.Identifier(PAYLOAD),
                problem=self.problem,
                table=self.table,
                part=part,
                where=where,
            )
            for part in parts
        ]
        wanted = pa.schema([field for field in self.extract.schema if field.name != "_op"])
        for batch in snapshot.stream_all(queries):
            problems = batch.column(PROBLEM)
            if problems.null_count != len(problems):
                self._keep_dead_letters(batch.filter(problems.is_valid()))
                batch = batch.filter(problems.is_null())
            if batch.num_rows:
                exact = convert(batch, wanted)
                yield exact.append_column("_op", pa.array(["r"] * exact.num_rows, pa.string()))

    def _keep_dead_letters(self, batch: pa.RecordBatch) -> None:
        keys = [batch.column(name) for name in self.entity.key]
        for row in range(batch.num_rows):
            reason = str(batch.column(PROBLEM)[row])
            self.extract.dead_letters.append(
                DeadLetter(
                    source=self.entity.source,
                    entity=self.entity.name,
                    reason=reason,
                    payload=str(batch.column(PAYLOAD)[row]).encode(),
                    received_at=self.landed_at,
                    coordinates="\x1f".join([*(str(key[row]) for key in keys), reason]),
                )
            )


def _as(expression: sql.Composable, name: str) -> sql.Composable:
    return sql.SQL("{} as {}").format(expression, sql.Identifier(name))


def _time(value: str | None) -> datetime | None:
    return _must(value) if value else None


def _must(value: str) -> datetime:
    return datetime.fromisoformat(value)
