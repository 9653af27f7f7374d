"""The application's tables as they are told by changes: landed, built, compared with what a read gives."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
from pydantic import SecretStr

from flows import change_topics, lakeshell, landing
from flows.build.inputs import Reader
from flows.build.job import build
from flows.build.states import planner_states
from flows.change_landing import land_changes
from flows.extract import cdc
from flows.planner import plan
from flows.sandbox.world import app
from flows.services import Services
from tests.flows.capture import Capture, entity
from tests.flows.streaming.topics import until
from tests.house import House, Server
from transforms import catalog, changes, engine, registry
from transforms.change_values import UNAVAILABLE
from transforms.entities import Postgres, SourceEntity

TABLES = ("users", "products", "product_prices", "inventory", "orders", "order_events")
SCHEMA = (Path(app.__file__).parent / "app_schema.sql").read_text(encoding="utf-8")


def declared(name: str, mode: str) -> SourceEntity:
    """The application's own declaration with its mode changed."""
    own = registry.entity(f"raw_app__{name}")
    assert isinstance(own.read, Postgres)
    read = dataclasses.replace(own.read, mode=mode)  # type: ignore[arg-type]
    return dataclasses.replace(own, read=read)


CDC = tuple(declared(name, "cdc") for name in TABLES)
MARKER = entity("marker", id="bigint")
"""A table whose newest row tells how far the changes have come."""


def land(capture: Capture, entities: tuple[SourceEntity, ...], **settings: object) -> Services:
    """Land what is new of each, as one run, and build their staging."""
    services = Services(capture.settings.model_copy(update=settings))
    changed = change_topics.of(entities)
    landed = land_changes(services, changed, os.urandom(4).hex())
    for one in entities:
        if one in changed:
            landed.of(one)
        else:
            landing.land(services, one, os.urandom(4).hex())
    for name in TABLES:
        build_staging(services, f"stg_app__{name}")
    return services


@contextmanager
def landed_once(house: House, folder: Path, entity: SourceEntity) -> Iterator[tuple[Capture, Services]]:
    """A captured table of three rows that are landed, and services to land more, while the block lasts."""
    capture = Capture.build(house, folder, warehouse_dsn=house.server().database())
    services = Services(capture.settings)
    try:
        capture.tables(entity.name)
        capture.register(entity)
        until(lambda: capture.ids(entity.name) == [1, 2, 3])
        with services.lake:
            land_changes(services, [entity], "first").of(entity)
            yield capture, services
    finally:
        capture.end()


def build_staging(services: Services, name: str) -> None:
    """Build what is due of a staging table: only the windows that landings have touched."""
    table = registry.table(name)
    with services.ledger() as ledger:
        states = planner_states(ledger, [name, *table.upstreams])
    work = plan(table, registry.tables(), states, catalog.fingerprint(table), services.settings.now())
    if work.due:
        build(services, work, work.due, os.urandom(4).hex())


def staged(services: Services, name: str) -> str:
    """What was built of a table's staging, as a Parquet file."""
    raw, model = f"raw_app__{name}", f"stg_app__{name}"
    path = services.lake.root / f"{model}.parquet"
    connection = engine.connect(threads=1)
    try:
        with services.ledger() as ledger:
            built = Reader(ledger, registry.tables()).everything(model)
            columns = registry.table(model).columns
            rows = services.lake.read(connection, built) if built else engine.empty(columns, connection)
            # A file from when the source had one column more has it still.
            rows.project(", ".join(engine.quoted(column.name) for column in columns)).to_parquet(str(path))
            if files := ledger.files(raw):
                services.lake.read(connection, files).create_view("files")
                present = connection.table("files").columns
                text = changes.typed(registry.entity(raw), "from files", present)
                shown = connection.execute(
                    f"select count(*) from ({text}) as r where to_json(r)::varchar like '%{UNAVAILABLE}%'"
                ).fetchall()
                assert shown == [(0,)], f"{raw} shows a value that was not sent"
    finally:
        connection.close()
    return str(path)


def differences(one: str, other: str) -> list[tuple[object, ...]]:
    """The rows that stand in one of them only, and in which."""
    with engine.connect(threads=1) as connection:
        return connection.execute(
            f"(select 'told', * from (from '{one}' except all from '{other}')) union all "
            f"(select 'read', * from (from '{other}' except all from '{one}'))"
        ).fetchall()


def await_marker(capture: Capture) -> None:
    """Until a change that is made now has come: one connector writes in order, its first read before all."""
    ((mark,),) = capture.app("insert into marker select count(*) from marker returning id")
    until(lambda: mark in capture.ids("marker"), seconds=60)


def assert_equal(capture: Capture, folder: Path, warehouse: str) -> None:
    """What changes have made is what a read of the source gives, once the last of them has come."""
    await_marker(capture)
    until(lambda: _is_nothing_awaited(capture), seconds=60)
    assert_same(capture, folder, warehouse)


def _is_nothing_awaited(capture: Capture) -> bool:
    """Whether every row that is read again, since half of its key change came, is here."""
    services = land(capture, CDC)
    try:
        with services.ledger() as ledger:
            return not any(cdc.AWAITED in ledger.positions(one.table).positions for one in CDC)
    finally:
        services.lake.close()


def assert_same(capture: Capture, folder: Path, warehouse: str) -> None:
    """The same of what was told by now."""
    told = land(capture, CDC)
    whole = tuple(declared(name, "snapshot") for name in TABLES)
    read = land(capture, whole, lake=folder / "read", warehouse_dsn=SecretStr(warehouse))
    try:
        for name in TABLES:
            assert differences(staged(told, name), staged(read, name)) == [], name
        lakeshell.write(told.lake, registry.tables().values())
        with duckdb.connect() as shell:
            shell.execute((told.lake.root / "lake.sql").read_text(encoding="utf-8"))
            seen = shell.execute(
                "select id, status, total_amount from raw_app__orders qualify row_number() over ("
                "partition by id order by _landed_at desc, _seq desc) = 1 and _op <> 'd' order by id"
            ).fetchall()
        assert seen == capture.app("select id, status::text, total_amount from orders order by id")
        with told.ledger() as ledger:
            letters = ledger.connection.execute(
                "select entity, batch_id, seq, reason from ops.dead_letter order by received_at, letter_id"
            ).fetchall()
            assert letters == [], [_story(capture, name) for name in {letter[0] for letter in letters}]
    finally:
        told.lake.close()
        read.lake.close()


def _story(capture: Capture, name: str) -> list[str]:
    """What a table's topic tells, record by record: for a failure that is not seen twice."""
    told = []
    for number, event in enumerate(capture.events(name)):
        source, after = event["source"], event["after"] or {}
        unsent = [column for column, value in after.items() if UNAVAILABLE in str(value)]
        place = f"{source['snapshot']} {source['sequence']} {source['lsn']} {source['txId']}"
        keys = f"{(event['before'] or {}).get('id')} {after.get('id')}"
        told.append(f"{name} {number}: {event['op']} {keys} at {place} {event['ts_ms']}, without {unsent}")
    return told


def prepared(house: House, server: Server | None, folder: Path) -> Capture:
    """The application's tables, empty, on a server (None: the sandbox's own), and a marker."""
    capture = Capture.build(house, folder, server, warehouse_dsn=house.server().database())
    capture.app(SCHEMA, "create table marker (id bigint primary key)")
    return capture


def rows_of(services: Services, entity: SourceEntity) -> list[tuple[Any, ...]]:
    """A table's rows as its changes tell them, in the order of their `id`."""
    columns = ", ".join(column.name for column in entity.columns)
    with services.ledger() as ledger, duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        services.lake.read(connection, ledger.files(entity.table)).create_view("files")
        text = changes.typed(entity, "from files", connection.table("files").columns)
        key = ", ".join(entity.key)
        last = f"row_number() over (partition by {key} order by _landed_at desc, _seq desc) = 1"
        return connection.execute(
            f"select {columns} from (from ({text}) qualify {last}) where _op <> 'd' order by id"
        ).fetchall()
