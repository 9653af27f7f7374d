"""A shift keeps its process alive, and does not give up while it lasts."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import pytest

from flows import shifts
from flows.shifts import StreamDied, keep_alive, pause_after


def _process(body: str) -> list[str]:
    return [sys.executable, "-c", body]


def _dying(folder: Path, times: int, words: str) -> list[str]:
    """A process that dies with these words so many times, and then ends because it was to."""
    body = f"""
import pathlib, sys
starts = pathlib.Path({str(folder / "starts")!r})
with starts.open("a") as file:
    file.write("x")
if len(starts.read_text()) <= {times}:
    sys.exit({words!r})
"""
    return _process(body)


def _starts(folder: Path) -> int:
    return len((folder / "starts").read_text())


def test_a_process_that_dies_is_started_again_and_one_that_ends_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shifts, "_RESTART_SECONDS", 0.001)
    dying, told = _dying(tmp_path, 2, "the broker is gone"), list[str]()

    assert keep_alive(60, lambda left: dying, told.append) == 2

    assert _starts(tmp_path) == 3
    assert len(told) == 2
    assert all("code 1" in line and "the broker is gone. It is started again" in line for line in told)


def test_a_process_that_can_not_start_for_long_is_tried_again_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shifts, "_RESTART_SECONDS", 0.001)
    dying = _dying(tmp_path, 8, "the warehouse is away")

    assert keep_alive(60, lambda left: dying, lambda line: None) == 8

    assert _starts(tmp_path) == 9


def test_a_process_that_dies_at_once_to_the_end_of_its_shift_ends_it_with_its_own_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shifts, "_RESTART_SECONDS", 0.001)
    monkeypatch.setattr(shifts, "_QUICK_DEATHS", 1)
    with pytest.raises(StreamDied, match=r"\d+ times in a row.*no such topic"):
        keep_alive(0.5, lambda left: _process("import sys; sys.exit('no such topic')"), lambda line: None)


def test_the_pause_before_a_start_grows_and_stays_below_the_promised_five_seconds() -> None:
    assert [pause_after(deaths) for deaths in (0, 1, 2, 3, 4, 5, 6, 60)] == [1, 1, 2, 4, 4, 4, 4, 4]


def test_of_a_process_that_dies_as_its_shift_ends_nobody_says_that_it_is_started_again() -> None:
    dying, told = _process("import sys; sys.exit('the broker is gone')"), list[str]()

    assert keep_alive(0.9, lambda left: dying, told.append) == 0

    (line,) = told
    assert "the broker is gone. Its shift is over" in line


def test_a_process_is_told_how_long_the_shift_still_lasts() -> None:
    given: list[float] = []

    def command(left: float) -> list[str]:
        given.append(left)
        return _process("")

    assert keep_alive(5, command, lambda line: None) == 0
    assert len(given) == 1
    assert 4 < given[0] <= 5


def test_a_process_that_does_not_end_in_its_time_is_killed_so_that_the_shift_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shifts, "_OVERTIME", 0.1)
    monkeypatch.setattr(shifts, "_RESTART_SECONDS", 0.0)
    told: list[str] = []

    assert keep_alive(0.3, lambda left: _process("import time; time.sleep(600)"), told.append) == 0

    (line,) = told
    assert "code -9" in line


class _Cancelled(BaseException):
    """What Prefect makes of SIGTERM is an exception of the flow's thread, too."""


@pytest.mark.parametrize(("on_sigterm", "end"), [("signal.SIG_IGN", "killed"), ("clean", "clean")])
def test_a_shift_that_is_cancelled_ends_its_process_and_kills_one_that_does_not_end(
    on_sigterm: str, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shifts, "_END_SECONDS", 0.5 if end == "killed" else 60.0)
    body = f"""
import pathlib, signal, sys, time
said = pathlib.Path({str(tmp_path / "said")!r})
def clean(*_):
    sys.stderr.write("what a pipe does not hold " * 10_000)
    said.write_text("clean")
    sys.exit(0)
signal.signal(signal.SIGTERM, {on_sigterm})
said.write_text("killed")
print("here", file=sys.stderr, flush=True)
time.sleep(20)
said.write_text("by itself")
"""

    def cancel(process: subprocess.Popen[str]) -> str:
        assert process.stderr is not None
        process.stderr.readline()
        raise _Cancelled

    monkeypatch.setattr(shifts, "_last_line", cancel)

    with pytest.raises(_Cancelled):
        keep_alive(60, lambda left: _process(body), lambda line: None)

    assert (tmp_path / "said").read_text() == end


@pytest.mark.parametrize(("late", "streams"), [(timedelta(minutes=50), 1), (timedelta(minutes=62), 0)])
def test_a_shift_that_was_over_before_it_could_begin_starts_no_stream(
    late: timedelta, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten that were missed while the machine slept would else keep two streams at work for five hours."""
    due = datetime.now(UTC) - late
    monkeypatch.setattr("prefect.runtime.flow_run.scheduled_start_time", due, raising=False)
    monkeypatch.setattr(shifts, "get_run_logger", mock.Mock())
    stream = mock.Mock(return_value=0)
    monkeypatch.setattr(shifts, "keep_alive", stream)
    assert shifts.event_stream.fn(61) == {"restarts": 0}
    assert stream.call_count == streams
