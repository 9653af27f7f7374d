"""Bring the application's database to a moment: COPY when it is new, upserts and deletes afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.resources import files
from io import BytesIO

import polars as pl
import psycopg
from psycopg import sql

from flows.sandbox.world import catalogue, state
from flows.sandbox.world.log import Log
from flows.sandbox.world.people import addresses
from flows.sandbox.world.shape import BASE, Shape, WorldError, moment

KEYS = {"coupons": ("code",), "inventory": ("product_id", "warehouse")}
"""Primary keys that are not called id."""
DELETED_WITH_USER = ("users", "addresses")
DELETED_WITH_ORDER = ("orders", "shipments", "reviews")


def tables(shape: Shape, log: Log, periods: int, now: int) -> Iterator[tuple[str, pl.DataFrame]]:
    """Every table but order_events as it stands at `now`, `periods` periods having been generated."""
    users = log.read("users", periods)
    yield "users", state.users(state.people(users, log.read("changes", periods), now), now)
    houses = [
        addresses(shape, log.scan("users", period, period + 1).collect()) for period in range(BASE, periods)
    ]
    yield "addresses", state.addresses(pl.concat(houses), now)
    yield "categories", catalogue.categories(shape, now)
    yield "suppliers", catalogue.suppliers(shape)
    yield "products", catalogue.products(shape, now)
    yield "product_prices", catalogue.product_prices(shape, periods, now)
    yield "inventory", catalogue.inventory(shape, now)
    yield "coupons", catalogue.coupons(shape)
    orders = log.read("orders", periods)
    yield "orders", state.orders(orders, now)
    yield "payments", state.payments(orders, now)
    yield "refunds", state.refunds(orders, now)
    yield "shipments", state.shipments(orders, now)
    yield "reviews", state.reviews(orders, now)
    yield "support_tickets", state.support_tickets(orders, now)


def create(dsn: str, shape: Shape, log: Log, periods: int, now: int) -> None:
    """Make the schema anew and fill it, in one transaction. Whatever was in schema public is gone."""
    with psycopg.connect(dsn) as connection:
        connection.execute("drop schema if exists public cascade")
        connection.execute("create schema public")
        connection.execute(_ddl())
        for table, rows in tables(shape, log, periods, now):
            copy(connection, sql.Identifier(table), rows)
        copy(
            connection,
            sql.Identifier("order_events"),
            state.order_events(log.read("orders", periods), 0, now),
        )
        connection.execute("analyze")


def ensure(dsn: str) -> None:
    """The application's tables without a row, where there are none."""
    with psycopg.connect(dsn) as connection:
        connection.execute("select pg_advisory_xact_lock(hashtext('app_schema.sql'))")
        row = connection.execute("select to_regclass('public.orders') is null").fetchone()
        if row == (True,):
            connection.execute(_ddl())


def _ddl() -> bytes:
    return (files("flows.sandbox.world") / "app_schema.sql").read_bytes()


def advance(
    dsn: str, shape: Shape, log: Log, periods: int, before: int, now: int, committing: Callable[[], None]
) -> int:
    """Bring the tables from the moment `before` to `now`, in one transaction; doing it twice changes
    nothing. `committing` is called right before the commit.

    Returns when it was committed, by the server's clock (microseconds since 1970): for who reads the changes
    that is when they happened. Raises WorldError on a server that does not track it.
    """
    with psycopg.connect(dsn) as connection:
        if connection.execute(_REACHED.encode()).fetchone() != (_mark(now),):
            _advance(connection, shape, log, periods, before, now)
            mark = sql.Literal(_mark(now))
            connection.execute(sql.SQL("comment on schema public is {}").format(mark))
        committing()
    with psycopg.connect(dsn) as connection:
        try:
            (committed,) = connection.execute(_COMMITTED.encode()).fetchone() or (None,)
        except psycopg.errors.ObjectNotInPrerequisiteState:
            committed = None
    if committed is None:
        raise WorldError(
            "The application's PostgreSQL does not say when it committed: set track_commit_timestamp = on "
            "there and restart it (the sandbox's has it from its next start on), then advance again."
        )
    return int(committed)


_REACHED = "select obj_description('public'::regnamespace, 'pg_namespace')"
_COMMITTED = (
    "select (extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000000)::bigint from pg_description "
    "where objoid = 'public'::regnamespace and classoid = 'pg_namespace'::regclass and objsubid = 0"
)
"""The comment on the schema says how far the world came: it is written with the rows, or not at all."""


def _mark(now: int) -> str:
    return f"The generated company at {moment(now).isoformat()}"


def _advance(
    connection: psycopg.Connection, shape: Shape, log: Log, periods: int, before: int, now: int
) -> None:
    for table, rows in tables(shape, log, periods, now):
        changed = rows.filter(pl.col("updated_at") > moment(before))
        _upsert(connection, table, changed)
    gone = log.read("users", periods).filter(
        pl.col("hard_deleted_at").is_between(before, now, closed="right")
    )
    for table, column in zip(DELETED_WITH_USER, ("id", "user_id"), strict=True):
        _delete(connection, table, column, gone["user_id"].to_list())
    orders = log.read("orders", periods)
    gone = orders.filter(pl.col("hard_deleted_at").is_between(before, now, closed="right"))
    for table, column in zip(DELETED_WITH_ORDER, ("id", "order_id", "order_id"), strict=True):
        _delete(connection, table, column, gone["order_id"].to_list())
    copy(connection, sql.Identifier("order_events"), state.order_events(orders, before, now))


def copy(connection: psycopg.Connection, table: sql.Identifier, rows: pl.DataFrame) -> None:
    """COPY rows into a table; the columns are named by the frame."""
    buffer = BytesIO()
    rows.write_csv(buffer, include_header=False, null_value="\\N", datetime_format="%Y-%m-%d %H:%M:%S%.6f+00")
    columns = sql.SQL(", ").join(map(sql.Identifier, rows.columns))
    statement = sql.SQL("copy {} ({}) from stdin with (format csv, null '\\N')").format(table, columns)
    with connection.cursor().copy(statement) as target:
        target.write(buffer.getbuffer())


def _upsert(connection: psycopg.Connection, table: str, rows: pl.DataFrame) -> None:
    if not rows.height:
        return
    key = KEYS.get(table, ("id",))
    names = {
        "table": sql.Identifier(table),
        "new": sql.Identifier(f"new_{table}"),
        "key": sql.SQL(", ").join(map(sql.Identifier, key)),
    }
    connection.execute(sql.SQL("create temp table {new} (like {table}) on commit drop").format(**names))
    copy(connection, sql.Identifier(f"new_{table}"), rows)
    columns = [sql.Identifier(column) for column in rows.columns]
    connection.execute(
        sql.SQL(
            "insert into {table} ({columns}) select {columns} from {new} "
            "on conflict ({key}) do update set {changes}"
        ).format(
            **names,
            columns=sql.SQL(", ").join(columns),
            changes=sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(column) for column in columns),
        )
    )


def _delete(connection: psycopg.Connection, table: str, column: str, keys: list[int] | list[str]) -> None:
    connection.execute(
        sql.SQL("delete from {} where {}::text = any(%s)").format(
            sql.Identifier(table), sql.Identifier(column)
        ),
        [[str(key) for key in keys]],
    )
