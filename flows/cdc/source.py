"""What Debezium needs in the application's database: our two tables, the publication, the slot's end.

Everything is made only where it is missing, so that doing it twice is doing it once. Where this role lacks
the right, the message is the SQL that somebody who has it must run.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from flows.errors import FlowsError
from flows.extract.application import answering, cdc_dsn, first_line
from flows.extract.debezium import SCHEMA, Names, names
from flows.settings import Settings
from transforms.entities import Postgres

_Connection = psycopg.Connection[tuple[Any, ...]]
Tables = Iterable[tuple[str, str]]
"""Tables as (schema, name)."""
_LOCK_SECONDS = 10
"""How long a command waits for somebody's lock on a table."""


class Source:
    """The application's database while a command works in it, as a context manager."""

    def __init__(self, connection: _Connection, names: Names, reader: str) -> None:
        """`reader`: the role by which the connector reads tables."""
        self._connection = connection
        self._names = names
        self._reader = reader

    def prepare(self) -> None:
        """Make the heartbeat and signal tables. Raises FlowsError with the SQL when this role may not."""
        heartbeat, signal = (_identifier(table) for table in (self._names.heartbeat, self._names.signal))
        wanted = [
            sql.SQL("create schema if not exists {}").format(sql.Identifier(SCHEMA)),
            sql.SQL(
                "create table if not exists {} (beat bigint generated always as identity primary key, "
                "mark uuid not null unique default gen_random_uuid(), "
                "beaten_at timestamptz not null default now())"
            ).format(heartbeat),
            sql.SQL(
                "create table if not exists {} (id text primary key, type text not null, data text)"
            ).format(signal),
        ]
        # `if not exists` asks for the right to create before it looks.
        if not self._are_there(self._names.heartbeat, self._names.signal):
            grants = self._grants(self._names.heartbeat, self._names.signal)
            self._run(wanted, "its heartbeat and signal tables", grants)

    def _grants(self, *tables: str) -> list[sql.Composed]:
        """What this role needs of our tables where they are somebody else's."""
        role = sql.Identifier(str(self._connection.info.user))
        listed = sql.SQL(", ").join(map(_identifier, tables))
        return [
            sql.SQL("grant usage on schema {} to {}").format(sql.Identifier(SCHEMA), role),
            sql.SQL("grant select, insert, delete on {} to {}").format(listed, role),
        ]

    def publish(self, tables: Tables) -> list[str]:
        """Make the publication hold exactly these tables and ours; what was changed, as sentences."""
        names = self._names
        ours = {_parts(table) for table in (names.heartbeat, names.signal)}
        wanted = sorted({*tables, *ours})
        publication = sql.Identifier(names.publication)
        query = "select puballtables, pubviaroot from pg_publication where pubname = %s"
        rows = self._rows(query, names.publication)
        if not rows:
            listed = sql.SQL(", ").join(sql.Identifier(*table) for table in wanted)
            self._run(
                [
                    sql.SQL(
                        "create publication {} for table {} with (publish_via_partition_root = true)"
                    ).format(publication, listed)
                ],
                "its publication",
            )
            return []
        has_all, is_via_root = rows[0]
        done = [] if is_via_root else self._tell_by_root(tables)
        if has_all:
            return done
        there = {
            (schema, table)
            for schema, table in self._rows(
                "select n.nspname::text, c.relname::text from pg_publication_rel r "
                "join pg_publication p on p.oid = r.prpubid join pg_class c on c.oid = r.prrelid "
                "join pg_namespace n on n.oid = c.relnamespace where p.pubname = %s",
                names.publication,
            )
        }
        for verb, changed in (
            ("add", [t for t in wanted if t not in there]),
            ("drop", sorted(there - {*wanted})),
        ):
            for table in changed:
                statement = sql.SQL("alter publication {} {} table {}").format(
                    publication, sql.SQL(verb), sql.Identifier(*table)
                )
                self._run([statement], "its publication")
                how = "added to" if verb == "add" else "taken from"
                done.append(f"{'.'.join(table)} was {how} publication {names.publication}.")
        return done

    def _tell_by_root(self, tables: Tables) -> list[str]:
        """Have a publication that somebody has made tell the changes of a partitioned table as that table's:
        those of its partitions nobody listens to.
        """
        partitioned = self._rows(
            "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace "
            "join unnest(%s::text[], %s::text[]) as wanted (schema, name) "
            "on n.nspname = wanted.schema and c.relname = wanted.name where c.relkind = 'p' order by 1",
            *(list(part) for part in zip(*tables, strict=True)),
        )
        if not partitioned:
            return []
        name = self._names.publication
        statement = sql.SQL("alter publication {} set (publish_via_partition_root = true)")
        self._run([statement.format(sql.Identifier(name))], "its publication")
        listed = ", ".join(table for (table,) in partitioned)
        return [f"Publication {name} tells changes of {listed} as its own now, not as its partitions'."]

    def signal(self, kind: str, **data: Any) -> str:
        """Give the connector an order through its table; its id. Raises FlowsError where it would not hear
        it, or this role may not give it, with what to do.
        """
        number = secrets.token_hex(16)
        table = _identifier(self._names.signal)
        if not self._is_heard():
            raise FlowsError(
                f"The connector hears no orders: {self._names.signal} is not there, or not in publication "
                f"{self._names.publication}. Make it so with python -m flows cdc register, then repeat this."
            )
        order = [sql.Literal(text) for text in (number, kind, json.dumps(data))]
        statements = [
            sql.SQL("insert into {} (id, type, data) values ({})").format(table, sql.SQL(", ").join(order)),
            # The connector reads the log, not the table.
            sql.SQL("delete from {} where id = {}").format(table, order[0]),
        ]
        self._run(statements, "an order to the connector", self._grants(self._names.signal), is_once=False)
        return number

    def _is_heard(self) -> bool:
        query = "select from pg_publication_tables where pubname = %s and (schemaname, tablename) = (%s, %s)"
        return bool(self._rows(query, self._names.publication, *_parts(self._names.signal)))

    def all_is_seen(self, tables: Iterable[str]) -> None:
        """Raises FlowsError where a policy hides rows of these tables (schema.table) from the connector."""
        hidden = self._rows(
            "select table_name from unnest(%s::text[]) as table_name "
            "join pg_class on pg_class.oid = to_regclass(table_name) join pg_roles on rolname = %s "
            "where relrowsecurity and not (rolsuper or rolbypassrls) "
            "and (relforcerowsecurity or not pg_has_role(pg_roles.oid, relowner, 'usage')) order by 1",
            [".".join(f'"{part}"' for part in table.split(".", 1)) for table in tables],
            self._reader,
        )
        if hidden:
            raise FlowsError(
                f"A row-level security policy hides rows of {', '.join(table for (table,) in hidden)} from "
                f"role {self._reader}, by which the connector reads, so they would be missing. Let an "
                f"administrator there run: alter role {self._reader} bypassrls; then repeat this."
            )

    def snapshot(self, tables: Collection[str], where: sql.Composed | None = None) -> None:
        """Let the connector read these tables (schema.table) again beside the changes; `where`: those rows
        of them alone for which this is true. Raises FlowsError where it would not read all of them.
        """
        self.all_is_seen(tables)
        quoted = [".".join(f'"{part}"' for part in table.split(".", 1)) for table in tables]
        order: dict[str, Any] = {"type": "incremental", "data-collections": quoted}
        if where is not None:
            condition = where.as_string(self._connection)
            order["additional-conditions"] = [
                {"data-collection": table, "filter": condition} for table in quoted
            ]
        self.signal("execute-snapshot", **order)

    def drop_slot(self) -> bool:
        """Drop the slot; whether there was one. Whoever still reads from it is sent away."""
        slot = self._names.slot
        found = self._rows("select active_pid from pg_replication_slots where slot_name = %s", slot)
        if not found:
            return False
        if found[0][0] is not None:
            self._rows("select pg_terminate_backend(%s, 10000)", found[0][0])
        self._run(
            [sql.SQL("select pg_drop_replication_slot({})").format(sql.Literal(slot))], "the end of its slot"
        )
        return True

    def drop_rest(self) -> None:
        """Drop the publication and our two tables, and their schema when nothing else is in it."""
        statements = [
            sql.SQL("drop publication if exists {}").format(sql.Identifier(self._names.publication)),
            *(
                sql.SQL("drop table if exists {}").format(_identifier(table))
                for table in (self._names.heartbeat, self._names.signal)
            ),
        ]
        self._run(statements, "the end of its publication")
        others = self._rows(
            "select 1 from pg_class c join pg_namespace n on n.oid = c.relnamespace "
            "where n.nspname = %s and c.relkind in ('r', 'p') limit 1",
            SCHEMA,
        )
        if not others:
            self._run(
                [sql.SQL("drop schema if exists {}").format(sql.Identifier(SCHEMA))], "the end of its schema"
            )

    def _are_there(self, *tables: str) -> bool:
        found = self._rows(
            "select bool_and(to_regclass(t) is not null) from unnest(%s::text[]) t", list(tables)
        )
        return bool(found[0][0])

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(query.encode(), values).fetchall()

    def _run(
        self,
        statements: list[sql.Composed],
        what: str,
        grants: Sequence[sql.Composed] = (),
        *,
        is_once: bool = True,
    ) -> None:
        """`is_once`: whether somebody else may run the statements in place of this role, which then finds it
        done.
        """
        try:
            with self._connection.transaction():
                for statement in statements:
                    self._connection.execute(statement)
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction) as error:
            told = "\n".join(
                f"  {statement.as_string(self._connection)};"
                for statement in [*(statements if is_once else ()), *grants]
            )
            role = self._connection.info.user
            raise FlowsError(
                f"Role {role} may not make {what} in the application's database ({first_line(error)}). As "
                f"its owner run:\n{told}\nthen repeat this command."
            ) from None


@contextmanager
def opened(settings: Settings, names: Names) -> Iterator[Source]:
    """The application's database. Raises SourceAway when it does not answer."""
    with (
        answering(settings) as dsn,
        psycopg.connect(dsn, connect_timeout=10, autocommit=True) as connection,
    ):
        connection.execute(f"set lock_timeout = '{_LOCK_SECONDS}s'".encode())
        reader = conninfo_to_dict(cdc_dsn(settings)).get("user") or connection.info.user
        yield Source(connection, names, str(reader))


def reread(settings: Settings, read: Postgres, keys: Sequence[Mapping[str, Any]]) -> None:
    """Let the connector read the rows of these keys again beside the changes. Raises SourceAway when the
    database does not answer, FlowsError with the SQL when this role may not.
    """
    rows = [
        sql.SQL("({})").format(
            sql.SQL(" and ").join(
                sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value))
                for name, value in key.items()
            )
        )
        for key in keys
    ]
    with opened(settings, names(settings)) as database:
        database.snapshot([f"{read.schema}.{read.table}"], sql.SQL(" or ").join(rows))


def _parts(table: str) -> tuple[str, str]:
    schema, _, name = table.partition(".")
    return schema, name


def _identifier(table: str) -> sql.Identifier:
    return sql.Identifier(*_parts(table))
