"""Ctrl-C in the midst of a statement of DuckDB's is Ctrl-C, and no error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from unittest import mock

import duckdb
import pytest

from flows.stores.lake import Lake
from tests.flows.company import ROOT, run_here


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


def test_a_statement_that_is_stopped_in_no_lake_s_session_is_told_as_that(tmp_path: Path) -> None:
    query = _stopped(tmp_path / "pipe")
    with mock.patch("flows.sla.command", side_effect=lambda _: duckdb.connect().execute(query).fetchall()):
        done = run_here(["sla"], tmp_path, {})
    assert (done.code, done.err.startswith("\nInterrupted. ")) == (130, True), done.err


EARLY = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
"""A module that does as Ctrl-C does while it is imported."""
OFTEN = f"""
import builtins
said = print
def print(*words, **options):
    if words:
        {EARLY.splitlines()[0]}
        {EARLY.splitlines()[1]}
    said(*words, **options)
builtins.print = print
"""
"""The same at every word that a command says, the one about Ctrl-C too."""


@pytest.mark.parametrize(
    ("module", "text", "code"), [("argparse", EARLY, -signal.SIGINT), ("sitecustomize", OFTEN, 130)]
)
def test_no_moment_of_a_command_answers_with_a_traceback(
    tmp_path: Path, module: str, text: str, code: int
) -> None:
    (tmp_path / f"{module}.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "flows", "lineage", "fct_orders.revenue"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "ANALYTICS_SANDBOX": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        # A worker of the tests ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stderr) == (code, "")


def test_a_question_to_the_lake_that_is_stopped_ends_with_one_sentence(tmp_path: Path) -> None:
    query = _stopped(tmp_path / "pipe")
    lake = tmp_path / "lake"
    lake.mkdir()
    (lake / "lake.sql").touch()
    given = {"ANALYTICS_LAKE": str(lake), "ANALYTICS_SANDBOX": str(tmp_path / "none")}

    done = run_here(["lake", query], tmp_path, given)

    assert done.code == 130
    assert done.err.startswith("\nInterrupted. "), done.err
