"""The real parts: started once, found alive, brought back after kill -9, ended without touching others."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Producer

import flows.sandbox as sandbox
from flows.__main__ import main
from flows.errors import FlowsError
from flows.sandbox import Health, Part, State, processes
from flows.sandbox.lifecycle import CACHE
from flows.sandbox.state import ROOT, Process
from tests.broker import make_topics
from tests.flows.streaming.topics import until

POSTGRES = frozenset({Part.APP_POSTGRES, Part.WAREHOUSE_POSTGRES})

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A sandbox in a path that has a space and a letter beyond ASCII."""
    path = tmp_path_factory.mktemp("sand box é") / "inner"
    sandbox.start(path)
    yield path
    sandbox.reset(path)
    assert not path.exists()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder for a sandbox of some parts only, for tests that stop it."""
    path = tmp_path / "small"
    yield path
    sandbox.reset(path)


def _state(folder: Path) -> State:
    state = sandbox.read(folder)
    assert state is not None
    return state


def _process(folder: Path, part: Part) -> Process:
    process = _state(folder).parts[part].process
    assert process is not None
    return process


def _not_running(folder: Path) -> dict[Part, Health]:
    status = sandbox.status(folder)
    assert status is not None
    return {part: health for part, health in status.health.items() if health is not Health.RUNNING}


def _ask(dsn: str | None, query: str) -> str:
    assert dsn is not None
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return str(row[0])


def _setting(dsn: str | None, name: str) -> str:
    return _ask(dsn, f"select current_setting('{name}')")


def test_every_part_runs_and_says_so(folder: Path) -> None:
    status = sandbox.status(folder)
    assert status is not None
    assert status.health == dict.fromkeys(sorted(Part), Health.RUNNING)
    assert status.running


def test_the_two_databases_are_postgresql_18_as_configured(folder: Path) -> None:
    state = _state(folder)
    for dsn in (state.app_dsn, state.warehouse_dsn):
        assert _setting(dsn, "server_version").startswith("18.")
        assert [_setting(dsn, name) for name in ("fsync", "jit", "timezone")] == ["on", "off", "UTC"]
        assert _setting(dsn, "listen_addresses") == "127.0.0.1"
        assert _setting(dsn, "password_encryption") == "scram-sha-256"
        assert _ask(dsn, "select pg_encoding_to_char(encoding) from pg_database limit 1") == "UTF8"
    assert _setting(state.app_dsn, "wal_level") == "logical"
    assert _setting(state.app_dsn, "max_slot_wal_keep_size") == "1GB"


def test_no_database_lets_anybody_in_without_the_password(folder: Path) -> None:
    state = _state(folder)
    for dsn, part in ((state.app_dsn, Part.APP_POSTGRES), (state.warehouse_dsn, Part.WAREHOUSE_POSTGRES)):
        assert dsn is not None
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(dsn.replace(state.password(part), "wrong"))


def test_a_second_start_leaves_everything_as_it_is(folder: Path) -> None:
    before = _state(folder)
    assert sandbox.start(folder) == before


def test_starts_at_the_same_time_start_every_part_once(small: Path) -> None:
    found: list[State] = []
    threads = [
        threading.Thread(target=lambda: found.append(sandbox.start(small, POSTGRES))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == 4
    assert all(state == found[0] for state in found)
    assert found[0].app_dsn
    assert found[0].kafka_bootstrap is None


@pytest.mark.parametrize("part", list(Part))
def test_a_killed_part_is_named_and_comes_back_where_it_was_and_the_others_do_not_notice(
    folder: Path, part: Part, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sandbox.start(folder)
    if part in POSTGRES:
        dsn = before.app_dsn if part is Part.APP_POSTGRES else before.warehouse_dsn
        assert dsn is not None
        with psycopg.connect(dsn) as connection:
            connection.execute("create table if not exists kept as select 42 as answer")
    os.kill(_process(folder, part).pid, signal.SIGKILL)
    until(lambda: not processes.alive(before.parts[part].process))
    # One that is busy answers later.
    until(lambda: _not_running(folder) == {part: Health.STOPPED}, 60)
    monkeypatch.setenv("ANALYTICS_SANDBOX", str(folder))
    assert main(["sandbox", "advance", "--days", "1"]) == 2
    assert f"Of the sandbox in {folder} {part} is stopped (what it said is in " in capsys.readouterr().err

    after = sandbox.start(folder)
    assert after.public() == before.public()
    assert {name for name in Part if after.parts[name].process != before.parts[name].process} == {part}
    if part in POSTGRES:
        assert _ask(dsn, "select answer from kept") == "42"


def test_what_a_killed_broker_leaves_is_in_the_sandbox_and_goes_with_its_next_start(small: Path) -> None:
    state = sandbox.start(small, frozenset({Part.KAFKA}))
    make_topics(str(state.kafka_bootstrap), "packed")
    # The broker stamps what arrives, so it unpacks it, by a library that Java first writes to a file.
    producer = Producer({"bootstrap.servers": str(state.kafka_bootstrap), "compression.type": "lz4"})
    producer.produce("packed", b"a" * 10_000)
    assert producer.flush(30) == 0
    temporary, pid = small / "kafka" / "temporary", _process(small, Part.KAFKA).pid
    left = {*temporary.iterdir()}
    assert any("lz4" in path.name for path in left), left
    assert [*Path(tempfile.gettempdir()).glob(f"hsperfdata_*/{pid}")] == []

    processes.end(_process(small, Part.KAFKA), [(signal.SIGKILL, 10.0)])
    assert left <= {*temporary.iterdir()}
    sandbox.start(small, frozenset({Part.KAFKA}))
    assert not left & {*temporary.iterdir()}


def test_a_prefect_server_that_is_busy_keeps_no_world_from_living_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANALYTICS_SANDBOX", str(folder))
    sandbox.start(folder)
    prefect = _process(folder, Part.PREFECT).pid
    os.kill(prefect, signal.SIGSTOP)
    try:
        assert _not_running(folder) == {Part.PREFECT: Health.NOT_ANSWERING}
        assert main(["sandbox", "advance", "--days", "1"]) == 2
    finally:
        os.kill(prefect, signal.SIGCONT)
    said = capsys.readouterr().err
    assert "There is no world" in said


def test_stop_ends_its_own_processes_and_keeps_data_and_ports(folder: Path) -> None:
    before = sandbox.start(folder)
    stranger = processes.spawn(["sleep", "60"], log=folder / "logs" / "stranger.log", cwd=folder)
    with psycopg.connect(before.warehouse_dsn or "") as connection:
        connection.execute("create table if not exists survives as select 1 as one")
    sandbox.stop(folder)
    assert not any(processes.alive(running.process) for running in before.parts.values())
    assert processes.alive(stranger)
    processes.end(stranger, [(signal.SIGKILL, 5.0)])
    assert _state(folder).warehouse_dsn is None

    after = sandbox.start(folder)
    assert after.public() == before.public()
    assert _ask(after.warehouse_dsn, "select one from survives") == "1"


def test_a_state_from_before_a_reboot_is_not_taken_for_living_processes(small: Path) -> None:
    """Another program has the pid, PostgreSQL's own lock file names it too."""
    state = sandbox.start(small, frozenset({Part.APP_POSTGRES}))
    place = (state.postgres_folder or state.folder) / ("data" if state.postgres_folder else "postgres")
    lock = place / "app" / "postmaster.pid"
    held = lock.read_text()
    sandbox.stop(small)
    stranger = processes.spawn(["sleep", "60"], log=small / "logs" / "stranger.log", cwd=small)
    lock.write_text(held.replace(held.split("\n", 1)[0], str(stranger.pid), 1))
    document = json.loads((small / "state.json").read_text())
    document["parts"]["app_postgres"]["process"] = {"pid": stranger.pid, "born": "before the reboot"}
    (small / "state.json").write_text(json.dumps(document))

    status = sandbox.status(small)
    assert status is not None
    assert status.health[Part.APP_POSTGRES] is Health.STOPPED
    assert _ask(sandbox.start(small, frozenset({Part.APP_POSTGRES})).app_dsn, "select 1") == "1"
    assert processes.alive(stranger)
    processes.end(stranger, [(signal.SIGKILL, 5.0)])


def test_a_folder_that_was_deleted_while_its_server_ran_starts_anew_in_the_same_place(tmp_path: Path) -> None:
    """Outside the folder, where PostgreSQL's user can reach them, its data outlive it."""
    folder, parts = tmp_path / "w", frozenset({Part.APP_POSTGRES})
    before = sandbox.start(folder, parts, cache=CACHE)
    left = before.parts[Part.APP_POSTGRES].process
    assert left is not None
    with psycopg.connect(before.app_dsn or "") as connection:
        connection.execute("create table of_the_old_one as select 1 as one")
    shutil.rmtree(folder)
    try:
        after = sandbox.start(folder, parts, cache=CACHE)
        assert _ask(after.app_dsn, "select to_regclass('of_the_old_one')::text") == "None"
        assert before.postgres_folder is None or not processes.alive(left)
    finally:
        processes.end(left, [(signal.SIGKILL, 5.0)])
        sandbox.reset(folder)


def test_a_stolen_port_is_replaced_and_said(small: Path) -> None:
    sandbox.start(small, frozenset({Part.APIS}))
    sandbox.stop(small)
    port = json.loads((small / "state.json").read_text())["parts"]["apis"]["port"]
    thief = processes.spawn(
        [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)],
        log=small / "log",
        cwd=small,
    )
    processes.wait_until(
        lambda: processes.answers(port), process=thief, seconds=20, part="thief", log=small / "log"
    )
    said: list[str] = []
    state = sandbox.start(small, frozenset({Part.APIS}), lambda part, message: said.append(message))
    assert state.parts[Part.APIS].port != port
    assert any("taken by another program" in message for message in said)
    processes.end(thief, [(signal.SIGKILL, 5.0)])


def test_a_folder_that_holds_something_else_is_neither_used_nor_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("the only copy")
    with pytest.raises(FlowsError, match="it is not touched"):
        sandbox.start(tmp_path)
    sandbox.reset(tmp_path)
    sandbox.stop(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "the only copy"


def test_the_verbs_work_from_the_command_line(tmp_path: Path) -> None:
    environment = {**os.environ, "ANALYTICS_SANDBOX": str(tmp_path / "none")}

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flows", "sandbox", *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    assert call("status").returncode == 1
    assert json.loads(call("status", "--json").stdout) == {"parts": {}}
    assert "no sandbox" in call("stop").stdout
    assert "no sandbox" in call("reset").stdout
    advance = call("advance", "--days", "1")
    assert advance.returncode == 2
    assert "start it with" in advance.stderr
    assert "Traceback" not in advance.stderr
    assert not (tmp_path / "none").exists()


def test_two_sandboxes_side_by_side_do_not_meet(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    first, second = sandbox.start(folder), sandbox.start(other)
    try:
        ports = [
            running.port for state in (first, second) for running in state.parts.values() if running.port
        ]
        assert len(set(ports)) == len(ports)
        assert first.password(Part.APP_POSTGRES) != second.password(Part.APP_POSTGRES)
    finally:
        sandbox.reset(other)
    until(lambda: _not_running(folder) == {}, 60)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has the problem")
def test_root_s_postgresql_runs_as_another_user_who_cannot_reach_the_folder(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    folder = closed / "sand box"
    state = sandbox.start(folder, POSTGRES, cache=CACHE)
    try:
        assert state.postgres_folder is not None
        assert not state.postgres_folder.is_relative_to(closed)
        assert (state.postgres_folder / "data").stat().st_mode & 0o777 == 0o700
        process = state.parts[Part.APP_POSTGRES].process
        assert process is not None
        assert Path(f"/proc/{process.pid}").stat().st_uid != 0
        assert _ask(state.app_dsn, "select 1") == "1"
    finally:
        sandbox.reset(folder)
    assert not state.postgres_folder.exists()
