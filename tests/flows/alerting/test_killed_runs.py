"""A run that was killed with whoever would have told it is ended by what it holds no more, and only then."""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Iterator
from datetime import datetime
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from flows import prepare
from flows.prepare import note_run
from flows.progress import Progress
from flows.services import Services
from flows.summary import Summary
from tests import children
from tests.flows.alerting.conftest import Watch
from tests.flows.clock import At

STATES = "select run_id, state from ops.run order by run_id"
RUN = "analytics_pipeline"


def _runs(dsn: str, lake: Path, moment: datetime, run_id: str, has_begun: Event, is_over: Event) -> None:
    given: dict[str, Any] = {"_env_file": None, "warehouse_dsn": dsn, "lake": lake}
    services = Services(At(moment=[moment], **given))
    with services.lake:
        services.lake.begin_session()
        note_run(services, Summary(run_id, RUN, selected=["dim_date"]), "Running")
        has_begun.set()
        is_over.wait(120)
        note_run(services, Summary(run_id, RUN, selected=["dim_date"]), "Completed")


class Running:
    """A run in a process of its own."""

    def __init__(self, watch: Watch, run_id: str) -> None:
        context = multiprocessing.get_context("forkserver")
        has_begun, self.is_over = context.Event(), context.Event()
        self.process: BaseProcess = children.begun(
            _runs, watch.dsn, watch.folder / "lake", watch.now, run_id, has_begun, self.is_over
        )
        assert has_begun.wait(60)

    def kill(self) -> None:
        """End it as a machine does."""
        self.process.kill()
        self.process.join()

    def complete(self) -> None:
        """Let it come to its end."""
        self.is_over.set()
        self.process.join(60)
        assert self.process.exitcode == 0


@pytest.fixture
def running(watch: Watch) -> Iterator[Running]:
    run = Running(watch, "one")
    yield run
    run.kill()


def test_a_run_that_was_killed_is_critical_once_and_made_good_by_the_next(
    watch: Watch, running: Running
) -> None:
    assert watch.minute() == []
    running.kill()
    (message,) = watch.minute()
    assert message["title"].startswith(f"CRITICAL: {RUN} failed: It was killed")
    assert watch.rows("select state, finished_at, summary -> 'selected' from ops.run") == [
        ("Crashed", watch.now, ["dim_date"])
    ]
    ended = watch.now
    assert watch.minute() == []
    watch.reported("one", RUN, "Crashed", "Prefect has found it, too.")
    assert watch.rows("select finished_at from ops.run") == [(ended,)]
    watch.ran("two")
    assert [one["kind"] for one in watch.messages()[1:]] == ["info", "resolved"]


def test_a_run_that_lives_is_never_ended_by_anybody_however_long_it_takes(
    watch: Watch, running: Running
) -> None:
    watch.later(days=9)
    assert watch.minute() == []
    with watch.services().lake as lake:
        lake.sweep(lambda _: set())
    watch.ran("two")
    assert watch.rows(STATES) == [("one", "Running"), ("two", "Completed")]
    running.complete()
    assert watch.minute() == []
    assert watch.rows(STATES) == [("one", "Completed"), ("two", "Completed")]


def test_the_next_run_ends_what_was_killed_before_it_begins_and_makes_it_good(
    watch: Watch, running: Running
) -> None:
    running.kill()
    services = watch.services()
    with services.lake:
        # What a sweep removes of the dead is no less evidence.
        services.lake.sweep(lambda _: set())
        prepare.warehouse(services, True, Progress("test", io.StringIO()))
    assert watch.rows(STATES) == [("one", "Crashed")]
    watch.later(minutes=1)
    watch.ran("two")
    assert [one["title"] for one in watch.messages() if one["severity"] == "critical"] == []


def test_of_a_run_that_nobody_can_look_at_only_its_time_tells(watch: Watch, running: Running) -> None:
    running.kill()
    (watch.folder / "lake").rename(watch.folder / "elsewhere")
    note_run(watch.services(), Summary("old", RUN), "Running")  # as versions without evidence entered it
    watch.later(hours=23)
    assert watch.minute() == []
    watch.later(hours=1)
    assert [one["severity"] for one in watch.minute()] == ["critical"]
    assert watch.rows(STATES) == [("old", "Crashed"), ("one", "Crashed")]


def test_a_run_that_is_tried_again_meanwhile_is_not_ended_for_the_try_before(
    watch: Watch, running: Running
) -> None:
    running.kill()
    again = Running(watch, "one")
    try:
        watch.later(hours=1)
        assert watch.minute() == []
        assert watch.rows(STATES) == [("one", "Running")]
    finally:
        again.complete()
