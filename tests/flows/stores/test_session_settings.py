"""What somebody has set for people who use the database is nothing that a run has to work with."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from flows.stores.lake import Lake
from flows.stores.publish import publish
from flows.stores.warehouse import Warehouse
from tests.flows.stores.world import DAY, EVENTS, built, create, visits

_THEIRS = {
    "statement_timeout": "'71s'",
    "lock_timeout": "'71s'",
    "idle_in_transaction_session_timeout": "'71s'",
    "idle_session_timeout": "'71s'",
    "default_transaction_isolation": "'serializable'",
    "client_encoding": "'latin1'",
    "TimeZone": "'Asia/Tokyo'",
    "DateStyle": "'German, DMY'",
    "IntervalStyle": "'sql_standard'",
    "extra_float_digits": "-5",
    "bytea_output": "'escape'",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
    "search_path": "''",
}
_OURS = {
    **dict.fromkeys(("statement_timeout", "lock_timeout", "idle_session_timeout"), "0"),
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_isolation": "read committed",
    "client_encoding": "UTF8",
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "search_path": '"$user", public',
}
_ASKED = ", ".join(f"current_setting('{name}') AS {name.lower()}" for name in _THEIRS)


def _set_for_the_database(dsn: str, names: Iterable[str]) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name in names:
            statement = f"alter database {connection.info.dbname} set {name} = {_THEIRS[name]}"
            connection.execute(statement.encode())


def test_a_session_and_one_that_has_served_are_as_postgresql_makes_them(any_dsn: str) -> None:
    _set_for_the_database(any_dsn, _THEIRS)
    warehouse = Warehouse(any_dsn)
    served = set()
    for _ in range(2):
        with warehouse.connect() as connection:
            served.add(connection.info.backend_pid)
            found = connection.execute(f"SELECT {_ASKED}".encode()).fetchone()
            assert found is not None
            assert dict(zip(_THEIRS, found, strict=True)) == _OURS
    assert len(served) == 1


def test_so_are_those_that_copy_and_read_through_adbc(any_dsn: str) -> None:
    _set_for_the_database(any_dsn, _THEIRS)
    for address in (any_dsn, make_conninfo(any_dsn, options="-c work_mem=77MB")):
        with Warehouse(address).reading(f"SELECT {_ASKED}, current_setting('work_mem') AS work") as reader:
            (found,) = reader.read_all().to_pylist()
        assert {name: found[name.lower()] for name in _THEIRS} == _OURS
    assert found["work"] == "77MB"


def test_a_day_is_published_to_the_letter_whatever_they_are(any_dsn: str, lake: Lake) -> None:
    create(any_dsn, EVENTS)
    _set_for_the_database(any_dsn, _THEIRS)
    warehouse, page = Warehouse(any_dsn), "ż → ✓"
    for number in range(2):
        day = built(lake, EVENTS, DAY, visits(DAY, 10, mark=f"{page} {number}"), batch=f"b{number}")
        publish(EVENTS, [day], warehouse=warehouse, lake=lake)
    with psycopg.connect(any_dsn, client_encoding="UTF8") as connection:
        pages = connection.execute("SELECT page FROM analytics.fct_visits ORDER BY visit_id").fetchall()
    assert pages == [(f"page {page} 1{number % 7}",) for number in range(10)]


@pytest.mark.parametrize("name", ["statement_timeout", "idle_in_transaction_session_timeout"])
def test_what_the_address_says_of_time_counts(dsn: str, name: str) -> None:
    theirs = make_conninfo(dsn, options=f"-c {name}=77s")
    warehouse = Warehouse(theirs)
    for _ in range(2):
        with warehouse.connect() as connection:
            assert connection.execute(f"show {name}".encode()).fetchone() == ("77s",)
