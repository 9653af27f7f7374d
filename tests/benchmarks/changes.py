"""Changes of the application's orders, as Debezium sends them: applied by the million, and a few to large
tables. Broker, database and the work share the machine.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import orjson
import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from psycopg import sql

from flows.change_landing import land_changes
from flows.landed import LANDED_ON, rows_by_window
from flows.services import Services
from flows.stores.manifest import Commit
from tests.benchmarks.change_records import (
    CHUNK,
    CONTEXT,
    PRODUCTS,
    USERS,
    Life,
    few,
    lives,
    made_in,
    months,
    row,
    sent,
)
from tests.benchmarks.measure import Result, alternate, stopwatch
from tests.benchmarks.pipeline import rebuild
from tests.benchmarks.processes import in_child
from tests.benchmarks.server import Server, settle
from tests.benchmarks.stream import broker
from tests.broker import make_topics
from transforms import engine, registry
from transforms.contract import Layer
from transforms.entities import Postgres, SourceEntity

KEYS = 200_000
CHANGES = 5 * KEYS
LARGE, SMALL = 10_000_000, 1_000_000
FEW = 10_000
_ONE_BY_ONE = 20_000
_MODELS = ("stg_app__orders", "fct_orders")
_BEFORE = (
    "stg_app__users",
    "stg_app__products",
    "dim_currencies",
    "dim_date",
    "dim_users",
    "dim_products",
)


@contextmanager
def _topic(services: Services, bootstrap: str) -> Iterator[SourceEntity]:
    """The orders' change topic, and the orders declared as captured."""
    declared = registry.entity("raw_app__orders")
    assert isinstance(declared.read, Postgres)
    name = f"{services.settings.cdc_prefix}.public.orders"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    make_topics(bootstrap, name)
    try:
        yield replace(declared, read=replace(declared.read, mode="cdc", cursor=None))
    finally:
        admin.delete_topics([name])[name].result(20)


def _produce(services: Services, bootstrap: str, life: Life, from_lsn: int) -> None:
    name = f"{services.settings.cdc_prefix}.public.orders"
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 50,
            "queue.buffering.max.messages": 200_000,
            "queue.buffering.max.kbytes": 1 << 18,
        }
    )
    for number, (key, value) in enumerate(sent(life, from_lsn)):
        while True:
            try:
                producer.produce(
                    name, value, key, partition=0, headers=CONTEXT if value is not None else None
                )
                break
            except BufferError:
                producer.poll(0.1)
        if number % 100 == 0:
            producer.poll(0)
    assert producer.flush(120) == 0


def _land_rows(services: Services, name: str, query: str, rows: int, among: str = "true") -> None:
    """Enter rows as a read of the table would land them: `query` says them over `{numbers}`, of `i`, as far
    as the condition `among` holds.
    """
    landed_at = datetime(2025, 11, 1, tzinfo=UTC)
    entity = registry.entity(name)
    found = "null::timestamptz as _changed_at, null::bigint as _lsn"
    with services.ledger() as ledger, engine.connect(keeps_order=True) as session:
        position = ledger.positions(name)
        batch, day = f"filled-{position.version}", f"{landed_at:%Y-%m-%d}"
        relation = session.sql(
            f"select *, 'r' as _op, {found}, '{batch}' as _batch_id, "
            f"timestamptz '{landed_at.isoformat()}' as _landed_at, row_number() over () as _seq "
            f"from ({query.format(numbers=f'(select range as i from range({rows}) where {among})')})"
        )
        file = services.lake.write(
            Layer.RAW.value, name, LANDED_ON, day, batch, relation, measured="_landed_at"
        )
        commit = Commit(
            token=f"land-{name}-{batch}",
            kind="land",
            layer=Layer.RAW.value,
            table=name,
            add=(file,),
            windows=rows_by_window(session, entity, [str(services.lake.root / file.path)]),
            row_count=file.rows,
            landed_at=landed_at,
        )
        ledger.record(services.lake, commit, version=position.version)


def _prepare(services: Services) -> None:
    """The dimensions that orders refer to."""
    made = "timestamptz '2025-01-01' as created_at, timestamptz '2025-01-01' as updated_at"
    _land_rows(
        services,
        "raw_app__users",
        "select i + 1 as id, 'u' || i || '@example.test' as email, 'User ' || i as name, 'DE' as country, "
        f"'de-DE' as locale, 'free' as plan, true as marketing_opt_in, null::varchar as last_ip, {made}, "
        "null::timestamptz as deleted_at from {numbers}",
        USERS,
    )
    _land_rows(
        services,
        "raw_app__products",
        "select i + 1 as id, 'sku-' || i as sku, 'Product ' || i as name, 1 as category_id, "
        "1 as supplier_id, null::varchar as description, null::json as attributes, "
        "null::varchar[] as tags, null::blob as image, "
        f"null::decimal(38, 18) as weight_kg, true as is_active, {made} from {{numbers}}",
        PRODUCTS,
    )
    rebuild(services, _BEFORE, "prepare")


def _apply(services: Services, entity: SourceEntity) -> int:
    """Land what waits, and build staging and the fact; rows that PostgreSQL wrote."""
    land_changes(services, [entity], "changes", is_watched=False).of(entity)
    done = rebuild(services, _MODELS, "changes")
    assert not any(
        publication.is_pending for built in done["fct_orders"] for publication in built.publications
    )
    return sum(built.rows_written for built in done["fct_orders"])


def run_many(server: Server, full: bool) -> Iterator[Result]:
    """A million changes wait in the topic. They are landed as they came, staged, checked, published; the
    upserts apply a sample of the same records to a table with the same indexes and keys.
    """
    bootstrap = broker()
    prefix = f"bench{secrets.token_hex(4)}"
    life = lives(KEYS)
    with (
        server.services(kafka_bootstrap=bootstrap, cdc_prefix=prefix) as services,
        _topic(services, bootstrap) as entity,
    ):
        _prepare(services)
        _produce(services, bootstrap, life, 1_000_000)
        settle(services.settings.require("warehouse_dsn"))
        done = in_child(services.settings, _apply, entity)
        _prove(services)
        theirs = _one_by_one(services, bootstrap)
    details = {"seconds": round(done.seconds, 1), "one_by_one": round(theirs, 1), "sample": _ONE_BY_ONE}
    rate = life.number / done.seconds
    yield Result(
        f"changes applied in a second to lake and PostgreSQL, {life.number:,} waiting in Kafka",
        rate,
        "/s",
        40_000,
        "at least",
        None,
        details,
    )
    yield Result(
        "row-by-row upserts of the same changes ÷ applying them, time a change",
        rate / (_ONE_BY_ONE / theirs),
        "×",
        5,
        "at least",
        None,
        details,
    )
    yield Result(
        f"peak memory while {life.number:,} changes are applied",
        done.peak_gb,
        "GB",
        1.0,
        "at most",
        None,
        details,
    )


def _prove(services: Services) -> None:
    """Each key is there once, with the values of its last change."""
    with psycopg.connect(services.settings.require("warehouse_dsn")) as connection:
        found = connection.execute(
            "select count(*), sum(quantity), count(distinct order_id) from analytics.fct_orders"
        ).fetchone()
    # The last step of half of the keys is the seventh, of the others the fourth.
    assert found == (KEYS, KEYS // 2 * (1 + 7 % 5) + KEYS // 2 * (1 + 4 % 5), KEYS), found


def _one_by_one(services: Services, bootstrap: str) -> float:
    """Seconds for the first changes of the topic, one statement each, a thousand a transaction."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "one-by-one", "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(f"{services.settings.cdc_prefix}.public.orders", 0, 0)])
    values: list[bytes] = []
    while len(values) < _ONE_BY_ONE:
        values += [value for message in consumer.consume(CHUNK, 5) if (value := message.value()) is not None]
    consumer.close()
    names = [column.name for column in registry.table("fct_orders").columns]
    others = sql.SQL(", ").join(
        sql.SQL("{n} = excluded.{n}").format(n=sql.Identifier(name)) for name in names if name != "order_id"
    )
    with psycopg.connect(services.settings.require("warehouse_dsn")) as connection:
        connection.execute("truncate analytics.fct_orders")
        connection.commit()
        upsert = sql.SQL(
            "insert into analytics.fct_orders ({}) values ({}) on conflict (order_id) do update set {}"
        ).format(
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL(", ").join(sql.Placeholder() * len(names)),
            others,
        )
        with stopwatch() as elapsed:
            for number, value in enumerate(values[:_ONE_BY_ONE], 1):
                event = orjson.loads(value)
                if event["op"] == "d":
                    connection.execute(
                        "delete from analytics.fct_orders where order_id = %s", (event["before"]["id"],)
                    )
                else:
                    after = event["after"]
                    given = {
                        **after,
                        "order_id": after["id"],
                        "order_date": after["created_at"][:10],
                        "revenue": after["total_amount"],
                    }
                    connection.execute(upsert, [given[name] for name in names])
                if number % 1_000 == 0:
                    connection.commit()
            connection.commit()
        return elapsed()


def run_few(server: Server, full: bool) -> Iterator[Result]:
    """The same number of changes to a large and to a small table, in all months of both: landing from the
    topic, staging, the fact, the merge.
    """
    bootstrap = broker()
    with ExitStack() as stack:
        sides = {}
        for rows in (LARGE, SMALL):
            prefix = f"bench{secrets.token_hex(4)}"
            services = stack.enter_context(server.services(kafka_bootstrap=bootstrap, cdc_prefix=prefix))
            sides[rows] = (services, stack.enter_context(_topic(services, bootstrap)))
            _fill(services, rows)

        def changes(rows: int, number: int) -> float:
            turn = number + 1
            services, entity = sides[rows]
            _produce(services, bootstrap, few(rows, FEW, turn), 1_000_000 * (turn + 1))
            settle(services.settings.require("warehouse_dsn"))
            with stopwatch() as elapsed:
                written = _apply(services, entity)
            assert written == FEW, written
            return elapsed()

        for rows in (LARGE, SMALL):
            changes(rows, -1)  # the first of a process reads and hashes what every later one knows
        times = alternate(
            {f"{rows:,} rows": partial(changes, rows) for rows in (LARGE, SMALL)},
            rounds=8 if full else 5,
        )
    yield Result(
        f"{FEW:,} changes on {LARGE:,} rows ÷ on {SMALL:,} rows",
        times.ratio(f"{LARGE:,} rows", f"{SMALL:,} rows"),
        "×",
        1.3,
        "at most",
        None,
        times.details(changes=FEW),
    )


def _fill(services: Services, rows: int) -> None:
    """A table of so many orders, as reads have landed them month by month, staged and published.

    Indexes are built and foreign keys checked at once afterwards: row by row would take ten minutes.
    """
    begun = time.perf_counter()
    _prepare(services)
    order = row("i", "0").replace("{", "{{").replace("}", "}}")
    kinds = {column.name: column.type for column in registry.entity("raw_app__orders").columns}
    fields = ", ".join(f"(r.{name})::{kind} as {name}" for name, kind in kinds.items())
    query = f"select {fields} from (select {order} as r from {{numbers}})"
    for month in months():
        _land_rows(services, "raw_app__orders", query, rows, f"{made_in('i')} = '{month}'")
    with psycopg.connect(services.settings.require("warehouse_dsn"), autocommit=True) as connection:
        keys = connection.execute(
            "select conname, pg_get_constraintdef(oid) from pg_constraint "
            "where conrelid = 'analytics.fct_orders'::regclass and contype in ('f', 'p') "
            "order by contype desc"
        ).fetchall()
        indexes = connection.execute(
            "select indexname, indexdef from pg_indexes where schemaname = 'analytics' "
            "and tablename = 'fct_orders' and indexname <> all(%s)",
            ([name for name, _ in keys],),
        ).fetchall()
        for name, _ in keys:
            connection.execute(f'alter table analytics.fct_orders drop constraint "{name}"'.encode())
        for name, _ in indexes:
            connection.execute(f'drop index analytics."{name}"'.encode())
        rebuild(services, _MODELS, "fill")
        connection.execute(b"set maintenance_work_mem = '512MB'")
        for name, definition in keys:
            connection.execute(
                f'alter table analytics.fct_orders add constraint "{name}" {definition}'.encode()
            )
        for _, definition in indexes:
            connection.execute(definition.encode())
        connection.execute(b"vacuum analyze analytics.fct_orders")
    print(f"filled {rows:,} in {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
