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
