"""Who sees what of personal data, on real PostgreSQL 18 and 15."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import psycopg
import pytest

from transforms import registry
from transforms.contract import Column, Layer, Table, Write
from warehouse_ddl.files import views
from warehouse_ddl.statements import ddl, home

USERS = registry.table("dim_users")
CARDS = Table(
    name="dim_cards",
    layer=Layer.DIMENSIONS,
    grain="one row per card",
    key=("card_id",),
    columns=(
        Column("card_id", "BIGINT", "Card", nullable=False),
        Column("holder", "VARCHAR", "Who holds it", pii=True, max_length=40),
        Column("pin", "INTEGER", "Its number", pii=True),
        Column("email", "VARCHAR", "Where its bills go", pii=True),
    ),
    write=Write.MERGE,
)


def run(connection: psycopg.Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        connection.execute(statement.encode())


@pytest.fixture
def filled(database: psycopg.Connection) -> Iterator[psycopg.Connection]:
    """Two people and a card of one of them."""
    run(database, [*ddl(USERS), *ddl(CARDS)])
    database.execute(
        "insert into personal.dim_users (user_id, email, name, country, is_deleted, is_inferred) values "
        "(1, 'ada@example.com', 'ada', 'GB', false, false), (2, 'bob@example.com', null, 'FR', false, false)"
    )
    database.execute("insert into personal.dim_cards values (7, 'Ada Lovelace', 1234, 'ada@example.com')")
    yield database
    database.execute("reset role")


def test_a_reader_sees_the_whole_table_with_personal_data_masked(filled: psycopg.Connection) -> None:
    filled.execute("set role reader")
    rows = filled.execute("table analytics.dim_users").fetchall()
    assert [(row[0], row[3]) for row in rows] == [(1, "GB"), (2, "FR")]
    assert all(str(row[1]).startswith("masked:") for row in rows)
    assert rows[1][2] is None  # nothing is masked where nothing is
    assert "ada" not in str(rows)
    assert "example" not in str(rows)


def test_a_pii_reader_sees_all_of_it_under_the_same_name(filled: psycopg.Connection) -> None:
    filled.execute("set role pii_reader")
    assert filled.execute("select email, name from analytics.dim_users where user_id = 1").fetchall() == [
        ("ada@example.com", "ada")
    ]
    assert filled.execute("table analytics.dim_cards").fetchall() == [
        (7, "Ada Lovelace", 1234, "ada@example.com")
    ]


def test_masks_join_and_count_as_what_they_stand_for(filled: psycopg.Connection) -> None:
    filled.execute("set role reader")
    joined = filled.execute(
        "select user_id, card_id from analytics.dim_users join analytics.dim_cards using (email)"
    ).fetchall()
    assert joined == [(1, 7)]
    assert filled.execute("select count(distinct email) from analytics.dim_users").fetchone() == (2,)


def test_what_is_no_text_is_masked_by_null(filled: psycopg.Connection) -> None:
    filled.execute("set role reader")
    assert filled.execute("select pin from analytics.dim_cards").fetchall() == [(None,)]


def test_a_reader_has_no_way_around_the_mask(filled: psycopg.Connection) -> None:
    filled.execute("revoke create on schema public from public")
    filled.execute("set role reader")
    for attempt in (
        "select email from personal.dim_users",
        "select * from personal.mask_key",
        "select * from personal.access",
        "select * from pg_statistic",
        "create function f(text) returns bool language sql as 'select true'",
        "create view analytics.mine as select 1",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            filled.execute(attempt.encode())
    # Neither statistics, nor errors, nor conditions are about anything but the mask.
    assert filled.execute("select from pg_stats where schemaname = 'personal'").fetchall() == []
    with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="masked:"):
        filled.execute("select 1 from analytics.dim_users where email::integer = 1")
    found = filled.execute("select 1 from analytics.dim_users where email = 'ada@example.com'")
    assert found.fetchall() == []


def test_two_warehouses_mask_differently(filled: psycopg.Connection) -> None:
    filled.execute("set role reader")
    before = filled.execute("select email from analytics.dim_users").fetchall()
    filled.execute("reset role")
    filled.execute("update personal.mask_key set key = 'another'")
    filled.execute("set role reader")
    assert filled.execute("select email from analytics.dim_users").fetchall() != before


def test_a_table_without_personal_data_is_a_table() -> None:
    plain = replace(CARDS, columns=tuple(replace(column, pii=False) for column in CARDS.columns))
    assert (home(plain), home(CARDS)) == ("analytics", "personal")
    assert not any("view" in statement for statement in ddl(plain))


def test_no_materialized_view_reads_personal_data() -> None:
    """It would hold what its owner sees, for everybody."""
    for view in views():
        for name in view.upstreams:
            assert not registry.table(name).personal, f"{view.name} reads {name}"
