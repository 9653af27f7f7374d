"""Changes of the application followed by the stream, through real Debezium: how soon people see them.

Application, Connect, broker, warehouse and stream share the machine.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import psycopg
from pydantic import SecretStr

import flows.sandbox as sandbox
from flows.build.job import build_due
from flows.cdc import registration
from flows.change_landing import land_changes
from flows.extract import SourceError
from flows.sandbox import Part
from flows.sandbox.world import app
from flows.services import Services
from flows.settings import Settings
from flows.streaming.following import ChangesTally, follow
from flows.streaming.shown_live import shown_live
from tests.benchmarks.measure import Result
from tests.benchmarks.processes import in_child
from tests.benchmarks.server import CACHE, Server
from transforms import catalog, registry
from transforms.entities import SourceEntity

RATE = 1_000
USERS, PRODUCTS, ORDERS = 5_000, 500, 20_000
_TABLES = ("users", "addresses", "products", "product_prices", "orders", "order_events", "payments")
_WARM_SECONDS = 10
_PROBE_EVERY_SECONDS = 0.2
_LOOK_EVERY_SECONDS = 0.01
_LONGEST_SECONDS = 600.0
_STATUSES = ("pending", "paid", "shipped", "delivered")


def run(server: Server, full: bool) -> Iterator[Result]:
    """RATE changes a second in transactions of ten: orders and users updated, order events and payments new.
    Five times a second one more transaction changes an order and its user; a reader looks for both.
    """
    seconds = 300 if full else 60
    parts = frozenset({Part.KAFKA, Part.APP_POSTGRES, Part.CONNECT, Part.WAREHOUSE_POSTGRES})
    state = sandbox.start(CACHE / "sandbox", parts=parts)
    assert state.app_dsn
    assert state.kafka_bootstrap
    with server.services(kafka_bootstrap=state.kafka_bootstrap) as services:
        settings = services.settings.model_copy(
            update={
                "app_dsn": SecretStr(state.app_dsn),
                "cdc_dsn": SecretStr(str(state.cdc_dsn)),
                "connect_url": state.connect_url,
                "cdc_prefix": f"b{secrets.token_hex(3)}",
            }
        )
        own = Services(settings)
        vars(own)["lake"] = services.lake
        entities = tuple(registry.entity(f"raw_app__{name}") for name in _TABLES)
        _fill(state.app_dsn)
        registration.register(settings, entities, lambda _: None)
        try:
            _first(own, entities)
            waited, followed = _follow(settings, entities, seconds)
        finally:
            registration.unregister(settings, lambda _: None)
    details = {
        "probes": len(waited),
        "changes": followed.messages,
        "cycles": followed.batches,
        "interruptions": followed.interruptions,
        "p50": round(waited[len(waited) // 2], 2),
    }
    yield Result(
        f"seconds from the source's commit to seen, order and user at one moment, {RATE:,} changes/s: p99",
        waited[int(len(waited) * 0.99)],
        "s",
        5,
        "at most",
        None,
        details,
    )


def _fill(dsn: str) -> None:
    schema = (Path(app.__file__).parent / "app_schema.sql").read_text(encoding="utf-8")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop schema public cascade; create schema public")
        connection.execute(schema.encode())
        for statement in (
            "insert into users (id, email, name, country, plan, created_at, updated_at) select n, "
            "n || '@example.org', 'User ' || n, 'DE', 'free', '2025-10-01', '2025-10-01' "
            f"from generate_series(1, {USERS}) n",
            "insert into products (id, sku, name, is_active, created_at, updated_at) select n, 'sku-' || n, "
            f"'Product ' || n, true, '2025-10-01', '2025-10-01' from generate_series(1, {PRODUCTS}) n",
            "insert into orders (id, user_id, product_id, quantity, unit_price, discount_amount, "
            "total_amount, currency, status, created_at, updated_at) select lpad(n::text, 32, '0')::uuid, "
            f"1 + n % {USERS}, 1 + n % {PRODUCTS}, 1, 5, 0, 5, 'EUR', 'pending', "
            "timestamptz '2025-09-01' + n * interval '3 minutes', '2025-10-15' "
            f"from generate_series(0, {ORDERS - 1}) n",
        ):
            connection.execute(statement.encode())


def _first(services: Services, entities: tuple[SourceEntity, ...]) -> None:
    """The snapshot, landed whole and published: what a first batch does."""
    deadline = time.monotonic() + 120
    landed: set[str] = set()
    while not {"raw_app__users", "raw_app__products", "raw_app__orders"} <= landed:
        assert time.monotonic() < deadline, f"the snapshot did not come: {landed}"
        for name, outcome in land_changes(services, entities, "first").outcomes.items():
            if isinstance(outcome, SourceError):
                raise outcome
            if outcome is not None and outcome.rows:
                landed.add(name)
        time.sleep(0.5)
    for table in [registry.table("dim_date"), *shown_live(entities)]:
        build_due(services, table, catalog.fingerprint(table), "first")


def _follow(
    settings: Settings, entities: tuple[SourceEntity, ...], seconds: float
) -> tuple[list[float], ChangesTally]:
    """Seconds that each probe was waited for, sorted; what the stream did."""
    stop = get_context("spawn").Event()
    over = threading.Event()
    committed: list[float] = []
    with ThreadPoolExecutor(4) as pool:
        living = pool.submit(in_child, settings, _live, entities, stop)
        try:
            load = pool.submit(_load, settings.require("app_dsn"), over)
            time.sleep(_WARM_SECONDS)
            seen = pool.submit(_look, settings.require("warehouse_dsn"), committed, over)
            _probe(settings.require("app_dsn"), committed, seconds)
            waited = seen.result(60)
            over.set()
            load.result(30)
        finally:
            over.set()
            stop.set()
        done = living.result()
    return sorted(waited), done.result


def _live(services: Services, entities: tuple[SourceEntity, ...], stop: threading.Event) -> ChangesTally:
    return follow(services, entities, stop=stop, seconds=_LONGEST_SECONDS)


def _load(dsn: str, over: threading.Event) -> None:
    """RATE changes a second, ten in a transaction; the first ten orders and users are the probes' own."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        begun, number = time.monotonic(), 0
        while not over.is_set():
            order = 10 + number * 7 % (ORDERS - 10)
            user = 11 + number * 3 % (USERS - 10)
            status = _STATUSES[number % len(_STATUSES)]
            connection.execute(
                (
                    f"begin; update orders set status = '{status}', updated_at = now() where id in ("
                    f"select lpad(n::text, 32, '0')::uuid from generate_series({order}, {order} + 3) n); "
                    f"update users set country = '{('DE', 'FR')[number % 2]}', updated_at = now() "
                    f"where id in ({user}, {user + 1}); "
                    "insert into order_events (id, order_id, to_status, occurred_at) "
                    f"select {number} * 2 + n, lpad('{order}', 32, '0')::uuid, '{status}', now() "
                    "from generate_series(0, 1) n; "
                    "insert into payments (id, order_id, amount, currency, status, created_at, updated_at) "
                    f"select {number} * 2 + n, lpad('{order}', 32, '0')::uuid, 5, 'EUR', 'paid', now(), "
                    "now() from generate_series(0, 1) n; commit"
                ).encode()
            )
            number += 1
            time.sleep(max(0.0, number * 10 / RATE - (time.monotonic() - begun)))


def _probe(dsn: str, committed: list[float], seconds: float) -> None:
    """An order and its user changed together, numbered; when each was committed."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            number = len(committed) + 1
            connection.execute(
                (
                    f"begin; update orders set quantity = {number} where id = lpad('5', 32, '0')::uuid; "
                    f"update users set name = '{number}' where id = 6; commit"
                ).encode()
            )
            committed.append(time.monotonic())
            time.sleep(_PROBE_EVERY_SECONDS)
    committed.append(0.0)


def _look(dsn: str, committed: list[float], over: threading.Event) -> list[float]:
    """How long each probe was not seen. Raises AssertionError when an order is seen without its user."""
    waited: list[float] = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        while not over.is_set():
            row = connection.execute(
                "select o.quantity, u.name from analytics.fct_orders o "
                "join analytics.dim_users u using (user_id) where order_id = lpad('5', 32, '0')::uuid"
            ).fetchone()
            assert row is not None
            if row[1].isdigit():
                assert row[0] == int(row[1]), row
                now = time.monotonic()
                while len(waited) < row[0]:
                    waited.append(now - committed[len(waited)])
                if committed[-1] == 0.0 and len(waited) == len(committed) - 1:
                    break
            time.sleep(_LOOK_EVERY_SECONDS)
    return waited
