"""A seeded workload on the application's own tables: everything that an application does to rows."""

from __future__ import annotations

import random
from collections.abc import Callable

import psycopg

_LARGE = "(select string_agg(md5(n::text || {0}::text), '') from generate_series(1, 200) as n)"
"""2,000 random bytes and more, which PostgreSQL stores outside the row."""
ALTERS = (
    (
        "alter table products add column colour text default 'red'",
        "alter table inventory alter column quantity type bigint",
        "alter table users add column nickname text",
    ),
    (
        "alter table products rename column description to body",
        "alter table orders rename column coupon_code to voucher",
        "alter table orders alter column discount_amount type numeric(14, 2)",
        "alter table users drop column nickname",
    ),
    (
        "alter table products rename column body to description",
        "alter table products drop column colour",
        "alter table orders rename column voucher to coupon_code",
        "alter type user_plan add value if not exists 'trial'",
    ),
)
"""What is done to the tables in between, a landing after each; in the end they have their names again."""


class Workload:
    """Transactions against users, products, product_prices, inventory, orders and order_events."""

    def __init__(self, dsn: str, seed: int) -> None:
        self._dsn = dsn
        self._random = random.Random(seed)
        self._description = "description"

    def run(self, transactions: int) -> None:
        """So many transactions, about one in ten of them rolled back, some with savepoints."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            for _ in range(transactions):
                self._transaction(connection)

    def alter(self, number: int) -> None:
        """The alters of that number, each in a transaction between changes of rows."""
        for statement in ALTERS[number]:
            with psycopg.connect(self._dsn, autocommit=True) as connection, connection.transaction():
                connection.execute(self._product().encode())
                connection.execute(statement.encode())
                if " rename column " in statement and "products" in statement:
                    self._description = statement.rsplit(" ", 1)[1]
                connection.execute(self._touch_product().encode())
                connection.execute(self._touch_order().encode())

    def _transaction(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        with connection.transaction(force_rollback=self._random.random() < 0.1):
            for _ in range(self._random.randint(1, 5)):
                statement = self._random.choice(self._actions())()
                # A savepoint: what is refused or rolled back inside leaves no trace.
                try:
                    with connection.transaction(force_rollback=self._random.random() < 0.1):
                        connection.execute(statement.encode())
                except psycopg.errors.UniqueViolation:
                    continue

    def _actions(self) -> list[Callable[[], str]]:
        often = [self._product, self._touch_product, self._order, self._touch_order, self._user, self._stock]
        return [*often * 6, *[self._delete] * 6, *[self._move] * 4, self._swap, self._truncate, self._price]

    def _key(self) -> int:
        return self._random.randint(1, 12)

    def _large(self) -> str:
        return _LARGE.format(self._random.randint(1, 1_000_000))

    def _product(self) -> str:
        key, large = self._key(), self._large()
        value = self._random.choice(["0", "0.000000000000000001", "12345678901234567890.5", "null"])
        return (
            f"insert into products (id, sku, name, {self._description}, attributes, tags, image, weight_kg, "
            f"is_active, created_at, updated_at) values ({key}, 'sku-{key}-{self._random.random()}', "
            f"'Näme {key}', {large}, jsonb_build_object('large', {large}, 'n', 1.50), "
            f"array[{large}, null, 'a,\"b'], {large}::bytea, {value}, true, '2025-10-01', "
            "clock_timestamp()) on conflict (id) do update "
            f"set {self._description} = excluded.{self._description}, weight_kg = excluded.weight_kg"
        )

    def _touch_product(self) -> str:
        one = self._random.choice(
            [
                "is_active = not is_active",
                f"name = 'name {self._random.randint(1, 99)}'",
                "tags = null",
                f"tags = array[{self._large()}]",
                f"attributes = to_jsonb({self._large()})",
                "image = null",
            ]
        )
        return f"update products set {one} where id = {self._key()}"

    def _price(self) -> str:
        return (
            "insert into product_prices select n, 1, 'USD', n, '2025-10-01', null, '2025-10-01', "
            f"clock_timestamp() from generate_series({self._key()}, 15) as n on conflict do nothing"
        )

    def _user(self) -> str:
        key = self._key()
        return (
            f"insert into users values ({key}, 'u{key}@example.com', 'U', 'de', 'de-DE', 'free', true, "
            f"'10.0.0.{key}', '2025-10-01', clock_timestamp(), null) on conflict (id) do update "
            "set plan = case when users.plan = 'free' then 'team' else 'free' end::user_plan, "
            "updated_at = clock_timestamp()"
        )

    def _order(self) -> str:
        key, month = self._key(), self._random.randint(1, 12)
        return (
            f"insert into orders values (md5('{key}')::uuid, {self._key()}, {self._key()}, 2, 10.50, 1, "
            f"20.00, 'EUR', null, 'pending', '2025-{month:02d}-15 12:00+02', clock_timestamp()) "
            "on conflict (id) do nothing"
        )

    def _touch_order(self) -> str:
        key = self._key()
        return (
            f"with touched as (update orders set status = 'paid', updated_at = clock_timestamp() "
            f"where id = md5('{key}')::uuid returning id) insert into order_events (order_id, from_status, "
            "to_status, actor, payload, occurred_at) select id, 'pending', 'paid', 'customer', "
            f"'{{\"a\": {{\"b\": [1, null]}}}}', '2025-11-01' from touched"
        )

    def _stock(self) -> str:
        return (
            f"insert into inventory values ({self._key()}, 'w{self._random.randint(1, 2)}', 5, 0, "
            "clock_timestamp()) on conflict (product_id, warehouse) do update "
            "set quantity = inventory.quantity + 1"
        )

    def _delete(self) -> str:
        table = self._random.choice(["users", "products", "product_prices", "inventory", "orders"])
        key = "product_id" if table == "inventory" else "id"
        value = f"md5('{self._key()}')::uuid" if table == "orders" else str(self._key())
        return f"delete from {table} where {key} = {value}"

    def _move(self) -> str:
        if self._random.random() < 0.3:
            return f"update orders set id = md5('{self._key()}')::uuid where id = md5('{self._key()}')::uuid"
        return f"update products set id = {self._key()}, name = 'moved' where id = {self._key()}"

    def _swap(self) -> str:
        one, two = self._random.sample(range(1, 13), 2)
        return (
            f"update products set id = 1000 where id = {one}; "
            f"update products set id = {one} where id = {two}; update products set id = {two} where id = 1000"
        )

    def _truncate(self) -> str:
        tables = ["product_prices", "inventory", "users", "order_events", "products"]
        return f"truncate {self._random.choice(tables)}"
