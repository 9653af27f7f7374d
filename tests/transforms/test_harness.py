"""The given/expect harness itself: it sees every kind of difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection

from tests.transforms.conftest import ReadModels
from tests.transforms.given_expect import Case, cases, difference

STG_USERS = """
    /* ---
    grain: one row per user
    key:   [user_id]
    --- */
    select
        id::bigint as user_id, -- User
        lower(email)::varchar as email, -- E-mail
        created_at::date as signup_on, -- Day of signing up
    from raw_app__users
"""
STG_CLICKS = """
    /* ---
    grain: one row per click
    key:   [event_id]
    --- */
    with parsed as (
        select *, try_cast(try(json_extract_string(decode(value), '$.event_id')) as uuid) as event_id
        from raw_events__clicks
    )
    select
        event_id::uuid as event_id, -- Event
        case when event_id is null then 'no event_id' end::varchar as _dead_letter_reason,
        _batch_id::varchar as _batch_id,
        _seq::bigint as _seq,
    from parsed
"""


def case(given: Any, expect: Any, dead_letters: Any = None, table: str = "stg_app__users") -> Case:
    return Case(table, "a case", given, expect, dead_letters)


def test_equal_rows_in_any_order_differ_in_nothing(read_models: ReadModels, duck: DuckDBPyConnection) -> None:
    models = read_models({"staging/stg_app__users.sql": STG_USERS})
    given = {
        "raw_app__users": [
            {"id": 1, "email": "A@x.org", "created_at": "2025-10-07T23:30:00Z"},
            {"id": 2, "email": None},
        ]
    }
    expect = [{"user_id": 2, "signup_on": None}, {"user_id": 1, "signup_on": "2025-10-07"}]
    assert difference(case(given, expect), duck, models) == ""


def test_a_difference_names_the_column_that_differs(
    read_models: ReadModels, duck: DuckDBPyConnection
) -> None:
    models = read_models({"staging/stg_app__users.sql": STG_USERS})
    given = {"raw_app__users": [{"id": 1, "email": "A@x.org"}]}
    found = difference(case(given, [{"user_id": 1, "email": "A@x.org"}]), duck, models)
    assert "email: expected A@x.org, got a@x.org" in found


def test_a_row_too_many_is_a_difference(read_models: ReadModels, duck: DuckDBPyConnection) -> None:
    models = read_models({"staging/stg_app__users.sql": STG_USERS})
    given = {"raw_app__users": [{"id": 1}, {"id": 1}]}
    assert "expected 1, got 2" in difference(case(given, [{"user_id": 1}]), duck, models)


def test_an_upstream_that_the_model_does_not_read_is_named(
    read_models: ReadModels, duck: DuckDBPyConnection
) -> None:
    models = read_models({"staging/stg_app__users.sql": STG_USERS})
    found = difference(case({"raw_events__clicks": []}, []), duck, models)
    assert "does not read" in found


def test_dead_letters_leave_the_rows(read_models: ReadModels, duck: DuckDBPyConnection) -> None:
    models = read_models({"staging/stg_events__clicks.sql": STG_CLICKS})
    good = "9f0f4b1e-0000-4000-8000-000000000001"
    given = {"raw_events__clicks": [{"value": {"event_id": good}}, {"value": "no json ümlaut"}]}
    dead = [{"_dead_letter_reason": "no event_id", "_batch_id": "batch-1", "_seq": 1}]
    found = difference(case(given, [{"event_id": good}], dead, "stg_events__clicks"), duck, models)
    assert found == ""
    found = difference(case(given, [{"event_id": good}], [], "stg_events__clicks"), duck, models)
    assert "dead letters: expected 0, got 1" in found


def test_times_in_a_file_stay_text_for_duckdb_to_cast(tmp_path: Path) -> None:
    path = tmp_path / "stg_app__users.yaml"
    path.write_text(
        "- name: a\n  given: {raw_app__users: [{created_at: 2025-10-07T00:00:00Z}]}\n  expect: []\n"
    )
    assert cases(path)[0].given["raw_app__users"][0]["created_at"] == "2025-10-07T00:00:00Z"
