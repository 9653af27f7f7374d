"""Documentation is inherited, lineage told, and a fingerprint changes when and only when the rows could."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.transforms.conftest import ReadModels
from tests.transforms.test_model import HEADER, POLARS
from transforms import catalog, registry

USERS = HEADER + (
    "with named as (select id, lower(email) as email from raw_app__users)\n"
    "select\n    named.id::bigint as user_id, -- User\n"
    "    named.email::varchar as email -- E-mail\nfrom named\n"
)


def fingerprint(read_models: ReadModels, text: str, name: str = "staging/stg_app__users.sql") -> str:
    table = name.rsplit("/", 1)[-1].split(".")[0]
    return catalog.fingerprint(table, read_models({name: text}))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("-- User", "-- Whoever it is"),
        ("select id,", "SELECT\n   id /* the id */ ,"),
        ("key:       [user_id]", "expect:\n  - not_null: [email]\nkey: [user_id]"),
        ("one row per user", "one row for each user"),
        ("from named\n", "from named;\n"),
    ],
)
def test_what_cannot_change_a_row_leaves_the_fingerprint(
    read_models: ReadModels, before: str, after: str
) -> None:
    assert before in USERS
    assert fingerprint(read_models, USERS) == fingerprint(read_models, USERS.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("lower(email)", "upper(email)"),
        ("::bigint", "::integer"),
        ("key:       [user_id]", "key: [email]"),
        ("key: ", "write: merge\nkey: "),
        ("as email --", "as mail --"),
        ("lower(email)", "lower('EMAIL')"),
    ],
)
def test_what_can_change_a_row_changes_the_fingerprint(
    read_models: ReadModels, before: str, after: str
) -> None:
    assert before in USERS
    assert fingerprint(read_models, USERS) != fingerprint(read_models, USERS.replace(before, after))


def test_a_polars_models_fingerprint_is_its_code(read_models: ReadModels) -> None:
    place = "marts/mart_mail.py"
    own = fingerprint(read_models, POLARS, place)
    commented = POLARS.replace("    return", '    """Mail."""\n    # why\n    return')
    assert fingerprint(read_models, commented, place) == own
    assert fingerprint(read_models, POLARS.replace('pl.col("email")', 'pl.col("id")'), place) != own


def test_a_polars_models_fingerprint_is_the_code_of_its_helpers_too(
    read_models: ReadModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "_PACKAGE", tmp_path / "transforms")
    (tmp_path / "transforms").mkdir()
    place = "marts/mart_mail.py"
    text = POLARS.replace("from transforms.model", "from transforms import json_text\nfrom transforms.model")
    helper, words = (tmp_path / "transforms" / f"{name}.py" for name in ("json_text", "words"))
    helper.write_text("from transforms.words import FIRST\nfrom transforms.json_text import itself\n")
    words.write_text("FIRST = 1\n")
    own = fingerprint(read_models, text, place)
    words.write_text('"""Said."""\n# commented\nFIRST = 1\n')
    assert fingerprint(read_models, text, place) == own
    words.write_text("FIRST = 2\n")
    assert fingerprint(read_models, text, place) != own


def test_a_passed_through_column_inherits_its_documentation(read_models: ReadModels) -> None:
    dim = HEADER + (
        "with a as (select u.user_id, u.email as mail from stg_app__users as u)\n"
        "select user_id::integer as user_id, mail::varchar as mail, upper(mail)::varchar as loud from a"
    )
    models = read_models({"staging/stg_app__users.sql": USERS, "dimensions/dim_users.sql": dim})
    documented = {column.name: column.description for column in catalog.columns("dim_users", models)}
    assert documented == {"user_id": "User", "mail": "E-mail", "loud": ""}
    traced = catalog.lineage("dim_users", models)
    assert [(o.table, o.column) for o in traced["loud"].origins] == [("stg_app__users", "email")]
    assert traced["loud"].passed_through is None


def test_lineage_of_a_polars_model_is_read_from_its_plan(read_models: ReadModels) -> None:
    traced = catalog.lineage("mart_mail", read_models({"marts/mart_mail.py": POLARS}))
    assert [(o.table, o.column) for o in traced["mail"].origins] == [("raw_app__users", "email")]
    assert [(o.table, o.column) for o in traced["user_id"].origins] == [("raw_app__users", "id")]


def test_sessions_come_from_event_times() -> None:
    traced = catalog.lineage("mart_user_activity")
    origins = {(o.table, o.column) for o in traced["sessions"].origins}
    assert ("fct_events", "event_time") in origins
    assert ("fct_events", "page") not in origins


def test_the_arrow_schema_has_exact_types(read_models: ReadModels) -> None:
    text = HEADER + (
        "select id::uuid as user_id, 1::decimal(38,18) as weight, '{}'::json as extra, "
        "'2025-10-07'::timestamptz as seen_at, ['a']::varchar[] as tags from raw_app__users"
    )
    table = read_models({"staging/stg_app__users.sql": text}).table("stg_app__users")
    schema = catalog.arrow_schema(table)
    assert [str(field.type) for field in schema] == [
        "extension<arrow.uuid>",
        "decimal128(38, 18)",
        "extension<arrow.json>",
        "timestamp[us, tz=UTC]",
        "list<l: string>",
    ]
    assert [field.nullable for field in schema] == [False, True, True, True, True]


def test_the_dictionary_holds_every_table_and_where_its_columns_come_from() -> None:
    entries = {entry["table"]: entry for entry in catalog.dictionary()}
    assert set(entries) == set(registry.tables())
    plans = {column["name"]: column for column in entries["dim_users"]["columns"]}
    assert plans["email"]["pii"]
    orders = {column["name"]: column for column in entries["fct_orders"]["columns"]}
    assert any(origin.startswith("stg_app__orders.") for origin in orders["revenue"]["from"])
