"""What the tests of the stream of changes stand on: an application that Debezium reads, and its warehouse."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import psycopg

from flows.build.inputs import Reader
from flows.build.job import build_due
from flows.change_landing import land_changes
from flows.sandbox.world import app
from flows.services import Services
from flows.settings import Settings
from flows.streaming.following import ChangesTally, follow
from flows.streaming.shown_live import shown_live
from tests import children
from tests.flows.capture import Capture
from tests.flows.kill_child import without_audit
from tests.flows.streaming.topics import until
from tests.flows.warehouses import with_tables
from tests.house import House, Server
from transforms import catalog, registry
from transforms.contract import Table

SCHEMA = (Path(app.__file__).parent / "app_schema.sql").read_text(encoding="utf-8")
TABLES = ("users", "products", "product_prices", "orders")


ENTITIES = tuple(registry.entity(f"raw_app__{name}") for name in TABLES)


def order(number: int) -> str:
    """The key of an order."""
    return f"{number:032d}"


def new_order(number: int, user: int, product: int) -> str:
    """The statement that places an order."""
    return (
        "insert into orders (id, user_id, product_id, quantity, unit_price, discount_amount, total_amount, "
        f"currency, status, created_at, updated_at) values ('{order(number)}', {user}, {product}, 1, 5, 0, "
        "5, 'EUR', 'pending', '2025-10-02', '2025-10-02')"
    )


@dataclass
class Company:
    """An application with ten users and products and twenty orders, captured, and published once."""

    capture: Capture

    @classmethod
    def build(cls, house: House, folder: Path, server: Server | None = None) -> Company:
        """Everything up to the first batch. End it with `capture.end`."""
        capture = Capture.build(house, folder, server, warehouse_dsn=with_tables(house.server()))
        capture.app(
            SCHEMA,
            "insert into users (id, email, name, country, plan, created_at, updated_at) select n, "
            "n || '@x.org', 'User ' || n, 'DE', 'free', '2025-10-01', '2025-10-01' "
            "from generate_series(1, 10) n",
            "insert into products (id, sku, name, is_active, created_at, updated_at) select n, 'sku-' || n, "
            "'Product ' || n, true, '2025-10-01', '2025-10-01' from generate_series(1, 10) n",
            *(new_order(number, 1 + number % 10, 1 + number % 7) for number in range(1, 21)),
        )
        capture.register(*ENTITIES)
        company = cls(capture)
        until(lambda: len(capture.events("orders")) == 20, seconds=60)
        services = company.services()
        with services.lake, without_audit():
            landed = land_changes(services, ENTITIES, "first")
            for entity in ENTITIES:
                landed.of(entity)
            for table in company.models():
                build_due(services, table, catalog.fingerprint(table), "first")
        return company

    def services(self) -> Services:
        """Services over this company's parts."""
        return Services(self.capture.settings)

    @staticmethod
    def models() -> list[Table]:
        """What shows changes, and what the rules of it need."""
        return [registry.table("dim_date"), *shown_live(ENTITIES)]

    def follow(self, **options: Any) -> ChangesTally:
        """Show all that is there."""
        services = self.services()
        with services.lake:
            return follow(services, ENTITIES, stop=threading.Event(), until_idle=True, seconds=120, **options)

    @contextmanager
    def followed(self, **options: Any) -> Iterator[Future[ChangesTally]]:
        """A stream of changes that lives while the block lasts, and has ended after it."""
        stop = threading.Event()
        services = self.services()
        with services.lake, ThreadPoolExecutor(1) as pool:
            living = pool.submit(follow, services, ENTITIES, stop=stop, seconds=300, **options)
            try:
                yield living
            finally:
                stop.set()
            living.result(60)

    def dies(self, failpoint: str, passes: int = 0) -> bool:
        """Follow in a process of its own; whether it is killed at a failpoint."""
        return children.dies(failpoint, _follow, self.capture.settings, passes=passes)

    def wait_for_user(self, column: str, value: str) -> None:
        """Wait until a change of a user that sets this value is in the topic."""
        until(
            lambda: any(e["after"] and e["after"][column] == value for e in self.capture.events("users")),
            seconds=60,
        )

    def shown(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the warehouse."""
        with psycopg.connect(self.capture.settings.require("warehouse_dsn"), autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def staged(self, columns: str) -> list[tuple[Any, ...]]:
        """These columns of the users, as the lake's staging has them now."""
        services = self.services()
        with services.lake, services.ledger() as ledger, duckdb.connect() as session:
            files = Reader(ledger, registry.tables()).in_force("stg_app__users")
            source = services.lake.scan(files)
            is_there = {column.strip() for column in columns.split(",")} <= {
                *session.sql(f"from {source}").columns
            }
            return session.sql(f"select {columns} from {source}").fetchall() if is_there else []

    def differences(self) -> list[str]:
        """What the warehouse shows otherwise than the application has it."""
        pairs = {
            "orders": (
                "select id, user_id, product_id, status::text, total_amount from orders",
                "select order_id, user_id, product_id, status, revenue from analytics.fct_orders",
            ),
            "users": (
                "select id, lower(name), plan::text from users where deleted_at is null",
                "select user_id, name, plan from analytics.dim_users "
                "where not is_deleted and not is_inferred",
            ),
            "products": (
                "select id, name, is_active from products",
                "select product_id, name, is_active from analytics.dim_products "
                "where not is_deleted and not is_inferred",
            ),
        }
        return [
            name
            for name, (there, here) in pairs.items()
            if sorted(map(str, self.capture.app(there))) != sorted(map(str, self.shown(here)))
        ]


def _follow(settings: Settings) -> None:
    services = Services(settings)
    with services.lake:
        follow(services, ENTITIES, stop=threading.Event(), until_idle=True, seconds=90)
