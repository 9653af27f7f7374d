"""The DuckDB gate and Great Expectations give the same answer, to the row."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from quality import breaking_query, check, expectations, failing_rows
from transforms.contract import Rule, Table

from .conftest import Content, Row, counts, make_rule, make_table

ODD = [
    "it's",
    '"quoted"',
    "100%",
    "%s",
    ":name",
    "{batch}",
    "{}",
    "a\\b",
    "a\nb",
    "",
    "Ω≈ç",
    "--",
    "/*",
    "null",
]
# hypothesis adds the zone to naive bounds itself.
FIRST, LAST = datetime(2, 1, 1), datetime(9998, 12, 31)  # noqa: DTZ001
kinds = st.one_of(
    st.none(),
    st.sampled_from(ODD),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=4),
)
codes = st.one_of(st.none(), st.text(alphabet="AB-1\n ", max_size=4))
amounts = st.one_of(
    st.none(), st.decimals(min_value=-99999999, max_value=99999999, places=2),
    st.sampled_from([Decimal("0.01"), Decimal("0.00"), Decimal("-0.01"), Decimal("10.00"), Decimal("10.01")]),
)  # fmt: skip
scores = st.one_of(st.none(), st.floats(), st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 0.1]))
moments = st.one_of(
    st.none(),
    st.datetimes(FIRST, LAST, timezones=st.just(UTC)),
    st.just(datetime(2025, 10, 26, tzinfo=UTC)),
)
rows = st.lists(st.tuples(st.integers(-3, 8), kinds, codes, amounts, scores, moments), max_size=12)

FORMS: tuple[Rule, ...] = (
    make_rule("not_null", column="kind", name="kind_given"),
    make_rule("not_null", column="score", name="score_given"),
    make_rule("unique", columns=["id"], name="id_once"),
    make_rule("unique", columns=["kind", "code"], name="pair_once"),
    make_rule("unique", columns=["score"], name="score_once"),
    make_rule("unique", columns=["kind"], within_days=8, by="happened_at", name="kind_once_a_week"),
    make_rule("between", column="id", min=0, max=5, name="id_between"),
    make_rule("between", column="id", min=2**53 + 1, name="id_beyond_floats"),
    make_rule("between", column="amount", min=0, name="amount_not_negative"),
    make_rule("between", column="amount", min=0.01, max="10.00", name="amount_to_the_cent"),
    make_rule("between", column="score", min=0, name="score_not_negative"),
    make_rule("between", column="score", max=0.1, name="score_small"),
    make_rule("between", column="happened_at", min=datetime(2025, 1, 1, tzinfo=UTC), name="not_before"),
    make_rule("accepted_values", column="kind", values=ODD, name="kind_known"),
    make_rule("accepted_values", column="id", values=[1, 2, 3], name="id_known"),
    make_rule("matches", column="code", pattern="^[A-Z]{1,2}(-[0-9]+)?$", name="code_form"),
    make_rule("matches", column="code", pattern="A.B", name="dot_matches_line_break"),
    make_rule("matches", column="kind", pattern="['%:{]", name="odd_characters"),
    make_rule("matches", column="id", pattern="^-", name="number_as_text"),
    make_rule("references", column="kind", table="dim_kinds", to="kind", name="kind_exists"),
    make_rule(
        "sql",
        name="sql_with_everything",
        query="with odd as (\n"
        "    select kind from fct_things where kind in ('it''s', '100%', '{batch}', ':name', '%s')\n"
        ")\n"
        "select fct_things.id from fct_things join odd on odd.kind = fct_things.kind -- the end: {x} %s :y",
    ),
    make_rule("sql", name="sql_without_join", query="select id from fct_things where id < 0;"),
)  # fmt: skip
TABLE: Table = make_table(*FORMS)


ANY_ROWS = settings(
    max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
any_known = st.lists(st.sampled_from(ODD), unique=True, max_size=6)


def _count_the_same(content: Content, rows: list[Row], known: list[str]) -> None:
    content.fill(rows, known)
    references = {"dim_kinds": "dim_kinds"}
    in_duckdb = check(content.duck, TABLE, FORMS, content.relation, references)
    in_postgres = expectations.validate(content.dsn, TABLE, FORMS, [content.leaf])
    assert counts(in_duckdb) == counts(in_postgres)
    assert [result.passed for result in in_duckdb] == [result.passed for result in in_postgres]


def _find_the_same(content: Content, rows: list[Row], known: list[str]) -> None:
    numbered = [(at, *row[1:]) for at, row in enumerate(rows)]
    content.fill(numbered, known)
    counted = counts(check(content.duck, TABLE, FORMS, content.relation))
    for rule in FORMS:
        found = failing_rows(content.duck, TABLE, rule, content.relation).fetchall()
        assert len(found) == counted[rule.name]
        select = breaking_query(rule, TABLE, [content.leaf], {"dim_kinds": "analytics.dim_kinds"})
        in_postgres = content.postgres.execute(select.replace("%", "%%"), ()).fetchall()
        assert sorted(row[0] for row in found) == sorted(row[0] for row in in_postgres), rule.name


@ANY_ROWS
@given(rows=rows, known=any_known)
def test_both_compilations_count_the_same_failing_rows(
    content: Content, rows: list[Row], known: list[str]
) -> None:
    _count_the_same(content, rows, known)


@ANY_ROWS
@given(rows=rows, known=any_known)
def test_both_compilations_find_the_same_rows(content: Content, rows: list[Row], known: list[str]) -> None:
    _find_the_same(content, rows, known)


@pytest.mark.full
@settings(ANY_ROWS, max_examples=100)
@given(rows=rows, known=any_known)
def test_both_compilations_count_and_find_the_same_whatever_the_rows(
    content: Content, rows: list[Row], known: list[str]
) -> None:
    _count_the_same(content, rows, known)
    _find_the_same(content, rows, known)


def test_an_empty_table_breaks_no_rule(content: Content) -> None:
    content.fill([])
    assert set(counts(check(content.duck, TABLE, FORMS, content.relation)).values()) == {0}
    assert set(counts(expectations.validate(content.dsn, TABLE, FORMS, [content.leaf])).values()) == {0}


def test_nan_lies_between_nothing_and_null_breaks_only_not_null(content: Content) -> None:
    content.fill([(1, None, None, None, math.nan, None), (2, None, None, None, None, None)])
    for found in (
        counts(check(content.duck, TABLE, FORMS, content.relation)),
        counts(expectations.validate(content.dsn, TABLE, FORMS, [content.leaf])),
    ):
        assert found["score_not_negative"] == found["score_small"] == 1
        assert found["kind_given"] == 2
        assert found["kind_known"] == found["code_form"] == found["amount_not_negative"] == 0
        assert found["kind_exists"] == found["pair_once"] == 0


def test_a_cent_too_much_is_found_where_floats_would_miss_it(content: Content) -> None:
    rule = make_rule("between", column="amount", max="99999999.98")
    amounts = [Decimal("99999999.98"), Decimal("99999999.99")]
    content.fill([(at, None, None, amount, None, None) for at, amount in enumerate(amounts)])
    table = make_table(rule)
    assert counts(check(content.duck, table, [rule], content.relation)) == {"between": 1}
    assert counts(expectations.validate(content.dsn, table, [rule], [content.leaf])) == {"between": 1}


def test_copies_further_apart_than_a_rule_says_are_none(content: Content) -> None:
    """The days count, not the hours: windows are read whole."""
    rule = make_rule("unique", columns=["kind"], within_days=8, by="happened_at")
    moments = {
        "near": (datetime(2025, 10, 1, 0, tzinfo=UTC), datetime(2025, 10, 9, 23, 59, 59, tzinfo=UTC)),
        "far": (datetime(2025, 10, 1, 23, 59, 59, tzinfo=UTC), datetime(2025, 10, 10, 0, tzinfo=UTC)),
        "same": (datetime(2025, 10, 1, tzinfo=UTC), datetime(2025, 10, 1, tzinfo=UTC)),
        "third": (datetime(2025, 9, 1, tzinfo=UTC), *[datetime(2025, 10, day, tzinfo=UTC) for day in (1, 2)]),
    }
    told = [(kind, at) for kind, times in moments.items() for at in times]
    content.fill([(number, kind, None, None, None, at) for number, (kind, at) in enumerate(told)])
    table = make_table(rule)
    assert counts(check(content.duck, table, [rule], content.relation)) == {"unique": 6}
    assert counts(expectations.validate(content.dsn, table, [rule], [content.leaf])) == {"unique": 6}
    found = failing_rows(content.duck, table, rule, content.relation).project("kind, happened_at").fetchall()
    broken = {"near", "same", "third"}
    assert sorted(found) == sorted(
        (kind, at) for kind, at in told if kind in broken and at != moments["third"][0]
    )
