"""What `make run` does on a machine that has nothing: its own sandbox, the default world, the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

import flows.sandbox as sandbox
from flows.sandbox import Health
from tests.flows.company import ROOT
from tests.flows.sandbox import truth

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]


def _flows(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "flows", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def _differences(folder: Path) -> list[str]:
    state = sandbox.read(folder)
    assert state is not None
    with psycopg.connect(state.warehouse_dsn or "", autocommit=True) as connection:
        return truth.differences(connection, state.truth)


def test_one_command_makes_everything_and_the_same_one_again_only_what_is_new(tmp_path: Path) -> None:
    """In a path with a space, as somebody has it who has never seen this."""
    home = tmp_path / "a new folder"
    home.mkdir()
    folder = home / ".sandbox"
    try:
        first = _flows(home)
        assert "fct_events" in first
        assert _differences(folder) == []

        assert "\n0 rows landed, 0 partitions published" in _flows(home)

        _flows(home, "sandbox", "advance", "--days", "1")
        third = _flows(home)
        assert "\n0 rows landed" not in third
        assert _differences(folder) == []

        _flows(home, "sandbox", "stop")
        stopped = sandbox.status(folder)
        assert stopped is not None
        assert set(stopped.health.values()) == {Health.STOPPED}
    finally:
        sandbox.reset(folder)
