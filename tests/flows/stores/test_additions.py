"""What others have made on a table or a view outlives that it is made anew, or is named as in the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psycopg
import pytest

from flows.stores.lake import Lake
from flows.stores.migrate import InTheWay, migrate, migrate_view
from flows.stores.publish import publish
from flows.stores.warehouse import Warehouse
from tests.flows.stores.test_migrate import _content, _view
from tests.flows.stores.world import EVENTS, USERS, built, rows, tidy
from transforms.contract import Table

LEAF = "fct_visits_2025_10_07"
PEOPLE = [
    "create index by_length on analytics.dim_people (length(name)) where name is not null",
    "create unique index once on analytics.dim_people (name, person_id)",
    "create statistics analytics.together on person_id, name from analytics.dim_people",
    "alter table analytics.dim_people add constraint short check (length(name) < 100)",
    "alter table analytics.dim_people add constraint one_name unique (name)",
    "create table public.town (mayor bigint references analytics.dim_people)",
    "create policy few on analytics.dim_people for select to reader, loader using (person_id < 7)",
    "create policy own on analytics.dim_people as restrictive for insert with check (name = current_user)",
    "alter table analytics.dim_people enable row level security",
    "alter table analytics.dim_people set (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01)",
    "alter table analytics.dim_people replica identity full",
    "alter table analytics.dim_people alter column name set statistics 500",
    "alter table analytics.dim_people alter column person_id set (n_distinct = -1)",
    "comment on index analytics.by_length is 'why ''by'' length; not name'",
    "comment on statistics analytics.together is 'why together'",
    "comment on constraint short on analytics.dim_people is 'why short'",
    "comment on constraint one_name on analytics.dim_people is 'why one name'",
    "comment on policy few on analytics.dim_people is 'why few'",
    "comment on constraint town_mayor_fkey on public.town is 'why a mayor'",
]
VISITS = [
    "create index by_page on analytics.fct_visits (page)",
    f"create index of_one_day on analytics.{LEAF} (paid)",
    "alter table analytics.fct_visits add constraint paid_for check (paid >= 0)",
    "create policy free on analytics.fct_visits using (paid = 0)",
    f"create policy free on analytics.{LEAF} using (paid = 0)",
    "alter table analytics.fct_visits enable row level security",
    "alter table analytics.fct_visits alter column page set statistics 400",
    "comment on index analytics.by_page is 'why by page'",
    "comment on index analytics.of_one_day is 'why one day'",
    "comment on constraint paid_for on analytics.fct_visits is 'why paid'",
    f"comment on policy free on analytics.{LEAF} is 'why free'",
]
STANDING = """
select indexdef from pg_indexes where schemaname = 'analytics' and indexname not like '%%pkey%%'
    and indexname not like '%%__leaf_%%'
union all
select pg_get_statisticsobjdef(oid) from pg_statistic_ext
union all
select format('%%s %%s %%s', conrelid::regclass, conname, pg_get_constraintdef(oid)) from pg_constraint
where contype in ('c', 'u', 'f') and conrelid in (to_regclass('public.town'), to_regclass(%(table)s))
union all
select pg_policies::text from pg_policies
union all
select format('%%s %%s %%s %%s', oid::regclass, reloptions, relrowsecurity, relreplident) from pg_class
where oid = to_regclass(%(table)s)
union all
select format('%%s.%%s %%s %%s', attrelid::regclass, attname, attstattarget, attoptions) from pg_attribute
where (attstattarget > 0 or attoptions is not null) and (attrelid = to_regclass(%(table)s) or attrelid in (
    select inhrelid from pg_inherits where inhparent = to_regclass(%(table)s)))
union all
select format('%%s: %%s', pg_describe_object(classoid, objoid, objsubid), description) from pg_description
where description like 'why %%'
order by 1
"""


def _smaller(table: Table) -> Table:
    return replace(table, columns=tuple(c for c in table.columns if c.name != "properties"))


def _filled(dsn: str, lake: Lake, table: Table) -> Warehouse:
    warehouse = Warehouse(dsn)
    migrate(warehouse, lake, table)
    query, partition = _content(table)
    publish(table, [built(lake, table, partition, query, batch="b1")], warehouse=warehouse, lake=lake)
    return warehouse


def _do(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def _standing(dsn: str, table: str) -> list[str]:
    with psycopg.connect(dsn) as connection:
        found: list[tuple[Any, ...]] = connection.execute(
            STANDING.encode(), {"table": f"analytics.{table}"}
        ).fetchall()
    return [text for (text,) in found]


@pytest.mark.parametrize(
    ("table", "made", "names"),
    [
        (
            USERS,
            PEOPLE,
            [
                "by_length",
                "once",
                "together",
                "short",
                "one_name",
                "town_mayor_fkey",
                "few",
                "own",
                "fillfactor",
                "name 500",
                "n_distinct",
                "why 'by' length; not name",
                "why a mayor",
            ],
        ),
        (
            EVENTS,
            VISITS,
            ["by_page", "of_one_day", "paid_for", "visits,free", "2025_10_07,free", "visits.page 400"],
        ),
    ],
    ids=["table", "leaves"],
)
def test_what_can_be_made_again_stands_on_the_table_that_is_built_anew(
    any_dsn: str, lake: Lake, table: Table, made: list[str], names: list[str]
) -> None:
    warehouse = _filled(any_dsn, lake, table)
    _do(any_dsn, *made)
    before = _standing(any_dsn, table.name)
    assert [name for name in names if not any(name in text for text in before)] == []

    done = migrate(warehouse, lake, _smaller(table), yes=True)

    assert done.describe() == [f"{table.name}: column properties is gone (rebuild, destructive)"]
    assert _standing(any_dsn, table.name) == before
    assert tidy(any_dsn, lake)["left"] == []


def test_an_index_goes_with_its_column_and_that_is_said(any_dsn: str, lake: Lake) -> None:
    warehouse = _filled(any_dsn, lake, USERS)
    _do(
        any_dsn,
        "create index on_both on analytics.dim_people (name, (properties ->> 'a'))",
        "create index name_alone on analytics.dim_people (name)",
        "alter table analytics.dim_people alter column properties set statistics 500",
    )
    done = migrate(warehouse, lake, _smaller(USERS), yes=True)
    assert "dim_people: index analytics.on_both goes with properties (rebuild)" in done.describe()
    assert any("SET STATISTICS 500 goes with properties" in line for line in done.describe())
    (index,) = [text for text in _standing(any_dsn, "dim_people") if "INDEX" in text]
    assert "name_alone" in index


IN_THE_WAY = {
    "policy few on table analytics.dim_people": [
        "create policy few on analytics.dim_people using (properties is null)"
    ],
    "trigger noted on table analytics.dim_people": [
        "create function public.noted() returns trigger language plpgsql as 'begin return null; end'",
        "create trigger noted after insert on analytics.dim_people execute function public.noted()",
    ],
    "rule told on table analytics.dim_people": [
        "create rule told as on insert to analytics.dim_people do also notify told"
    ],
    "publication of table analytics.dim_people in publication out": [
        "create publication out for table analytics.dim_people (person_id)"
    ],
    r"function counted\(\)": [
        "create function public.counted() returns bigint begin atomic "
        "select count(*) from analytics.dim_people; end"
    ],
    "table town": ["create table public.town (mayor analytics.dim_people)"],
    "town_a_fkey of town": [
        "alter table analytics.dim_people add constraint pair unique (person_id, properties)",
        "create table public.town (a bigint, b jsonb, foreign key (a, b) "
        "references analytics.dim_people (person_id, properties))",
        "alter table public.town rename constraint town_a_b_fkey to town_a_fkey",
    ],
    "other.dim_people": [
        "create schema other",
        "create view other.dim_people as select name from analytics.dim_people",
    ],
}


@pytest.mark.parametrize("what", IN_THE_WAY)
def test_what_can_not_be_made_again_is_named_and_nothing_is_changed(dsn: str, lake: Lake, what: str) -> None:
    warehouse = _filled(dsn, lake, USERS)
    _do(dsn, *IN_THE_WAY[what])
    before, standing = rows(dsn, "dim_people"), _standing(dsn, "dim_people")

    with pytest.raises(InTheWay, match=rf"dim_people has to be replaced, and {what} .*Nothing was changed"):
        migrate(warehouse, lake, _smaller(USERS), yes=True)

    assert (rows(dsn, "dim_people"), _standing(dsn, "dim_people")) == (before, standing)
    assert tidy(dsn, lake)["left"] == []


def test_a_column_that_somebodys_view_reads_is_not_changed_in_place(any_dsn: str, lake: Lake) -> None:
    warehouse = _filled(any_dsn, lake, EVENTS)
    _do(any_dsn, "create view public.mine as select page from analytics.fct_visits")
    columns = [replace(c, max_length=80) if c.name == "page" else c for c in EVENTS.columns]
    wider = replace(EVENTS, columns=tuple(columns))

    with pytest.raises(InTheWay, match=r'^fct_visits: .*view mine depends on column "page".*drop that'):
        migrate(warehouse, lake, wider)

    _do(any_dsn, "drop view public.mine")
    assert not migrate(warehouse, lake, wider).rebuild


def test_an_index_on_a_view_outlives_that_the_view_is_made_anew(any_dsn: str, lake: Lake) -> None:
    warehouse = _filled(any_dsn, lake, EVENTS)
    migrate_view(warehouse, _view("count(*)"))
    _do(
        any_dsn,
        "create index mine on analytics.mv_v (one)",
        "alter materialized view analytics.mv_v alter column one set statistics 300",
    )
    before = _standing(any_dsn, "mv_v")

    assert migrate_view(warehouse, _view("-count(*)")) == ["mv_v made anew: its definition changed"]

    assert all(any(made in text for text in before) for made in ("mine", "one 300"))
    assert _standing(any_dsn, "mv_v") == before
    assert rows(any_dsn, "mv_v") == [(-50, 1)]


def test_a_view_on_a_view_of_ours_is_in_the_way_of_the_table_below(
    dsn: str, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.stores import rebuilding

    monkeypatch.setattr(rebuilding, "views", lambda: (_view("count(*)"),))
    warehouse = _filled(dsn, lake, EVENTS)
    migrate_view(warehouse, _view("count(*)"))
    _do(
        dsn,
        "create view public.mine as select n from analytics.mv_v",
        "create index mine on analytics.mv_v (one)",
    )
    before = _standing(dsn, "mv_v")

    with pytest.raises(InTheWay, match=r"^analytics.mv_v has to be replaced, and mine depends on it"):
        migrate(warehouse, lake, _smaller(EVENTS), yes=True)

    _do(dsn, "drop view public.mine")
    assert migrate(warehouse, lake, _smaller(EVENTS), yes=True).rebuild
    assert _standing(dsn, "mv_v") == before


@pytest.mark.parametrize("identity", ["nothing", "using index by_person"])
def test_what_tells_rows_apart_to_who_replicates_them_stays(dsn: str, lake: Lake, identity: str) -> None:
    warehouse = _filled(dsn, lake, USERS)
    _do(
        dsn,
        "create unique index by_person on analytics.dim_people (person_id)",
        f"alter table analytics.dim_people replica identity {identity}",
    )
    query = """
        select c.relname, c.relreplident, i.indisreplident
        from pg_class c join pg_index i on i.indrelid = c.oid
        where c.relname = 'dim_people' and i.indexrelid = 'analytics.by_person'::regclass
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        before = connection.execute(query).fetchall()
        migrate(warehouse, lake, _smaller(USERS), yes=True)
        assert connection.execute(query).fetchall() == before
