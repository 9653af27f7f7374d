"""`python -m flows rebuild --as-of`: the warehouse of a past moment, from the lake alone."""

from __future__ import annotations

import re

import pytest

from flows import as_of_schemas
from flows.__main__ import main
from flows.moment import AsOfError, Moment
from flows.stores.warehouse import Warehouse
from tests import children
from tests.flows.company import Company, Place
from tests.flows.sandbox import truth


def _content(place: Place, schema: str) -> dict[str, str]:
    query = "select md5(string_agg(t.*::text, '|' order by t.*::text)) from {}.{} t"
    return {name: str(place.value(query.format(schema, name))) for name in truth.MEASURES}


@pytest.mark.full
def test_the_warehouse_of_yesterday_is_what_a_copy_taken_then_holds(company: Company) -> None:
    place = company.copy()
    then = place.value("select max(landed_at) from ops.ledger")
    before = _content(place, "analytics")
    company.advance(days=1)
    assert place.run().code == 0
    now = _content(place, "analytics")
    assert now != before

    done = place.run("rebuild", "--as-of", then.isoformat(), "--into", "past")

    assert done.code == 0, done.said
    assert "are in schema past" in done.out
    assert _content(place, "past") == before
    assert _content(place, "analytics") == now
    again = place.run("rebuild", "--as-of", then.isoformat(), "--into", "past", "fct_orders")
    assert again.code == 0, again.said
    assert place.rows("select tablename from pg_tables where schemaname = 'past'") == [("fct_orders",)]


def test_a_schema_that_is_somebody_elses_is_left_alone(company: Company) -> None:
    place = company.copy()
    place.rows("create schema mine")
    for schema in ("analytics", "ops", "public", "mine"):
        done = place.run("rebuild", "--as-of", "2025-10-01", "--into", schema, "dim_date")
        assert done.code == 2
        assert f"Schema {schema} is not one that a rebuild made" in done.err


def test_a_moment_before_or_behind_all_that_was_landed_is_refused_and_leaves_nothing(
    company: Company,
) -> None:
    place = company.copy()
    for moment, why in (
        ("2001-01-01", r"The lake holds nothing as old as 2001-01-01: its first row was landed at 20\d\d-"),
        ("0/1", "The lake holds no change as old as LSN 0/1: those it holds "),
        ("2101-01-01", r"2101-01-01 is not over yet: it is 20\d\d-"),
        ("FFFF/1", r"The lake reaches to 0/[0-9A-F]+ in the application's log, and FFFF/1 lies behind that"),
    ):
        done = place.run("rebuild", "--as-of", moment, "--into", "past", "dim_date")
        assert done.code == 2
        assert re.search(why, done.err), done.err
    assert place.rows("select 1 from pg_namespace where nspname like 'past%'") == []


def test_what_a_killed_rebuild_has_left_goes_with_the_next_and_with_the_upkeep(company: Company) -> None:
    place = company.copy()
    then = place.value("select max(landed_at) from ops.ledger")
    words = ["rebuild", "--as-of", then.isoformat(), "--into", "past", "dim_date"]
    standing = "select nspname from pg_namespace where nspname like 'past%' order by 1"
    for again in (words, ["maintain"]):
        assert children.dies("as_of.stood_up", main, words, environment=place.environment)
        assert [name for (name,) in place.rows(standing) if name != "past"]
        done = place.run(*again)
        assert done.code == 0, done.said
        assert place.rows(standing) == [("past",)]
    with (
        Warehouse(place.warehouse_dsn).connect() as connection,
        as_of_schemas.making(connection, "past") as name,
    ):
        assert place.run("maintain").code == 0
        assert place.rows(standing) == [("past",), (name,)], "one that is under way is left alone"


@pytest.mark.parametrize("text", ["yesterday", "", "16/", "2025-13-01"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(AsOfError, match="is no moment"):
        Moment.parse(text)


def test_a_rebuild_without_tables_or_a_moment_says_what_it_needs(company: Company) -> None:
    done = company.copy().run("rebuild")
    assert done.code == 2
    assert "needs the names of the tables" in done.err
