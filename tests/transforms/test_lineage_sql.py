"""Every way that SQL has of making a column or choosing a row is told as what it is, or refused."""

from __future__ import annotations

import pytest
from sqlglot.errors import SqlglotError

from tests.transforms.conftest import ReadModels
from tests.transforms.test_lineage import SCHEMA, told
from tests.transforms.test_model import HEADER
from transforms import catalog
from transforms.contract import ContractError
from transforms.lineage_sql import trace

NESTED = {**SCHEMA, "n": {"id": "INTEGER", "s": "STRUCT(p INTEGER, q INTEGER)", "l": "INTEGER[]"}}


def rows_by(sql: str) -> dict[str, str]:
    return {str(origin): kind.word for origin, kind in trace(sql, NESTED).conditions.items()}


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select sum(x) over w as r from a window w as (partition by id order by t)",
         {"a.x": "expression", "a.id": "expression", "a.t": "expression"}),
        ("select sum(x) over (w order by t) as r from a window v as (partition by id), w as (v)",
         {"a.x": "expression", "a.id": "expression", "a.t": "expression"}),
        ("select last_value(x ignore nulls) over (order by t) as r from a",
         {"a.x": "expression", "a.t": "expression"}),
        ("select count(*) over (partition by id) as r from a", {"a.id": "expression", "a.*": "expression"}),
        ("select row_number() over () as r from a", {"a.*": "expression"}),
        ("select rank() over (order by y) as r from a", {"a.y": "expression"}),
    ],
)  # fmt: skip
def test_a_window_is_made_of_all_that_it_looks_at(sql: str, expected: dict[str, str]) -> None:
    assert told(trace(sql, NESTED), "r") == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select sum(1) + max(x) as r from a", {"a.x": "aggregate", "a.*": "aggregate"}),
        ("select sum(x) / count(*) as r from a", {"a.x": "aggregate", "a.*": "aggregate"}),
        ("select count(a) as r from a", dict.fromkeys(("a.id", "a.x", "a.y", "a.t"), "aggregate")),
        ("select exists (select 1 from b where b.id = a.id) as r from a", {"b.*": "expression"}),
        ("select a as r from a", dict.fromkeys(("a.id", "a.x", "a.y", "a.t"), "expression")),
        ("select g.g as r from a, generate_series(1, a.x) as g(g)", {"a.x": "expression"}),
        ("select g as r from a, range(5) as t(g)", {}),
        ("select rowid as r from a", {"a.*": "expression"}),
        ("select count(*) as r from a semi join b using (id)", {"a.*": "aggregate"}),
        ("select count(*) as r from a anti join b using (id)", {"a.*": "aggregate"}),
        ("select s.t + a.x as r from (select sum(x) as t from a) as s, a", {"a.x": "aggregate"}),
        ("select r from (select x as r from a) as q(r)", {"a.x": "pass"}),
    ],
)
def test_what_is_no_column_by_its_name_is_told_too(sql: str, expected: dict[str, str]) -> None:
    assert told(trace(sql, NESTED), "r") == expected


@pytest.mark.parametrize(
    ("sql", "expected", "rows"),
    [
        ("select l.r from a, lateral (select z as r, t as u from b, a as c where b.id = a.id) as l",
         {"b.z": "pass"}, ("a", "b")),
        ("select l.r from a left join lateral (select max(z) from b where b.id = a.id) as l(r) on true",
         {"b.z": "aggregate"}, ("a",)),
        ("select w.r from a cross join lateral (select a.x + 1 as r) as w", {"a.x": "expression"}, ("a",)),
    ],
)  # fmt: skip
def test_a_lateral_query_is_followed_column_by_column(
    sql: str, expected: dict[str, str], rows: tuple[str, ...]
) -> None:
    traced = trace(sql, NESTED)
    assert (told(traced, "r"), traced.rows) == (expected, rows)


@pytest.mark.parametrize("word", ["except", "except all", "intersect"])
def test_what_is_taken_away_from_rows_only_says_which_are_left(word: str) -> None:
    traced = trace(f"with u as (select x from a {word} select z from b) select x as r from u", NESTED)
    assert told(traced, "r") == {"a.x": "pass"}
    assert {str(origin): kind.word for origin, kind in traced.conditions.items()} == {
        "a.x": "filter",
        "b.z": "filter",
    }
    assert traced.rows == ("a",)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select distinct on (id) x from a order by id, t", {"a.id": "filter", "a.t": "filter"}),
        ("select distinct x from a", {"a.x": "group"}),
        ("select x from a union select z from b", {"a.x": "group", "b.z": "group"}),
        ("select x from a union all select z from b", {}),
        ("select x from a order by y limit 3", {"a.y": "filter"}),
        ("select x from a order by y", {}),
        ("select x as r from a union all select z from b order by r limit 3",
         {"a.x": "filter", "b.z": "filter"}),
        ("select t::date as d, sum(x) from a group by all", {"a.t": "group"}),
        ("select t::date as d, sum(x) as r from a group by d having r > 1 order by d limit 3",
         {"a.x": "filter", "a.t": "group"}),
        ("select x from (a join b using (id))", {"a.id": "join", "b.id": "join"}),
        ("select sum(x) from a group by rollup (id)", {"a.id": "group"}),
        ("select id, unnest(l) as e from n", {"n.l": "filter"}),
        ("select n.id from n, unnest(n.l) as u(e)", {"n.l": "filter"}),
        ("select n.id from n, lateral (select unnest(n.l) as e) as u", {"n.l": "filter"}),
    ],
)  # fmt: skip
def test_whatever_chooses_rows_is_told(sql: str, expected: dict[str, str]) -> None:
    assert rows_by(sql) == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("with c as (select id, unnest(s) from n) select p as r from c", {"n.s": "expression"}),
        ("with c as (select id, unnest(s) from n), d as (select * from c) select d.p as r from d",
         {"n.s": "expression"}),
        ("with c as (select id, unnest(s) from n), d as (select * from c) select d.id as r from d",
         {"n.id": "pass"}),
        ("with c as (select s.* from n) select p as r from c", {"n.s": "expression"}),
        ("with c as (select columns('^[xy]$') from a) select x as r from c", {"a.x": "pass"}),
        ("with c as (select max(columns(['x', 'y'])) from a) select y as r from c", {"a.y": "aggregate"}),
        ("with c as (select * like 'x%' from a) select x as r from c", {"a.x": "pass"}),
        ("with c as (select columns('(x)') as '_\\1' from b, a) select _x as r from c",
         dict.fromkeys(("a.id", "a.x", "a.y", "a.t", "b.id", "b.z"), "expression")),
        ("with c as (select * exclude (x) replace (y + id as y) rename (t as r) from a) select y as r from c",
         {"a.y": "expression", "a.id": "expression"}),
        ("with c as (select unnest(l) as e from n) select e as r from c", {"n.l": "expression"}),
    ],
)  # fmt: skip
def test_columns_that_the_text_does_not_name_are_found_behind_it(sql: str, expected: dict[str, str]) -> None:
    assert told(trace(sql, NESTED), "r") == expected


PIVOTS = [
    "pivot a on x in (1, 2) using sum(y) group by id",
    "from (select id, x, y from a) pivot (sum(y) for x in (1, 2))",
]
UNPIVOTS = [
    "unpivot (select id, x, y from a) on x, y into name k value v",
    "from (select id, x, y from a) unpivot (v for k in (x, y)) as q",
]


@pytest.mark.parametrize("pivot", PIVOTS)
def test_a_pivot_adds_up_into_the_columns_that_it_makes(pivot: str) -> None:
    traced = trace(f'with p as ({pivot}) select id, "1" as r from p', NESTED)
    assert told(traced, "id") == {"a.id": "pass"}
    assert told(traced, "r") == {"a.x": "aggregate", "a.y": "aggregate"}
    assert {str(origin): kind.word for origin, kind in traced.conditions.items()} == {"a.id": "group"}
    assert traced.rows == ("a",)


@pytest.mark.parametrize("unpivot", UNPIVOTS)
def test_an_unpivot_has_each_value_as_it_is(unpivot: str) -> None:
    traced = trace(f"with p as ({unpivot}) select id, k, v as r from p", NESTED)
    assert told(traced, "id") == {"a.id": "pass"}
    assert told(traced, "r") == {"a.x": "pass", "a.y": "pass"}
    assert told(traced, "k") == {"a.*": "expression"}
    assert {str(origin): kind.word for origin, kind in traced.conditions.items()} == {
        "a.x": "filter",
        "a.y": "filter",
    }


def test_an_unpivot_that_keeps_nulls_leaves_no_row_out() -> None:
    assert rows_by("select v from a unpivot include nulls (v for k in (x, y))") == {}


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("with p as (unpivot b on columns(* exclude id)) select value as r from p",
         {"b.id": "expression", "b.z": "expression"}),
        ("with p as (unpivot a on (id, x), (y, x) into name k value v, w) select v as r from p",
         {"a.id": "pass", "a.y": "pass"}),
        ("with p as (pivot b on z in (1)) select id as r from p", {"b.id": "pass"}),
        ("with p as (pivot b on z in (1)) select p.\"1\" as r from p",
         {"b.z": "aggregate", "b.*": "aggregate"}),
        ("select p.id as r from b join a pivot (sum(y) for x in (1)) as p on p.id = b.id", {"a.id": "pass"}),
    ],
)  # fmt: skip
def test_a_pivot_is_followed_however_it_is_written(sql: str, expected: dict[str, str]) -> None:
    assert told(trace(sql, NESTED), "r") == expected


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("select i + 1, r from n where i < 5", {"a.x": "pass"}),
        ("select r, i from n", {"a.x": "pass", "a.id": "pass"}),
        ("select i, r + i from n", {"a.x": "expression", "a.id": "expression"}),
        ("select n.i, b.z from n join b on b.id = n.i", {"a.x": "pass", "b.z": "pass"}),
    ],
)
def test_a_query_that_reads_itself_is_followed_until_nothing_is_added(
    rest: str, expected: dict[str, str]
) -> None:
    sql = f"with recursive n(i, r) as (select id, x from a union all {rest}) select r from n"
    assert told(trace(sql, SCHEMA), "r") == expected


def test_what_a_query_that_reads_itself_asks_of_itself_is_a_condition() -> None:
    joined = "select n.i, b.z from n join b on b.id = n.i"
    assert rows_by(f"with recursive n(i, r) as (select id, x from a union all {joined}) select r from n") == {
        "b.id": "join",
        "a.id": "join",
    }


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("select nosuch as r from a", "has a column nosuch"),
        ("select u.x as r from elsewhere as u", "elsewhere is no table"),
        ("with c as (describe a) select column_name as r from c", "has a column column_name"),
        ("summarize a", "is no select"),
    ],
)
def test_what_cannot_be_followed_is_refused_and_never_read_as_a_constant(sql: str, why: str) -> None:
    with pytest.raises(SqlglotError, match=why):
        trace(sql, SCHEMA)


def test_a_refusal_names_the_file_and_what_to_do(read_models: ReadModels) -> None:
    text = HEADER + "select number::bigint as user_id from raw_app__users as users"
    models = read_models({"staging/stg_app__users.sql": text})
    with pytest.raises(
        ContractError, match=r"stg_app__users.sql: its column lineage .* Name it in"
    ) as refused:
        catalog.lineage("stg_app__users", models)
    assert "number" in str(refused.value)
