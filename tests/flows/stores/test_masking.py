"""A table that comes to hold personal data, or no longer does: a kill leaves it as it was for everybody."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psycopg

from flows.stores.lake import Lake
from flows.stores.migrate import migrate
from flows.stores.publish import publish
from flows.stores.warehouse import Warehouse
from tests import children
from tests.flows.stores.logins import lay
from tests.flows.stores.world import DAY, EVENTS, built, visits
from tests.house import Server
from transforms.contract import Column, Table

PERSONAL = replace(EVENTS, columns=tuple(replace(c, pii=c.name == "page") for c in EVENTS.columns))


def _seen(dsn: str, role: str) -> list[tuple[str, int]]:
    """How the pages begin that a role sees, and how many visits; nothing where it may not look."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"set role {role}".encode())
        shown = "select left(page, 4), count(*) from analytics.fct_visits group by 1"
        return connection.execute(shown.encode()).fetchall()


def _may_look_behind(dsn: str) -> bool:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set role reader")
        try:
            connection.execute("table personal.fct_visits")
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
            return False
    return True


def _killed_at(point: str, dsn: str, lake: Path, table: Table) -> None:
    assert children.dies(point, _migrate, dsn, lake, table)


def _migrate(dsn: str, root: Path, table: Table) -> None:
    with Lake(root) as lake:
        migrate(Warehouse(dsn), lake, table)


def test_a_kill_while_a_table_moves_shows_nobody_more_or_less_than_before(
    postgres18: Server, tmp_path: Path
) -> None:
    dsn, root = postgres18.database(), tmp_path / "lake"
    lay(dsn)
    warehouse, shown, masked = Warehouse(dsn), [("page", 40)], [("mask", 40)]
    with Lake(root) as lake:
        migrate(warehouse, lake, EVENTS)
        item = built(lake, EVENTS, DAY, visits(DAY, 40), batch="b1")
        publish(EVENTS, [item], warehouse=warehouse, lake=lake)
        for table, before, after in ((PERSONAL, shown, masked), (EVENTS, masked, shown)):
            _killed_at("masking.moved", dsn, root, table)
            assert _seen(dsn, "reader") == before
            assert _seen(dsn, "pii_reader") == shown

            _killed_at("migrate.at_home", dsn, root, table)  # whoever reads now finds it under its name
            assert _seen(dsn, "reader") == after
            assert _seen(dsn, "pii_reader") == shown

            migrate(warehouse, lake, table)
            assert _seen(dsn, "reader") == after
            assert _seen(dsn, "pii_reader") == shown
            assert not _may_look_behind(dsn)
            assert not migrate(warehouse, lake, table).is_needed


def test_what_readers_see_masked_from_now_on_and_what_no_more_is_told(dsn: str, lake: Lake) -> None:
    warehouse = Warehouse(dsn)
    other = replace(
        EVENTS, columns=tuple(replace(c, pii=c.name in ("paid", "user_id")) for c in EVENTS.columns)
    )

    def told(table: Table) -> list[str]:
        return migrate(warehouse, lake, table).describe()

    assert told(PERSONAL) == []  # it is new
    assert told(EVENTS) == ["fct_visits: everybody who reads it sees page now (in place)"]
    assert told(PERSONAL) == ["fct_visits: readers see page masked now (in place)"]
    assert told(PERSONAL) == []
    assert told(other) == [
        "fct_visits: readers see paid, user_id masked now (in place)",
        "fct_visits: everybody who reads it sees page now (in place)",
    ]
    wider = replace(other, columns=(*other.columns, Column("mail", "VARCHAR", pii=True)))
    assert told(wider)[-1] == "fct_visits: readers see mail masked now (in place)"
    assert told(wider) == []
