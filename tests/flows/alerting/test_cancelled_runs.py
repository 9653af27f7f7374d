"""A run that somebody has cancelled at Prefect's server is no incident; one that nobody has is as ever."""

from __future__ import annotations

from unittest import mock
from uuid import uuid4

import pytest
from prefect.exceptions import TerminationSignal

from flows import batch
from flows.flow_names import APIS
from tests.flows.alerting.conftest import FAILURE, Prefect, Watch
from tests.flows.alerting.test_killed_runs import RUN, Running
from tests.flows.warehouses import with_tables
from tests.house import Server

KILLED = TerminationSignal(signal=15)


def _stopped(watch: Watch, run_id: str, at: str, error: BaseException = KILLED) -> None:
    """A run of this id that is stopped at a step of its own."""
    services = watch.services()
    with (
        mock.patch.object(batch, "open_services", return_value=services),
        mock.patch.object(batch, "flow_run", mock.Mock(id=run_id)),
        mock.patch.object(batch, "end_process_soon"),
        mock.patch(at, side_effect=error),
        pytest.raises(type(error)),
    ):
        batch.run(APIS, [], None, yes=False)


BEGINNING, LANDING = "flows.prepare.sources", "flows.first_read.land"


@pytest.mark.parametrize("at", [BEGINNING, LANDING])
@pytest.mark.parametrize("state", ["CANCELLING", "CANCELLED"])
def test_a_run_that_somebody_has_cancelled_is_news_and_no_incident(
    postgres18: Server, watch: Watch, prefect: Prefect, at: str, state: str
) -> None:
    watch.dsn = with_tables(postgres18)
    run_id = prefect.run("RUNNING", state)
    _stopped(watch, run_id, at)
    assert watch.rows("select run_id, state from ops.run") == [(run_id, "Cancelled")]
    (message,) = watch.messages()
    assert message["title"] == "INFO: api_ingest was cancelled by somebody"
    assert "the next run goes on from there" in message["body"]
    assert watch.minute() == []
    assert watch.open() == []


@pytest.mark.parametrize("state", ["RUNNING", "CRASHED"])
def test_a_run_that_is_stopped_and_that_nobody_has_cancelled_is_critical(
    postgres18: Server, watch: Watch, prefect: Prefect, state: str
) -> None:
    watch.dsn = with_tables(postgres18)
    _stopped(watch, prefect.run(*dict.fromkeys(("RUNNING", state))), LANDING)
    assert watch.rows("select state from ops.run") == [("Failed",)]
    assert [one["severity"] for one in watch.messages()] == ["critical"]


def test_what_fails_while_somebody_cancels_has_failed(
    postgres18: Server, watch: Watch, prefect: Prefect
) -> None:
    watch.dsn = with_tables(postgres18)
    _stopped(watch, prefect.run("RUNNING", "CANCELLING"), LANDING, ValueError("a defect"))
    assert watch.rows("select state from ops.run") == [("Failed",)]


def test_where_prefect_does_not_answer_nobody_is_known_to_have_cancelled(
    postgres18: Server, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch.dsn = with_tables(postgres18)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    _stopped(watch, str(uuid4()), LANDING)
    assert watch.rows("select state from ops.run") == [("Failed",)]


@pytest.mark.full
def test_a_cancelled_run_that_was_killed_before_it_could_tell_is_cancelled(
    watch: Watch, prefect: Prefect
) -> None:
    run_id = prefect.run("RUNNING", "CANCELLED")
    running = Running(watch, run_id)
    running.kill()
    assert watch.minute() == []
    assert watch.rows("select run_id, state, finished_at from ops.run") == [(run_id, "Cancelled", watch.now)]
    crashed = prefect.run("RUNNING", "CRASHED")
    Running(watch, crashed).kill()
    (message,) = watch.minute()
    assert message["title"].startswith(f"CRITICAL: {RUN} failed: It was killed")


def test_a_run_that_was_killed_is_at_work_no_more_in_prefect_either(watch: Watch, prefect: Prefect) -> None:
    lives, cancelled, killed = (prefect.run(*states) for states in (["RUNNING"], [], ["RUNNING"]))
    prefect.set(cancelled, "CANCELLING")
    at_work = {run_id: prefect.task(run_id, "RUNNING") for run_id in (lives, cancelled, killed)}
    done = prefect.task(killed, "COMPLETED")
    running = [Running(watch, run_id) for run_id in (lives, cancelled, killed)]
    try:
        for one in running[1:]:
            one.kill()
        watch.minute()
        assert prefect.said(killed)[0] == "Crashed"
        assert prefect.said(killed)[1].startswith("It was killed, or its machine went down")
        assert prefect.said(cancelled)[0] == "Cancelled"
        assert prefect.said(lives)[0] == "Running"
        assert prefect.said_of_task(at_work[killed]) == prefect.said(killed)
        assert prefect.said_of_task(at_work[cancelled])[0] == "Crashed"
        assert prefect.said_of_task(at_work[lives])[0] == "Running"
        assert prefect.said_of_task(done)[0] == "Completed"
    finally:
        running[0].complete()


def test_a_cancelled_run_makes_nothing_good_that_failed_before(
    postgres18: Server, watch: Watch, prefect: Prefect
) -> None:
    watch.dsn = with_tables(postgres18)
    watch.ran("one", FAILURE, flow=APIS)
    watch.later(minutes=1)
    _stopped(watch, prefect.run("RUNNING", "CANCELLING"), LANDING)
    assert watch.open() == ["flow:api_ingest"]
    assert [one["kind"] for one in watch.messages()] == ["opened", "info"]
