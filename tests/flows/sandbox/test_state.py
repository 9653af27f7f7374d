"""One file, whole at every moment, for its owner's eyes."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from flows.errors import FlowsError
from flows.sandbox import state as states
from flows.sandbox.state import Part, Process, Running


def test_what_is_written_is_read_and_only_by_its_owner(tmp_path: Path) -> None:
    state = replace(
        states.new(tmp_path),
        clock_offset_seconds=-3600.5,
        postgres_folder=Path("/elsewhere"),
        deployed="digest",
        parts={
            Part.KAFKA: Running(9092, Process(12, "boot:34")),
            Part.PREFECT_WORKER: Running(None, None),
        },
    )
    states.write(state)
    assert states.read(tmp_path) == state
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600


def test_no_state_is_no_sandbox(tmp_path: Path) -> None:
    assert states.read(tmp_path) is None
    assert states.read(tmp_path / "missing") is None


@pytest.mark.parametrize("content", ["", "{}", '{"format": 99}', "[]", '{"format": 1, "parts": 3}'])
def test_a_damaged_state_says_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(FlowsError, match="delete the folder"):
        states.read(tmp_path)


def test_changes_at_the_same_time_all_count(tmp_path: Path) -> None:
    states.write(states.new(tmp_path))

    def later(_: int) -> None:
        states.update(
            tmp_path, lambda known: replace(known, clock_offset_seconds=known.clock_offset_seconds + 1)
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(later, range(200)))
    state = states.read(tmp_path)
    assert state is not None
    assert state.clock_offset_seconds == 200
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.json", "state.lock"]


def test_addresses_are_there_only_for_parts_that_were_started(tmp_path: Path) -> None:
    state = states.new(tmp_path)
    assert {value for name, value in state.public().items() if name.endswith(("dsn", "url", "key"))} == {None}
    running = replace(state, parts={Part.APP_POSTGRES: Running(5432, Process(1, "x"))})
    assert running.app_dsn == f"postgresql://app:{state.password(Part.APP_POSTGRES)}@127.0.0.1:5432/app"
    assert running.warehouse_dsn is None
    stopped = replace(state, parts={Part.APP_POSTGRES: Running(5432, None)})
    assert stopped.app_dsn is None


def test_the_secret_is_not_in_what_is_printed_of_a_state(tmp_path: Path) -> None:
    state = states.new(tmp_path)
    assert state.secret not in repr(state)
    assert len({state.password(part) for part in Part}) == len(Part)


def test_reading_a_state_imports_nothing_heavy() -> None:
    heavy = (
        "{'prefect', 'psycopg', 'confluent_kafka', 'httpx', 'polars', 'duckdb', 'pydantic', 'yaml', 'jgo'}"
    )
    question = f"import sys, flows.sandbox; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
