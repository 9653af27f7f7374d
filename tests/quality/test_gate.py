"""The gate finds what is broken, names it, and says where."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

import quality
from flows.tries import may_pass
from quality import QualityError, arrivals, blocking, check, failing_rows, requires
from tests.flows.small_disk import small_disk
from transforms import engine
from transforms.contract import Rule, RuleKind

from .conftest import Content, Row, counts, make_rule, make_table

NOON = datetime(2025, 10, 7, 12, tzinfo=UTC)


def row(number: int, kind: str | None = "a", amount: str = "1.00", at: datetime = NOON) -> Row:
    return (number, kind, "A", Decimal(amount), 0.5, at)


def test_a_broken_row_is_counted_placed_and_named(content: Content) -> None:
    rule = make_rule("between", column="amount", min=0, name="amount_not_negative")
    content.fill([row(1), row(2, amount="-0.01"), row(3, amount="-5", at=NOON + timedelta(days=2))])
    (result,) = check(content.duck, make_table(rule), [rule], content.relation)
    assert (result.passed, result.failing_rows, result.kind) == (False, 2, RuleKind.ACCURACY)
    assert result.observed == {
        "failing_rows": 2,
        "rows": 3,
        "partitions": {"2025-10-07": 1, "2025-10-09": 1},
    }
    for part in ("fct_things", "amount_not_negative", "2 of 3 rows", "2025-10-09: 1", "at least 0"):
        assert part in result.message


def test_every_copy_of_a_duplicate_counts(content: Content) -> None:
    rule = make_rule("unique", "uniqueness", columns=["id"])
    content.fill([row(1), row(1), row(1), row(2)])
    (result,) = check(content.duck, make_table(rule), [rule], content.relation)
    assert result.failing_rows == 3


def test_a_warning_does_not_block_and_neither_does_lateness(content: Content) -> None:
    warning = quality.rules(make_table())[-1]
    assert warning.kind is RuleKind.TIMELINESS
    content.fill([row(1)])
    late = {"arrivals": arrivals([("fct_things", "2025-10-07", NOON, NOON + timedelta(minutes=61))])}
    results = check(content.duck, make_table(), [warning], content.relation, late)
    assert not results[0].passed
    assert results[0].is_failure
    assert blocking(results) == []
    in_time = {"arrivals": arrivals([("fct_things", "2025-10-07", NOON, NOON + timedelta(minutes=60))])}
    assert check(content.duck, make_table(), [warning], content.relation, in_time)[0].passed


def test_nothing_that_arrived_is_not_late(content: Content) -> None:
    rule = quality.rules(make_table())[-1]
    assert check(content.duck, make_table(), [rule], content.relation, {"arrivals": arrivals([])})[0].passed


def test_control_totals_of_other_days_do_not_count(content: Content) -> None:
    rule = make_rule(
        "sql",
        query="select day from control_total "
        "where day not in (select cast(happened_at as date) from fct_things)",
    )
    table = make_table(rule)
    content.fill([row(1)])
    days = [date(2025, 10, 7), date(2025, 10, 8)]
    content.duck.execute("create table totals as select unnest(?::date[]) as day", [days])
    references = {"control_total": "totals"}
    complete = check(content.duck, table, [rule], content.relation, references, partitions=["2025-10-07"])
    assert complete[0].passed
    missing = check(
        content.duck, table, [rule], content.relation, references, partitions=["2025-10-07", "2025-10-08"]
    )
    assert missing[0].failing_rows == 1


def test_a_rule_that_cannot_run_is_named_with_its_file(content: Content) -> None:
    content.fill([row(1)])
    broken = make_rule("references", column="kind", table="dim_absent", to="kind", name="kind_exists")
    sound = make_rule("not_null", column="id", name="id_given")
    with pytest.raises(QualityError, match=r"kind_exists.*fct_things\.sql.*dim_absent"):
        check(content.duck, make_table(), [sound, broken], content.relation)
    nonsense = make_rule("sql", name="nonsense", query="select nope from fct_things")
    with pytest.raises(QualityError, match="nonsense"):
        check(content.duck, make_table(), [nonsense], content.relation)


def test_a_pattern_that_the_engines_read_differently_is_refused(content: Content) -> None:
    for pattern in (r"\d+", r"\bword", "(?=x)", r"\\\w", "^[[:alpha:]]$", "[^a[:upper:]]", "[[=e=]]"):
        rule = make_rule("matches", column="code", pattern=pattern)
        with pytest.raises(QualityError, match="read differently"):
            check(content.duck, make_table(rule), [rule], content.relation)
    content.fill([row(1)])
    for pattern in (r"^\\d?|A\.?$", r"[:A]|\[[:b]", "[A]|[:b:]"):
        rule = make_rule("matches", column="code", pattern=pattern)
        assert check(content.duck, make_table(rule), [rule], content.relation)[0].passed


def test_a_class_by_name_means_other_letters_in_one_engine(content: Content) -> None:
    asked = "select 'é' {} '^[[:alpha:]]$'"
    assert content.postgres.execute(asked.format("~").encode()).fetchall() == [(True,)]
    assert content.duck.execute(asked.format("~")).fetchall() == [(False,)]


def test_what_a_rule_needs_is_known_before_it_runs() -> None:
    rules = [
        make_rule("references", column="kind", table="dim_kinds", to="kind"),
        make_rule(
            "sql", query="with one as (select * from control_total) select * from fct_things join one on true"
        ),
    ]
    assert requires(rules, "fct_things") == ("control_total", "dim_kinds")


def test_the_rows_that_broke_a_rule_can_be_kept(content: Content) -> None:
    content.fill([row(1), row(2, amount="-1"), row(3), row(3), row(4, kind="b")])
    query = "select id, 'x' as remark from fct_things where kind = 'b'"
    expected = [
        (make_rule("between", column="amount", min=0), [2]),
        (make_rule("unique", "uniqueness", columns=["id"]), [3, 3]),
        (make_rule("sql", query=query), [4]),
        (make_rule("not_null", column="kind"), []),
    ]
    for rule, ids in expected:
        kept = failing_rows(content.duck, make_table(), rule, content.relation)
        assert [line[0] for line in kept.fetchall()] == ids


def test_row_level_rules_judge_a_micro_batch(content: Content) -> None:
    table = make_table(make_rule("between", column="amount", min=0, name="amount_not_negative"))
    rules = [rule for rule in quality.rules(table) if rule.row_level]
    content.fill([row(1, amount="-1.00"), row(2)])
    assert counts(check(content.duck, table, rules, "(select * from things where id = 1)")) == {
        "amount_not_negative": 1,
        "not_null_id": 0,
    }


def test_a_row_that_breaks_two_rules_is_counted_once_beside_them(content: Content) -> None:
    rules = [
        make_rule("between", column="amount", min=0),
        make_rule("not_null", column="kind"),
        make_rule("unique", "uniqueness", columns=["id"]),
    ]
    content.fill([row(1), row(2, amount="-1"), row(3, kind=None, amount="-1"), row(4, kind=None), row(1)])
    results = check(content.duck, make_table(*rules), rules, content.relation)
    assert [result.failing_rows for result in results] == [2, 2, 2]
    assert [result.observed.get("broken_rows") for result in results] == [3, 3, None]


def test_a_rule_that_fails_over_a_value_is_named_and_the_value_is_not(content: Content) -> None:
    content.fill([row(1, kind="anna@example.com")])
    rule = make_rule("sql", query="select * from fct_things where kind::integer > 0", name="odd")
    with pytest.raises(QualityError, match=r"odd.*Could not convert string '…'") as caught:
        check(content.duck, make_table(rule), [rule], content.relation)
    assert "anna" not in "".join(traceback.format_exception(caught.value))


MANY = (
    "(select i as id, 'a' as kind, 'A' as code, 1::decimal(10, 2) as amount, 0.5 as score, "
    "timestamptz '2025-10-07 12:00:00+00' as happened_at from range(3000000) t(i))"
)
"""More than fits in a few megabytes, where a rule has to hold it together."""


@contextlib.contextmanager
def _short_of_memory(_folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with engine.connect("16MB", threads=1) as connection:
        connection.execute("set max_temp_directory_size = '0KiB'")
        yield connection


@contextlib.contextmanager
def _short_of_disk(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    spill = folder / "spill"
    with small_disk(spill, 1024), engine.connect("16MB", threads=1, temp_directory=spill) as connection:
        connection.execute("set max_temp_directory_size = '1GiB'")
        yield connection


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (make_rule("unique", "uniqueness", name="id_once", columns=["id"]), "its rules"),
        (
            make_rule(
                "sql", name="in_order", query="select id from fct_things group by id having count(*) > 1"
            ),
            "rule in_order",
        ),
    ],
    ids=["rules of one query", "a rule of its own"],
)
@pytest.mark.parametrize("short", [_short_of_memory, _short_of_disk], ids=["memory", "disk"])
def test_memory_or_disk_that_falls_short_is_no_wrong_rule_and_may_pass(
    tmp_path: Path, short: Any, rule: Rule, said: str
) -> None:
    given = make_rule("not_null", column="kind", name="kind_given")
    with short(tmp_path) as connection, pytest.raises(duckdb.OperationalError) as caught:
        check(connection, make_table(given, rule), [given, rule], MANY)
    assert may_pass(caught.value)
    assert str(caught.value).startswith(f"fct_things: {said} could not be checked in DuckDB")
    assert str(caught.value).endswith("then run again.")
    with engine.connect(threads=1) as connection:
        results = check(connection, make_table(given, rule), [given, rule], MANY)
    assert counts(results) == {"kind_given": 0, rule.name: 0}


def test_a_file_that_is_not_there_now_is_no_wrong_rule_and_may_pass(content: Content) -> None:
    rule = make_rule("not_null", column="kind", name="kind_given")
    away = "(select * from read_parquet('/nowhere/things.parquet'))"
    with pytest.raises(
        duckdb.IOException, match="fct_things: rule kind_given could not be checked"
    ) as caught:
        failing_rows(content.duck, make_table(rule), rule, away)
    assert may_pass(caught.value)
