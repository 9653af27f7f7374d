"""`python -m flows lineage` as people type it."""

from __future__ import annotations

import json

import pytest

from flows.__main__ import main


def test_the_way_up_is_a_tree_down_to_the_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lineage", "fct_orders.revenue", "--up"]) == 0
    first, *tree, rows = capsys.readouterr().out.splitlines()
    assert first.startswith("fct_orders.revenue  DECIMAL(10,2)  What the customer pays")
    assert tree == [
        "└─ stg_app__orders.total_amount  rename",
        "   └─ raw_app__orders.total_amount  pass",
        "      └─ app.orders.total_amount  pass",
    ]
    assert rows == "which rows stg_app__orders has: filter raw_app__orders._landed_at, _op, _seq, id"


def test_the_way_down_says_what_a_change_touches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lineage", "mart_daily_revenue.revenue", "--down"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "├─ mv_daily_revenue.revenue  pass",
        "│  └─ dashboard.revenue_chart.revenue  expression",
        "└─ mv_daily_revenue.revenue_per_order  expression",
        "a change touches 3 columns of 1 view, 1 chart: dashboard.revenue_chart",
    ]


def test_a_table_alone_is_followed_as_a_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lineage", "analytics.mart_email_engagement", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [(step["from"], step["to"]) for step in said["up"]] == [
        ("stg_sendgrid__stats", "mart_email_engagement"),
        ("raw_sendgrid__stats", "stg_sendgrid__stats"),
        ("sendgrid.stats", "raw_sendgrid__stats"),
    ]
    assert [step["to"] for step in said["down"]] == ["dashboard.email_engagement"]


def test_programs_are_told_what_chooses_rows_of_a_column_on_the_way_up_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = {}
    for words in (["fct_emails.status", "--up"], ["fct_emails.status", "--down"], ["fct_emails"]):
        assert main(["lineage", *words, "--json"]) == 0
        told[tuple(words)] = json.loads(capsys.readouterr().out)
    up, down, whole = told.values()
    assert {(step["from"], step["to"], step["kind"]) for step in up["rows_by"]} >= {
        ("stg_app__users.email", "fct_emails.*", "filter"),
        ("stg_sendgrid__messages.to_email", "fct_emails.*", "join"),
    }
    assert set(down) == {"name", "kind", "down"}
    assert set(whole) == {"name", "kind", "up", "down"}


def test_rows_are_followed_by_their_tables_and_what_was_shown_is_not_shown_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["lineage", "mart_daily_metrics.total_events", "--up"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:5] == [
        "└─ rows of fct_events  aggregate",
        "   ├─ rows of stg_events__clicks",
        "   │  ├─ rows of raw_events__clicks",
        "   │  │  └─ rows of events.clicks",
    ]
    assert lines[-1] == "which rows mart_daily_metrics has: group fct_events.event_time"
    assert main(["lineage", "mart_user_activity.sessions", "--up"]) == 0
    said = capsys.readouterr().out
    assert said.count(" events.clicks.value  pass") == 1
    tree = [line for line in said.splitlines() if "raw_events__clicks.value  e" in line]
    assert tree == [
        "│  │  └─ raw_events__clicks.value  expression",
        "   │  └─ raw_events__clicks.value  expression  see above",
    ]


def test_a_table_alone_says_nothing_of_rows_and_counts_whole_tables(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["lineage", "mart_email_engagement"]) == 0
    up, down = capsys.readouterr().out.split("\n\n")
    assert "which rows" not in up
    assert down.splitlines()[-1] == "a change touches 1 chart: dashboard.email_engagement"


def test_a_column_that_only_joins_touches_rows_and_no_column(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lineage", "dim_currencies.currency", "--down"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "└─ rows of mart_revenue_reconciliation  join",
        "   └─ rows of dashboard.revenue_chart",
        "a change touches 1 table, 1 chart: dashboard.revenue_chart",
    ]


def test_where_nothing_leads_on_it_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    for name, answer in {
        "app.orders.id": "the source has it",
        "raw_app__orders._seq": "landing adds it",
        "user_event_counts.revision": "a constant, or made by the model",
    }.items():
        assert main(["lineage", name, "--up"]) == 0
        assert capsys.readouterr().out.splitlines()[1] == f"└─ here it begins: {answer}"


def test_an_unknown_name_is_one_sentence_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lineage", "fct_orders.revenu"]) == 2
    assert capsys.readouterr().err == "fct_orders has no column revenu. Did you mean revenue?\n"
