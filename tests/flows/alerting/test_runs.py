"""How runs end is told: failed at once, completed as news, made good by the next; and the command line."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from collections.abc import Sequence
from unittest import mock

import pytest

from flows import services
from flows.alerting.ending import CannotEnd
from flows.alerting.made_good import note_completed, people
from flows.alerts import (
    NoIncident,
    ack_command,
    daily_summary,
    end_command,
    list_command,
    report_flow_run,
    run_ended,
)
from flows.monitoring.health import check_pipeline_health, record
from flows.monitoring.verdict import State
from flows.prepare import note_run
from flows.summary import Summary
from tests.flows.alerting.conftest import Watch

FAILURE = "raw_stripe__charges: Stripe answers 500"


def _run(
    watch: Watch, name: str, *failures: str, flow: str = "analytics_pipeline", **more: Sequence[str]
) -> Summary:
    """A run of a minute that ends with these failures."""
    summary = Summary(
        name, flow, landed={"raw_app__orders": 7}, **{key: [*said] for key, said in more.items()}
    )
    note_run(watch.services(), summary, "Running")
    watch.later(minutes=1)
    summary.failures += failures
    note_run(watch.services(), summary, "Failed" if failures else "Completed")
    run_ended(watch.services(), summary)
    return summary


def _open(watch: Watch) -> list[str]:
    return [
        subject
        for (subject,) in watch.rows(
            "select subject from ops.incident where resolved_at is null order by subject"
        )
    ]


def _end(watch: Watch, subject: str) -> None:
    """Somebody ends the open incident of a subject, by the beginning of its id."""
    ((incident,),) = watch.rows(
        "select incident_id from ops.incident where resolved_at is null and subject = %s", subject
    )
    with mock.patch.object(services, "open_services", watch.services):
        end_command(Namespace(incident=incident[:6], by="eve"))


def test_a_failed_run_is_critical_told_once_and_resolved_by_the_next(watch: Watch) -> None:
    _run(watch, "one", FAILURE)
    (message,) = watch.messages()
    assert message["title"] == f"CRITICAL: analytics_pipeline failed: {FAILURE}"
    assert "docs/runbook.md#pipeline_failed" in message["body"]
    assert "fct_payments" in message["body"]
    assert watch.minute() == []
    _run(watch, "two", FAILURE)
    assert len(watch.messages()) == 1
    _run(watch, "three")
    assert [one["kind"] for one in watch.messages()[1:]] == ["info", "resolved"]


def test_a_run_that_fails_by_a_source_that_has_changed_is_part_of_that_incident(watch: Watch) -> None:
    watch.minute(watch.verdict("schema_drift", "source:raw_stripe__charges"))
    _run(watch, "one", FAILURE)
    assert len(watch.messages()) == 1
    assert watch.rows("select members -> 0 ->> 'signal' from ops.incident") == [("pipeline_failed",)]


def test_a_run_that_finds_a_column_gone_is_one_message_about_the_source(watch: Watch) -> None:
    """Nobody has looked between the landing that found it and the run's end."""
    watch.rows(
        "insert into ops.schema_change values ('one', 'raw_app__orders', 'quantity', 'dropped', "
        "'{bigint}', '{}', 'freeze', null, null, %s) returning 1",
        watch.now,
    )
    _run(watch, "one", "raw_app__orders: quantity is gone at the source")
    (message,) = watch.messages()
    assert message["title"].startswith("CRITICAL: The source has columns of raw_app__orders otherwise")
    assert "flow:analytics_pipeline (pipeline_failed)" in message["body"]
    assert watch.minute(*check_pipeline_health(watch.services(), ("schema_drift",))) == []
    _run(watch, "two")
    found = watch.minute(*check_pipeline_health(watch.services(), ("schema_drift",)))
    assert [one["kind"] for one in found] == ["resolved"]
    assert watch.rows("select count(*) from ops.incident") == [(1,)]


def test_two_flows_that_fail_by_one_dead_api_are_one_message(watch: Watch) -> None:
    _run(watch, "one", FAILURE, flow="api_ingest")
    _run(watch, "two", FAILURE)
    _run(watch, "three", FAILURE, flow="api_ingest")
    (message,) = watch.messages()
    assert message["title"] == f"CRITICAL: api_ingest failed: {FAILURE}"
    watch.later(minutes=40)
    (escalated,) = watch.minute()
    assert "With it:  1 more: flow:analytics_pipeline (pipeline_failed)" in escalated["body"]
    _run(watch, "four", flow="api_ingest")
    _run(watch, "five")
    assert [one["kind"] for one in watch.messages()[2:]] == ["info", "resolved", "info"]


def test_a_failed_backfill_is_made_good_by_an_ordinary_run(watch: Watch) -> None:
    _run(watch, "one", "fct_orders: refused", flow="backfill")
    _run(watch, "two")
    assert _open(watch) == []


def test_a_run_of_some_tables_makes_good_what_failed_of_these_alone(watch: Watch) -> None:
    _run(watch, "one", "fct_orders: refused", "fct_payments: refused")
    _run(watch, "two", selected=["fct_orders"])
    watch.minute()
    assert _open(watch) == ["flow:analytics_pipeline"]
    _run(watch, "three", selected=["fct_payments"])
    assert _open(watch) == []


def test_a_run_that_broke_off_is_made_good_once_all_is_landed_and_built_since(watch: Watch) -> None:
    _run(watch, "one", "the machine has no memory left")
    _run(watch, "two", flow="backfill")
    assert _open(watch) == ["flow:analytics_pipeline"]
    # It lands every source.
    _run(watch, "three", selected=["fct_orders"])
    assert _open(watch) == []


def test_what_a_failed_batch_lacked_is_made_good_by_the_hourly_run_that_lands_and_builds_it(
    watch: Watch,
) -> None:
    skipped = ["fct_payments, mart_revenue_reconciliation: they need raw_stripe__charges, which failed"]
    _run(watch, "one", FAILURE, skipped=skipped)
    _run(watch, "two", "raw_sendgrid__bounces: SendGrid answers 500", flow="api_ingest")
    assert _open(watch) == ["flow:api_ingest"]
    _run(watch, "three", "raw_app__orders: refused")
    # It landed SendGrid, and has its own trouble.
    assert _open(watch) == ["flow:analytics_pipeline"]
    _run(watch, "four", flow="api_ingest")
    assert _open(watch) == ["flow:analytics_pipeline"]


def test_what_is_of_no_table_is_made_good_by_its_own_flow_for_the_same_alone(watch: Watch) -> None:
    for flow in ("erase", "drill", "maintain", "weekly_report"):
        given = {"users": [7, 8]} if flow == "erase" else {}
        report_flow_run(watch.services(), flow, flow, "Crashed", "The machine went away.", given)
    _run(watch, "batch")
    watch.later(days=40)
    _run(watch, "next batch")
    # The others come by themselves and are missed; who waits to be erased is not.
    assert "flow:erase" in _open(watch)
    note_completed(watch.services(), "erase", people([7]))
    watch.minute()
    assert "flow:erase" in _open(watch)
    note_completed(watch.services(), "erase", people([8, 9]))
    watch.minute()
    assert "flow:erase" not in _open(watch)


def test_a_failed_upkeep_is_made_good_by_the_next(watch: Watch) -> None:
    report_flow_run(watch.services(), "one", "maintain", "Failed", "No room.")
    watch.later(days=1)
    _run(watch, "batch")
    assert _open(watch) == ["flow:maintain"]
    watch.later(minutes=1)
    note_completed(watch.services(), "maintain")
    watch.minute()
    assert _open(watch) == []


def test_a_failed_look_is_made_good_by_the_next_that_measured(watch: Watch) -> None:
    report_flow_run(watch.services(), "one", "monitor", "TimedOut", "It took longer than 50 s.")
    assert _open(watch) == ["flow:monitor"]
    watch.later(minutes=1)
    seen = watch.verdict("disk", "lake", State.OK)
    with watch.services().warehouse.connect() as connection:
        record(connection, [seen], watch.now)
    watch.minute(seen)
    assert _open(watch) == []


def test_a_run_that_does_not_start_is_a_warning_after_ten_minutes_and_over_when_it_does(
    watch: Watch,
) -> None:
    report_flow_run(watch.services(), "one", "analytics_pipeline", "Late", "")
    watch.later(minutes=8)
    assert watch.minute() == []
    (message,) = watch.minute()
    assert message["title"] == "WARNING: A run of analytics_pipeline should have started and has not"
    note_run(watch.services(), Summary("one", "analytics_pipeline"), "Running")
    assert [one["kind"] for one in watch.minute()] == ["resolved"]


def test_a_crash_that_prefect_reports_does_not_overwrite_what_a_run_told_itself(watch: Watch) -> None:
    _run(watch, "one", FAILURE)
    report_flow_run(watch.services(), "one", "analytics_pipeline", "Crashed", "gone")
    assert watch.rows("select state from ops.run") == [("Failed",)]
    report_flow_run(watch.services(), "two", "maintain", "Crashed", "The machine went away.")
    assert watch.messages()[-1]["title"] == "CRITICAL: maintain failed: The machine went away"


def test_a_run_that_completes_is_news(watch: Watch) -> None:
    _run(watch, "one")
    (message,) = watch.messages()
    assert message["severity"] == "info"
    assert message["title"].startswith("INFO: analytics_pipeline completed: 7 rows landed")


def test_what_is_wrong_with_telling_never_fails_a_run(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    watch.write("routes: 7")
    with caplog.at_level(logging.WARNING, "flows.alerts"):
        _run(watch, "one", FAILURE)
    assert "routes must be a list" in caplog.text
    # No folder can be made where a file is.
    (watch.log.parent / "taken").touch()
    watch.write(f"channels: {{log: 'file://{watch.log.parent}/taken/log'}}\nroutes: [{{channels: [log]}}]\n")
    _run(watch, "two", FAILURE)
    assert watch.rows("select problem <> '' from ops.notification where kind = 'opened'") == [(True,)]
    watch.write(f"channels: {{log: 'file://{watch.log}'}}\nroutes: [{{channels: [log]}}]\n")
    watch.later(minutes=1)
    assert [one["kind"] for one in watch.measured([])] == ["opened"]


def test_the_daily_summary_counts_runs_and_names_what_is_open(watch: Watch) -> None:
    _run(watch, "one", FAILURE)
    text = daily_summary(watch.services())
    assert text.startswith("INFO: the last 24 hours: 1 runs, 1 failed; 1 incidents open, 0 resolved")
    assert FAILURE in text
    assert watch.messages()[-1]["kind"] == "info"


def test_the_list_shows_what_is_open_and_what_to_do_and_an_id_may_be_cut_short(
    watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    watch.minute(watch.verdict("data_freshness", "fct_orders"))
    with mock.patch.object(services, "open_services", watch.services):
        list_command(Namespace(all=False, json=False))
        shown = capsys.readouterr().out
        assert "critical  open for 0 s" in shown
        assert "to do:   Look.  (docs/runbook.md#data_freshness)" in shown
        ack_command(Namespace(incident=shown[:4], by="eve"))
        list_command(Namespace(all=False, json=True))
        (row,) = json.loads(capsys.readouterr().out.split("\n", 1)[1])
        assert (row["acknowledged_by"], row["subject"]) == ("eve", "fct_orders")
        watch.minute(watch.verdict("data_freshness", "fct_orders", State.OK))
        list_command(Namespace(all=False, json=False))
        assert capsys.readouterr().out == "No incident is open.\n"
        list_command(Namespace(all=True, json=False))
        assert "resolved after 1 min, acknowledged by eve" in capsys.readouterr().out
        with pytest.raises(NoIncident, match="No open incident's id begins with 'zz'"):
            ack_command(Namespace(incident="zz", by="eve"))


def test_what_nobody_will_mend_can_be_ended_by_hand_what_is_measured_cannot(watch: Watch) -> None:
    report_flow_run(watch.services(), "one", "erase", "Failed", "There is no user 0.", {"users": [0]})
    watch.rows(
        "insert into ops.stream_progress values "
        "('machine-1-ab', clock_timestamp() - interval '2 days', 1, 1, 1, 1, 1, 1, 0, 0, 0) returning 1"
    )
    watch.minute(watch.verdict("disk", "lake"), *check_pipeline_health(watch.services(), ("stream_lag",)))
    assert _open(watch) == ["flow:erase", "lake", "stream:events"]
    _end(watch, "flow:erase")
    _end(watch, "stream:events")
    with pytest.raises(CannotEnd, match="it ends when that is measured to be well"):
        _end(watch, "lake")
    watch.minute(*check_pipeline_health(watch.services(), ("stream_lag",)))
    assert {"flow:erase", "stream:events"}.isdisjoint(_open(watch))
    assert "lake" in _open(watch)


def test_of_several_erasures_that_failed_each_is_named_where_it_is_told_and_where_it_is_let_be(
    watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    report_flow_run(watch.services(), "mon", "erase", "Failed", "The lake is away.", {"users": [9, 10]})
    watch.later(days=1)
    report_flow_run(watch.services(), "tue", "erase", "Failed", "There is no user 0.", {"users": [0]})
    ((told,),) = watch.rows("select message from ops.incident")
    assert told == (
        "erase failed: There is no user 0 (1 more failures, in 2 runs). "
        "Still to be erased: user 0, user 9, user 10."
    )
    watch.later(minutes=1)
    note_completed(watch.services(), "erase", people([10]))
    _end(watch, "flow:erase")
    said = capsys.readouterr().out
    assert "(user 0): There is no user 0." in said
    assert "(user 9): The lake is away." in said
    # One that fails later is nobody's to have let be.
    report_flow_run(watch.services(), "wed", "erase", "Failed", "The lake is away.", {"users": [11]})
    ((told,),) = watch.rows("select message from ops.incident where resolved_at is null")
    assert told == "erase failed: The lake is away. Still to be erased: user 11."


def test_only_what_an_incident_is_about_is_let_be_and_what_failed_with_it_has_to_become_well(
    watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = watch.verdict("schema_drift", "source:raw_stripe__charges")
    watch.minute(changed)
    _run(watch, "one", FAILURE)
    # Once the source is as it was the run is still to be made good.
    with pytest.raises(CannotEnd, match="is about schema_drift of source:raw_stripe__charges"):
        _end(watch, "source:raw_stripe__charges")
    watch.rows("delete from ops.incident returning 1")
    _run(watch, "two", FAILURE, flow="api_ingest")
    watch.minute()
    ((about, other),) = watch.rows("select subject, members -> 0 ->> 'subject' from ops.incident")
    _end(watch, about)
    assert f"ends once {other} (pipeline_failed) is well too." in capsys.readouterr().out
    assert watch.rows("select count(*) from ops.run where summary ? 'let_be_by'") == [(1,)]
    with pytest.raises(CannotEnd, match=f"ends once {other} "):
        _end(watch, about)


def test_a_stream_that_lives_can_not_be_ended_however_much_waits_for_it(watch: Watch) -> None:
    watch.minute(watch.verdict("stream_lag", "stream:events", State.WARNING))
    watch.rows(
        "insert into ops.stream_progress values "
        "('machine-1-ab', clock_timestamp(), 1, 1, 1, 1, 1, 1, 0, 0, 0) returning 1"
    )
    with pytest.raises(CannotEnd, match="No stream of events has died"):
        _end(watch, "stream:events")
