"""What somebody was granted on a table or a view outlives that it is made anew."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from flows.stores.lake import Lake
from flows.stores.migrate import migrate, migrate_view
from flows.stores.publish import publish
from flows.stores.warehouse import Warehouse
from tests.flows.stores.test_masking import PERSONAL
from tests.flows.stores.test_migrate import _view
from tests.flows.stores.world import DAY, EVENTS, built, visits
from transforms.contract import Table


@pytest.fixture
def analyst(any_dsn: str) -> Iterator[str]:
    """A role of this test's own."""
    name = f"analyst_{secrets.token_hex(4)}"
    with psycopg.connect(any_dsn, autocommit=True) as connection:
        connection.execute(f"create role {name}".encode())
        yield name
        connection.execute(f"drop owned by {name}; drop role {name}".encode())


def _grant(dsn: str, what: str, analyst: str, more: str = "") -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"grant {what} to {analyst}{more}".encode())


def _may(dsn: str, analyst: str, relation: str) -> tuple[bool, bool, bool]:
    """Whether a role may read a relation, hand that on, and change the column `page`."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select has_table_privilege(%(who)s, %(what)s, 'select'), "
            "has_table_privilege(%(who)s, %(what)s, 'select with grant option'), "
            "has_column_privilege(%(who)s, %(what)s, 'page', 'update')",
            {"who": analyst, "what": relation},
        ).fetchone()
    assert row is not None
    return row


@pytest.mark.parametrize("table", [EVENTS, PERSONAL], ids=["table", "masked view"])
def test_a_table_that_is_built_anew_is_read_by_who_read_it(
    any_dsn: str, lake: Lake, analyst: str, table: Table
) -> None:
    warehouse, relation = Warehouse(any_dsn), f"analytics.{table.name}"
    migrate(warehouse, lake, table)
    _grant(any_dsn, f"select on {relation}", analyst, " with grant option")
    _grant(any_dsn, f"update (page), select (properties) on {relation}", analyst)
    smaller = replace(table, columns=tuple(c for c in table.columns if c.name != "properties"))

    assert migrate(warehouse, lake, smaller, yes=True).rebuild

    assert _may(any_dsn, analyst, relation) == (True, True, True)


def test_a_day_that_is_built_anew_is_read_by_who_read_that_day_alone(
    any_dsn: str, lake: Lake, analyst: str
) -> None:
    warehouse, leaf = Warehouse(any_dsn), f"analytics.{EVENTS.leaf(DAY)}"
    migrate(warehouse, lake, EVENTS)
    publish(EVENTS, [built(lake, EVENTS, DAY, visits(DAY, 9), batch="b1")], warehouse=warehouse, lake=lake)
    _grant(any_dsn, f"select on {leaf}", analyst)

    other = built(lake, EVENTS, DAY, visits(DAY, 8, mark="new"), batch="b2")
    swapped = publish(EVENTS, [other], warehouse=warehouse, lake=lake, way="swap")

    assert swapped.ways == {DAY: "swap"}
    assert _may(any_dsn, analyst, leaf)[0]
    smaller = replace(EVENTS, columns=tuple(c for c in EVENTS.columns if c.name != "properties"))
    assert migrate(warehouse, lake, smaller, yes=True).rebuild
    assert _may(any_dsn, analyst, leaf)[0]


def test_a_view_that_is_made_anew_is_read_by_who_read_it(any_dsn: str, lake: Lake, analyst: str) -> None:
    warehouse = Warehouse(any_dsn)
    migrate(warehouse, lake, EVENTS)
    migrate_view(warehouse, _view("count(*)"))
    _grant(any_dsn, "select on analytics.mv_v", analyst)

    assert migrate_view(warehouse, _view("-count(*)"))

    with psycopg.connect(any_dsn) as connection:
        may = connection.execute("select has_table_privilege(%s, 'analytics.mv_v', 'select')", (analyst,))
        assert may.fetchone() == (True,)
