"""The parts under the benchmarks: the sandbox's own warehouse server, a fresh database and lake for each."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

import flows.sandbox as sandbox
from flows.prepare import warehouse as prepare_warehouse
from flows.progress import Progress
from flows.sandbox import Part
from flows.services import Services
from flows.settings import load
from flows.stores.warehouse import UNPUBLISHED
from quality.expectations import close as close_sessions

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "benchmarks"
"""Git-ignored: the rivals' environment stays here between runs, everything else is removed."""


_NOBODY = "127.0.0.1:9"


@dataclass(frozen=True)
class Server:
    """The warehouse server, configured as the sandbox's own."""

    dsn: str

    @contextmanager
    def services(self, kafka_bootstrap: str = _NOBODY, **given: str) -> Iterator[Services]:
        """A fresh database with every table of the models, and an empty lake; both are removed at the end.
        `given`: further settings.
        """
        name = f"bench_{secrets.token_hex(4)}"
        dsn = psycopg.conninfo.make_conninfo(self.dsn, dbname=name)
        lake = CACHE / name
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(f"create database {name}".encode())
        settings = load(
            warehouse_dsn=dsn,
            app_dsn=dsn,
            kafka_bootstrap=kafka_bootstrap,
            stripe_url=f"http://{_NOBODY}",
            stripe_key="-",
            sendgrid_url=f"http://{_NOBODY}",
            sendgrid_key="-",
            lake=lake,
            **given,
        )
        services = Services(settings)
        try:
            with services.lake:
                prepare_warehouse(services, False, Progress("benchmark"))
                yield services
        finally:
            close_sessions()
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                connection.execute(f"drop database if exists {name} with (force)".encode())
            shutil.rmtree(lake, ignore_errors=True)

    @property
    def version(self) -> str:
        """PostgreSQL's version."""
        with psycopg.connect(self.dsn) as connection:
            row = connection.execute("select current_setting('server_version')").fetchone()
        assert row is not None
        return str(row[0]).split()[0]


@contextmanager
def warehouse_server() -> Iterator[Server]:
    """The server while the block lasts; its data are removed afterwards."""
    folder = CACHE / "sandbox"
    if sandbox.read(folder) is not None:
        sandbox.reset(folder)
    state = sandbox.start(folder, parts=frozenset({Part.WAREHOUSE_POSTGRES}))
    try:
        assert state.warehouse_dsn is not None
        yield Server(state.warehouse_dsn)
    finally:
        sandbox.reset(folder)


def settle(dsn: str) -> None:
    """Write out what earlier work left in memory, so that the next side does not pay for it."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("checkpoint")


def state_of(dsn: str, table: str, columns: str = "t.*") -> dict[str, object]:
    """What a table holds and how it is indexed, comparable between tables whatever their names."""
    with psycopg.connect(dsn) as connection:
        count = connection.execute(
            f"select count(*), sum(hashtextextended(row({columns})::text, 0)::numeric) "
            f"from {table} t".encode()
        ).fetchone()
        indexes = connection.execute(
            "select array_agg(a order by a) from (select regexp_replace(indexdef, '^.* USING ', '') || "
            "case when indexdef like '%% UNIQUE %%' then ' unique' else '' end as a "
            "from pg_indexes where (schemaname || '.' || tablename) = %s) as defined",
            (table,),
        ).fetchone()
        analyzed = connection.execute(
            "select count(*) > 0 from pg_stats where (schemaname || '.' || tablename) = %s", (table,)
        ).fetchone()
    assert count is not None
    assert indexes is not None
    assert analyzed is not None
    return {"rows": count[0], "hash": str(count[1]), "indexes": indexes[0], "analyzed": analyzed[0]}


def forget(services: Services, table: str, partition: str, leaf: str) -> None:
    """Undo a publish, so that the same one can be measured again."""
    with services.warehouse.connect() as connection, connection.transaction():
        connection.execute(f"drop table if exists analytics.{leaf}".encode())
        connection.execute(
            "delete from ops.ledger where (table_name, partition) = (%s, %s)", (table, partition)
        )
        connection.execute(
            "delete from ops.partition_state where (table_name, partition) = (%s, %s)", (table, partition)
        )
        connection.execute("delete from ops.refresh_owed")
        left = connection.execute(
            "select count(*) from pg_class where relnamespace = to_regnamespace(%s)", (UNPUBLISHED,)
        ).fetchone()
        assert left == (0,), "a publish left unpublished tables behind"
