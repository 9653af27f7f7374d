"""From raw JSON to typed, deduplicated, indexed facts, beside SQL inside PostgreSQL as dbt runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg

from flows.services import Services
from tests.benchmarks.events import DAY, LEAF, messages, publish_users
from tests.benchmarks.measure import Result, alternate, stopwatch
from tests.benchmarks.pipeline import land, rebuild
from tests.benchmarks.server import Server, settle, state_of
from transforms import engine

ROWS = 1_000_000
_CHUNK = 1 << 20
_FACTS = "inside.fct_events"

# What dbt sends for a view and an incremental model (delete+insert by its unique key) whose target has its
# indexes, and for the tests that say the same as the rules of fct_events. The JSON is taken apart once a row:
# the column it was loaded into is jsonb.
_COLUMNS = (
    "event_id, user_id, event_type, event_time, page, session_id, properties, anonymous_id, "
    "topic_rank, kafka_partition, kafka_offset"
)
_TARGET = f"""
create table {_FACTS} (like analytics.fct_events including defaults including constraints);
alter table {_FACTS} add primary key (event_id, event_time);
create index on {_FACTS} (user_id, event_time desc);
create index on {_FACTS} (event_type, event_time desc);
create table inside.raw_events (kafka_partition integer, kafka_offset bigint, value jsonb);
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
    0::smallint as topic_rank,
    kafka_partition,
    kafka_offset
from inside.raw_events
order by (value ->> 'event_id')::uuid, kafka_partition, kafka_offset
"""
_INCREMENT = f"""
analyze inside.raw_events;
create temporary table fct_events__dbt_tmp as select * from inside.stg_events;
delete from {_FACTS} where event_id in (select event_id from fct_events__dbt_tmp);
insert into {_FACTS} ({_COLUMNS}) select {_COLUMNS} from fct_events__dbt_tmp;
analyze {_FACTS}
"""
_TESTS = (
    f"select event_id from {_FACTS} where event_id is not null group by event_id having count(*) > 1",
    f"select event_id, event_time from {_FACTS} group by event_id, event_time having count(*) > 1",
    f"select * from {_FACTS} where event_id is null",
    f"select * from {_FACTS} where event_time is null",
    f"select * from {_FACTS} where event_type is null",
    f"select child.user_id from (select user_id from {_FACTS} where user_id is not null) as child "
    "left join analytics.dim_users as parent on child.user_id = parent.user_id where parent.user_id is null",
)
_FIRST_BUILD = f"""
drop table {_FACTS};
create table {_FACTS} as select * from inside.stg_events;
alter table {_FACTS} add primary key (event_id, event_time);
create index on {_FACTS} (user_id, event_time desc);
create index on {_FACTS} (event_type, event_time desc);
analyze {_FACTS}
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

    first_build: list[float] = []

    def theirs(number: int) -> float:
        with server.services() as services:
            publish_users(services)
            inside = _Inside(services, _lines(services), proof)
            seconds = inside.load() + inside.increment()
            first_build.append(round(inside.loading + inside.first_build(), 3))
            return seconds

    times = alternate({"pipeline": ours, "SQL inside PostgreSQL": theirs}, rounds)
    yield Result(
        "SQL inside PostgreSQL, incremental and tested ÷ raw JSON → checked, published facts (1,000,000)",
        times.ratio("SQL inside PostgreSQL", "pipeline"),
        "×",
        3.0,
        "at least",
        4.0,
        times.details(rows=ROWS, inside_postgresql_first_build_untested=first_build),
    )


def _lines(services: Services) -> Path:
    """The records in COPY's text format."""
    services.lake.root.mkdir(parents=True, exist_ok=True)
    path = services.lake.root / "records.csv"
    with engine.connect(keeps_order=True) as session:
        session.execute(
            "copy (select kafka_partition, kafka_offset, decode(value) as value "
            f"from ({messages(DAY, ROWS)})) "
            f"to '{path}' (format csv, header false)"
        )
    return path


class _Inside:
    """The rival: COPY of the records, then SQL."""

    def __init__(self, services: Services, records: Path, proof: dict[str, object]) -> None:
        self.services = services
        self.dsn = services.settings.require("warehouse_dsn")
        self.records = records
        self.proof = proof
        self.loading = 0.0

    def load(self) -> float:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("create schema inside")
            _statements(connection, _TARGET)
            settle(self.dsn)
            with (
                stopwatch() as elapsed,
                self.records.open("rb") as source,
                connection.cursor() as cursor,
                cursor.copy("copy inside.raw_events from stdin (format csv)") as copy,
            ):
                while block := source.read(_CHUNK):
                    copy.write(block)
        self.loading = elapsed()
        return self.loading

    def increment(self) -> float:
        with psycopg.connect(self.dsn, autocommit=True) as connection, stopwatch() as elapsed:
            _statements(connection, _INCREMENT)
            for query in _TESTS:
                failing = connection.execute(f"select count(*) from ({query}) as failing".encode()).fetchone()
                assert failing == (0,), query
        _prove(self.proof, self.services, _FACTS)
        return elapsed()

    def first_build(self) -> float:
        """The cheapest that SQL can be: no index in place, no tests."""
        settle(self.dsn)
        with psycopg.connect(self.dsn, autocommit=True) as connection, stopwatch() as elapsed:
            _statements(connection, _FIRST_BUILD)
        _prove(self.proof, self.services, _FACTS)
        return elapsed()


def _statements(connection: psycopg.Connection[tuple[object, ...]], text: str) -> None:
    for statement in text.split(";\n"):
        connection.execute(statement.encode())


def _prove(proof: dict[str, object], services: Services, table: str) -> None:
    found = state_of(services.settings.require("warehouse_dsn"), table)
    expected = proof.setdefault("state", found)
    assert found == expected, f"both sides must end alike: {table} holds {found}, not {expected}"
    assert found["analyzed"]
