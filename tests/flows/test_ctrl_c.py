"""Ctrl-C in the midst of a statement of DuckDB's is Ctrl-C, and no error."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from flows.stores.lake import Lake
from tests.flows.company import run_here


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """What Python does at Ctrl-C; a worker of the tests ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def _stopped(pipe: Path) -> str:
    """A query that reads a pipe, whose other end does as Ctrl-C does as soon as the query is at work."""
    os.mkfifo(pipe)

    def write() -> None:
        with suppress(BrokenPipeError), pipe.open("wb") as handle:
            # In this thread: the read that waits for it would be broken off by a signal of its own.
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            handle.write(b"1\n")

    threading.Thread(target=write, daemon=True).start()
    return f"from read_csv('{pipe}', columns = {{'v': 'int'}}, header = false, auto_detect = false)"


def test_a_statement_that_is_stopped_in_the_main_thread_is_told_as_that(tmp_path: Path) -> None:
    query = _stopped(tmp_path / "pipe")
    with Lake(tmp_path / "lake") as lake, pytest.raises(KeyboardInterrupt), lake.duckdb() as session:
        session.execute(query)


def test_a_question_to_the_lake_that_is_stopped_ends_with_one_sentence(tmp_path: Path) -> None:
    query = _stopped(tmp_path / "pipe")
    lake = tmp_path / "lake"
    lake.mkdir()
    (lake / "lake.sql").touch()
    given = {"ANALYTICS_LAKE": str(lake), "ANALYTICS_SANDBOX": str(tmp_path / "none")}

    done = run_here(["lake", query], tmp_path, given)

    assert done.code == 130
    assert done.err.startswith("\nInterrupted. "), done.err
