"""Which partitions are due: stated over small catalogs, without a database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from flows.planner import ASKED_FOR, UNKNOWN, WHOLE, PartitionState, batches, plan
from flows.propagation import propagate
from transforms.contract import Column, Layer, Partition, Table, Write

DAY = Partition("at", "day")
MONTH = Partition("at", "month")


def _table(
    name: str, layer: Layer, *upstreams: str, partition: Partition | None = None, write: Write | None = None
) -> Table:
    return Table(
        name=name,
        layer=layer,
        grain="one row per id",
        key=("id",),
        columns=(Column("id", "BIGINT"), Column("at", "TIMESTAMP WITH TIME ZONE")),
        write=write or Write.REPLACE_PARTITION,
        partition=partition,
        upstreams=upstreams,
    )


RAW = _table("raw_events__clicks", Layer.RAW, partition=DAY)
STAGING = _table("stg_events__clicks", Layer.STAGING, RAW.name, partition=DAY, write=Write.APPEND)
FACT = _table("fct_events", Layer.FACTS, STAGING.name, partition=DAY, write=Write.APPEND)
MART = _table("mart_daily", Layer.MARTS, FACT.name, partition=DAY)
MONTHLY = _table("mart_monthly", Layer.MARTS, FACT.name, partition=MONTH)
CATALOG = {table.name: table for table in (RAW, STAGING, FACT, MART, MONTHLY)}
MODELS = (STAGING, FACT, MART, MONTHLY)
PRINTS = {table.name: "v1" for table in MODELS}


def _settled(days: list[str]) -> dict[str, dict[str, PartitionState]]:
    """States in which every model was built from what stands upstream: plan by plan, as a run would do it."""
    states: dict[str, dict[str, PartitionState]] = {
        RAW.name: {day: PartitionState("landing-1", 1, rows=10) for day in days}
    }
    for number, table in enumerate(MODELS, start=2):
        work = plan(table, CATALOG, states, "v1")
        keys = {item.partition: item.based_on for item in work.due}
        if table is STAGING:
            keys |= {day: {} for day in days}
        states[table.name] = {
            key: PartitionState(f"{table.name}-{key}", number, "v1", based_on, 10)
            for key, based_on in keys.items()
        }
    return states


def test_what_a_table_has_consumed_makes_no_window_of_its_readers_due() -> None:
    reader = _table("mart_clicks", Layer.MARTS, STAGING.name, partition=DAY)
    catalog = CATALOG | {reader.name: reader}
    days = ["2025-10-06", "2025-10-07"]
    states = _settled(days)
    states[STAGING.name][WHOLE] = PartitionState("consumed-1", 5, "v1", {RAW.name: "landing-1"}, rows=0)
    first = plan(reader, catalog, states, "v1")
    assert first.partitions == days
    states[reader.name] = {
        item.partition: PartitionState(item.partition, 6, "v1", item.based_on, 10) for item in first.due
    }

    states[STAGING.name][WHOLE] = PartitionState("consumed-2", 7, "v1", {RAW.name: "landing-2"}, rows=0)
    states[STAGING.name]["2025-10-07"] = PartitionState("more", 7, "v1", {}, rows=11)

    assert plan(reader, catalog, states, "v1").partitions == ["2025-10-07"]


def test_nothing_is_due_when_everything_was_built_from_what_stands() -> None:
    states = _settled(["2025-10-06", "2025-10-07"])
    assert propagate(MODELS, CATALOG, states, PRINTS) == []


def test_a_late_row_makes_its_own_day_due_and_what_depends_on_it() -> None:
    states = _settled(["2025-09-30", "2025-10-06", "2025-10-07"])
    work = {
        w.table.name: w.partitions
        for w in propagate(MODELS, CATALOG, states, PRINTS, {RAW.name: {"2025-10-06": 1}})
    }
    assert work == {
        STAGING.name: [WHOLE],
        FACT.name: ["2025-10-06"],
        MART.name: ["2025-10-06"],
        MONTHLY.name: ["2025-10"],
    }


def test_the_first_row_of_a_day_makes_it_due_in_everything_that_reads_it() -> None:
    states = _settled(["2025-10-06"])
    work = {
        w.table.name: w.partitions
        for w in propagate(MODELS, CATALOG, states, PRINTS, {RAW.name: {"2025-10-07": 5}})
    }
    assert work[FACT.name] == work[MART.name] == ["2025-10-07"]


def test_a_key_that_is_no_window_is_taken_as_rows_of_an_unknown_day() -> None:
    reader = _table("mart_clicks", Layer.MARTS, RAW.name, partition=DAY)
    catalog = CATALOG | {reader.name: reader}
    states = _settled(["2025-10-06", "2025-10-07"])
    states[RAW.name]["-100-03-15"] = PartitionState("landing-1", 1, rows=1)

    due = plan(reader, catalog, states, "v1").due
    assert [(item.partition, item.rows) for item in due] == [("2025-10-06", 11), ("2025-10-07", 11)]

    arriving = {RAW.name: {"-100-03-15": 1, "infinity": 1, "2025-10-07": 1}}
    work = {w.table.name: w.partitions for w in propagate(MODELS, CATALOG, states, PRINTS, arriving)}
    assert (work[STAGING.name], work[FACT.name]) == ([WHOLE], ["2025-10-07"])


def test_rows_of_a_day_that_only_reading_tells_are_told_of_no_day() -> None:
    states = _settled(["2025-10-06"])
    arriving = {RAW.name: {"2025-10-06": 1, UNKNOWN: 5}}
    work = {w.table.name: w for w in propagate(MODELS, CATALOG, states, PRINTS, arriving)}
    assert {name: w.partitions for name, w in work.items()} == {
        STAGING.name: [WHOLE],
        FACT.name: ["2025-10-06", UNKNOWN],
        MART.name: ["2025-10-06", UNKNOWN],
        MONTHLY.name: ["2025-10", UNKNOWN],
    }
    unknown = work[MART.name].due[-1]
    assert (unknown.partition, unknown.reason, unknown.rows) == (UNKNOWN, f"new data in {FACT.name}", 5)


def test_rows_of_an_unknown_month_make_the_days_of_no_month_due() -> None:
    raw = _table("raw_app__orders", Layer.RAW, partition=MONTH)
    staging = _table("stg_app__orders", Layer.STAGING, raw.name, partition=MONTH, write=Write.APPEND)
    daily = _table("mart_orders", Layer.MARTS, staging.name, partition=DAY)
    catalog = {table.name: table for table in (raw, staging, daily)}
    prints = dict.fromkeys(catalog, "v1")
    found = propagate((staging, daily), catalog, {}, prints, {raw.name: {UNKNOWN: 5}})
    assert {work.table.name: work.partitions for work in found} == {
        staging.name: [WHOLE],
        daily.name: [UNKNOWN],
    }


def test_a_changed_model_is_rebuilt_from_the_start_and_says_so() -> None:
    states = _settled(["2025-10-06"])
    (due,) = plan(FACT, CATALOG, states, "v2").due
    assert (due.mode, due.reason) == ("replace", "its model changed")


def test_an_append_continues_behind_what_it_consumed() -> None:
    states = _settled(["2025-10-06"])
    states[STAGING.name]["2025-10-06"] = PartitionState("next", 9, "v1", rows=11)
    (due,) = plan(FACT, CATALOG, states, "v1").due
    assert (due.mode, due.based_on) == ("append", {STAGING.name: "next"})


def test_a_table_that_follows_keys_is_due_as_a_whole_and_a_changed_model_window_by_window() -> None:
    raw = _table("raw_app__orders", Layer.RAW, partition=MONTH)
    staged = replace(
        _table("stg_app__orders", Layer.STAGING, raw.name, partition=MONTH, write=Write.MERGE),
        changed=(raw.name,),
        by_key={raw.name: ("id",)},
    )
    catalog = {raw.name: raw, staged.name: staged}
    months = ["2025-09", "2025-10"]
    states = {raw.name: {month: PartitionState("landing-1", 1, rows=10) for month in months}}
    first = plan(staged, catalog, states, "v1")
    assert [(item.partition, item.mode) for item in first.due] == [
        (WHOLE, "replace"),
        ("2025-09", "replace"),
        ("2025-10", "replace"),
    ]

    states[staged.name] = {month: PartitionState(month, 2, "v1", {}, 10) for month in months}
    states[staged.name][WHOLE] = PartitionState("consumed", 3, "v1", {raw.name: "landing-1"})
    assert plan(staged, catalog, states, "v1").due == ()

    states[raw.name]["2025-09"] = PartitionState("landing-2", 4, rows=11)
    due = plan(staged, catalog, states, "v1").due
    assert [(item.partition, item.mode, item.based_on) for item in due] == [
        (WHOLE, "append", {raw.name: "landing-2"})
    ]
    assert plan(staged, catalog, states, "v2").partitions == [WHOLE, *months]

    states[staged.name]["2025-10"] = PartitionState("2025-10", 2, ASKED_FOR, {}, 10)
    assert plan(staged, catalog, states, "v1").partitions == [WHOLE, "2025-10"]


def test_the_lookback_of_a_table_widens_what_it_reads() -> None:
    table = Table(**{**MART.__dict__, "lookback": timedelta(days=1)})
    catalog = {**CATALOG, MART.name: table}
    states = _settled(["2025-10-05", "2025-10-06", "2025-10-07", "2025-10-08"])
    states[MART.name] = {
        item.partition: PartitionState("built", 5, "v1", item.based_on)
        for item in plan(table, catalog, {**states, MART.name: {}}, "v1").due
    }
    states[FACT.name]["2025-10-06"] = PartitionState("changed", 9, "v1")
    assert plan(table, catalog, states, "v1").partitions == ["2025-10-05", "2025-10-06", "2025-10-07"]


def test_what_the_retention_has_passed_is_not_rebuilt() -> None:
    table = Table(**{**MART.__dict__, "retention": timedelta(days=30)})
    states = {FACT.name: {"2025-08-01": PartitionState("a", 1), "2025-10-06": PartitionState("b", 2, rows=1)}}
    work = plan(table, {**CATALOG, MART.name: table}, states, "v1", datetime(2025, 10, 7, tzinfo=UTC))
    assert work.partitions == ["2025-10-06"]


def test_what_a_table_that_is_added_to_has_past_its_retention_is_not_built_anew_but_added_to() -> None:
    table = replace(FACT, retention=timedelta(days=30))
    catalog, today = {**CATALOG, FACT.name: table}, datetime(2025, 10, 7, tzinfo=UTC)
    states = _settled(["2025-08-01", "2025-10-06"])
    changed = plan(table, catalog, states, "v2", today)
    assert [(item.partition, item.mode) for item in changed.due] == [("2025-10-06", "replace")]
    assert plan(table, catalog, states, "v2").partitions == ["2025-08-01", "2025-10-06"]
    marked = {day: replace(state, fingerprint=ASKED_FOR) for day, state in states[FACT.name].items()}
    assert plan(table, catalog, {**states, FACT.name: marked}, "v1", today).partitions == ["2025-10-06"]
    states[STAGING.name]["2025-08-01"] = PartitionState("late", 9, "v1", rows=11)
    came = plan(table, catalog, states, "v1", today)
    assert [(item.partition, item.mode) for item in came.due] == [("2025-08-01", "append")]


def test_a_partitioned_table_of_unpartitioned_upstreams_finds_its_windows_in_its_output() -> None:
    charges = _table("stg_stripe__charges", Layer.STAGING)
    payments = _table("fct_payments", Layer.FACTS, charges.name, partition=MONTH)
    states = {charges.name: {WHOLE: PartitionState("a", 1, rows=5)}}
    work = plan(payments, {charges.name: charges, payments.name: payments}, states, "v1")
    assert work.discover
    assert [item.partition for item in work.due] == [WHOLE]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40), st.integers(1, 1500))
def test_batches_hold_every_partition_once_in_order_and_stay_near_the_limit(
    rows: list[int], limit: int
) -> None:
    states = {
        FACT.name: {
            f"2025-{1 + n // 28:02d}-{1 + n % 28:02d}": PartitionState("t", 1, rows=r)
            for n, r in enumerate(rows)
        }
    }
    work = plan(MART, CATALOG, states, "v1")
    parts = batches(work, limit)
    assert [item for part in parts for item in part] == list(work.due)
    assert all(len(part) == 1 or sum(item.rows for item in part) <= limit for part in parts)


def test_windows_that_are_only_arranged_otherwise_are_not_told_as_new() -> None:
    states = _settled(["2025-09-30", "2025-10-06", "2025-10-07"])
    told = "its partitions become others"
    for partition, windows in ((MONTH, ["2025-09", "2025-10"]), (None, [WHOLE])):
        for table in (FACT, MART):
            work = plan(replace(table, partition=partition, write=Write.MERGE), CATALOG, states, "v2")
            assert [(item.partition, item.reason) for item in work.due] == [(key, told) for key in windows]
    states[MART.name] = {WHOLE: PartitionState("all-of-it", 9, "v1", {}, rows=10)}
    assert {item.reason for item in plan(MART, CATALOG, states, "v2").due} == {told}
    states[FACT.name]["2025-10-08"] = PartitionState("another", 10, "v1", {}, rows=1)
    del states[MART.name]
    assert {item.reason for item in plan(MART, CATALOG, states, "v2").due} == {"new"}
