"""Mistakes that would otherwise be passed over, or end in a traceback: each is said with its file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.transforms.conftest import CLICKS, USERS, ReadModels
from transforms import registry
from transforms.contract import ContractError
from transforms.entities import Kafka, Postgres, Rest

ROOT = Path(__file__).parents[2]
STAGED = "staging/stg_app__users.sql"
USER = "select id::bigint as user_id -- User\n"


def model(upstream: str = "raw_app__users", header: str = "", select: str = USER) -> str:
    return f"/* ---\ngrain: one row per user\nkey: [user_id]\n{header}--- */\n{select}from {upstream}\n"


def polars(table: str, imported: str = "polars_table") -> str:
    return f"from transforms.model import {imported}\nTABLE = {table}\ndef build(raw_app__users): ...\n"


@pytest.mark.parametrize(
    "name",
    ["mart/mart_users.sql", "marts/old/mart_users.sql", "mart_users.sql", "marts/mart_users.SQL",
     "marts/old/mart_users.py"],
)  # fmt: skip
def test_a_file_of_which_no_table_would_be_made_is_refused(read_models: ReadModels, name: str) -> None:
    with pytest.raises(
        ContractError, match=rf"^{name}: no table would be made .* \(dimensions, facts, marts"
    ):
        read_models({STAGED: model(), name: model("stg_app__users")})


@pytest.mark.parametrize("other", ["stg_events__user_events", "raw_events__user_events"])
def test_counts_in_other_partitions_than_what_they_count_are_refused(tmp_path: Path, other: str) -> None:
    """The stream notes by the windows of its topic what no run has built yet."""
    shutil.copytree(ROOT / "transforms", tmp_path / "transforms")
    monthly = ["marts/user_event_counts.sql"]
    if other.startswith("raw"):
        names = ("user_events", "page_views", "clicks")
        monthly += ["facts/fct_events.sql", *(f"staging/stg_events__{name}.sql" for name in names)]
    for name in monthly:
        path = tmp_path / "transforms" / name
        path.write_text(path.read_text().replace("every: day", "every: month"))
    told = rf"user_event_counts.sql: it is windowed and partitioned by month, and {other}, .* by day"
    with pytest.raises(ContractError, match=told):
        registry.read(tmp_path / "transforms", registry.declared_entities())


def test_files_of_editors_are_no_models(read_models: ReadModels) -> None:
    text = model("nobody")
    models = read_models(
        {STAGED: model(), "staging/.#stg_app__users.sql": text, ".old/facts/fct_x.sql": text}
    )
    assert list(models.models) == ["stg_app__users"]


@pytest.mark.parametrize(("name", "told"), [("Mart_users", "Mart_users"), ("mart users", "mart users")])
def test_a_name_that_can_be_none_is_told_with_its_file(read_models: ReadModels, name: str, told: str) -> None:
    with pytest.raises(ContractError, match=rf"^marts/{told}.sql: '{told}' can't be a name here: use lower"):
        read_models({STAGED: model(), f"marts/{name}.sql": model("stg_app__users")})


POLARS = polars(
    'polars_table(__file__, grain="one row", key=["user_id"], columns=[Column("user_id", "bigint")])'
)


@pytest.mark.parametrize(
    "text", [model(), f"from transforms.contract import Column\n{POLARS}"], ids=["sql", "py"]
)
def test_the_mark_that_editors_begin_a_file_with_says_nothing(tmp_path: Path, text: str) -> None:
    name = "stg_app__users.sql" if text.startswith("/*") else "stg_app__users.py"
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    read = registry.read(tmp_path, [USERS, CLICKS])
    assert [column.name for column in read.table("stg_app__users").columns] == ["user_id"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("stg_app__users.sql", model().replace("User", "Bös"), "is no UTF-8 (byte 87). Save it as UTF-8."),
        (
            "stg_app__users.py",
            "TABLE = (",
            "stg_app__users.py:1: Python can't read it: '(' was never closed.",
        ),
        (
            "stg_app__users.py",
            polars("polars_table(__file__)"),
            "TABLE can't be made (polars_table() missing",
        ),
        ("stg_app__users.py", polars("1", "polars_tabel"), "TABLE can't be made (cannot import name"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ContractError) as caught:
        registry.read(tmp_path, [USERS, CLICKS])
    assert str(caught.value).startswith(f"staging/{name}")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (model("main.raw_app__users"), "it reads main.raw_app__users. Models name tables alone, wherever"),
        (model("read_parquet('lake/raw/*.parquet')"), "it reads by read_parquet(), so no run would know"),
        (model("(select 1 as id from read_csv('http://127.0.0.1/x'))"), "it reads by read_csv()"),
        (model("raw_app__users where id in (select 1 from glob('/*'))"), "it reads by glob()"),
        (model(select="select id::bigint as user_id, now()::timestamptz as at\n"), "it asks now, which says"),
        (model("raw_app__users where since < Current_Date"), "it asks current_date, which says something"),
        (
            model("(select * from raw_app__users where random() < 0.5)"),
            "it asks random, which says something",
        ),
        (
            model(
                select="select id::bigint as user_id, ''::varchar as _dead_letter_reason, 1::bigint as _seq\n"
            ),
            "it selects _dead_letter_reason and no _batch_id, by which the bytes of a dead letter are found.",
        ),
        (model(header="owner: one\nowner: another\n"), "sql:5: the header is no YAML (owner stands twice)"),
        (model(header="? [owner]\n: one\n"), "sql:4: the header is no YAML (found unhashable key)"),
        (model().replace("[user_id]", "[user_id, user_id]"), "sql:3: key names a column twice."),
        (model(header="lookback: 99999999999 days\n"), "'99999999999 days' is longer than time is counted."),
        (model(header="partition: {by: user_id, every: day}\n"), "by user_id, which is no time but BIGINT."),
        (model(select="select id::bigint as User_id\n"), "can't be a name here: use lower-case letters"),
    ],
)
def test_what_would_be_passed_over_or_fail_much_later_is_told(
    read_models: ReadModels, text: str, message: str
) -> None:
    with pytest.raises(ContractError) as caught:
        read_models({STAGED: text})
    assert str(caught.value).startswith(STAGED)
    assert message in str(caught.value)


def test_case_says_nothing_in_the_names_that_a_query_reads(read_models: ReadModels) -> None:
    text = "(with Recent as (select * from RAW_app__Users) select * from recent)"
    assert read_models({STAGED: model(text)}).table("stg_app__users").upstreams == ("raw_app__users",)


DIMENSIONS = {
    STAGED: model(
        select="select id::bigint as user_id, -- User\n    created_at::timestamptz as since -- Then\n"
    ),
    "dimensions/dim_users.sql": model("stg_app__users"),
    "facts/fct_days.sql": model(
        "stg_app__users",
        "partition: {by: since, every: day}\n",
        "select user_id::bigint as user_id, -- User\n    since::timestamptz as since -- Then\n",
    ),
}


@pytest.mark.parametrize(
    ("target", "type_", "why"),
    [
        (
            "stg_app__users",
            "bigint",
            "points to stg_app__users, which PostgreSQL does not serve. Write the rule",
        ),
        ("fct_days", "bigint", "points to fct_days, which has leaves in PostgreSQL."),
        ("fct_days.since", "timestamptz", "points to fct_days.since, which has leaves in PostgreSQL."),
        (
            "dim_users",
            "varchar",
            "points to dim_users.user_id, which is BIGINT, and user_id is VARCHAR. Cast",
        ),
    ],
)
def test_a_foreign_key_that_postgresql_could_not_have_is_refused(
    read_models: ReadModels, target: str, type_: str, why: str
) -> None:
    select = f"select user_id::{type_} as user_id -- User\n"
    table = model("stg_app__users", f"write: merge\nforeign_keys: {{user_id: {target}}}\n", select)
    with pytest.raises(ContractError) as caught:
        read_models({**DIMENSIONS, "facts/fct_logins.sql": table})
    assert why in str(caught.value)


@pytest.mark.parametrize("name", ["fct_users", "idx_users_user_id"])
def test_an_index_called_as_another_tables_or_its_is_refused(read_models: ReadModels, name: str) -> None:
    """PostgreSQL would pass over it, and each run would find it missing."""
    table = model("stg_app__users", "indexes: [[user_id]]\n")
    with pytest.raises(ContractError, match=r"its index idx_users_user_id is called as .*\. Give it another"):
        read_models({**DIMENSIONS, "dimensions/dim_users.sql": table, f"facts/{name}.sql": table})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ENTITIES = [", "sources/zzz.py:1: its declarations can't be read"),
        ("from transforms.entities import Kafak", "cannot import name 'Kafak'"),
        ("from transforms.entities import Kafka\nENTITIES = [Kafka(topik='x')]", "keyword argument 'topik'"),
        ("", "has no attribute 'ENTITIES'. Write them as docs/connect.md shows"),
    ],
)
def test_declarations_that_python_cannot_read_are_told_in_a_sentence(
    tmp_path: Path, text: str, message: str
) -> None:
    shutil.copytree(ROOT / "transforms", tmp_path / "transforms")
    (tmp_path / "transforms" / "sources" / "zzz.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "flows", "catalog", "dim_users"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert done.stderr.startswith("sources/zzz.py")
    assert message in done.stderr


@pytest.mark.parametrize(
    ("partition", "said"),
    [
        (
            "partition: {by: since, every: month}\n",
            "by month, and stg_days, which it reads, has one partition a day",
        ),
        ("", "by no window, and stg_days, which it reads, has one partition a day"),
    ],
)
def test_what_is_appended_has_the_windows_of_what_it_reads(
    read_models: ReadModels, partition: str, said: str
) -> None:
    """It would find no news, and be empty."""
    select = "select user_id::bigint as user_id, -- User\n    since::timestamptz as since -- Then\n"
    header = f"{partition}write: append\ntie_break: [user_id]\n"
    daily = model("stg_app__users", "partition: {by: since, every: day}\n", select)
    with pytest.raises(ContractError) as caught:
        read_models(
            {
                STAGED: DIMENSIONS[STAGED],
                "staging/stg_days.sql": daily,
                "facts/fct_logins.sql": model("stg_days", header, select),
            }
        )
    assert said in str(caught.value)


TABLE: Any = Postgres
LIST: Any = Rest


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: TABLE("t", mode="increment"), "Table t: 'increment' is no mode. Write one of cdc, incr"),
        (lambda: TABLE("t", on_change="stop"), "Table t: 'stop' is no on_change. Write one of evolve"),
        (lambda: TABLE("t", mode="incremental"), "Table t: it is read incrementally, by a column that"),
        (lambda: Kafka(""), "Topic '': Kafka has no topic of such a name. Write one of 1 to 249 letters"),
        (lambda: Kafka("user events"), "Topic 'user events': Kafka has no topic of such a name."),
        (lambda: Kafka(".."), "Topic '..': Kafka has no topic of such a name."),
        (lambda: LIST("/v1/x", "data", "pages"), "List /v1/x: 'pages' is no paging. Write one of cursor"),
    ],
)
def test_a_declaration_that_says_nothing_a_reader_knows_is_refused(
    declare: Callable[[], object], message: str
) -> None:
    with pytest.raises(ContractError) as caught:
        declare()
    assert str(caught.value).startswith(message)
