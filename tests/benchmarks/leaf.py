"""From the lake to a published leaf, beside what PostgreSQL alone needs for the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg

from flows.build import guard
from flows.services import Services
from flows.stores.manifest import LakeFile
from flows.stores.publication import BuiltPartition
from flows.stores.publish import publish
from quality.results import blocking
from tests.benchmarks.events import DAY, LEAF, day_file, path_of, publish_users
from tests.benchmarks.measure import Result, alternate, stopwatch
from tests.benchmarks.server import Server, forget, settle, state_of
from transforms import engine, registry

ROWS = 2_000_000
_CHUNK = 1 << 20


def run(server: Server, full: bool) -> Iterator[Result]:
    """2,000,000 events: verified, loaded, indexed, frozen, read back, attached ÷ COPY BINARY, CREATE INDEX,
    ANALYZE of the same rows in the same order; and once more with every rule checked by both engines."""
    with server.services() as services:
        file = day_file(services.lake, DAY, ROWS, "day")
        users = publish_users(services)
        dsn = services.settings.require("warehouse_dsn")
        binary = path_of(services.lake, file).with_suffix(".copy")
        _publish(services, file)
        published = state_of(dsn, f"analytics.{LEAF}")
        _copy_out(dsn, binary)
        _check_and_publish(services, file, users)  # imports Great Expectations, which a process does once
        times = alternate(
            {
                "published": lambda _: _publish(services, file),
                "published and checked": lambda _: _check_and_publish(services, file, users),
                "raw COPY": lambda _: _raw(services, binary),
            },
            rounds=5 if full else 3,
        )
        raw = state_of(dsn, "analytics.raw_leaf")
        assert raw == published, f"both sides must end alike: {raw} {published}"
        assert raw["rows"] == ROWS
    details = times.details(rows=ROWS)
    yield Result(
        "lake → published, indexed, analyzed leaf ÷ raw COPY BINARY, same indexes, analyze (2,000,000 rows)",
        times.ratio("published", "raw COPY"),
        "×",
        1.15,
        "at most",
        1.10,
        details,
    )
    yield Result(
        "the same with every rule checked before (DuckDB) and on the leaf (Great Expectations)",
        times.ratio("published and checked", "raw COPY"),
        "×",
        1.40,
        "at most",
        None,
        details,
    )


def _publish(services: Services, file: LakeFile, is_checked: bool = False) -> float:
    table = registry.table("fct_events")
    forget(services, table.name, DAY, LEAF)
    settle(services.settings.require("warehouse_dsn"))
    with stopwatch() as elapsed:
        _load(services, file, None)
    return elapsed()


def _check_and_publish(services: Services, file: LakeFile, users: LakeFile) -> float:
    table = registry.table("fct_events")
    forget(services, table.name, DAY, LEAF)
    settle(services.settings.require("warehouse_dsn"))
    with stopwatch() as elapsed:
        references = {
            "dim_users": guard.reference_relation(services.lake, [users], registry.table("dim_users"))
        }
        with engine.connect(memory_limit=services.settings.memory_limit) as connection:
            path = engine.text_literal(str(path_of(services.lake, file)))
            judged = guard.Judged(f"read_parquet({path}, hive_partitioning = false)")
            results = guard.hold(connection, table, judged, references=references, partitions=[DAY])
            assert not blocking(results), results

        def audit(schema: str, names: Mapping[str, str]) -> None:
            found = guard.audit(services, table, schema, names)
            assert found
            assert not blocking(found), found

        _load(services, file, audit)
    return elapsed()


def _load(services: Services, file: LakeFile, audit: object) -> None:
    table = registry.table("fct_events")
    built = BuiltPartition(table.name, DAY, (file,), based_on={"benchmark": file.path})
    done = publish(table, [built], warehouse=services.warehouse, lake=services.lake, audit=audit)  # type: ignore[arg-type]
    assert done.ways == {DAY: "attach"}, done


def _copy_out(dsn: str, path: Path) -> None:
    """Save the published rows, in their order, as PostgreSQL's own binary format."""
    with psycopg.connect(dsn) as connection, path.open("wb") as target, connection.cursor() as cursor:
        statement = f"copy (select * from analytics.{LEAF} order by ctid) to stdout (format binary)"
        with cursor.copy(statement.encode()) as copy:
            for block in copy:
                target.write(block)


def _raw(services: Services, binary: Path) -> float:
    """What somebody with the finished bytes and psql would do."""
    dsn = services.settings.require("warehouse_dsn")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop table if exists analytics.raw_leaf")
        settle(dsn)
        with stopwatch() as elapsed:
            connection.execute(
                "create table analytics.raw_leaf (like analytics.fct_events including defaults including "
                "constraints)"
            )
            with (
                binary.open("rb") as source,
                connection.cursor() as cursor,
                cursor.copy("copy analytics.raw_leaf from stdin (format binary)") as copy,
            ):
                while block := source.read(_CHUNK):
                    copy.write(block)
            connection.execute("alter table analytics.raw_leaf add primary key (event_id, event_time)")
            connection.execute("create index on analytics.raw_leaf (user_id, event_time desc)")
            connection.execute("create index on analytics.raw_leaf (event_type, event_time desc)")
            connection.execute("analyze analytics.raw_leaf")
    return elapsed()
