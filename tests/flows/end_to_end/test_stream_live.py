"""The stream beside a world that lives on: killed, started again, ended; then the batch, and they agree."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.flows.company import Company, Place

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

EVENTS_A_SECOND = "200"
"""A day of the small company lasts some seconds then."""


def test_a_stream_that_is_killed_while_the_world_lives_on_agrees_with_the_batch_and_the_truth(
    company: Company,
) -> None:
    place = company.copy()
    before = _taken_in(place)
    stream = place.spawn("stream")
    world: subprocess.Popen[str] | None = None
    try:
        _until(lambda: place.value("select count(*) from ops.stream_partition") > 0, stream)
        world = place.spawn("sandbox", "advance", "--live", "--rate", EVENTS_A_SECOND, "--for", "2s")
        company.changed()
        _until(lambda: _taken_in(place) > before, stream)
        stream.kill()
        assert stream.wait(30) == -signal.SIGKILL
        stream = place.spawn("stream")
        told = world.communicate(timeout=240)
        assert world.returncode == 0, told
        after_kill = _taken_in(place)
        _until(lambda: _taken_in(place) > after_kill or _waits_for_nothing(place), stream)

        stream.terminate()
        said = stream.communicate(timeout=30)

        assert stream.returncode == 0, said
    finally:
        for process in (stream, world):
            if process is not None and process.poll() is None:
                process.kill()
                process.communicate()

    rest = place.command("stream", "--until-idle")
    assert rest.code == 0, rest.said
    batch = place.run()
    assert batch.code == 0, batch.said
    check = place.run("check", "--stream")
    assert check.code == 0, check.said
    assert "fct_events" in check.out
    assert "user_event_counts" in check.out
    assert place.rows("select passed from ops.check_result where rule = 'stream_agrees' and not passed") == []
    assert place.differences() == []


def _taken_in(place: Place) -> int:
    """Events that are published."""
    return int(place.value("select count(*) from analytics.fct_events"))


def _waits_for_nothing(place: Place) -> bool:
    """Whether a stream that started after the kill said that it has read all."""
    return bool(
        place.value(
            "select coalesce(bool_or(lag = 0), false) from ops.stream_progress "
            "where reported_at > (select max(taken_at) from ops.stream_partition)"
        )
    )


def _until(holds: Callable[[], bool], stream: subprocess.Popen[str]) -> None:
    """Wait until something has come about, while the stream lives."""
    end = time.monotonic() + 120
    while not holds():
        assert stream.poll() is None, stream.communicate()
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.2)
