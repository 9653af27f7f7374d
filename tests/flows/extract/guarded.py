"""A source as `register` leaves it, and whether its table halts."""

from __future__ import annotations

from flows.extract.connect import ConnectorState, TaskState
from flows.extract.debezium import Names
from flows.extract.debezium_guard import Observed, reasons
from flows.extract.debezium_observed import observe_source
from tests.flows.capture import entity
from tests.flows.extract.sources import SourceServer
from transforms.entities import Postgres

USERS = entity("users")
NAMES = Names("guarded")
RUNNING = ConnectorState(TaskState("RUNNING"), (TaskState("RUNNING"),))


HEARTBEAT = (
    "create schema if not exists analytics_cdc",
    f"create table if not exists {NAMES.heartbeat} (beat bigint generated always as identity primary key, "
    "mark uuid default gen_random_uuid(), beaten_at timestamptz default now())",
    f"insert into {NAMES.heartbeat} default values",
)


class Source:
    """A source as `register` leaves it: a table, a publication of it, a slot."""

    def __init__(self, server: SourceServer) -> None:
        self.server = server
        server.run("create table users (id bigint primary key, label text)")
        self.prepare()

    def prepare(self) -> None:
        self.server.run(
            *HEARTBEAT,
            f"create publication {NAMES.publication} for table users",
            f"select pg_create_logical_replication_slot('{NAMES.slot}', 'pgoutput')",
        )

    def clear(self) -> None:
        self.server.run(
            f"drop publication if exists {NAMES.publication}",
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots",
            "drop table if exists users",
            "create table users (id bigint primary key, label text)",
        )
        self.prepare()

    def look(self, registration: str | None = "first", state: ConnectorState | None = RUNNING) -> Observed:
        assert isinstance(USERS.read, Postgres)
        return observe_source(self.server.dsn, NAMES, [USERS.read], registration, state)


def judge(seen: Observed, since: Observed | None = None) -> str:
    """Why the table halts; empty when it does not."""
    return reasons(seen, [USERS], {USERS.table: since.facts()} if since else {}).get(USERS.table, "")
