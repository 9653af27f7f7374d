"""Which files a build reads."""

from __future__ import annotations

import duckdb

from flows.build.compaction import joined
from flows.build.inputs import Reader
from flows.landed import LANDED_ON
from flows.planner import Due
from flows.prepare import schemas
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.manifest import Commit
from flows.stores.warehouse import Warehouse
from transforms import registry

CHARGES = "raw_stripe__charges"
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
        files = []
        for number in range(3):
            rows = duck.sql(f"select {number} as id, timestamptz '2025-11-01 12:00:00+00' as _landed_at")
            file = lake.write("raw", CHARGES, LANDED_ON, "2025-11-01", f"b{number}", rows, measured=None)
            commit = Commit(
                f"land-{number}", "land", "raw", CHARGES, add=(file,), windows={"2025-11-01": 1}, row_count=1
            )
            ledger.record(lake, commit, version=ledger.positions(CHARGES).version)
            files.append(file)
        one = joined(lake, registry.table(CHARGES), "2025-11-01", files[:2], LANDED_ON, "_landed_at", "run")
        ledger.record(lake, one, version=0)
        due = [Due("2025-11", "replace", "new", {}, 1)]

        read = Reader(ledger, registry.tables()).for_partitions(
            registry.table("stg_stripe__charges"), due, whole=False
        )

        ids = lake.read(duck, read.files[CHARGES]).project("id").order("id").fetchall()
    assert ids == [(0,), (1,), (2,)]
