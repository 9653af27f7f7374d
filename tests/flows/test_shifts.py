"""A shift keeps its process alive, and does not give up while it lasts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flows import shifts
from flows.shifts import StreamDied, keep_alive, pause_after


def _process(body: str) -> list[str]:
    return [sys.executable, "-c", body]


def test_a_process_that_dies_is_started_again_and_one_that_ends_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shifts, "_RESTART_SECONDS", 0.001)
    starts = tmp_path / "starts"
    body = f"""
import pathlib, sys
starts = pathlib.Path({str(starts)!r})
with starts.open("a") as file:
    file.write("x")
if len(starts.read_text()) < 3:
    sys.exit("the broker is gone")
"""
    told: list[str] = []

    assert keep_alive(60, lambda left: _process(body), told.append) == 2

    assert starts.read_text() == "xxx"
    assert all("code 1" in line and "the broker is gone" in line for line in told)


def test_a_process_that_can_not_start_for_long_is_tried_again_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shifts, "_RESTART_SECONDS", 0.001)
    starts = tmp_path / "starts"
    body = f"""
import pathlib, sys
starts = pathlib.Path({str(starts)!r})
with starts.open("a") as file:
    file.write("x")
if len(starts.read_text()) < 9:
    sys.exit("the warehouse is away")
"""
    assert keep_alive(60, lambda left: _process(body), lambda line: None) == 8


def test_a_process_that_dies_at_once_to_the_end_of_its_shift_ends_it_with_its_own_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shifts, "_RESTART_SECONDS", 0.001)
    monkeypatch.setattr(shifts, "_QUICK_DEATHS", 1)
    with pytest.raises(StreamDied, match=r"\d+ times in a row.*no such topic"):
        keep_alive(0.5, lambda left: _process("import sys; sys.exit('no such topic')"), lambda line: None)


def test_the_pause_before_a_start_grows_to_half_a_minute_and_no_further() -> None:
    assert [pause_after(deaths) for deaths in (0, 1, 2, 3, 4, 5, 6, 60)] == [1, 1, 2, 4, 8, 16, 30, 30]


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

    assert keep_alive(0.3, lambda left: _process("import time; time.sleep(600)"), told.append) == 1

    assert "code -9" in told[0]
