"""A model gets its upstreams as declared and gives its table as declared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import polars as pl
import pytest
from duckdb import DuckDBPyConnection

from tests.transforms.conftest import ReadModels
from tests.transforms.test_harness import STG_CLICKS, STG_USERS
from tests.transforms.test_model import POLARS
from transforms import engine, registry
from transforms.contract import Column, ContractError, Table
from transforms.engine import ModelError
from transforms.json_text import decoded

MODELS = registry.build_order()
USER = "select 1 as id, 'A@x.org' as email, '2025-10-07T23:59:59Z'::timestamptz as created_at"


@pytest.mark.parametrize("table", MODELS, ids=lambda table: table.name)
def test_every_model_over_nothing_gives_its_columns_and_types(table: Table, duck: DuckDBPyConnection) -> None:
    inputs: dict[str, engine.Source] = dict.fromkeys(table.upstreams)
    rows = engine.run(table, duck, inputs)
    given = list(zip(rows.columns, map(str, rows.types), strict=True))
    assert given == [(column.name, column.type) for column in table.columns]
    if table.upstreams:
        assert rows.fetchall() == []


def test_every_cursor_is_in_utc_wherever_the_machine_stands() -> None:
    asked = (
        "from transforms import engine; connection = engine.connect(); "
        "print(*(c.execute(\"select current_setting('TimeZone')\").fetchone()[0] "
        "for c in (connection, connection.cursor(), connection.cursor().cursor())))"
    )
    environment = {**os.environ, "TZ": "Asia/Tokyo", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["UTC"] * 3


def test_a_model_file_runs_as_it_stands(duck: DuckDBPyConnection) -> None:
    for model in registry.default().models.values():
        if model.sql is None:
            continue
        for upstream in model.table.upstreams:
            relation = engine.empty(registry.table(upstream).columns, duck)
            duck.execute(f"drop view if exists {upstream}")
            relation.create_view(upstream)
        duck.sql(model.sql).fetchall()


@pytest.mark.parametrize("table", [table for table in MODELS if table.passes], ids=lambda table: table.name)
def test_staging_of_the_application_passes_on_a_column_that_nobody_declared(
    table: Table, duck: DuckDBPyConnection
) -> None:
    (raw,) = table.passes
    found = (Column("Favourite colour", "VARCHAR"), Column("former_codes", "VARCHAR[]"))
    known = registry.default().with_found({raw: found})
    assert known.table(table.name).columns == (*table.columns, *found)
    rows = engine.run(table, duck, {raw: None}, registry=known)
    assert rows.columns[-2:] == ["Favourite colour", "former_codes"]
    assert [str(kind) for kind in rows.types[-2:]] == ["VARCHAR", "VARCHAR[]"]
    assert rows.fetchall() == []


def test_a_passed_column_has_the_values_of_its_rows_and_null_where_files_lack_it(
    read_models: ReadModels, duck: DuckDBPyConnection
) -> None:
    passing = STG_USERS.replace("--- */", "passes: [raw_app__users]\n--- */", 1)
    models = read_models({"staging/stg_app__users.sql": passing}).with_found(
        {"raw_app__users": [Column("nickname", "VARCHAR"), Column("User_ID", "BIGINT")]}
    )
    both = f"{USER}, null as nickname union all by name select 2 as id, 'Bo' as nickname"
    for source, expected in ((USER, [(1, None)]), (both, [(1, None), (2, "Bo")])):
        rows = engine.run("stg_app__users", duck, {"raw_app__users": source}, registry=models)
        assert rows.columns[-1] == "nickname", "a column of the model's own name is the model's"
        assert rows.project("user_id, nickname").order("user_id").fetchall() == expected


@pytest.mark.parametrize("form", ["relation", "query", "table", "files", "file"])
def test_an_upstream_may_be_given_in_any_form(
    read_models: ReadModels, duck: DuckDBPyConnection, tmp_path: Path, form: str
) -> None:
    models = read_models({"staging/stg_app__users.sql": STG_USERS})
    path = tmp_path / "it's a file.parquet"
    duck.sql(USER).write_parquet(str(path))
    duck.execute(f"create table given as {USER}")
    forms: dict[str, engine.Source] = {
        "relation": duck.table("given"),
        "query": USER,
        "table": "given",
        "files": [path],
        "file": str(path),
    }
    rows = engine.run("stg_app__users", duck, {"raw_app__users": forms[form]}, registry=models)
    assert rows.project("user_id, email, signup_on::varchar").fetchall() == [(1, "a@x.org", "2025-10-07")]


def test_a_column_that_older_files_lack_is_null(read_models: ReadModels, duck: DuckDBPyConnection) -> None:
    models = read_models({"staging/stg_app__users.sql": STG_USERS})
    rows = engine.run("stg_app__users", duck, {"raw_app__users": "select 7 as id"}, registry=models)
    assert rows.fetchall() == [(7, None, None)]


def test_an_upstream_that_was_not_given_is_named(read_models: ReadModels, duck: DuckDBPyConnection) -> None:
    models = read_models({"staging/stg_app__users.sql": STG_USERS})
    with pytest.raises(ContractError, match="reads raw_app__users, which it was not given"):
        engine.run("stg_app__users", duck, {}, registry=models)


def test_a_model_that_fails_is_named_with_the_line_of_the_file(
    read_models: ReadModels, duck: DuckDBPyConnection
) -> None:
    models = read_models({"staging/stg_app__users.sql": STG_USERS.replace("lower(email)", "lower(mail)")})
    with pytest.raises(ModelError, match=r"stg_app__users.sql.*(?s:.*)mail"):
        engine.run("stg_app__users", duck, {"raw_app__users": USER}, registry=models)


def test_a_relation_stays_what_it_is_when_another_model_runs(
    read_models: ReadModels, duck: DuckDBPyConnection
) -> None:
    models = read_models({"staging/stg_app__users.sql": STG_USERS})
    first = engine.run("stg_app__users", duck, {"raw_app__users": duck.sql(USER)}, registry=models)
    engine.run("stg_app__users", duck, {"raw_app__users": duck.sql("select 2 as id")}, registry=models)
    assert first.project("user_id").fetchall() == [(1,)]


def test_dead_letters_carry_the_reason_and_the_way_back_to_their_bytes(
    read_models: ReadModels, duck: DuckDBPyConnection
) -> None:
    models = read_models({"staging/stg_events__clicks.sql": STG_CLICKS})
    source = "select 'b1' as _batch_id, 4 as _seq, '\\xFF'::blob as value"
    computed = engine.compute("stg_events__clicks", duck, {"raw_events__clicks": source}, registry=models)
    assert computed.rows.fetchall() == []
    assert computed.dead_letters is not None
    letters = computed.dead_letters.project("_dead_letter_reason, _batch_id, _seq").fetchall()
    assert letters == [("no event_id", "b1", 4)]


def test_a_polars_model_gives_declared_order_and_types(
    read_models: ReadModels, duck: DuckDBPyConnection
) -> None:
    models = read_models({"marts/mart_mail.py": POLARS})
    rows = engine.run("mart_mail", duck, {"raw_app__users": USER}, registry=models)
    assert (rows.columns, list(map(str, rows.types))) == (["user_id", "mail"], ["BIGINT", "VARCHAR"])
    assert rows.fetchall() == [(1, "A@x.org")]


def test_cursors_of_one_connection_run_models_at_once(
    read_models: ReadModels, duck: DuckDBPyConnection
) -> None:
    models = read_models({"staging/stg_app__users.sql": STG_USERS, "marts/mart_mail.py": POLARS})

    def run(number: int) -> int:
        with duck.cursor() as cursor:
            name = "mart_mail" if number % 2 else "stg_app__users"
            source = f"select {number} as id, 'a' as email from range(1000)"
            rows = engine.run(name, cursor, {"raw_app__users": source}, registry=models)
            return int(rows.aggregate("sum(user_id)").fetchall()[0][0])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(16))) == [number * 1000 for number in range(16)]


def test_the_connection_is_in_utc_and_downloads_nothing(duck: DuckDBPyConnection) -> None:
    assert duck.sql("select '2025-10-07 12:00'::timestamptz::varchar").fetchall() == [
        ("2025-10-07 12:00:00+00",)
    ]
    settings = dict(duck.sql("select name, value from duckdb_settings()").fetchall())
    assert settings["autoinstall_known_extensions"] == "false"
    with pytest.raises(duckdb.Error):
        duck.sql("from 'https://example.invalid/a.parquet'")


def test_an_error_over_rows_shows_none_of_their_values(
    read_models: ReadModels, duck: DuckDBPyConnection
) -> None:
    failing = STG_CLICKS.replace("event_id::uuid", "decode(value)::uuid")
    models = read_models({"staging/stg_events__clicks.sql": failing})
    source = """select 'alice''s "mail": alice@example.com'::blob as value"""
    with pytest.raises(ModelError, match="Conversion Error") as caught:
        engine.compute("stg_events__clicks", duck, {"raw_events__clicks": source}, registry=models)
    assert "alice" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "query",
    [
        "select 'alice@example.com'::varchar::bigint",
        "select json_extract('{alice: ' || 1, '$.a')",
        "select strptime('alice@example.com' || random(), '%Y')",
        "select cast('alice' || 1 as timestamptz)",
    ],
)
def test_explain_hides_values(duck: DuckDBPyConnection, query: str) -> None:
    with pytest.raises(duckdb.Error) as caught:
        duck.sql(query).fetchall()
    said = engine.explain(caught.value).split("LINE ")[0]
    assert "alice" not in said


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (
            "select (n + 4111111111)::integer from range(1) as t (n)",
            "Conversion Error: Type INT64 with value … cannot be cast because the value is out of range for "
            "the destination type INT32",
        ),
        (
            "select ('4111' || n)::struct(a integer) from range(1) as t (n)",
            "Conversion Error: Type VARCHAR with value '…' cannot be cast to the destination type "
            "STRUCT(a INTEGER)",
        ),
        (
            "select (n + 2147483647)::integer + 4111::integer from range(1) as t (n)",
            "Out of Range Error: Overflow in addition of INT32…!",
        ),
        (
            "select make_date(n + 411111111, 1, 1) from range(1) as t (n)",
            "Conversion Error: Date out of range: …",
        ),
    ],
)
def test_explain_hides_numbers_and_leaves_what_is_wrong_with_them(
    duck: DuckDBPyConnection, query: str, said: str
) -> None:
    with pytest.raises(duckdb.Error) as caught:
        duck.sql(query).fetchall()
    assert engine.explain(caught.value).split("\n\nLINE ")[0] == said


def test_what_fails_while_its_rows_are_stored_names_the_model_and_shows_no_value(
    read_models: ReadModels, duck: DuckDBPyConnection
) -> None:
    failing = STG_CLICKS.replace("event_id::uuid", "decode(value)::uuid")
    failing = "\n".join(line for line in failing.splitlines() if "_dead_letter_reason" not in line)
    models = read_models({"staging/stg_events__clicks.sql": failing})
    source = "select 'alice@example.com'::blob as value"
    computed = engine.compute("stg_events__clicks", duck, {"raw_events__clicks": source}, registry=models)
    with pytest.raises(ModelError, match=r"stg_events__clicks.*Conversion Error") as caught:
        computed.store("fresh")
    assert "alice" not in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "email", "said"),
    [
        (
            "cast(pl.Int64)",
            'Ann\'s "4111"',
            "conversion from `str` to `i64` failed in column email for 1 out of 1",
        ),
        (
            "str.json_decode(pl.List(pl.Struct({'a': pl.Int64})))",
            '["Ann, 4111"]',
            "error deserializing value",
        ),
        ("str.json_decode(pl.List(pl.Int64))", '{"a": "Ann 4111"}', "error deserializing value"),
        ("str.to_integer()", "Ann 4111", "strict integer parsing failed for 1"),
    ],
)
def test_a_polars_error_shows_no_value_either(
    read_models: ReadModels, duck: DuckDBPyConnection, expression: str, email: str, said: str
) -> None:
    models = read_models(
        {"marts/mart_mail.py": POLARS.replace('pl.col("email")', f'pl.col("email").{expression}')}
    )
    given = f"select 1 as id, {engine.text_literal(email)} as email"
    with pytest.raises(ModelError) as caught:
        engine.run("mart_mail", duck, {"raw_app__users": given}, registry=models)
    assert said in str(caught.value)
    told = "".join(traceback.format_exception(caught.value))
    assert not {word for word in ("Ann", "4111") if word in told}


def test_a_polars_error_about_columns_names_them(read_models: ReadModels, duck: DuckDBPyConnection) -> None:
    models = read_models({"marts/mart_mail.py": POLARS.replace('pl.col("email")', 'pl.col("mail")')})
    with pytest.raises(ModelError, match=r'mart_mail\.py: Polars says: unable to find column "mail"'):
        engine.run("mart_mail", duck, {"raw_app__users": USER}, registry=models)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ('pl.col("email").lowered()', "AttributeError: 'Expr' object has no attribute 'lowered'"),
        ("__import__('polarz').col", "ModuleNotFoundError: No module named 'polarz'"),
        (
            "int(raw_app__users.collect()['email'][0])",
            "ValueError: invalid literal for int() with base 10: '…'",
        ),
    ],
)
def test_what_a_models_python_raises_is_told_with_its_line_and_without_values(
    read_models: ReadModels, duck: DuckDBPyConnection, expression: str, said: str
) -> None:
    models = read_models({"marts/mart_mail.py": POLARS.replace('pl.col("email")', expression)})
    with pytest.raises(ModelError) as caught:
        engine.run("mart_mail", duck, {"raw_app__users": USER}, registry=models)
    assert re.fullmatch(rf"marts/mart_mail\.py:\d+: {re.escape(said)}", str(caught.value)), caught.value
    assert "x.org" not in "".join(traceback.format_exception(caught.value))


def test_json_of_another_shape_is_null_and_the_rest_is_read() -> None:
    shape = pl.List(pl.Struct({"a": pl.Int64}))
    texts = ['[{"a": 1}]', "{}", None, '["Ann"]', "[]", "no JSON", *['[{"a": 2}]'] * 5]
    found = pl.LazyFrame({"text": texts}).select(decoded(pl.col("text"), shape)).collect(engine="streaming")
    assert found.schema == {"text": shape}
    assert found["text"].to_list() == [[{"a": 1}], None, None, None, [], None, *[[{"a": 2}]] * 5]
