"""What an operator is told: one message for one trouble, from its beginning to its end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import pytest

from flows import lineage
from flows.alerting import causes
from flows.alerting.causes import below, served
from flows.alerts import send_alert
from flows.monitoring.verdict import State, Verdict
from tests.flows.alerting.conftest import Watch
from transforms.contract import ContractError
from transforms.registry import entities, tables, upstream

ORDERS = "raw_app__orders"
LATE = "data_freshness"


def failed_source(watch: Watch, *raw: str, state: State = State.CRITICAL, **more: Any) -> Verdict:
    """What a run says that could not read these."""
    return watch.verdict(
        "pipeline_failed", "flow:analytics_pipeline", state, observed={"tables": sorted(raw)}, **more
    )


def test_a_failed_source_is_one_message_that_names_the_twelve_tables_behind_it(watch: Watch) -> None:
    raw = {entity.table for entity in entities() if entity.source == "app"}
    behind = [name for name in tables() if raw & set(upstream(name))][-12:]
    assert len(behind) == 12
    source = failed_source(watch, *raw)
    late = [watch.verdict(LATE, name) for name in behind]
    (message,) = watch.minute(*late, source)
    assert message["severity"] == "critical"
    assert message["title"].startswith("CRITICAL: flow:analytics_pipeline")
    assert "12 more" in message["body"]
    for name in behind:
        assert name in message["body"]
    assert "Runbook:  docs/runbook.md#pipeline_failed" in message["body"]
    assert "To do:    Look." in message["body"]
    assert watch.minute(*late, source) == []
    assert watch.rows("select cause, jsonb_array_length(members) from ops.incident") == [
        ("pipeline_failed:flow:analytics_pipeline", 12)
    ]


def test_what_it_touches_are_the_tables_and_views_that_people_read(watch: Watch) -> None:
    (message,) = watch.minute(failed_source(watch, ORDERS))
    touched = served(below(ORDERS))
    assert {"fct_orders", "mart_daily_revenue", "mv_daily_revenue"} <= set(touched)
    assert f"Touches:  {', '.join(touched)}" in message["body"]


def test_what_lasts_is_escalated_once_and_what_is_over_is_resolved_once(watch: Watch) -> None:
    bad = [watch.verdict(LATE, "fct_orders")]
    assert [m["kind"] for m in watch.minute(*bad)] == ["opened"]
    assert watch.minute(*bad) == []
    watch.later(minutes=27)
    assert watch.minute(*bad) == []
    (message,) = watch.minute(*bad)
    assert message["title"].startswith("STILL CRITICAL after 30 min: fct_orders")
    watch.later(minutes=58)
    assert watch.minute(*bad) == []
    good = [watch.verdict(LATE, "fct_orders", State.OK)]
    (message,) = watch.minute(*good)
    assert message["kind"] == "resolved"
    assert message["title"].startswith("RESOLVED after 1 h 30 min: fct_orders")
    assert watch.minute(*good) == []


def test_what_is_acknowledged_is_not_escalated(watch: Watch) -> None:
    bad = [watch.verdict(LATE, "fct_orders")]
    watch.minute(*bad)
    watch.rows("update ops.incident set acknowledged_at = now(), acknowledged_by = 'eve' returning 1")
    watch.later(hours=5)
    assert watch.minute(*bad) == []


def test_a_warning_that_becomes_critical_is_told_again(watch: Watch) -> None:
    watch.minute(watch.verdict(LATE, "fct_orders", State.WARNING))
    (message,) = watch.minute(watch.verdict(LATE, "fct_orders"))
    assert (message["kind"], message["severity"]) == ("escalated", "critical")
    assert message["title"].startswith("NOW CRITICAL")
    assert watch.minute(watch.verdict(LATE, "fct_orders", State.WARNING)) == []


def test_tables_that_are_late_after_their_source_is_back_are_no_new_incidents(watch: Watch) -> None:
    late = [watch.verdict(LATE, name) for name in ("fct_orders", "mart_daily_revenue")]
    watch.minute(failed_source(watch, ORDERS), *late)
    back = failed_source(watch, ORDERS, state=State.OK)
    assert watch.minute(back, *late) == []
    later_late = watch.verdict(LATE, "mart_plan_revenue")
    assert watch.minute(back, *late, later_late) == []
    fine = [watch.verdict(LATE, one.subject, State.OK) for one in (*late, later_late)]
    (message,) = watch.minute(back, *fine)
    assert message["kind"] == "resolved"


def test_a_cause_that_is_found_later_takes_in_what_was_told_before(watch: Watch) -> None:
    late = watch.verdict(LATE, "fct_orders")
    watch.minute(late)
    source = failed_source(watch, ORDERS)
    (message,) = watch.minute(late, source)
    assert message["title"].startswith("CRITICAL: flow:analytics_pipeline")
    assert "why what was told before" in message["body"]
    assert watch.rows("select signal from ops.incident where resolved_at is null") == [("pipeline_failed",)]
    (over,) = watch.minute(
        failed_source(watch, ORDERS, state=State.OK), watch.verdict(LATE, "fct_orders", State.OK)
    )
    assert over["kind"] == "resolved"


def test_troubles_that_have_nothing_to_do_with_each_other_are_told_apart(watch: Watch) -> None:
    told = watch.minute(
        watch.verdict(LATE, "fct_emails"),
        watch.verdict("null_rate", "fct_orders.user_id", State.WARNING),
        watch.verdict("dead_letters", "source:raw_events__clicks", State.WARNING),
    )
    assert sorted(message["severity"] for message in told) == ["critical", "warning", "warning"]


def test_a_column_of_a_source_that_stands_in_two_tables_is_one_message(watch: Watch) -> None:
    """The history is what other tables are made of; neither is made of the other."""
    nulls = [
        watch.verdict("null_rate", f"{table}.plan", State.WARNING)
        for table in ("dim_users", "dim_users_history")
    ]
    moved = watch.verdict("distribution_drift", "dim_users.plan", State.WARNING)
    (message,) = watch.minute(*nulls, moved)
    assert message["title"].startswith("WARNING: dim_users_history.plan")
    assert (
        "With it:  2 more: dim_users.plan (null_rate); dim_users.plan (distribution_drift)" in message["body"]
    )
    assert "Touches:  dim_users_history, mart_plan_revenue" in message["body"]
    assert watch.minute(*nulls, moved) == []


def test_a_model_whose_lineage_cannot_be_read_keeps_no_trouble_from_being_told(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    unread = mock.Mock(side_effect=ContractError("marts/mart_x.sql: its column lineage can't be read"))
    monkeypatch.setattr(lineage, "graph", unread)
    monkeypatch.setattr(causes, "_source_columns", causes._source_columns.__wrapped__)
    told = watch.minute(
        watch.verdict("null_rate", "dim_users.plan", State.WARNING),
        watch.verdict("null_rate", "fct_emails.user_id", State.WARNING),
    )
    assert unread.called
    assert len(told) == 2


def test_columns_of_different_columns_of_a_source_are_told_apart(watch: Watch) -> None:
    told = watch.minute(
        watch.verdict("null_rate", "dim_users.country", State.WARNING),
        watch.verdict("null_rate", "dim_users.plan", State.WARNING),
        watch.verdict("null_rate", "dim_users_history.marketing_opt_in", State.WARNING),
    )
    assert len(told) == 3


@pytest.mark.parametrize("is_measured_first", [True, False])
@pytest.mark.parametrize(
    ("work", "missing"),
    [
        ("drill", ("pipeline_failed", "flow:drill")),
        ("drill", ("missing_run", "deployment:drill")),
        ("backup", ("pipeline_failed", "flow:backup")),
        ("backup", ("missing_run", "deployment:backup")),
    ],
)
def test_a_backup_or_drill_that_was_not_to_be_is_one_message_whichever_shows_it_first(
    watch: Watch, work: str, missing: tuple[str, str], is_measured_first: bool
) -> None:
    why, shown = watch.verdict(*missing), watch.verdict(work, "warehouse")
    first, other = (shown, why) if is_measured_first else (why, shown)
    assert [one["kind"] for one in watch.minute(first)] == ["opened"]
    assert watch.minute(first, other) == []
    assert watch.open() == [first.subject]
    over = [watch.verdict(one.signal, one.subject, State.OK) for one in (first, other)]
    assert watch.minute(over[0], other) == []
    (end,) = watch.minute(*over)
    assert end["kind"] == "resolved"


def test_a_drill_that_failed_and_did_not_start_again_does_not_hide_that_a_backup_is_missing(
    watch: Watch,
) -> None:
    drill = [
        watch.verdict("missing_run", "deployment:drill"),
        watch.verdict("pipeline_failed", "flow:drill"),
        watch.verdict("drill", "warehouse"),
    ]
    (message,) = watch.minute(*drill)
    assert message["title"].startswith("CRITICAL: deployment:drill")
    (other,) = watch.minute(*drill, watch.verdict("backup", "warehouse"))
    assert other["title"].startswith("CRITICAL: warehouse: backup")


def test_dead_letters_do_not_hide_that_a_table_is_late(watch: Watch) -> None:
    letters = watch.verdict("dead_letters", "source:raw_events__clicks", State.WARNING)
    watch.minute(letters)
    (message,) = watch.minute(letters, watch.verdict(LATE, "fct_events"))
    assert message["title"].startswith("CRITICAL: fct_events")


def test_what_could_not_be_measured_is_a_warning_once_it_lasts(watch: Watch) -> None:
    unknown = watch.verdict("row_count", "fct_events", State.UNKNOWN)
    assert watch.minute(unknown) == []
    watch.later(minutes=7)
    assert watch.minute(unknown) == []
    assert len(watch.minute(unknown)) == 1
    assert watch.minute(unknown) == []
    assert watch.messages()[0]["severity"] == "warning"


def test_a_subject_that_is_gone_is_resolved_but_not_after_one_minute_without_it(watch: Watch) -> None:
    other = watch.verdict(LATE, "fct_emails", State.OK)
    watch.minute(watch.verdict(LATE, "fct_orders"), other)
    assert watch.minute(other) == []
    watch.later(minutes=2)
    assert watch.minute(other) == []
    assert [message["kind"] for _ in range(2) for message in watch.minute(other)] == ["resolved"]


def test_a_minute_in_which_a_signal_says_nothing_resolves_nothing(watch: Watch) -> None:
    watch.minute(watch.verdict(LATE, "fct_orders"))
    watch.later(minutes=20)
    assert watch.minute() == []


def test_a_signal_that_could_not_be_measured_whole_resolves_nothing(watch: Watch) -> None:
    watch.minute(watch.verdict(LATE, "fct_orders", State.WARNING))
    for _ in range(2):
        watch.later(minutes=4)
        assert watch.minute(watch.verdict(LATE, "everything", State.UNKNOWN)) == []


def test_late_data_does_not_hide_odd_values(watch: Watch) -> None:
    late = watch.verdict(LATE, f"source:{ORDERS}", State.WARNING)
    few = watch.verdict("row_count", "fct_orders", State.WARNING)
    nulls = watch.verdict("null_rate", "fct_orders.user_id", State.WARNING)
    drift = watch.verdict("distribution_drift", "fct_orders.user_id", State.WARNING)
    told = watch.minute(late, few, nulls, drift)
    assert [message["title"].split(":")[1].strip() for message in told] == ["source", "fct_orders.user_id"]


def test_what_comes_and_goes_is_not_told_each_time(watch: Watch) -> None:
    bad = [watch.verdict(LATE, "fct_orders", State.WARNING)]
    good = [watch.verdict(LATE, "fct_orders", State.OK)]
    kinds = [m["kind"] for _ in range(3) for verdicts in (bad, good) for m in watch.minute(*verdicts)]
    assert kinds == ["opened", "resolved", "opened"]
    assert "there again" in watch.messages()[-1]["body"]
    watch.later(minutes=13)
    assert [m["kind"] for _ in range(3) for m in watch.minute(*good)] == ["resolved"]


def test_two_monitors_at_the_same_moment_tell_it_once(watch: Watch) -> None:
    verdicts = [watch.verdict(LATE, "fct_orders"), failed_source(watch, ORDERS)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: send_alert(watch.services(), verdicts), range(4)))
    assert len(watch.messages()) == 1
    assert watch.rows("select count(*) from ops.incident") == [(1,)]


def test_what_one_incident_burns_of_a_budget_is_told_by_it_what_several_burn_is_told_once(
    watch: Watch,
) -> None:
    late = watch.verdict(LATE, "fct_orders")
    assert len(watch.minute(late)) == 1
    assert watch.minute(late) == []
    other = watch.verdict(LATE, "fct_emails")
    assert len(watch.minute(late, other)) == 1
    (burn,) = watch.minute(late, other)
    assert burn["title"].startswith("CRITICAL: uptime: its error budget of 30 days burns")
    assert "docs/runbook.md#sla_burn" in burn["body"]
    assert watch.minute(late, other) == []


def test_the_title_is_the_first_sentence_the_rest_is_below(watch: Watch) -> None:
    (message,) = watch.minute(
        watch.verdict(LATE, "fct_orders", message="It is late by 1.5 h. Somebody waits.")
    )
    assert message["title"] == "CRITICAL: It is late by 1.5 h"
    assert "What:     It is late by 1.5 h. Somebody waits." in message["body"]


def test_secrets_of_services_are_in_no_message(watch: Watch) -> None:
    words = (
        "password=app-secret-word postgresql://app:app-secret-word@127.0.0.1:1/app hunter2://u:pass-word@h"
    )
    (message,) = watch.minute(failed_source(watch, ORDERS, message=f"It said {words}"))
    assert "app-secret-word" not in str(message)
    assert "pass-word@" not in str(message)
    assert "app-secret-word" not in str(watch.rows("select * from ops.incident"))
