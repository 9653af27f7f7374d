"""The two databases: version, clock, rights, disk, the application's tables and columns."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import psycopg

from flows.addresses import is_loopback
from flows.diagnosis import TIMEOUT_SECONDS, Finding, clock, room
from flows.settings import Settings
from flows.stores import poolers, read_only, roles
from flows.stores.ledger import Ledger

_LEAST_POSTGRES = 150000


def _postgres(settings: Settings, subject: str, dsn: str) -> tuple[psycopg.Connection, list[Finding]]:
    connection = psycopg.connect(dsn, connect_timeout=TIMEOUT_SECONDS, autocommit=True)
    asked = settings.machine_time()
    row = connection.execute(
        "select current_setting('server_version_num')::int, extract(epoch from clock_timestamp())"
    ).fetchone()
    assert row is not None
    version, there = int(row[0]), float(row[1])
    seen = f"PostgreSQL {version // 10_000}"
    return connection, [
        Finding(subject, version >= _LEAST_POSTGRES, seen, "Use PostgreSQL 15 or newer."),
        clock(subject, there, asked, settings.machine_time()),
    ]


def warehouse(settings: Settings) -> list[Finding]:
    """Where it is published: version, clock, whether a run may write and begin there, the disk where it
    can be seen.
    """
    dsn = settings.require("warehouse_dsn")
    connection, findings = _postgres(settings, "warehouse", dsn)
    with connection:
        try:
            poolers.refuse(connection, lambda: psycopg.connect(dsn, autocommit=True))
        except poolers.Pooled as error:
            return [*findings, Finding("warehouse: sessions", False, "a pooler is in between", str(error))]
        if because := read_only.why(connection):
            findings.append(Finding("warehouse: writes", False, because, read_only.TO_DO))
        else:
            findings.append(_rights(connection))
        findings.append(_disk(connection))
    return findings


def _rights(connection: psycopg.Connection) -> Finding:
    """Whether this login may make what a run needs, or finds it made."""
    subject = "warehouse: rights"
    try:
        with Ledger(connection).locked("bootstrap", "warehouse"):
            roles.try_to_begin(connection)
    except roles.RolesError as error:
        return Finding(subject, False, str(error))
    return Finding(subject, True, "a run may begin")


def _disk(connection: psycopg.Connection) -> Finding:
    """The disk under the warehouse where that is this machine's; over a network PostgreSQL tells but how much
    the database takes.
    """
    subject = "warehouse: disk"
    if not connection.info.hostaddr or is_loopback(connection.info.hostaddr):
        try:
            row = connection.execute("select current_setting('data_directory')").fetchone()
            folder = Path(str(row[0])) if row else Path()
            if (folder / "PG_VERSION").exists():  # else it is a container's folder, or not for us to see
                return room(subject, str(folder), shutil.disk_usage(folder).free)
        except (psycopg.errors.InsufficientPrivilege, OSError):
            pass
    size = connection.execute("select pg_database_size(current_database())").fetchone()
    taken = int(size[0]) if size else 0
    seen = f"the database takes {taken / 1e9:.1f} GB; what is free there can't be asked from here"
    return Finding(subject, True, seen)


def application(settings: Settings) -> list[Finding]:
    """What is read of the application: version, clock, tables, columns."""
    from transforms.entities import Postgres
    from transforms.sources.app import ENTITIES

    connection, findings = _postgres(settings, "application database", settings.require("app_dsn"))
    reads = [e.read for e in ENTITIES if isinstance(e.read, Postgres)]
    names = [f"{read.schema}.{read.table}" for read in reads]
    schemas = [read.schema for read in reads]
    with connection:
        if shut := _shut(connection, schemas):
            return [*findings, shut]
        rows = connection.execute(
            "select schema || '.' || name, oid is not null, "
            "coalesce(has_table_privilege(oid, 'select'), false) "
            "from unnest(%s::text[], %s::text[]) as declared(schema, name), "
            "to_regclass(format('%%I.%%I', schema, name)) as oid",
            (schemas, [read.table for read in reads]),
        ).fetchall()
    missing = [name for name, there, _ in rows if not there]
    closed = [name for name, there, readable in rows if there and not readable]
    seen = f"{len(names) - len(missing) - len(closed)} of {len(names)} tables can be read"
    advice = []
    if missing:
        advice.append(f"Missing: {', '.join(missing)} (create them, or take their declarations away).")
    if closed:
        advice.append(f"No right to read: {', '.join(closed)} (grant select on them to this role).")
    tables = Finding("application database: tables", not missing and not closed, seen, " ".join(advice))
    return [*findings, tables, _columns(settings, missing)]


def _shut(connection: psycopg.Connection, schemas: Sequence[str]) -> Finding | None:
    """A schema that this role may not look into; even whether a table is there is not told then."""
    rows = connection.execute(
        "select quote_ident(nspname) from pg_namespace "
        "where nspname = any(%s) and not has_schema_privilege(oid, 'usage') order by nspname",
        (list(schemas),),
    ).fetchall()
    if not rows:
        return None
    shut = ", ".join(name for (name,) in rows)
    advice = f"As its owner: grant usage on schema {shut} to {connection.info.user};"
    return Finding("application database: tables", False, f"no right to look into schema {shut}", advice)


def _columns(settings: Settings, missing: Sequence[str]) -> Finding:
    """The source's columns beside the declared ones; one that nobody declared is no failure."""
    from flows.extract.postgres_session import catalog
    from flows.extract.schema_differences import Remembered, differences
    from transforms.entities import Postgres
    from transforms.sources.app import ENTITIES

    otherwise, undeclared = [], 0
    for entity in ENTITIES:
        read = entity.read
        if not isinstance(read, Postgres) or f"{read.schema}.{read.table}" in missing:
            continue
        current = catalog(settings.require("app_dsn"), read.schema, read.table)
        found = differences(entity, Remembered(), current)
        undeclared += sum(one.change == "added" for one in found)
        otherwise += [f"{entity.name}.{one.column}" for one in found if one.change != "added"]
    seen = f"{len(otherwise)} otherwise than declared" + (f", {undeclared} undeclared" if undeclared else "")
    advice = f"{', '.join(otherwise)}: python -m flows schema diff"
    return Finding("application database: columns", not otherwise, seen, advice)
