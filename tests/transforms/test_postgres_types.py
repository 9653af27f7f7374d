"""What PostgreSQL has no column for is told where the model is read, with what to write instead."""

from __future__ import annotations

import re

import pytest

from tests.transforms.conftest import ReadModels
from tests.transforms.test_refusals import STAGED, model
from transforms.contract import ContractError


@pytest.mark.parametrize(
    ("type_", "instead"),
    [
        ("hugeint", "decimal(38,0)"),
        ("interval", "bigint, of seconds say"),
        ("struct(a integer)", "json or varchar"),
        ("map(varchar, integer)", "json or varchar"),
        ("enum('a', 'b')", "varchar"),
        ("bit", "varchar"),
        ("time_ns", "time"),
        ("timetz", "time"),
        ("timestamp_ns", "timestamp, or timestamptz for an instant"),
        ("decimal(10,2)[]", "double[], varchar[] or json"),
        ("boolean[]", "varchar[] or json"),
        ("float[3]", "a list (float[])"),
        ("integer[][]", "json or varchar"),
    ],
)
def test_a_type_that_postgresql_lacks_is_refused_of_what_is_published_alone(
    read_models: ReadModels, type_: str, instead: str
) -> None:
    select = f"select\n    user_id::bigint as user_id, -- User\n    null::{type_} as extra -- More\n"
    staged = model(select=select.replace("user_id::", "id::"))
    assert len(read_models({STAGED: staged}).table("stg_app__users").columns) == 2
    told = r"^marts/mart_users.sql:7: column extra: PostgreSQL has no column for DuckDB's "
    with pytest.raises(ContractError, match=rf"{told}.*\. Cast it to {re.escape(instead)}\.$"):
        read_models({STAGED: staged, "marts/mart_users.sql": model("stg_app__users", select=select)})


@pytest.mark.parametrize("name", ["ctid", "xmin", "tableoid"])
def test_a_name_that_postgresql_keeps_for_itself_is_refused(read_models: ReadModels, name: str) -> None:
    select = f"select user_id::bigint as user_id, -- User\n    1::bigint as {name} -- More\n"
    with pytest.raises(
        ContractError, match=rf"^marts/mart_users.sql:6: column {name}: in PostgreSQL each table has one"
    ):
        read_models({STAGED: model(), "marts/mart_users.sql": model("stg_app__users", select=select)})


def test_a_polars_model_is_held_to_the_same(read_models: ReadModels) -> None:
    text = (
        "from transforms.contract import Column\nfrom transforms.model import polars_table\n"
        'TABLE = polars_table(__file__, grain="one row", key=["user_id"], columns=['
        'Column("user_id", "bigint"), Column("took", "interval")])\ndef build(stg_app__users): ...\n'
    )
    with pytest.raises(ContractError, match=r"^marts/mart_users.py: column took: PostgreSQL has no column"):
        read_models({STAGED: model(), "marts/mart_users.py": text})
