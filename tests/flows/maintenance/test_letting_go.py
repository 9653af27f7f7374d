"""Raw that is past its retention goes, and nothing that was made of it is ever built of what is left."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from unittest import mock

import duckdb
import psycopg
import pytest

from flows import backfill, lakeshell
from flows.as_of import rebuild
from flows.build.compaction import joined
from flows.build.job import build_due
from flows.build.states import planner_states
from flows.durations import BadRange
from flows.landed import LANDED_ON, rows_by_window
from flows.maintenance.letting_go import let_go
from flows.maintenance.tidying import join_landed
from flows.moment import AsOfError, Moment
from flows.planner import ASKED_FOR, plan
from flows.progress import Progress
from flows.services import Services
from flows.stores.lake import LakeFile
from flows.stores.ledger import Ledger
from flows.stores.manifest import Commit, fold
from flows.stores.recovery import histories_of, replace_ledger
from flows.streaming.replays import Asked, Missing, Replay, ask
from tests import children
from tests.flows import kill_child
from tests.flows.kill_child import Place
from tests.house import Server
from transforms import registry
from transforms.entities import SourceEntity
from transforms.registry import Registry

RAW, STAGED = "raw_events__user_events", "stg_events__user_events"
KEPT = timedelta(days=60)
OLD, LATE, TODAY = "2025-08-01", "2025-10-30", "2025-11-03"


@pytest.fixture
def place(postgres18: Server, tmp_path: Path) -> Place:
    return Place(
        "host=127.0.0.1 port=1", postgres18.database(), "127.0.0.1:1", "http://127.0.0.1:1",
        str(tmp_path / "lake"), f"{TODAY}T12:00:00+00:00",
    )  # fmt: skip


@pytest.fixture
def services(place: Place) -> Iterator[Services]:
    services = kill_child.services(place)
    with services.lake, _declared():
        yield services


@contextmanager
def _declared() -> Iterator[None]:
    """User events are kept for 60 days in raw, and for 30 in staging."""
    known = registry.default()
    entity, model = known.entities[RAW], known.models[STAGED]
    shorter = replace(model, table=replace(model.table, retention=timedelta(days=30)))
    declared = Registry(
        {**known.models, STAGED: shorter}, {**known.entities, RAW: replace(entity, retention=KEPT)}
    )
    with mock.patch.object(registry, "default", return_value=declared):
        yield


def _land(services: Services, day: str, number: int, *happened: str) -> None:
    """One landing at the noon of a day, of one event at each of these times."""
    at = datetime.fromisoformat(f"{day}T12:00:00+00:00")
    columns = registry.table(RAW).columns
    with services.ledger() as ledger, duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        position = ledger.positions(RAW)
        first = position.positions.get("offsets", {"0": 0})["0"]
        rows: list[tuple[object, ...]] = [
            ("user_events", 0, offset, at, None, [], _value(offset, moment), f"b{number}", at, offset)
            for offset, moment in enumerate(happened, start=first)
        ]
        connection.execute(
            f"create table given ({', '.join(f'{column.name} {column.type}' for column in columns)})"
        )
        connection.executemany(f"insert into given values ({', '.join('?' * len(columns))})", rows)
        file = services.lake.write(
            "raw", RAW, "landed_on", day, f"b{number}", connection.table("given"), measured="_landed_at"
        )
        windows = rows_by_window(connection, _entity(), [str(services.lake.root / file.path)])
        after = first + len(rows)
        commit = Commit(
            f"land-{number}", "land", "raw", RAW, add=(file,), windows=windows, row_count=file.rows,
            control={"offsets": {"0": [[first, after]]}}, positions={"offsets": {"0": after}}, landed_at=at,
        )  # fmt: skip
        ledger.record(services.lake, commit, version=position.version)


def _value(number: int, happened: str) -> bytes:
    event = {"event_id": f"00000000-0000-4000-8000-{number:012d}", "event_type": "login", "properties": {}}
    return json.dumps({**event, "event_time": f"{happened}T09:00:00+00:00"}).encode()


def _entity() -> SourceEntity:
    return registry.entity(RAW)


def _build(services: Services, model: str = "v1") -> list[str]:
    built = build_due(services, registry.table(STAGED), model, "run")
    return sorted(built.partitions)


def _let_go(services: Services) -> list[str]:
    with services.ledger() as ledger, ledger.locked("land", RAW):
        return [Path(file.path).name for file in let_go(services, ledger, _entity(), "maintain")]


def _replay(services: Services, start: str, *, dry_run: bool) -> Replay:
    progress = Progress("test", io.StringIO())
    return ask(services, _entity(), Asked.parse(start, None, None), progress, dry_run=dry_run)


def _raw(ledger: Ledger) -> list[LakeFile]:
    return ledger.files(RAW)


def _staged(services: Services) -> dict[str, tuple[str, int]]:
    """Window → the commit that changed it last, and its rows."""
    with services.ledger() as ledger:
        states = ledger.states([STAGED], with_files=False)
    return {key: (state.token, state.row_count) for (_, key), state in states.items() if key}


def _due(services: Services, model: str = "v1") -> list[str]:
    with services.ledger() as ledger:
        states = planner_states(ledger, [RAW, STAGED])
    now = services.settings.now()
    return plan(registry.table(STAGED), registry.tables(), states, model, now).partitions


def test_raw_past_its_retention_goes_and_what_was_made_of_it_stays_as_it_is(services: Services) -> None:
    _land(services, OLD, 1, OLD, OLD)
    _land(services, LATE, 2, LATE)
    _build(services)
    before = _staged(services)

    assert _let_go(services) == ["b1.parquet"]
    assert _let_go(services) == []

    with services.ledger() as ledger:
        assert [Path(file.path).name for file in _raw(ledger)] == ["b2.parquet"]
        assert _raw(ledger) == fold(services.lake.manifest("raw", RAW))
        assert _due(services) == []
        ledger.mark([(STAGED, OLD), (STAGED, LATE)], ASKED_FOR)
    assert _due(services) == [LATE]
    assert _build(services) == []
    assert _build(services, "v2") == [LATE]
    after = _staged(services)
    assert after[OLD] == before[OLD]
    assert after[LATE][1] == 1


def test_an_old_record_that_comes_late_lands_and_goes_with_its_own_day(services: Services) -> None:
    _land(services, OLD, 1, OLD, OLD)
    _build(services)
    _let_go(services)

    _land(services, LATE, 2, OLD, LATE)
    _build(services)

    assert {key: rows for key, (_, rows) in _staged(services).items()} == {OLD: 3, LATE: 1}
    assert _let_go(services) == []
    # A model that changes leaves the old day alone, whatever raw has left of it.
    assert _build(services, "v2") == [LATE]
    assert {key: rows for key, (_, rows) in _staged(services).items()} == {OLD: 3, LATE: 1}


def test_what_a_table_has_not_read_yet_stays(services: Services) -> None:
    _land(services, OLD, 1, OLD)
    assert _let_go(services) == []
    _build(services)
    _land(services, OLD, 2, OLD)
    _land(services, "2025-08-02", 3, OLD)
    assert _let_go(services) == []
    _build(services)
    assert _let_go(services) == ["b1.parquet", "b2.parquet", "b3.parquet"]


def test_what_a_model_that_is_built_anew_has_not_read_again_stays_and_is_not_joined_also_if_it_was_before(
    services: Services,
) -> None:
    for number in (1, 2, 3):
        _land(services, OLD, number, OLD)
    _build(services)
    table = registry.table(RAW)
    with services.ledger() as ledger, ledger.locked("land", RAW):
        files = _raw(ledger)
        one = joined(services.lake, table, OLD, files[1:], LANDED_ON, "_landed_at", "run")
        ledger.record(services.lake, one, version=0)
        ledger.connection.execute(
            "update ops.partition_state set based_on = jsonb_build_object(%s::text, 'land-1') "
            "where table_name = %s and partition = ''",
            (RAW, STAGED),
        )
        assert join_landed(services, ledger, table, "run", at_most=2) == 0
        assert _raw(ledger) == [files[0], *one.add]
    assert _let_go(services) == []


def test_a_day_with_a_record_of_a_window_that_is_kept_stays_and_a_claim_that_nobody_believed_holds_nothing(
    services: Services,
) -> None:
    _land(services, OLD, 1, OLD, LATE)
    _land(services, "2025-08-02", 2, OLD, "2999-01-01")
    _land(services, LATE, 3, LATE)
    _build(services)
    assert _let_go(services) == ["b2.parquet"]


@pytest.mark.parametrize("start", ["0", "1", "2025-07-01", f"{OLD}T11:00"])
def test_a_replay_of_what_is_gone_changes_nothing_and_says_why(services: Services, start: str) -> None:
    _land(services, OLD, 1, OLD, OLD)
    _land(services, LATE, 2, LATE)
    _build(services)
    _let_go(services)
    with pytest.raises(Missing) as refused:
        _replay(services, start, dry_run=False)
    assert str(refused.value) == (
        "Topic user_events can't be replayed from there: raw of events.user_events is past its retention for "
        "offsets 0 to 1 of partition 0, and what was made of it stays as it is. Nothing was changed. Begin "
        "behind them."
    )
    assert list(_replay(services, "2", dry_run=True).partitions) == [(STAGED, LATE)]
    assert list(_replay(services, f"{LATE}T00:00", dry_run=True).partitions) == [(STAGED, LATE)]


def test_a_backfill_leaves_windows_past_their_retention_and_says_so(
    services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    _land(services, OLD, 1, OLD)
    _land(services, LATE, 2, LATE)
    _build(services)
    with mock.patch.object(backfill, "open_services", return_value=services):
        assert backfill.mark(OLD, TODAY, [STAGED]) == 1
        assert f"{STAGED} 1 partitions are past their retention" in " ".join(capsys.readouterr().err.split())
        with pytest.raises(BadRange, match=f"past its retention \\({STAGED}\\)"):
            backfill.mark(OLD, "2025-08-02", [STAGED])
    assert _due(services) == [LATE]


def test_nothing_is_made_as_it_was_of_raw_that_is_gone(services: Services) -> None:
    _land(services, OLD, 1, OLD)
    _build(services)
    moment = Moment.parse("2025-09-01T00:00")
    _let_go(services)
    with pytest.raises(AsOfError, match=r"Raw of events.user_events that was past its retention is gone"):
        rebuild(services, moment, moment.schema, ["fct_events"], Progress("test", io.StringIO()))


def test_a_ledger_from_the_manifests_tells_the_same(services: Services, postgres18: Server) -> None:
    _land(services, OLD, 1, OLD)
    _land(services, LATE, 2, LATE)
    _build(services)
    _let_go(services)
    with services.ledger() as ledger, psycopg.connect(postgres18.database(), autocommit=True) as other:
        again = Ledger(other)
        with again.connection.transaction():
            replace_ledger(again, histories_of(services.lake))
        assert _raw(again) == _raw(ledger)
        assert again.let_go(RAW) == ledger.let_go(RAW) != set()


@pytest.mark.full
@pytest.mark.parametrize(
    "name", ["ledger.entered", "ledger.before_commit", "ledger.committed", "lake.manifest_written"]
)
def test_a_kill_leaves_the_day_as_it_was_or_gone(services: Services, place: Place, name: str) -> None:
    _land(services, OLD, 1, OLD)
    _land(services, LATE, 2, LATE)
    _build(services)
    before = _staged(services)
    assert children.dies(name, _let_go_there, place)

    with services.ledger() as ledger:
        ledger.repair_manifest(services.lake)
        assert _raw(ledger) == fold(services.lake.manifest("raw", RAW))
    _let_go(services)

    with services.ledger() as ledger:
        assert [Path(file.path).name for file in _raw(ledger)] == ["b2.parquet"]
        assert _raw(ledger) == fold(services.lake.manifest("raw", RAW))
    assert (_staged(services), _due(services)) == (before, [])


def _let_go_there(place: Place) -> None:
    services = kill_child.services(place)
    with services.lake, _declared():
        _let_go(services)


def test_maintain_lets_go_and_the_files_go_with_a_sweep_once_nobody_can_read_them(services: Services) -> None:
    from flows.maintain import tidy

    _land(services, OLD, 1, OLD)
    _land(services, LATE, 2, LATE)
    _build(services)
    said = io.StringIO()

    assert tidy(services, Progress("test", said)).let_go == 1
    assert f"{RAW} {OLD} to {OLD} let go of: kept for 60 days" in " ".join(said.getvalue().split())
    assert sorted(path.name for path in _files(services)) == ["b1.parquet", "b2.parquet"]

    services.lake.close()
    with services.ledger() as ledger:
        ledger.connection.execute("update ops.ledger set committed_at = committed_at - interval '2 hours'")
    assert tidy(services, Progress("test", io.StringIO())).swept == 1
    assert [path.name for path in _files(services)] == ["b2.parquet"]


def test_lake_sql_names_what_maintain_has_joined_and_can_be_read_after_the_sweep(services: Services) -> None:
    from flows import maintain

    for number in (1, 2, 3):
        _land(services, LATE, number, LATE)
    _build(services)
    lakeshell.write(services.lake, registry.tables().values())
    with mock.patch.object(maintain, "TOPIC_FILES", 3):
        assert maintain.tidy(services, Progress("test", io.StringIO())).joined == 2
    services.lake.close()
    with services.ledger() as ledger:
        ledger.connection.execute("update ops.ledger set committed_at = committed_at - interval '2 hours'")
    assert maintain.tidy(services, Progress("test", io.StringIO())).swept == 3

    with duckdb.connect() as connection:
        connection.execute((services.lake.root / "lake.sql").read_text(encoding="utf-8"))
        assert connection.execute(f"select count(*) from {RAW}").fetchone() == (3,)


def _files(services: Services) -> list[Path]:
    return list((services.lake.root / "raw" / RAW).rglob("*.parquet"))
