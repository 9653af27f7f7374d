"""A model that changed changes its table, and nobody loses what they could read without saying yes."""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest

from flows.errors import FlowsError
from flows.stores import leaf_indexes
from flows.stores.lake import Lake
from flows.stores.locks import Blocked
from flows.stores.migrate import ConsentNeeded, InTheWay, migrate, migrate_view
from flows.stores.publish import publish
from flows.stores.upkeep import refresh, retire
from flows.stores.warehouse import Warehouse
from tests.flows.stores.test_readers import snapshot
from tests.flows.stores.world import DAY, EVENTS, USERS, built, create, rows, tidy, visits
from transforms.contract import Column, Table
from transforms.model import Model
from transforms.registry import Registry
from warehouse_ddl.files import View


def _described(table: Table) -> Table:
    return replace(
        table, columns=tuple(replace(column, description="what it is") for column in table.columns)
    )


def _with(table: Table, *columns: Column) -> Table:
    return replace(table, columns=(*table.columns, *columns))


def _content(table: Table) -> tuple[str, str]:
    """A query that gives 50 rows, and the partition they belong into."""
    if table is EVENTS:
        return visits(DAY, 50), DAY
    return "SELECT i AS person_id, 'n' || i AS name, '{}'::JSON AS properties FROM range(50) t(i)", ""


def _filled(dsn: str, lake: Lake, table: Table) -> tuple[Warehouse, Table]:
    """A warehouse whose table has this content; and the table without one of its columns."""
    warehouse = Warehouse(dsn)
    migrate(warehouse, lake, table)
    query, partition = _content(table)
    publish(table, [built(lake, table, partition, query, batch="b1")], warehouse=warehouse, lake=lake)
    return warehouse, replace(table, columns=tuple(c for c in table.columns if c.name != "properties"))


def test_a_new_column_is_added_in_place(any_dsn: str, lake: Lake) -> None:
    warehouse = Warehouse(any_dsn)
    migrate(warehouse, lake, EVENTS)
    publish(EVENTS, [built(lake, EVENTS, DAY, visits(DAY, 10), batch="b1")], warehouse=warehouse, lake=lake)
    wider = _with(EVENTS, Column("browser", "VARCHAR"))

    done = migrate(warehouse, lake, wider)

    assert (done.is_needed, done.rebuild) == (True, False)
    query = f"SELECT *, 'x' AS browser FROM ({visits(DAY, 10)})"
    publish(wider, [built(lake, wider, DAY, query, batch="b2")], warehouse=warehouse, lake=lake)
    assert {row[-1] for row in rows(any_dsn, "fct_visits")} == {"x"}
    assert not migrate(warehouse, lake, wider).is_needed


@pytest.mark.parametrize("table", [EVENTS, USERS], ids=lambda table: table.name)
def test_a_rebuild_keeps_the_rows_and_asks_before_it_takes_something_away(
    any_dsn: str, lake: Lake, table: Table
) -> None:
    warehouse, smaller = _filled(any_dsn, lake, table)
    before = rows(any_dsn, table.name)

    with pytest.raises(ConsentNeeded, match=r"properties.*--yes"):
        migrate(warehouse, lake, smaller)
    assert rows(any_dsn, table.name) == before
    done = migrate(warehouse, lake, smaller, yes=True)

    assert done.rebuild
    assert rows(any_dsn, table.name) == [row[:-1] for row in before]
    assert not migrate(warehouse, lake, smaller).is_needed
    query, partition = _content(table)
    more = query.replace("50)", "60)").replace("2000)", "2000)")
    item = built(lake, smaller, partition, f"SELECT * EXCLUDE (properties) FROM ({more})", batch="b2")
    again = publish(smaller, [item], warehouse=warehouse, lake=lake)
    assert (again.inserted, again.updated, again.deleted) == (10, 0, 0)
    assert tidy(any_dsn, lake)["left"] == []


@pytest.mark.parametrize("table", [EVENTS, USERS], ids=lambda table: table.name)
def test_a_rebuild_waits_for_a_snapshot_that_would_find_the_table_empty(
    any_dsn: str, lake: Lake, table: Table
) -> None:
    warehouse, smaller = _filled(any_dsn, lake, table)

    with snapshot(any_dsn) as analyst:
        with pytest.raises(Blocked, match=f"session {analyst.info.backend_pid} of {analyst.info.user}"):
            migrate(warehouse, lake, smaller, yes=True)
        assert analyst.execute(f"SELECT count(*) FROM analytics.{table.name}".encode()).fetchone() == (50,)

    assert migrate(warehouse, lake, smaller, yes=True).rebuild
    assert len(rows(any_dsn, table.name)) == 50
    assert tidy(any_dsn, lake)["left"] == []


def test_a_new_required_column_is_required_once_it_is_filled(dsn: str, lake: Lake) -> None:
    warehouse = Warehouse(dsn)
    migrate(warehouse, lake, USERS)
    people = "SELECT i AS person_id, 'n' AS name, '{}'::JSON AS properties FROM range(5) t(i)"
    publish(USERS, [built(lake, USERS, "", people, batch="b1")], warehouse=warehouse, lake=lake)
    wider = _with(USERS, Column("plan", "VARCHAR", nullable=False))

    migrate(warehouse, lake, wider)
    filled = built(lake, wider, "", f"SELECT *, 'free' AS plan FROM ({people})", batch="b2")
    publish(wider, [filled], warehouse=warehouse, lake=lake)
    migrate(warehouse, lake, wider)

    assert not migrate(warehouse, lake, wider).is_needed
    assert {row[-1] for row in rows(dsn, "dim_people")} == {"free"}


@pytest.mark.parametrize("large_bytes", [leaf_indexes._LARGE_BYTES, 1], ids=["small", "large"])
def test_a_new_index_is_built_on_every_leaf_the_stream_does_not_write_into(
    dsn: str, lake: Lake, monkeypatch: pytest.MonkeyPatch, large_bytes: int
) -> None:
    monkeypatch.setattr(leaf_indexes, "_LARGE_BYTES", large_bytes)
    warehouse = Warehouse(dsn)
    migrate(warehouse, lake, EVENTS)
    days = ("2025-10-07", "2025-10-08")
    for day in days:
        publish(
            EVENTS, [built(lake, EVENTS, day, visits(day, 10), batch=day)], warehouse=warehouse, lake=lake
        )
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "insert into ops.hot_partition (table_name, partition) values (%s, %s) "
            "on conflict (table_name, partition) do update set sealed_at = null, since = excluded.since",
            (EVENTS.name, days[1]),
        )
    more = replace(EVENTS, indexes={**EVENTS.indexes, "idx_visits_page": ("page",)})

    done = migrate(warehouse, lake, more)

    assert done.describe() == ["fct_visits: index idx_visits_page is new on 1 of its leaves (in place)"]
    assert not migrate(warehouse, lake, more).is_needed
    with psycopg.connect(dsn) as connection:
        built_on = connection.execute(
            "select tablename from pg_indexes where indexname like 'idx_visits_page%'"
        ).fetchall()
    assert built_on == [("fct_visits_2025_10_07",)]


def test_an_index_that_is_declared_otherwise_is_built_anew_and_one_that_is_not_goes(
    dsn: str, lake: Lake
) -> None:
    warehouse = Warehouse(dsn)
    more = replace(EVENTS, indexes={**EVENTS.indexes, "idx_visits_page": ("page",)})
    migrate(warehouse, lake, more)
    publish(more, [built(lake, EVENTS, DAY, visits(DAY, 10), batch="b1")], warehouse=warehouse, lake=lake)
    first = next(iter(EVENTS.indexes))
    other = replace(EVENTS, indexes={first: ("page", "user_id desc")})

    done = migrate(warehouse, lake, other)

    assert done.describe() == [
        f"fct_visits: index {first} is new on 1 of its leaves (in place)",
        "fct_visits: indexes of 1 leaves that are declared no more go (in place)",
    ]
    with psycopg.connect(dsn) as connection:
        there = connection.execute(
            "select substring(indexdef from '[(].*') from pg_indexes "
            "where tablename = 'fct_visits_2025_10_07'"
        ).fetchall()
    assert ("(page, user_id DESC)",) in there
    assert len(there) == 2
    assert not migrate(warehouse, lake, other).is_needed


def test_a_table_without_leaves_gets_its_indexes_keys_and_documentation_as_they_are_declared_now(
    any_dsn: str, lake: Lake
) -> None:
    warehouse = Warehouse(any_dsn)
    first = replace(USERS, indexes={"idx_people_name": ("name",)})
    create(any_dsn, first)
    with psycopg.connect(any_dsn, autocommit=True) as connection:
        connection.execute("create index administrators_own on analytics.dim_people (name)")
    changed = replace(_described(USERS), indexes={"idx_people_name": ("name desc",)})

    done = migrate(warehouse, lake, changed)

    assert not done.rebuild
    assert "dim_people: index idx_people_name becomes (name desc), was (name) (in place)" in done.describe()
    assert any("documentation" in line for line in done.describe())
    with psycopg.connect(any_dsn) as connection:
        there = connection.execute(
            "select indexname, substring(indexdef from '[(].*') from pg_indexes "
            "where tablename = 'dim_people' and indexname not like '%pkey'"
        ).fetchall()
        comments = connection.execute(
            "select distinct col_description(attrelid, attnum) from pg_attribute "
            "where attrelid = 'analytics.dim_people'::regclass and attnum > 0"
        ).fetchall()
    assert sorted(there) == [("administrators_own", "(name)"), ("idx_people_name", "(name DESC)")]
    assert comments == [("what it is",)]
    assert not migrate(warehouse, lake, changed).is_needed
    assert migrate(warehouse, lake, first).is_needed


def test_a_foreign_key_is_added_replaced_and_taken_off_as_it_is_declared(any_dsn: str, lake: Lake) -> None:
    warehouse = Warehouse(any_dsn)
    pets = replace(USERS, name="dim_pets", indexes={})
    known = Registry({table.name: Model(table) for table in (USERS, pets)}, {})
    for table in (USERS, pets):
        migrate(warehouse, lake, table, registry=known)
    owned = replace(pets, foreign_keys={USERS.key[0]: "dim_people"})
    with psycopg.connect(any_dsn, autocommit=True) as connection:
        connection.execute(f"insert into analytics.dim_pets ({USERS.key[0]}) values (7)")

    with pytest.raises(FlowsError, match=r"dim_pets_.*_fkey can't be added, rows of it reference nothing"):
        migrate(warehouse, lake, owned, registry=known)
    with psycopg.connect(any_dsn, autocommit=True) as connection:
        connection.execute("delete from analytics.dim_pets")
    added = migrate(warehouse, lake, owned, registry=known)
    again = migrate(warehouse, lake, owned, registry=known)
    gone = migrate(warehouse, lake, pets, registry=known)

    key = USERS.key[0]
    assert added.describe() == [f"dim_pets: column {key} references dim_people ({key}) (in place)"]
    assert not again.is_needed
    assert gone.describe() == [f"dim_pets: column {key} references dim_people no more (in place)"]


def test_somebody_elses_view_is_not_dropped(dsn: str, lake: Lake) -> None:
    warehouse = Warehouse(dsn)
    migrate(warehouse, lake, USERS)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE VIEW public.mine AS SELECT name FROM analytics.dim_people")
    smaller = replace(USERS, columns=USERS.columns[:2])

    with pytest.raises(InTheWay, match="mine"):
        migrate(warehouse, lake, smaller, yes=True)

    assert tidy(dsn, lake)["left"] == []


def _view(expression: str) -> View:
    return View(
        "mv_v",
        ("fct_visits",),
        (
            f"create materialized view if not exists analytics.mv_v as select {expression} as n, 1 as one "
            "from analytics.fct_visits",
            "create unique index if not exists idx_mv_v on analytics.mv_v (n)",
        ),
    )


def test_a_view_whose_definition_changed_is_made_anew(any_dsn: str, lake: Lake) -> None:
    warehouse = Warehouse(any_dsn)
    migrate(warehouse, lake, EVENTS)
    publish(EVENTS, [built(lake, EVENTS, DAY, visits(DAY, 10), batch="b1")], warehouse=warehouse, lake=lake)

    assert not migrate_view(warehouse, _view("count(*)"))  # it was not there: nothing was made anew
    assert not migrate_view(warehouse, _view("count(*)"))
    assert rows(any_dsn, "mv_v") == [(10, 1)]
    assert migrate_view(warehouse, _view("-count(*)"))
    assert rows(any_dsn, "mv_v") == [(-10, 1)]
    assert not migrate_view(warehouse, _view("-count(*)"))


def test_a_view_that_is_made_anew_is_never_empty_to_an_older_snapshot(any_dsn: str, lake: Lake) -> None:
    warehouse = Warehouse(any_dsn)
    migrate(warehouse, lake, EVENTS)
    migrate_view(warehouse, _view("count(*)"))

    with snapshot(any_dsn) as analyst:
        assert migrate_view(warehouse, _view("1 + count(*)"))
        assert analyst.execute("SELECT * FROM analytics.mv_v").fetchall() == [(1, 1)]


def test_a_view_that_somebody_elses_hangs_on_stays_as_it_was(dsn: str, lake: Lake) -> None:
    warehouse = Warehouse(dsn)
    migrate(warehouse, lake, EVENTS)
    migrate_view(warehouse, _view("count(*)"))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE VIEW public.mine AS SELECT n FROM analytics.mv_v")

    with pytest.raises(InTheWay, match=r"mv_v has to be replaced.*mine"):
        migrate_view(warehouse, _view("-count(*)"))

    assert rows(dsn, "mv_v") == [(0, 1)]


def test_an_owed_refresh_is_made_once(dsn: str, lake: Lake) -> None:
    warehouse = Warehouse(dsn)
    create(dsn, EVENTS)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE MATERIALIZED VIEW analytics.mv_v AS SELECT count(*) AS n FROM analytics.fct_visits"
        )
        connection.execute("CREATE UNIQUE INDEX ON analytics.mv_v (n)")
    item = built(lake, EVENTS, DAY, visits(DAY, 10), batch="b1")
    publish(EVENTS, [item], warehouse=warehouse, lake=lake, views=["mv_v"])

    assert [item.view for item in refresh(warehouse)] == ["mv_v"]
    assert refresh(warehouse) == []
    assert rows(dsn, "mv_v, generate_series(1, 1)") == [(10, 1)]


def test_leaves_past_their_retention_are_dropped(any_dsn: str, lake: Lake) -> None:
    from datetime import UTC, datetime, timedelta

    warehouse = Warehouse(any_dsn)
    table = replace(EVENTS, retention=timedelta(days=1))
    create(any_dsn, table)
    items = [
        built(lake, table, day, visits(day, 10), batch="b1") for day in ("2025-10-05", "2025-10-06", DAY)
    ]
    publish(table, items, warehouse=warehouse, lake=lake)

    assert retire(warehouse, lake, table, datetime(2025, 10, 7, 12, tzinfo=UTC)) == ["2025-10-05"]
    assert retire(warehouse, lake, table, datetime(2025, 10, 7, 12, tzinfo=UTC)) == []
    assert len(rows(any_dsn, "fct_visits")) == 20
    assert tidy(any_dsn, lake)["left"] == []
