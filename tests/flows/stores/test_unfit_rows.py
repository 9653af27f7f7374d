"""Rows that stand and do not fit what their table's header has come to say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flows.stores.lake import Lake
from flows.stores.migrate import REFUSALS, UnfitRows, migrate
from flows.stores.publish import publish
from flows.stores.warehouse import Warehouse
from tests.flows.stores.world import DAY, EVENTS, USERS, built, rows, tidy, visits
from transforms.contract import Table

PEOPLE = "SELECT i AS person_id, 'Ada' AS name, '{}'::JSON AS properties FROM range(5) t(i)"


def _with(table: Table, name: str, **changes: Any) -> Table:
    columns = (replace(one, **changes) if one.name == name else one for one in table.columns)
    return replace(table, columns=tuple(columns))


@pytest.mark.parametrize(
    ("table", "query", "otherwise", "said"),
    [
        (
            USERS,
            PEOPLE,
            replace(_with(USERS, "name", nullable=False), key=("name",)),
            "they are not unique by name",
        ),
        (
            USERS,
            PEOPLE,
            _with(USERS, "name", max_length=2),
            r"value too long for type character varying\(2\)",
        ),
        (
            EVENTS,
            visits(DAY, 50),
            _with(EVENTS, "page", max_length=2),
            r"value too long for type character varying\(2\)",
        ),
    ],
    ids=["a key", "a type", "a type of leaves"],
)
def test_they_keep_their_table_as_it_was_and_it_is_said_why(
    any_dsn: str, lake: Lake, table: Table, query: str, otherwise: Table, said: str
) -> None:
    warehouse = Warehouse(any_dsn)
    migrate(warehouse, lake, table)
    partition = DAY if table.partition else ""
    publish(table, [built(lake, table, partition, query, batch="b1")], warehouse=warehouse, lake=lake)
    before = rows(any_dsn, table.name)

    with pytest.raises(UnfitRows, match=f"^{table.name}: .*: {said}\\. It stays as it was") as refused:
        migrate(warehouse, lake, otherwise, yes=True)

    assert f"maintain --drop {table.name}" in str(refused.value)
    assert "Ada" not in str(refused.value)
    assert isinstance(refused.value, REFUSALS)
    assert rows(any_dsn, table.name) == before
    assert tidy(any_dsn, lake)["left"] == []
