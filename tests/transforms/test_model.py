"""What a model file says is read from it, and what it lacks is said with file, line and what to write."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.transforms.conftest import ReadModels
from transforms import tokens
from transforms.contract import ContractError, Layer, Partition, RuleKind, Write

HEADER = """\
/* ---
grain:     one row per user
key:       [user_id]
--- */
"""
MODEL = """\
/* ---
grain:     one row per user and day
key:       [user_id, signup_on]
partition: {by: signup_on, every: month}
write:     append
tie_break: [seq]
lookback:  8 days
retention: 400 days
freshness: 1 hour
pii:       [email]
lengths:   {email: 254}
indexes:   {idx_users_email: [email, signup_on desc]}
expect:
  - not_null: [email, seq]
  - unique: [user_id]
  - between: {column: signup_on, min: 2000-01-01}
    severity: warning
  - sql: {name: no_future, query: select * from stg_app__users where signup_on > '2030-01-01'}
    kind: timeliness
--- */
with recent as (
    -- a comment inside, with a select and, commas
    select *, 'a -- b' as odd from raw_app__users
)

select
    recent.id::bigint as user_id, -- User -- the one
    cast(lower(recent.email) as varchar) as email, -- E-mail
    coalesce(
        recent.created_at::date, -- not this comment
        date '2000-01-01'
    )::date as signup_on, -- Day
    recent._seq::integer as seq, -- Order
    (recent.id is distinct from 1)::boolean as is_other, -- Whether
    [recent.email]::varchar[] as emails, /* All */
    recent._seq::bigint as _seq
from recent
where recent.id > 0
order by recent.id;
"""


def test_header_casts_and_trailing_comments_make_the_table(read_models: ReadModels) -> None:
    model = read_models({"staging/stg_app__users.sql": MODEL}).model("stg_app__users")
    table = model.table
    assert [(c.name, c.type, c.description) for c in table.columns] == [
        ("user_id", "BIGINT", "User -- the one"),
        ("email", "VARCHAR", "E-mail"),
        ("signup_on", "DATE", "Day"),
        ("seq", "INTEGER", "Order"),
        ("is_other", "BOOLEAN", "Whether"),
        ("emails", "VARCHAR[]", "All"),
    ]
    assert [column.name for column in model.reserved] == ["_seq"]
    assert (table.layer, table.write, table.partition) == (
        Layer.STAGING,
        Write.APPEND,
        Partition("signup_on", "month"),
    )
    assert (table.lookback, table.retention) == (timedelta(days=8), timedelta(days=400))
    assert (table.freshness, table.tie_break) == (timedelta(hours=1), ("seq",))
    assert table.upstreams == ("raw_app__users",)
    assert table.indexes == {"idx_users_email": ("email", "signup_on desc")}
    email = table.column("email")
    assert (email.pii, email.max_length, email.nullable) == (True, 254, False)
    assert table.column("is_other").nullable


def test_the_expect_list_becomes_rules(read_models: ReadModels) -> None:
    table = read_models({"staging/stg_app__users.sql": MODEL}).table("stg_app__users")
    assert [(rule.name, rule.kind, rule.severity, rule.row_level) for rule in table.expect] == [
        ("not_null_email", RuleKind.COMPLETENESS, "critical", True),
        ("not_null_seq", RuleKind.COMPLETENESS, "critical", True),
        ("unique_user_id", RuleKind.UNIQUENESS, "critical", False),
        ("between_signup_on", RuleKind.ACCURACY, "warning", True),
        ("no_future", RuleKind.TIMELINESS, "critical", False),
    ]
    assert table.expect[3].arguments == {"column": "signup_on", "min": "2000-01-01"}


@pytest.mark.parametrize(
    ("query", "upstreams"),
    [
        ("select u.id::bigint as user_id from raw_app__users as u", ("raw_app__users",)),
        (
            "with raw_app__users as (select * from raw_app__users) "
            "select id::bigint as user_id from raw_app__users",
            ("raw_app__users",),
        ),
        (
            "select (select max(_seq) from raw_events__clicks)::bigint as user_id from raw_app__users",
            ("raw_app__users", "raw_events__clicks"),
        ),
        (
            "with c as (select * from raw_events__clicks) select u.id::bigint as user_id "
            "from raw_app__users as u asof join c on u.id = c._seq and u.updated_at >= c._landed_at",
            ("raw_app__users", "raw_events__clicks"),
        ),
        ("select range::bigint as user_id from range(3)", ()),
    ],
)
def test_upstreams_are_the_tables_a_query_reads(
    read_models: ReadModels, query: str, upstreams: tuple[str, ...]
) -> None:
    models = read_models({"staging/stg_app__users.sql": HEADER + query})
    assert models.table("stg_app__users").upstreams == upstreams


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("select 1::bigint as user_id", "users.sql:1: it does not begin with a header"),
        ("/* ---\ngrain: a\n--- */\nselect 1::int as a", "users.sql:2: the header lacks key"),
        (
            "/* ---\ngrain: a\nkye: [a]\n--- */\nselect 1::int as a",
            "users.sql:3: the header has no word 'kye'",
        ),
        ("/* ---\ngrain: [a\nkey: b\n--- */\nselect 1::int as a", "the header is no YAML"),
        (HEADER + "select id as user_id from raw_app__users", "users.sql:5: column user_id has no type"),
        (HEADER + "select\n    id::bigint\nfrom raw_app__users", "users.sql:6: `id :: bigint` has no name"),
        (HEADER + "select *\nfrom raw_app__users", "users.sql:5: `*` has no name"),
        (HEADER + "select id::bigint as other from raw_app__users", "key speaks of column user_id"),
        (HEADER + "select id::number as user_id from raw_app__users", "'number' is no DuckDB type"),
        (HEADER + "select id::varchar(3) as user_id from raw_app__users", "lengths: {user_id: 3}"),
        (HEADER + "select id::int as user_id, 1::int as user_id from raw_app__users", "selected twice"),
        (
            HEADER + "select 1::int as user_id\nunion all\nselect 2::int as user_id",
            "users.sql:6: a union outside all brackets",
        ),
        (
            HEADER + "select id::bigint as user_id\nfrom from raw_app__users",
            "users.sql:6: DuckDB can't read it",
        ),
        (HEADER + "select id::bigint as user_id from raw_app__user", "Did you mean raw_app__users"),
        (
            HEADER.replace("key", "write: upsert\nkey") + "select id::bigint as user_id from raw_app__users",
            "users.sql:3: 'upsert' is no way to write. Write e.g. `write: replace_partition",
        ),
        (
            HEADER.replace("key", "expect:\n  - nonnull: [user_id]\nkey")
            + "select id::bigint as user_id from raw_app__users",
            "users.sql:4: 'nonnull' is no expectation",
        ),
        (
            HEADER.replace("key", "expect:\n  - between: {column: user_id}\nkey")
            + "select id::bigint as user_id from raw_app__users",
            "users.sql:4: between lacks min or max",
        ),
        (
            HEADER.replace("key", "partition: {by: user_id, every: week}\nkey")
            + "select id::bigint as user_id from raw_app__users",
            "a partition can't be every week",
        ),
        (
            HEADER.replace("key", "windowed: {adds: n}\nkey")
            + "select id::bigint as user_id from raw_app__users",
            "windowed names what is added up, a window's end, the lateness and a topic. Write e.g.",
        ),
        (
            HEADER.replace("key", "windowed: {adds: n, end: user_id, lateness: soon, topic: t}\nkey")
            + "select id::bigint as user_id from raw_app__users",
            "windowed 'soon' is no duration",
        ),
        (
            HEADER.replace("key", "windowed: {adds: n, end: user_id, lateness: 1 hour, topic: t}\nkey")
            + "select id::bigint as user_id from raw_app__users",
            "windowed speaks of column n, which the final select does not give",
        ),
        (
            HEADER.replace("key", "windowed: {adds: n, end: t, lateness: 1 hour, topic: t}\nkey")
            + "select id::bigint as user_id, 1::bigint as n, '2025-10-07'::timestamptz as t, "
            "1::bigint as revision, true::boolean as is_final from raw_app__users",
            "it is windowed, so the start of its windows is part of its key",
        ),
        (
            HEADER.replace("key", "retention: a while\nkey")
            + "select id::bigint as user_id from raw_app__users",
            "retention 'a while' is no duration. Write e.g. `retention: 400 days`",
        ),
        (
            HEADER.replace("key", "foreign_keys: {user_id: dim_users}\nkey")
            + "select id::bigint as user_id from raw_app__users",
            "only a table with write: merge may have foreign keys",
        ),
    ],
)
def test_a_mistake_is_said_with_its_line_and_what_to_write(
    read_models: ReadModels, text: str, message: str
) -> None:
    with pytest.raises(ContractError) as caught:
        read_models({"staging/stg_app__users.sql": text})
    assert message in str(caught.value)


def test_two_files_of_one_name_are_refused(read_models: ReadModels) -> None:
    text = HEADER + "select id::bigint as user_id from raw_app__users"
    with pytest.raises(ContractError, match="both make stg_app__users"):
        read_models({"staging/stg_app__users.sql": text, "marts/stg_app__users.sql": text})


POLARS = """\
from __future__ import annotations
import polars as pl
from transforms.contract import Column
from transforms.model import polars_table

TABLE = polars_table(
    __file__,
    grain="one row per user",
    key=["user_id"],
    write="merge",
    expect=[{"between": {"column": "user_id", "min": 1}}],
    columns=[Column("user_id", "bigint", "User"), Column("mail", "text", "E-mail")],
)


def build(raw_app__users: pl.LazyFrame) -> pl.LazyFrame:
    return raw_app__users.select(pl.col("email").alias("mail"), pl.col("id").alias("user_id"))
"""


def test_a_polars_model_says_the_same_in_python(read_models: ReadModels) -> None:
    table = read_models({"marts/mart_mail.py": POLARS}).table("mart_mail")
    assert (table.name, table.layer, table.write) == ("mart_mail", Layer.MARTS, Write.MERGE)
    assert table.upstreams == ("raw_app__users",)
    assert [(c.name, c.type, c.nullable) for c in table.columns] == [
        ("user_id", "BIGINT", False),
        ("mail", "VARCHAR", True),
    ]


def test_a_polars_model_without_build_is_refused(read_models: ReadModels) -> None:
    with pytest.raises(ContractError, match="Add what is missing"):
        read_models({"marts/mart_mail.py": POLARS.split("def build")[0]})


def test_a_polars_table_that_needs_more_than_its_declaration_is_refused(read_models: ReadModels) -> None:
    text = POLARS.replace('grain="one row per user"', "grain=GRAIN").replace(
        "TABLE =", 'GRAIN = "one row"\nTABLE ='
    )
    with pytest.raises(ContractError, match="TABLE uses GRAIN"):
        read_models({"marts/mart_mail.py": text})


def test_what_postgresql_serves_passes_nothing_on_by_itself(read_models: ReadModels) -> None:
    text = POLARS.replace('grain="one row per user"', 'grain="one row per user", passes=["raw_app__users"]')
    with pytest.raises(ContractError, match=r"marts/mart_mail\.py: passes is for staging"):
        read_models({"marts/mart_mail.py": text})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("select a::int as a, b::int as b", " -- what b is\nfrom t"),
        ("select a::int as a", " from t where a > 1"),
        ("select\n  a::int as a", ", -- last\nfrom t"),
        ("with l as (select * from t) select l.a::int as a", "\nfrom l"),
    ],
)
def test_an_item_more_stands_behind_the_last_one_of_the_final_select(before: str, after: str) -> None:
    assert tokens.with_items(before + after, ["x", "y"], "here") == f"{before}, x, y{after}"
