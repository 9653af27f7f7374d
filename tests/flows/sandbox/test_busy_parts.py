"""A part that is alive and does not answer: it is busy, and waited for, or it hangs, and is started again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

import flows.sandbox as sandbox
from flows.errors import FlowsError
from flows.sandbox import Part, State, parts, processes
from flows.sandbox.state import Process

pytestmark = pytest.mark.full

APIS = frozenset({Part.APIS})


@pytest.fixture
def held(tmp_path: Path) -> Iterator[State]:
    """A sandbox whose simulated services are alive and get nowhere, as on a machine that has no time for
    them.
    """
    state = sandbox.start(tmp_path / "sandbox", APIS)
    process = _process(state)
    os.kill(process.pid, signal.SIGSTOP)
    yield state
    if processes.alive(process):
        os.kill(process.pid, signal.SIGCONT)
    sandbox.reset(state.folder)


def _process(state: State) -> Process:
    process = state.parts[Part.APIS].process
    assert process is not None
    return process


def test_one_that_is_too_busy_to_answer_is_waited_for_and_not_ended_under_those_who_use_it(
    held: State,
) -> None:
    def let_go(part: str, message: str) -> None:
        said.append(message)
        if "waiting for it" in message:
            os.kill(_process(held).pid, signal.SIGCONT)

    said: list[str] = []
    after = sandbox.start(held.folder, APIS, let_go)
    assert said == ["does not answer: waiting for it, 60 s until it is started again"]
    assert _process(after) == _process(held)


def test_one_that_hangs_is_started_again_where_it_was(held: State, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient = replace(parts.controls(Part.APIS), seconds=1.0)
    monkeypatch.setitem(parts._CONTROLS, Part.APIS, impatient)
    after = sandbox.start(held.folder, APIS)
    assert after.public() == held.public()
    assert not processes.alive(_process(held))


def test_who_does_not_want_to_wait_for_it_any_longer_leaves_it_as_it_is(held: State) -> None:
    """Ctrl-C makes whatever waits give up."""

    def interrupt(part: str, message: str) -> None:
        assert "waiting for it" in message
        processes.cancelled.set()

    with pytest.raises(FlowsError, match="The start of apis was interrupted"):
        sandbox.start(held.folder, APIS, interrupt)
    assert processes.alive(_process(held))


def test_a_server_that_has_no_place_for_another_session_is_there_and_nobody_in_it_is_sent_away(
    tmp_path: Path,
) -> None:
    only = frozenset({Part.WAREHOUSE_POSTGRES})
    state = sandbox.start(tmp_path / "sandbox", only)
    dsn = str(state.warehouse_dsn)
    with ExitStack() as guests:
        try:
            guest = guests.enter_context(psycopg.connect(dsn, autocommit=True))
            with pytest.raises(psycopg.OperationalError, match="too many clients"):
                _fill(guests, dsn)
            sandbox.start(state.folder, only)
            assert guest.execute("select 1").fetchone() == (1,)
        finally:
            guests.close()
            sandbox.reset(state.folder)


def _fill(guests: ExitStack, dsn: str) -> None:
    """Connect until the server takes nobody more."""
    for _ in range(1000):
        guests.enter_context(psycopg.connect(dsn))
