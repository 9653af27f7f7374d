"""What nobody will mend is ended by hand: that alone, and each run of it named."""

from __future__ import annotations

from argparse import Namespace
from unittest import mock

import pytest

from flows import services
from flows.alerting.ending import CannotEnd
from flows.alerting.made_good import people
from flows.alerts import end_command
from flows.monitoring.health import check_pipeline_health
from flows.monitoring.verdict import State
from tests.flows.alerting.conftest import FAILURE, Watch


def _end(watch: Watch, subject: str) -> None:
    """Somebody ends the open incident of a subject, by the beginning of its id."""
    ((incident,),) = watch.rows(
        "select incident_id from ops.incident where resolved_at is null and subject = %s", subject
    )
    with mock.patch.object(services, "open_services", watch.services):
        end_command(Namespace(incident=incident[:6], by="eve"))


def test_what_nobody_will_mend_can_be_ended_by_hand_what_is_measured_cannot(watch: Watch) -> None:
    watch.reported("one", "erase", "Failed", "There is no user 0.", users=[0])
    watch.rows(
        "insert into ops.stream_progress values "
        "('machine-1-ab', clock_timestamp() - interval '2 days', 1, 1, 1, 1, 1, 1, 0, 0, 0) returning 1"
    )
    watch.minute(watch.verdict("disk", "lake"), *check_pipeline_health(watch.services(), ("stream_lag",)))
    assert watch.open() == ["flow:erase", "lake", "stream:events"]
    _end(watch, "flow:erase")
    _end(watch, "stream:events")
    with pytest.raises(CannotEnd, match="it ends when that is measured to be well"):
        _end(watch, "lake")
    watch.minute(*check_pipeline_health(watch.services(), ("stream_lag",)))
    assert {"flow:erase", "stream:events"}.isdisjoint(watch.open())
    assert "lake" in watch.open()


def test_of_several_erasures_that_failed_each_is_named_where_it_is_told_and_where_it_is_let_be(
    watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    watch.reported("mon", "erase", "Failed", "The lake is away.", users=[9, 10])
    watch.later(days=1)
    watch.reported("tue", "erase", "Failed", "There is no user 0.", users=[0])
    ((told,),) = watch.rows("select message from ops.incident")
    assert told == (
        "erase failed: There is no user 0 (1 more failures, in 2 runs). "
        "Still to be erased: user 0, user 9, user 10."
    )
    watch.later(minutes=1)
    watch.completed("erase", people([10]))
    _end(watch, "flow:erase")
    said = capsys.readouterr().out
    assert "(user 0): There is no user 0." in said
    assert "(user 9): The lake is away." in said
    # One that fails later is nobody's to have let be.
    watch.reported("wed", "erase", "Failed", "The lake is away.", users=[11])
    ((told,),) = watch.rows("select message from ops.incident where resolved_at is null")
    assert told == "erase failed: The lake is away. Still to be erased: user 11."


def test_only_what_an_incident_is_about_is_let_be_and_what_failed_with_it_has_to_become_well(
    watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = watch.verdict("schema_drift", "source:raw_stripe__charges")
    watch.minute(changed)
    watch.ran("one", FAILURE)
    # Once the source is as it was the run is still to be made good.
    with pytest.raises(CannotEnd, match="is about schema_drift of source:raw_stripe__charges"):
        _end(watch, "source:raw_stripe__charges")
    watch.rows("delete from ops.incident returning 1")
    watch.ran("two", FAILURE, flow="api_ingest")
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
