"""A run is late as long as Prefect waits for it: not when it has begun after all, or is not to any more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from flows.flow_names import APIS, STREAM
from tests.flows.alerting.conftest import Prefect, Watch

STATES = "select run_id, state from ops.run order by run_id"


def _late(watch: Watch, prefect: Prefect, flow: str = APIS) -> str:
    """A run of which Prefect has said that it is late, for eleven minutes now; the incident is open."""
    run = prefect.scheduled(datetime.now(UTC) - timedelta(hours=1))
    watch.reported(run, flow, "Late")
    watch.later(minutes=10)
    watch.minute()
    assert watch.open() == [f"flow:{flow}"]
    return run


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETED", "FAILED", "CRASHED"])
def test_what_has_begun_after_all_is_late_no_more(watch: Watch, prefect: Prefect, state: str) -> None:
    run = _late(watch, prefect, STREAM)
    prefect.set(run, state)
    watch.minute()
    assert watch.open() == []


def test_what_somebody_has_cancelled_or_deleted_before_it_began_is_late_no_more(
    watch: Watch, prefect: Prefect
) -> None:
    cancelled, deleted = _late(watch, prefect), _late(watch, prefect)
    prefect.set(cancelled, "CANCELLED")
    assert watch.minute() == []
    assert watch.open() == [f"flow:{APIS}"]
    prefect.delete(deleted)
    assert [message["kind"] for message in watch.minute()] == ["resolved"]
    assert dict(watch.rows(STATES)) == dict.fromkeys((cancelled, deleted), "Cancelled")


@pytest.mark.parametrize("state", ["SCHEDULED", "PENDING"])
def test_what_prefect_still_waits_for_stays_late(watch: Watch, prefect: Prefect, state: str) -> None:
    run = _late(watch, prefect)
    prefect.set(run, state)
    watch.minute()
    assert watch.open() == [f"flow:{APIS}"]


def test_where_prefect_cannot_be_asked_what_was_late_stays_so(
    watch: Watch, prefect: Prefect, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _late(watch, prefect)
    prefect.set(run, "CANCELLED")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    watch.minute()
    assert watch.open() == [f"flow:{APIS}"]


def test_a_run_that_began_and_entered_itself_is_left_to_itself(watch: Watch, prefect: Prefect) -> None:
    run = _late(watch, prefect)
    prefect.set(run, "COMPLETED")
    watch.ran(run, flow=APIS)
    watch.minute()
    assert watch.rows(STATES) == [(run, "Completed")]
