"""How runs end is told: failed at once, completed as news, the day in short; and the command line."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from datetime import timedelta
from unittest import mock

import pytest

from flows import services
from flows.alerting import deployed
from flows.alerting.delivery import TRIES
from flows.alerts import NoIncident, ack_command, daily_summary, list_command
from flows.monitoring.health import check_pipeline_health
from flows.monitoring.verdict import State
from flows.prepare import note_run
from flows.summary import Summary
from tests.flows.alerting.conftest import FAILURE, Watch


def test_a_failed_run_is_critical_told_once_and_resolved_by_the_next(watch: Watch) -> None:
    watch.ran("one", FAILURE)
    (message,) = watch.messages()
    assert message["title"] == f"CRITICAL: analytics_pipeline failed: {FAILURE}"
    assert "docs/runbook.md#pipeline_failed" in message["body"]
    assert "fct_payments" in message["body"]
    assert watch.minute() == []
    watch.ran("two", FAILURE)
    assert len(watch.messages()) == 1
    watch.ran("three")
    assert [one["kind"] for one in watch.messages()[1:]] == ["info", "resolved"]


def test_a_run_that_fails_by_a_source_that_has_changed_is_part_of_that_incident(watch: Watch) -> None:
    watch.minute(watch.verdict("schema_drift", "source:raw_stripe__charges"))
    watch.ran("one", FAILURE)
    assert len(watch.messages()) == 1
    assert watch.rows("select members -> 0 ->> 'signal' from ops.incident") == [("pipeline_failed",)]


def test_a_run_that_finds_a_column_gone_is_one_message_about_the_source(watch: Watch) -> None:
    """Nobody has looked between the landing that found it and the run's end."""
    watch.rows(
        "insert into ops.schema_change values ('one', 'raw_app__orders', 'quantity', 'dropped', "
        "'{bigint}', '{}', 'freeze', null, null, %s) returning 1",
        watch.now,
    )
    watch.ran("one", "raw_app__orders: quantity is gone at the source")
    (message,) = watch.messages()
    assert message["title"].startswith("CRITICAL: The source has columns of raw_app__orders otherwise")
    assert "flow:analytics_pipeline (pipeline_failed)" in message["body"]
    assert watch.minute(*check_pipeline_health(watch.services(), ("schema_drift",))) == []
    watch.ran("two")
    found = watch.minute(*check_pipeline_health(watch.services(), ("schema_drift",)))
    assert [one["kind"] for one in found] == ["resolved"]
    assert watch.rows("select count(*) from ops.incident") == [(1,)]


def test_two_flows_that_fail_by_one_dead_api_are_one_message(watch: Watch) -> None:
    watch.ran("one", FAILURE, flow="api_ingest")
    watch.ran("two", FAILURE)
    watch.ran("three", FAILURE, flow="api_ingest")
    (message,) = watch.messages()
    assert message["title"] == f"CRITICAL: api_ingest failed: {FAILURE}"
    watch.later(minutes=40)
    (escalated,) = watch.minute()
    assert "With it:  1 more: flow:analytics_pipeline (pipeline_failed)" in escalated["body"]
    watch.ran("four", flow="api_ingest")
    watch.ran("five")
    assert [one["kind"] for one in watch.messages()[2:]] == ["info", "resolved", "info"]


def test_a_run_that_is_reported_late_is_part_of_what_is_told_of_the_same_source(watch: Watch) -> None:
    watch.ran("one", FAILURE, flow="api_ingest")
    watch.reported("two", "analytics_pipeline", "Failed", FAILURE, ended_at=watch.now - timedelta(hours=1))
    assert [one["title"] for one in watch.messages()] == [f"CRITICAL: api_ingest failed: {FAILURE}"]


def test_a_run_that_does_not_start_is_a_warning_after_ten_minutes_and_over_when_it_does(
    watch: Watch,
) -> None:
    watch.reported("one", "analytics_pipeline", "Late", "")
    watch.later(minutes=8)
    assert watch.minute() == []
    (message,) = watch.minute()
    assert message["title"] == "WARNING: A run of analytics_pipeline should have started and has not"
    began = watch.now
    note_run(watch.services(), Summary("one", "analytics_pipeline"), "Running")
    assert [one["kind"] for one in watch.minute()] == ["resolved"]
    assert watch.rows("select started_at, finished_at from ops.run") == [(began, None)]
    note_run(watch.services(), Summary("one", "analytics_pipeline"), "Completed")
    assert watch.rows("select started_at, finished_at from ops.run") == [(began, watch.now)]


def test_a_run_that_never_started_is_told_for_a_day(watch: Watch) -> None:
    watch.reported("one", "analytics_pipeline", "Late", "")
    watch.later(hours=23)
    assert [one["severity"] for one in watch.minute()] == ["warning"]
    watch.later(hours=1)
    assert [one["kind"] for one in watch.minute()] == ["resolved"]


def test_a_crash_that_prefect_reports_does_not_overwrite_what_a_run_told_itself(watch: Watch) -> None:
    watch.ran("one", FAILURE)
    watch.reported("one", "analytics_pipeline", "Crashed", "gone")
    assert watch.rows("select state from ops.run") == [("Failed",)]
    watch.reported("two", "maintain", "Crashed", "The machine went away.")
    assert watch.messages()[-1]["title"] == "CRITICAL: maintain failed: The machine went away"


def test_a_run_that_completes_is_news(watch: Watch) -> None:
    watch.ran("one")
    (message,) = watch.messages()
    assert message["severity"] == "info"
    assert message["title"].startswith("INFO: analytics_pipeline completed: 7 rows landed")


def test_what_is_wrong_with_telling_never_fails_a_run(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    watch.write("routes: 7")
    with caplog.at_level(logging.WARNING, "flows.alerts"):
        watch.ran("one", FAILURE)
    assert "routes must be a list" in caplog.text
    # No folder can be made where a file is.
    (watch.log.parent / "taken").touch()
    watch.write(f"channels: {{log: 'file://{watch.log.parent}/taken/log'}}\nroutes: [{{channels: [log]}}]\n")
    watch.ran("two", FAILURE)
    assert watch.rows("select problem <> '' from ops.notification where kind = 'opened'") == [(True,)]
    watch.write(f"channels: {{log: 'file://{watch.log}'}}\nroutes: [{{channels: [log]}}]\n")
    watch.later(minutes=1)
    assert [one["kind"] for one in watch.measured([])] == ["opened"]


def test_the_daily_summary_counts_runs_and_names_what_is_open(watch: Watch) -> None:
    watch.ran("one", FAILURE)
    text = daily_summary(watch.services())
    assert text.startswith("INFO: the last 24 hours: 1 run, 1 failed; 1 incident open, 0 resolved")
    assert FAILURE in text
    assert watch.messages()[-1]["kind"] == "info"


def test_a_day_is_told_once_however_often_its_flow_is_tried_and_again_if_nobody_got_it(watch: Watch) -> None:
    with mock.patch.object(deployed, "open_services", watch.services):
        for _ in range(2):
            deployed.daily_summary.fn()
            watch.later(minutes=5)
        assert len(watch.messages()) == 1
        watch.later(days=1)
        deployed.daily_summary.fn()
        assert len(watch.messages()) == 2
        watch.later(days=1)
        works = watch.routes.read_text()
        watch.write("channels: {log: 'file:///proc/no/such/file'}\nroutes: [{channels: [log]}]\n")
        deployed.daily_summary.fn()
        for _ in range(TRIES - 1):
            watch.later(hours=1)
            watch.measured([])
        watch.write(works)
        assert watch.measured([]) == []
        deployed.daily_summary.fn()
    assert watch.messages()[-1]["title"].startswith("INFO: the last 24 hours: ")
    assert len(watch.messages()) == 3


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
