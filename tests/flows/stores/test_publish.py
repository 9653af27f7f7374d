"""Published content follows the lake, whatever way it takes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from flows.stores import apply, ways
from flows.stores.difference import content
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.publish import publish
from flows.stores.standalone import workshop
from flows.stores.warehouse import Warehouse
from flows.stores.warehouse_errors import WarehouseError
from tests.flows.stores.world import DAY, EVENTS, ORDERS, USERS, built, create, rows, tidy, visits
from transforms import engine, registry
from warehouse_ddl.statements import home


def test_a_new_day_is_attached_and_equals_the_lake(any_dsn: str, lake: Lake) -> None:
    create(any_dsn, EVENTS)
    day = built(lake, EVENTS, DAY, visits(DAY, 1000), batch="b1")

    done = publish(EVENTS, [day], warehouse=Warehouse(any_dsn), lake=lake, views=["mv_visits"])

    assert (done.ways, done.inserted, done.pending) == ({DAY: "attach"}, 1000, ())
    found = rows(any_dsn, "fct_visits")
    assert len(found) == 1000
    assert found[3][2:] == (3, "page 3", found[3][4], {"i": 3})
    assert tidy(any_dsn, lake) == {"repaired": [], "dropped": [], "swept": [], "left": []}
    with psycopg.connect(any_dsn) as connection:
        owed = connection.execute("SELECT view_name FROM ops.refresh_owed").fetchall()
        leaf = connection.execute(
            "SELECT relpages = relallvisible, (SELECT count(*) FROM pg_index WHERE indrelid = c.oid) "
            "FROM pg_class c WHERE relname = 'fct_visits_2025_10_07'"
        ).fetchone()
    assert owed == [("mv_visits",)]
    assert leaf == (True, 2)


def test_attaching_a_day_looks_at_no_row_and_builds_no_index(any_dsn: str, lake: Lake) -> None:
    create(any_dsn, EVENTS)
    warehouse = Warehouse(make_conninfo(any_dsn, options="-c client_min_messages=debug1"))
    said: list[str] = []
    with warehouse.connect() as connection:  # the one that publishes, then
        connection.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))

    def indexes(schema: str, name: str) -> list[tuple[int, int]]:
        """Each index of a table with the file that it is in."""
        with psycopg.connect(any_dsn) as looking:
            return looking.execute(
                "select indexrelid, pg_relation_filenode(indexrelid) from pg_index "
                "where indrelid = %s::regclass order by 1",
                (f"{schema}.{name}",),
            ).fetchall()

    loaded: list[tuple[int, int]] = []
    done = publish(
        EVENTS,
        [built(lake, EVENTS, DAY, visits(DAY, 10), batch="b1")],
        warehouse=warehouse,
        lake=lake,
        audit=lambda schema, names: loaded.extend(indexes(schema, names[DAY])),
    )

    assert done.ways == {DAY: "attach"}
    assert indexes("analytics", EVENTS.leaf(DAY)) == loaded != []
    about = 'partition constraint for table "fct_visits_2025_10_07" is implied by existing constraints'
    assert about in said
    assert 'verifying table "fct_visits_2025_10_07"' not in said


@pytest.mark.parametrize("moment", ["2025-10-06 23:59:59.999999+00", "2025-10-08 00:00:00+00"])
def test_a_row_of_another_day_is_refused_before_anybody_sees_it(dsn: str, lake: Lake, moment: str) -> None:
    create(dsn, EVENTS)
    warehouse = Warehouse(make_conninfo(dsn, options="-c timezone=Pacific/Auckland"))
    stray = f"SELECT * REPLACE (timestamptz '{moment}' AS visited_at) FROM ({visits(DAY, 1)})"
    with pytest.raises(WarehouseError, match="bounds"):
        publish(EVENTS, [built(lake, EVENTS, DAY, stray, batch="b1")], warehouse=warehouse, lake=lake)
    assert rows(dsn, "fct_visits") == []


def test_every_partitioned_model_can_attach_a_leaf(dsn: str, lake: Lake) -> None:
    warehouse = Warehouse(dsn)
    for table in registry.build_order():
        if not table.is_published or not table.is_partitioned_in_postgres or table.partition is None:
            continue
        create(dsn, table)
        partition = table.partition.key(datetime(2025, 10, 7, tzinfo=UTC))
        with warehouse.connect() as connection, workshop(warehouse, connection, table) as shop:
            with engine.connect(keeps_order=True) as session:
                nothing = content(session, lake, table, [])
                standing = shop.stand_up(table.leaf(partition), nothing, partition)
            with connection.transaction():
                apply.attach(connection, table, partition, standing)
            found = connection.execute(
                "select count(*) from pg_index where indrelid = to_regclass(%s)",
                (f"{home(table)}.{table.leaf(partition)}",),
            ).fetchone()
        assert found == (1 + len(table.indexes),), table.name


def test_a_day_that_changed_a_little_is_written_row_by_row(any_dsn: str, lake: Lake) -> None:
    create(any_dsn, EVENTS)
    warehouse = Warehouse(any_dsn)
    publish(EVENTS, [built(lake, EVENTS, DAY, visits(DAY, 1000), batch="b1")], warehouse=warehouse, lake=lake)
    changed = (
        f"SELECT * REPLACE (CASE WHEN visit_id = 7 THEN 'other' ELSE page END AS page) "
        f"FROM ({visits(DAY, 1001)}) WHERE visit_id NOT IN (3, 4)"
    )

    done = publish(EVENTS, [built(lake, EVENTS, DAY, changed, batch="b2")], warehouse=warehouse, lake=lake)

    assert done.ways == {DAY: "diff"}
    assert (done.inserted, done.updated, done.deleted) == (1, 1, 2)
    found = {row[0]: row for row in rows(any_dsn, "fct_visits")}
    assert len(found) == 999
    assert found[7][3] == "other"
    assert 3 not in found
    assert tidy(any_dsn, lake)["left"] == []


def test_appended_rows_are_only_inserted(dsn: str, warehouse: Warehouse, lake: Lake) -> None:
    create(dsn, EVENTS)
    first = built(lake, EVENTS, DAY, visits(DAY, 1000), batch="b1")
    publish(EVENTS, [first], warehouse=warehouse, lake=lake)
    more = built(lake, EVENTS, DAY, visits(DAY, 10, first=2000), batch="b2", before=first.files)

    done = publish(EVENTS, [more], warehouse=warehouse, lake=lake)

    assert (done.ways, done.rows_written) == ({DAY: "diff"}, 10)
    assert len(rows(dsn, "fct_visits")) == 1010


def test_rows_that_no_longer_count_are_taken_away_beside_what_is_appended(any_dsn: str, lake: Lake) -> None:
    create(any_dsn, EVENTS)
    warehouse = Warehouse(any_dsn)
    first = built(lake, EVENTS, DAY, visits(DAY, 1000), batch="b1")
    publish(EVENTS, [first], warehouse=warehouse, lake=lake)
    # The rows 3 and 4 count no more; of row 4 another version comes.
    left = [file.without([3, 4]) for file in first.files]
    other = f"SELECT * REPLACE ('other' AS page) FROM ({visits(DAY, 1, first=4)})"
    other += f" UNION ALL {visits(DAY, 9, first=2000)}"
    more = built(lake, EVENTS, DAY, other, batch="b2", before=left)

    done = publish(EVENTS, [more], warehouse=warehouse, lake=lake)

    assert (done.inserted, done.updated, done.deleted) == (9, 1, 1)
    found = {row[0]: row for row in rows(any_dsn, "fct_visits")}
    assert len(found) == 1008
    assert (3 in found, found[4][3]) == (False, "other")
    with warehouse.connect() as connection:
        state = Ledger(connection).states([EVENTS.name])[(EVENTS.name, DAY)]
    assert state.files == more.files
    assert state.row_count == 1008
    assert tidy(any_dsn, lake) == {"repaired": [], "dropped": [], "swept": [], "left": []}


def test_a_rebuild_is_swapped(any_dsn: str, lake: Lake) -> None:
    create(any_dsn, EVENTS)
    warehouse = Warehouse(any_dsn)
    publish(EVENTS, [built(lake, EVENTS, DAY, visits(DAY, 1000), batch="b1")], warehouse=warehouse, lake=lake)

    again = built(lake, EVENTS, DAY, visits(DAY, 900, mark="new "), batch="b2")
    done = publish(EVENTS, [again], warehouse=warehouse, lake=lake, way="swap")

    assert done.ways == {DAY: "swap"}
    assert len(rows(any_dsn, "fct_visits")) == 900
    assert tidy(any_dsn, lake)["left"] == []


def test_a_window_that_became_empty_is_published_as_empty(dsn: str, warehouse: Warehouse, lake: Lake) -> None:
    create(dsn, EVENTS)
    publish(EVENTS, [built(lake, EVENTS, DAY, visits(DAY, 100), batch="b1")], warehouse=warehouse, lake=lake)

    done = publish(EVENTS, [built(lake, EVENTS, DAY, None, batch="b2")], warehouse=warehouse, lake=lake)

    assert done.deleted == 100
    assert rows(dsn, "fct_visits") == []


def test_a_merge_writes_only_rows_whose_content_changed(any_dsn: str, lake: Lake) -> None:
    create(any_dsn, USERS)
    warehouse = Warehouse(any_dsn)
    people = "SELECT i AS person_id, 'n' || i AS name, '{\"a\": 1}'::JSON AS properties FROM range(500) t(i)"
    first = publish(USERS, [built(lake, USERS, "", people, batch="b1")], warehouse=warehouse, lake=lake)
    changed = f"SELECT * REPLACE (CASE WHEN person_id = 9 THEN 'x' ELSE name END AS name) FROM ({people})"

    second = publish(USERS, [built(lake, USERS, "", changed, batch="b2")], warehouse=warehouse, lake=lake)

    assert (first.ways, first.inserted) == ({"": "load"}, 500)
    assert (second.ways, second.inserted, second.updated, second.deleted) == ({"": "merge"}, 0, 1, 0)
    assert rows(any_dsn, "dim_people")[9][1] == "x"


def test_windows_of_a_merged_table_are_published_alone(dsn: str, warehouse: Warehouse, lake: Lake) -> None:
    create(dsn, ORDERS)

    def month(name: str, first: int, amount: int) -> str:
        return (
            f"SELECT i AS purchase_id, timestamptz '{name}-03 00:00:00+00' AS created_at, "
            f"{amount}::DECIMAL(10,2) AS amount FROM range({first}, {first + 10}) t(i)"
        )

    both = [
        built(lake, ORDERS, "2025-09", month("2025-09", 0, 1), batch="a"),
        built(lake, ORDERS, "2025-10", month("2025-10", 10, 1), batch="b"),
    ]
    publish(ORDERS, both, warehouse=warehouse, lake=lake)
    later = [
        built(lake, ORDERS, "2025-10", month("2025-10", 12, 2), batch="c"),
        built(lake, ORDERS, "2025-11", month("2025-11", 30, 1), batch="d"),
    ]
    done = publish(ORDERS, later, warehouse=warehouse, lake=lake)

    assert done.ways == {"2025-10": "merge", "2025-11": "load"}
    assert (done.inserted, done.updated, done.deleted) == (12, 8, 2)
    assert [row[0] for row in rows(dsn, "fct_purchases")] == [*range(10), *range(12, 22), *range(30, 40)]


def test_publishing_twice_is_publishing_once(dsn: str, warehouse: Warehouse, lake: Lake) -> None:
    create(dsn, EVENTS)
    day = built(lake, EVENTS, DAY, visits(DAY, 100), batch="b1", version=0)
    publish(EVENTS, [day], warehouse=warehouse, lake=lake)

    again = publish(EVENTS, [day], warehouse=warehouse, lake=lake)

    assert (again.ways, again.skipped) == ({}, [DAY])
    assert len(rows(dsn, "fct_visits")) == 100


def test_unchanged_content_moves_only_the_ledger(dsn: str, warehouse: Warehouse, lake: Lake) -> None:
    create(dsn, EVENTS)
    day = built(lake, EVENTS, DAY, visits(DAY, 100), batch="b1")
    publish(EVENTS, [day], warehouse=warehouse, lake=lake)
    with warehouse.connect() as connection:
        before = Ledger(connection).states()[("fct_visits", DAY)]

    same = built(lake, EVENTS, DAY, None, batch="b2", before=day.files)
    done = publish(EVENTS, [same], warehouse=warehouse, lake=lake, views=["mv_visits"])

    with warehouse.connect() as connection:
        after = Ledger(connection).states()[("fct_visits", DAY)]
        owed = connection.execute("SELECT count(*) FROM ops.refresh_owed").fetchone()
    assert (done.ways, done.rows_written) == ({DAY: "none"}, 0)
    assert (after.token, after.version, after.files) == (before.token, before.version + 1, before.files)
    assert owed == (0,)


def test_many_differences_are_swapped_and_few_are_written_row_by_row(
    dsn: str, warehouse: Warehouse, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "SWAP_ROWS", 10)
    create(dsn, EVENTS)
    publish(EVENTS, [_marked(lake, "b1", 0)], warehouse=warehouse, lake=lake)
    taken = {}
    for changed in (3, 120, 299):
        done = publish(EVENTS, [_marked(lake, f"b{changed + 2}", changed)], warehouse=warehouse, lake=lake)
        taken[changed] = (done.ways[DAY], done.inserted, done.updated)
        assert [row[3] for row in rows(dsn, "fct_visits")].count(f"b{changed + 2}") == changed
    assert taken == {3: ("diff", 0, 3), 120: ("diff", 0, 120), 299: ("swap", 300, 0)}


def _marked(lake: Lake, batch: str, changed: int) -> Any:
    """A day of 300 visits, of which so many are on a page of this batch."""
    page = f"CASE WHEN visit_id < {changed} THEN '{batch}' ELSE page END"
    return built(
        lake, EVENTS, DAY, f"SELECT * REPLACE ({page} AS page) FROM ({visits(DAY, 300)})", batch=batch
    )


def test_a_swap_that_was_only_cheaper_gives_way_to_the_difference_where_a_reader_is_in_the_way(
    dsn: str, warehouse: Warehouse, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "SWAP_ROWS", 10)
    create(dsn, EVENTS)
    publish(EVENTS, [_marked(lake, "b1", 0)], warehouse=warehouse, lake=lake)

    with psycopg.connect(dsn) as analyst:
        before = analyst.execute("SELECT count(*), min(page) FROM analytics.fct_visits").fetchone()
        analyst.execute("DECLARE half_read CURSOR FOR SELECT page FROM analytics.fct_visits")
        done = publish(EVENTS, [_marked(lake, "b2", 300)], warehouse=warehouse, lake=lake)
        assert before == (300, "page 0")
        assert {row[0] for row in analyst.execute("FETCH ALL half_read")} == {f"page {n}" for n in range(7)}

    assert (done.ways, done.updated, done.pending) == ({DAY: "diff"}, 300, ())
    assert {row[3] for row in rows(dsn, "fct_visits")} == {"b2"}
    with warehouse.connect() as connection:
        assert connection.execute("SELECT count(*) FROM ops.pending_publish").fetchone() == (0,)
    assert tidy(dsn, lake) == {"repaired": [], "dropped": [], "swept": [], "left": []}


@pytest.mark.parametrize(
    ("statement", "way"),
    [
        (f"LOCK TABLE analytics.{EVENTS.leaf(DAY)} IN SHARE MODE", "swap"),
        pytest.param(f"CREATE INDEX ON analytics.{EVENTS.leaf(DAY)} (paid)", "diff", marks=pytest.mark.full),
        pytest.param(
            f"ALTER TABLE analytics.{EVENTS.leaf(DAY)} ALTER COLUMN page SET DEFAULT ''",
            "swap",
            marks=pytest.mark.full,
        ),
    ],
    ids=["lock table", "create index", "alter table"],
)
def test_a_lock_in_the_way_of_the_swap_and_of_the_difference_leaves_the_day_to_the_next_run(
    dsn: str, warehouse: Warehouse, lake: Lake, monkeypatch: pytest.MonkeyPatch, statement: str, way: str
) -> None:
    monkeypatch.setattr(ways, "SWAP_ROWS", 10)
    create(dsn, EVENTS)
    publish(EVENTS, [_marked(lake, "b1", 0)], warehouse=warehouse, lake=lake)
    before, rebuilt = rows(dsn, "fct_visits"), _marked(lake, "b2", 300)

    with psycopg.connect(dsn, application_name="administration") as administrator:
        administrator.execute(statement.encode())
        pid = administrator.info.backend_pid
        done = publish(EVENTS, [rebuilt], warehouse=warehouse, lake=lake)
        with warehouse.connect() as connection:
            remembered = connection.execute(
                "SELECT table_name, partition, blocked_by FROM ops.pending_publish"
            ).fetchall()

    ((partition, blocked_by),) = [(item.partition, item.blocked_by) for item in done.pending]
    assert (partition, done.ways, done.rows_written) == (DAY, {}, 0)
    assert f"session {pid} of" in blocked_by
    assert "(administration)" in blocked_by
    assert remembered == [("fct_visits", DAY, blocked_by)]
    assert f"fct_visits ({DAY}) stays as it was: {blocked_by} is in the way" in done.message()
    assert rows(dsn, "fct_visits") == before
    assert tidy(dsn, lake)["left"] == []

    again = publish(EVENTS, [rebuilt], warehouse=warehouse, lake=lake)

    assert (again.pending, again.ways) == ((), {DAY: way})
    assert {row[3] for row in rows(dsn, "fct_visits")} == {"b2"}
    with warehouse.connect() as connection:
        assert connection.execute("SELECT count(*) FROM ops.pending_publish").fetchone() == (0,)
