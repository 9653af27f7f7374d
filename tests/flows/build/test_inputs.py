"""Which files a build reads."""

from __future__ import annotations

import duckdb

from flows.build.inputs import Reader
from flows.planner import Due
from flows.prepare import schemas
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.manifest import Commit
from flows.stores.warehouse import Warehouse
from transforms import registry

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
