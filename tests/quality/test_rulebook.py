"""Which rules a table has, and what a rule file must look like."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from quality import QualityError, all_rules, describe, hold_to_form, rulebook, rules, scheduled_rules
from quality.rulebook import RULES, read_rule
from quality.sql import bind, query_of, tables_in
from transforms import registry
from transforms.contract import Column, Layer, RuleKind, Table

from .conftest import make_rule, make_table

FILES = sorted(RULES.glob("*.sql"))


def names(table: Table) -> list[str]:
    return [rule.name for rule in rules(table)]


def test_a_key_implies_that_it_is_there_and_unique() -> None:
    assert names(make_table(key=("id", "happened_at"))) == [
        "not_null_id",
        "not_null_happened_at",
        "unique_id_happened_at",
        "published_in_time",
    ]


def test_a_claim_of_the_header_is_not_made_twice() -> None:
    header = (
        make_rule("not_null", "completeness", column="id", name="id_given"),
        make_rule("unique", "uniqueness", columns=["id"], name="id_once"),
    )
    assert names(make_table(*header)) == ["id_given", "id_once", "published_in_time"]


def test_a_narrower_unique_rule_makes_the_key_rule_needless() -> None:
    once = make_rule("unique", "uniqueness", columns=["id"], name="id_once")
    assert "unique_id_happened_at" not in names(make_table(once, key=("id", "happened_at")))


@pytest.mark.parametrize("name", ["stg_events__user_events", "fct_events"])
def test_an_appended_key_is_unique_as_far_as_copies_of_it_are_looked_for(name: str) -> None:
    (rule,) = [rule for rule in rules(registry.table(name)) if rule.check == "unique"]
    assert rule.arguments == {"columns": ["event_id"], "within_days": 8, "by": "event_time"}
    assert describe(rule) == "(event_id) is unique within 8 days"


def test_a_foreign_key_is_a_reference() -> None:
    table = Table(
        "fct_orders_like", Layer.FACTS, "one row", ("order_id",),
        (Column("order_id", "UUID"), Column("user_id", "BIGINT"), Column("order_date", "DATE")),
        foreign_keys={"user_id": "dim_users", "order_date": "dim_date.date"},
    )  # fmt: skip
    found = {rule.name: rule.arguments for rule in rules(table) if rule.check == "references"}
    assert found == {
        "references_user_id": {"column": "user_id", "table": "dim_users", "to": "user_id"},
        "references_order_date": {"column": "order_date", "table": "dim_date", "to": "date"},
    }


def test_a_daily_rule_is_not_run_with_every_run() -> None:
    events = make_table(name="fct_events")
    daily = {rule.name for rule in scheduled_rules(events)}
    assert daily == {"event_id_once_in_all_history"}
    assert not daily & set(names(events))
    assert {rule.name for rule in all_rules(events)} == daily | set(names(events))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_rule_file_is_in_its_form_and_rows_of_it_can_be_selected(path: Path) -> None:
    table, rule = read_rule(path)
    assert rule.arguments["description"]
    assert table in tables_in(query_of(rule))
    assert "float" not in path.read_text().lower(), "money and counts are compared exactly"


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("orders.sql", "/* ---\nkind: accuracy\ndescription: x\n--- */ select 1", "<table>__<claim>"),
        ("t__c.sql", "select * from t", "must begin with"),
        ("t__c.sql", "/* ---\nkind: accuracy\n--- */\nselect * from t", "must have kind and description"),
        ("t__c.sql", "/* ---\nkind: nice\ndescription: x\n--- */\nselect * from t", "kind 'nice'"),
        (
            "t__c.sql",
            "/* ---\nkind: accuracy\ndescription: x\nschedule: often\n--- */\nselect * from t",
            "schedule",
        ),
        ("t__c.sql", "/* ---\nkind: accuracy\nkind: x\ndescription: x\n--- */\nselect * from t", "twice"),
        ("t__c.sql", "/* ---\nkind: [accuracy\ndescription: x\n--- */\nselect * from t", "no YAML"),
        ("t__c.sql", "/* ---\nkind: accuracy\ndescription: x\n--- */\nselect * from u", "never reads t"),
        ("t__c.sql", "/* ---\nkind: accuracy\ndescription: x\n--- */\nselect (from t", "no single select"),
    ],
)  # fmt: skip
def test_a_rule_file_in_another_form_is_refused(tmp_path: Path, name: str, text: str, problem: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(QualityError, match=problem):
        read_rule(path)


ACCURATE = "/* ---\nkind: accuracy\ndescription: x\n--- */\n"


@pytest.mark.parametrize(
    ("name", "query", "sentence"),
    [
        ("fct_oders__x", "select * from fct_oders", "there is no model fct_oders, so no run would ask it."),
        ("fct_oders__x", "select * from fct_oders", "Did you mean fct_orders"),
        ("raw_app__orders__x", "select * from raw_app", "there is no model raw_app, so no run would ask it."),
        (
            "fct_orders__x",
            "select * from fct_orders join dim_usrs using (user_id)",
            "it reads dim_usrs, which is no table. Did you mean dim_users",
        ),
        ("fct_orders__x", "select (from fct_orders", "its body is no single select"),
    ],
)
def test_a_rule_file_that_no_run_could_ask_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, query: str, sentence: str
) -> None:
    monkeypatch.setattr(rulebook, "RULES", tmp_path)
    monkeypatch.setattr(rulebook, "_files", rulebook._files.__wrapped__)
    (tmp_path / f"{name}.sql").write_text(ACCURATE + query)
    with pytest.raises(QualityError, match=rf"^quality/rules/{name}\.sql: ") as refused:
        hold_to_form(registry.tables(), registry.default().models)
    assert sentence in str(refused.value)


def test_a_rule_file_may_read_what_the_source_counted_and_when_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rulebook, "RULES", tmp_path)
    monkeypatch.setattr(rulebook, "_files", rulebook._files.__wrapped__)
    query = "select 1 from fct_orders, control_total, arrivals, raw_app__orders"
    (tmp_path / "fct_orders__x.sql").write_text(ACCURATE + query)
    hold_to_form(registry.tables(), registry.default().models)


def run_file(name: str, **relations: str) -> list[tuple[object, ...]]:
    """The rows a rule file finds over relations given as SQL."""
    _, rule = read_rule(RULES / name)
    connection = duckdb.connect()
    given = {table: f"({select})" for table, select in relations.items()}
    return connection.execute(bind(query_of(rule), given)).fetchall()


ORDERS = """
select * from (values
    (date '2025-10-07', 'EUR', 10.00::decimal(10,2)),
    (date '2025-10-07', 'EUR', {0}),
    (date '2025-10-08', 'JPY', 1200.00)
) t(order_date, currency, revenue)
"""
TOTALS = """
select 'app.orders' as entity, date '2025-10-07' as day, 'eur ' as group_value,
    2 as row_count, 30.01::decimal(38,2) as amount
"""
EQUALS = "fct_orders__revenue_equals_application.sql"


def test_one_wrong_cent_breaks_revenue_equals_application() -> None:
    assert run_file(EQUALS, fct_orders=ORDERS.format("20.01"), control_total=TOTALS) == []
    (row,) = run_file(EQUALS, fct_orders=ORDERS.format("20.02"), control_total=TOTALS)
    assert str(row[-1]) == "30.02"


def test_a_day_that_vanished_breaks_revenue_equals_application() -> None:
    orders = ORDERS.format("20.01") + " where order_date <> date '2025-10-07'"
    assert len(run_file(EQUALS, fct_orders=orders, control_total=TOTALS)) == 1


@pytest.mark.parametrize(
    ("versions", "broken"),
    [
        ("(1, 1, 2, false), (1, 2, null, true)", 0),
        ("(1, 1, 2, false), (1, 3, null, true)", 1),
        ("(1, 1, 3, false), (1, 2, null, true)", 1),
        ("(1, 1, null, true), (1, 2, null, true)", 1),
        ("(1, 1, 1, false)", 1),
        ("(1, 1, 2, true), (1, 2, null, true)", 1),
        ("(1, 1, null, true), (2, 5, null, true)", 0),
    ],
)
def test_a_history_with_a_gap_or_an_overlap_is_found(versions: str, broken: int) -> None:
    select = f"select * from (values {versions}) t(user_id, valid_from, valid_to, is_current)"
    assert len(run_file("dim_users_history__no_gap_no_overlap.sql", dim_users_history=select)) == broken


def test_a_mart_that_disagrees_with_its_facts_is_found() -> None:
    facts = "select timestamptz '2025-10-07 23:59:59+00' as event_time, unnest([1, 1, null]) as user_id"
    mart = "select date '2025-10-07' as date, {0} as total_events, 1 as active_users"
    name = "mart_daily_metrics__agree_with_facts.sql"
    assert run_file(name, fct_events=facts, mart_daily_metrics=mart.format(3)) == []
    assert len(run_file(name, fct_events=facts, mart_daily_metrics=mart.format(2))) == 1


def test_every_kind_of_rule_is_one_of_the_five() -> None:
    assert {read_rule(path)[1].kind for path in FILES} <= set(RuleKind)
