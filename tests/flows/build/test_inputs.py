"""Which files a build reads."""

from __future__ import annotations

import duckdb

from flows.build.compaction import joined
from flows.build.inputs import Reader, chunks
from flows.landed import LANDED_ON
from flows.planner import Due
from flows.prepare import schemas
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.manifest import Commit, LakeFile
from flows.stores.warehouse import Warehouse
from transforms import registry

CHARGES = "raw_stripe__charges"
EVENTS = "raw_events__user_events"
STAGED = "stg_events__user_events"
DAYS = ("2025-11-01", "2025-11-02", "2025-11-03")


def test_a_day_that_is_continued_by_itself_is_built_anew_from_the_same_day_alone(
    warehouse: Warehouse, lake: Lake
) -> None:
    with warehouse.connect() as connection, duckdb.connect() as duck:
        ledger = Ledger(connection)
        schemas(ledger)
        for day in DAYS:
            rows = duck.sql(f"select timestamptz '{day} 12:00:00+00' as event_time")
            file = lake.write("staging", STAGED, "event_time_day", day, "b", rows, measured="event_time")
            commit = Commit(
                f"build-{day}", "build", "staging", STAGED, partition=day, add=(file,), row_count=1
            )
            ledger.record(lake, commit, version=0)
        due = [Due("2025-11-02", "replace", "new", {}, 1)]

        read = Reader(ledger, registry.tables()).for_partitions(
            registry.table("fct_events"), due, whole=False
        )

    assert [file.partition for file in read.files[STAGED]] == ["2025-11-02"]


def test_a_window_of_raw_is_read_whole_also_while_files_of_it_are_joined(
    warehouse: Warehouse, lake: Lake
) -> None:
    with warehouse.connect() as connection, duckdb.connect() as duck:
        ledger = Ledger(connection)
        schemas(ledger)
        files = [_land(ledger, lake, duck, CHARGES, number) for number in range(3)]
        one = joined(lake, registry.table(CHARGES), "2025-11-01", files[:2], LANDED_ON, "_landed_at", "run")
        ledger.record(lake, one, version=0)
        due = [Due("2025-11", "replace", "new", {}, 1)]

        read = Reader(ledger, registry.tables()).for_partitions(
            registry.table("stg_stripe__charges"), due, whole=False
        )

        ids = lake.read(duck, read.files[CHARGES]).project("id").order("id").fetchall()
    assert ids == [(0,), (1,), (2,)]


def test_a_file_in_which_others_were_joined_is_read_once_whatever_was_read_before(
    warehouse: Warehouse, lake: Lake
) -> None:
    with warehouse.connect() as connection, duckdb.connect() as duck:
        ledger = Ledger(connection)
        schemas(ledger)
        files = [_land(ledger, lake, duck, EVENTS, number, rows=number + 1) for number in range(4)]
        first = joined(lake, registry.table(EVENTS), DAYS[0], files[1:3], LANDED_ON, "_landed_at", "run")
        ledger.record(lake, first, version=0)
        reader = Reader(ledger, registry.tables())
        (one,) = first.add

        assert _read(reader, "") == [[files[0]], [one], [], [files[3]]]
        assert _read(reader, "land-0") == [[one], [], [files[3]]]
        assert _read(reader, "land-1") == [[], [files[3]]]
        assert _read(reader, "land-2") == [[files[3]]]
        assert _sizes(reader, "", 5) == [[1], [1, 0], [1]]
        assert _sizes(reader, "land-1", 1) == [[0, 1]]

        again = joined(lake, registry.table(EVENTS), DAYS[0], [files[0], one], LANDED_ON, "_landed_at", "run")
        ledger.record(lake, again, version=0)
        assert _read(reader, "") == [list(again.add), [], [], [files[3]]]


def _land(
    ledger: Ledger, lake: Lake, duck: duckdb.DuckDBPyConnection, name: str, number: int, rows: int = 1
) -> LakeFile:
    given = duck.sql(
        f"select {number} as id, timestamptz '{DAYS[0]} 12:00:00+00' as _landed_at from range({rows})"
    )
    file = lake.write("raw", name, LANDED_ON, DAYS[0], f"b{number}", given, measured=None)
    commit = Commit(
        f"land-{number}", "land", "raw", name, add=(file,), windows={DAYS[0]: rows}, row_count=rows
    )
    ledger.record(lake, commit, version=ledger.positions(name).version)
    return file


def _read(reader: Reader, since: str) -> list[list[LakeFile]]:
    return [list(landing.add) for landing in reader.landings_since(EVENTS, since)]


def _sizes(reader: Reader, since: str, rows_at_once: int) -> list[list[int]]:
    """Files of each landing, chunk by chunk."""
    given = chunks(reader.landings_since(EVENTS, since), rows_at_once)
    return [[len(landing.add) for landing in chunk] for chunk in given]
