"""The warehouse as it was, from the lake: `python -m flows rebuild --as-of TIME|LSN [--into SCHEMA]`.

A row of raw counts if it was there then: a change told by the application's database from its commit on, any
other record from when it was landed. Of these rows the models of today make every table, outside PostgreSQL,
and the tables appear together in a schema of their own. What is published is not touched.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from duckdb import DuckDBPyConnection, DuckDBPyRelation
from psycopg import Connection, sql

from flows import as_of_schemas
from flows.extract.debezium_guard import REMEMBERED
from flows.extract.debezium_observed import lsn_number, lsn_text
from flows.failpoints import failpoint
from flows.moment import AsOfError, Moment
from flows.progress import Progress
from flows.services import Services
from flows.stores.ledger_rows import lets_go
from flows.stores.manifest import fold
from transforms import changes, engine, registry
from transforms.contract import Layer, Table, Write
from warehouse_ddl.statements import (
    comment_ddl,
    index_ddl,
    quoted,
    table_ddl,
)


@dataclass(frozen=True)
class Rebuilt:
    """What was made: published table → rows."""

    schema: str
    rows: dict[str, int]


def rebuild(
    services: Services, moment: Moment, into: str, names: Sequence[str], progress: Progress
) -> Rebuilt:
    """Make tables (all published ones if no `names`) as they were at `moment`, in the schema `into`.

    1. Every table that is needed is computed from raw in DuckDB, which spills to the lake's folder.
    2. The published ones are copied into a schema that nobody knows yet, indexed and described.
    3. In one transaction it takes the place of `into`.

    A crash leaves what stood in `into`; what it left besides goes with the next rebuild, and with `maintain`.
    Only what an earlier rebuild made is ever replaced. Raises AsOfError for a schema that is somebody else's,
    and where the lake holds nothing that old or that late.
    """
    moment.refuse_future(services.settings.now())
    wanted = _wanted(names)
    rows: dict[str, int] = {}
    with (
        services.warehouse.connect() as connection,
        services.lake.duckdb(keeps_order=False) as session,
    ):
        as_of_schemas.refuse(connection, into)
        _refuse_incomplete(services, wanted)
        past = _Past(services, session, moment)
        past.refuse_ahead()
        with as_of_schemas.making(connection, into) as making:
            for table in registry.build_order():
                if table.name not in wanted:
                    continue
                relation = past.compute(table)
                if table.is_published:
                    rows[table.name] = _stand_up(services, connection, table, making, relation)
                    failpoint("as_of.stood_up")
                    progress.say("as of", f"{table.name}: {rows[table.name]:,} rows")
            with connection.transaction():
                connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(into)))
                connection.execute(
                    sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(*map(sql.Identifier, (making, into)))
                )
                comment = (
                    f"{as_of_schemas.MARK} at {moment.text}; made from the lake by `python -m flows rebuild "
                    "--as-of`."
                )
                connection.execute(
                    sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(into), sql.Literal(comment))
                )
                connection.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO reader").format(sql.Identifier(into)))
                for name in rows:
                    who = "pii_reader" if registry.table(name).personal else "reader"
                    connection.execute(
                        sql.SQL("GRANT SELECT ON {} TO {}").format(
                            sql.Identifier(into, name), sql.Identifier(who)
                        )
                    )
    return Rebuilt(into, rows)


class _Past:
    """Raw as it was, and what the models make of it, in one DuckDB session."""

    def __init__(self, services: Services, session: DuckDBPyConnection, moment: Moment) -> None:
        self._lake = services.lake
        self._session = session
        self._moment = moment
        self._raw = {
            table.name: self._rows(table) for table in registry.tables().values() if table.layer is Layer.RAW
        }
        self._then_read: dict[str, DuckDBPyRelation | None] = {}
        self._in_logs: dict[str, str] = {}
        self._open: set[tuple[int, int]] | None = None
        self._at = moment.at or self._time_of(moment)
        if moment.at is not None:
            self._refuse_before_anything()

    def compute(self, table: Table) -> DuckDBPyRelation:
        """A model's rows; they stay in a temporary table for those that read it."""
        inputs: dict[str, Any] = {
            name: self._known_then(name) if name in self._raw else self._session.table(name)
            for name in table.upstreams
        }
        engine.run(table, self._session, inputs).create(table.name)
        return self._session.table(table.name)

    def refuse_ahead(self) -> None:
        """Raises AsOfError for a place of the log to which no landing has come: not all that lies before it
        is known.
        """
        if self._moment.lsn is None:
            return
        seen = [
            lsn_number(commit.positions[REMEMBERED]["lsn"])
            for name in self._raw
            for commit in self._lake.manifest(Layer.RAW.value, name)
            if REMEMBERED in commit.positions
        ]
        of_changes = (rows for rows in self._raw.values() if rows and changes.is_of_changes(rows.columns))
        seen += [at for rows in of_changes if (at := _one(rows, "max(_lsn)")) is not None]
        if self._moment.lsn > max(seen):
            raise AsOfError(
                f"The lake reaches to {lsn_text(max(seen))} in the application's log, and "
                f"{self._moment.text} lies behind that. Name that place or an earlier one; `python -m flows` "
                "lands what came since."
            )

    def _rows(self, table: Table) -> DuckDBPyRelation | None:
        """All that raw has, by the manifests alone: the ledger may be lost."""
        files = fold(self._lake.manifest(table.layer, table.name))
        return self._lake.read(self._session, files) if files else None

    def _known_then(self, name: str) -> DuckDBPyRelation | None:
        """Raw as it was, looked through once however many models read it. Raises AsOfError."""
        if name not in self._then_read:
            if self._moment.at is not None:
                self._refuse_before_first_read(name)
            self._then_read[name] = self._then(name)
        return self._then_read[name]

    def _then(self, name: str) -> DuckDBPyRelation | None:
        rows = self._raw[name]
        if rows is None:
            return None
        if not changes.is_of_changes(rows.columns):
            return rows.filter(f"_landed_at <= {self._literal}")
        place, was = "_changed_at", f"_changed_at <= {self._literal}"
        if self._moment.lsn is not None:
            place, was = "_lsn", self._in_log(name, rows, self._moment.lsn)
        return rows.filter(f"case when {place} is null then _landed_at <= {self._literal} else {was} end")

    def _refuse_before_anything(self) -> None:
        """Raises AsOfError where no row of raw counts: tables without rows would look like an answer."""
        there = [name for name, rows in self._raw.items() if rows is not None]
        if any((rows := self._then(name)) is not None and rows.limit(1).fetchall() for name in there):
            return
        told = [_one(rows, "min(_landed_at)") for rows in self._raw.values() if rows is not None]
        found = [at for at in told if at is not None]
        first = f"its first row was landed at {min(found).astimezone(UTC):%Y-%m-%dT%H:%M:%S}" if found else ""
        raise AsOfError(
            f"The lake holds nothing as old as {self._moment.text}: {first or 'nothing was landed yet'}. "
            f"{'Name a later time (UTC).' if found else 'Run the batch first: python -m flows'}"
        )

    def _refuse_before_first_read(self, name: str) -> None:
        """Raises AsOfError where changes of a table count, and its rows of before them were read later."""
        rows = self._raw.get(name)
        if rows is None or not changes.is_of_changes(rows.columns):
            return
        first, begun, told = rows.aggregate(
            "min(_landed_at) filter (_changed_at is null and _op = 'r'), min(_landed_at), "
            f"count(*) filter (_changed_at <= {self._literal})"
        ).fetchall()[0]
        if first is not None and first == begun and first > self._at and told:
            raise AsOfError(
                f"{name} was read whole for the first time at {first.astimezone(UTC):%Y-%m-%dT%H:%M:%S}, "
                f"after {self._moment.text}: of the time before, only what changed is known. Name a later "
                "time (UTC)."
            )

    def _time_of(self, moment: Moment) -> datetime:
        """When a place of the log as late as this was landed: the other sources have no log."""
        assert moment.lsn is not None
        tables = {
            name: rows
            for name, rows in self._raw.items()
            if rows is not None and changes.is_of_changes(rows.columns)
        }
        told = [
            _one(rows.filter(self._in_log(name, rows, moment.lsn)), "max(_landed_at)")
            for name, rows in tables.items()
        ]
        found: list[datetime] = [at for at in told if at is not None]
        if not found:
            places = [at for rows in tables.values() if (at := _one(rows, "min(_lsn)")) is not None]
            begin = f"begin at {lsn_text(min(places))}" if places else "are none"
            raise AsOfError(
                f"The lake holds no change as old as LSN {moment.text}: those it holds {begin}. Name a time, "
                "or a later place."
            )
        return max(found)

    def _in_log(self, name: str, rows: DuckDBPyRelation, lsn: int) -> str:
        if name not in self._in_logs:
            self._in_logs[name] = _in_log(rows, lsn, self._open_at(lsn))
        return self._in_logs[name]

    def _open_at(self, lsn: int) -> set[tuple[int, int]]:
        """Transactions, with the commit before theirs, that changed something behind this place, in whatever
        table: they were open there. (Of one that changed nothing more, that is not known.)
        """
        if self._open is None:
            behind = f"_lsn > {lsn} and _commit_lsn < {lsn} and _transaction is not null"
            self._open = {
                pair
                for rows in self._raw.values()
                if rows is not None and changes.is_of_changes(rows.columns)
                for pair in rows.filter(behind).project("_transaction, _commit_lsn").distinct().fetchall()
            }
        return self._open

    @property
    def _literal(self) -> str:
        return f"timestamptz '{self._at.astimezone(UTC).isoformat(sep=' ')}'"


def _one(rows: DuckDBPyRelation, aggregate: str) -> Any:
    return rows.aggregate(aggregate).fetchall()[0][0]


def _in_log(rows: DuckDBPyRelation, lsn: int, are_open: Collection[tuple[int, int]]) -> str:
    """SQL: whether a record's change was committed at this place of the log or before. `_commit_lsn` is the
    commit that came before the record's own; `are_open` are transactions that were not over there, by
    `_transaction` and `_commit_lsn`.

    The place is one of the newest registration that had told anything of the table by then; what those before
    it told was before. Files that do not say whose they are, are of the first.
    """
    is_before = f"(_lsn <= {lsn} and coalesce(_commit_lsn < {lsn}, true))"
    if are_open:
        pairs = ", ".join(f"({transaction}, {commit})" for transaction, commit in sorted(are_open))
        is_before = f"({is_before} and coalesce((_transaction, _commit_lsn) not in ({pairs}), true))"
    if "_registered_at" not in rows.columns:
        return is_before
    registered = "coalesce(epoch_us(_registered_at), 0)"
    newest = _one(rows.filter(f"_lsn <= {lsn}"), f"max({registered})") or 0
    return f"({registered} < {newest} or {registered} = {newest} and {is_before})"


def _wanted(names: Sequence[str]) -> set[str]:
    """The models to be computed: what was asked for, and all it is made of."""
    if not names:
        return {table.name for table in registry.build_order()}
    return set(registry.select([f"+{name.lstrip('+')}" for name in names]))


def _refuse_incomplete(services: Services, wanted: set[str]) -> None:
    """A table can't be what it was where raw that it was made of is gone. Raises AsOfError."""
    for name in sorted({name for table in wanted for name in registry.table(table).upstreams}):
        table = registry.table(name)
        if table.layer is Layer.RAW and any(map(lets_go, services.lake.manifest(table.layer, name))):
            made = [one for one in registry.downstream(name) if registry.table(one).is_published]
            raise AsOfError(
                f"Raw of {registry.entity(name).place} that was past its retention is gone, so nothing made "
                f"of it can be made as it was ({', '.join(made)}). Name tables that are not made of it."
            )


def _stand_up(
    services: Services, connection: Connection[Any], table: Table, schema: str, rows: DuckDBPyRelation
) -> int:
    """One plain table, whatever its partitions are where it is published."""
    plain = replace(table, write=Write.MERGE)
    for statement in table_ddl(plain, schema):
        connection.execute(statement.encode())
    columns = services.warehouse.columns(connection, schema, table.name)
    count = services.warehouse.copy(schema, table.name, columns, rows)
    for statement in (*index_ddl(plain, schema), *comment_ddl(plain, schema=schema)):
        connection.execute(statement.encode())
    connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(schema, table.name)))
    return count


def command(arguments: argparse.Namespace) -> int:
    """`python -m flows rebuild --as-of`."""
    from flows.services import open_services

    moment = Moment.parse(arguments.as_of)
    services = open_services()
    with services.lake, Progress("as of") as progress:
        done = rebuild(services, moment, arguments.into or moment.schema, arguments.table, progress)
    total, first, schema = sum(done.rows.values()), next(iter(done.rows), "…"), quoted(done.schema)
    print(
        f"{total:,} rows of {len(done.rows)} tables as of {moment.text} are in schema {schema} "
        f"(select * from {schema}.{first}); `drop schema {schema} cascade` removes them."
    )
    return 0
