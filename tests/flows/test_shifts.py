"""A shift keeps its process alive, and gives up when that can't work."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from flows import shifts
from flows.shifts import StreamDied, keep_alive


def _process(body: str) -> list[str]:
    return [sys.executable, "-c", body]


def test_a_process_that_dies_is_started_again_and_one_that_ends_is_not(tmp_path: Path) -> None:
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
    begun = time.monotonic()

    assert keep_alive(60, lambda left: _process(body), told.append) == 2

    assert starts.read_text() == "xxx"
    assert all("code 1" in line and "the broker is gone" in line for line in told)
    assert time.monotonic() - begun < 30


def test_a_process_that_always_dies_at_once_ends_the_shift_with_its_own_words() -> None:
    with pytest.raises(StreamDied, match=r"5 times in a row.*no such topic"):
        keep_alive(60, lambda left: _process("import sys; sys.exit('no such topic')"), lambda line: None)


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
