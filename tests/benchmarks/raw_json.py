"""From raw JSON to typed, deduplicated, indexed facts, beside SQL inside PostgreSQL as dbt runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg

from flows.services import Services
from flows.stores.difference import duckdb_session
from tests.benchmarks.events import DAY, LEAF, messages
from tests.benchmarks.measure import Result, alternate, stopwatch
from tests.benchmarks.pipeline import land, rebuild
from tests.benchmarks.server import Server, settle, state_of

ROWS = 2_000_000
_CHUNK = 1 << 20
_FACTS = "inside.fct_events"

# The staging model is a view and the fact a table, dbt's defaults. The newest PostgreSQL takes the JSON apart
# once a row, because the column it was loaded into is jsonb already.
_IN_POSTGRES = f"""
create view inside.stg_events as
select distinct on ((value ->> 'event_id')::uuid)
    (value ->> 'event_id')::uuid as event_id,
    (value ->> 'user_id')::bigint as user_id,
    (value ->> 'event_type')::varchar(50) as event_type,
    (value ->> 'event_time')::timestamptz as event_time,
    value ->> 'page' as page,
    value ->> 'session_id' as session_id,
    nullif(value -> 'properties', 'null') as properties,
    value ->> 'anonymous_id' as anonymous_id,
    kafka_partition,
    kafka_offset
from inside.raw_events
order by (value ->> 'event_id')::uuid, kafka_partition, kafka_offset;
create table {_FACTS} as select * from inside.stg_events order by event_time, event_id;
alter table {_FACTS} add primary key (event_id, event_time);
create index on {_FACTS} (user_id, event_time desc);
create index on {_FACTS} (event_type, event_time desc);
analyze {_FACTS};
"""


def run(server: Server, full: bool) -> Iterator[Result]:
    """Both begin with the records as Kafka gave them: ours in a landed Parquet file, PostgreSQL's in a text
    file for COPY. Ours stages in the lake, holds every rule in both engines, and publishes."""
    rounds = 3 if full else 2
    proof: dict[str, object] = {}

    def ours(number: int) -> float:
        with server.services() as services:
            land(services, [DAY], ROWS)
            settle(services.settings.require("warehouse_dsn"))
            with stopwatch() as staged:
                rebuild(services, ["stg_events__user_events"], "stage")
            rebuild(services, ["dim_users"], "users")  # what the facts' rules are held against
            settle(services.settings.require("warehouse_dsn"))
            with stopwatch() as published:
                rebuild(services, ["fct_events"], "publish")
            _prove(proof, services, f"analytics.{LEAF}")
        return staged() + published()

    def theirs(number: int) -> float:
        with server.services() as services:
            return _inside(services, _lines(services), proof)

    times = alternate({"pipeline": ours, "SQL inside PostgreSQL": theirs}, rounds)
    yield Result(
        "SQL inside PostgreSQL, no checks ÷ raw JSON → checked, published facts (2,000,000 records)",
        times.ratio("SQL inside PostgreSQL", "pipeline"),
        "×",
        3.0,
        "at least",
        4.0,
        times.details(rows=ROWS),
    )


def _lines(services: Services) -> Path:
    """The records in COPY's text format."""
    services.lake.root.mkdir(parents=True, exist_ok=True)
    path = services.lake.root / "records.csv"
    with duckdb_session() as session:
        session.execute(
            "copy (select kafka_partition, kafka_offset, decode(value) as value "
            f"from ({messages(DAY, ROWS)})) "
            f"to '{path}' (format csv, header false)"
        )
    return path


def _inside(services: Services, records: Path, proof: dict[str, object]) -> float:
    dsn = services.settings.require("warehouse_dsn")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "create schema inside; "
            "create table inside.raw_events (kafka_partition integer, kafka_offset bigint, value jsonb)"
        )
        settle(dsn)
        with stopwatch() as elapsed:
            with (
                records.open("rb") as source,
                connection.cursor() as cursor,
                cursor.copy("copy inside.raw_events from stdin (format csv)") as copy,
            ):
                while block := source.read(_CHUNK):
                    copy.write(block)
            connection.execute("analyze inside.raw_events")
            for statement in _IN_POSTGRES.split(";\n"):
                if statement.strip():
                    connection.execute(statement.encode())
    _prove(proof, services, _FACTS)
    return elapsed()


def _prove(proof: dict[str, object], services: Services, table: str) -> None:
    found = state_of(services.settings.require("warehouse_dsn"), table)
    expected = proof.setdefault("state", found)
    assert found == expected, f"both sides must end alike: {table} holds {found}, not {expected}"
    assert found["analyzed"]
