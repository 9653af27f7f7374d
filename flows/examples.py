"""A few values of each column as they are now, personal ones masked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql

from flows.errors import FlowsError
from flows.services import open_services
from flows.stores.warehouse_errors import readable_errors
from transforms.contract import Layer
from transforms.lineage_graph import VIEW

SERVED = {VIEW, *(layer.value for layer in Layer if layer.is_published)}
_ROWS = 200
_VALUES = 3
_LETTERS = 40


def examples(entry: Mapping[str, Any]) -> tuple[dict[str, list[str]], str]:
    """Values by column, of what PostgreSQL serves; and, where there are none, why.

    Raw and staging are not shown: they hold records as they came, in which nobody says what is personal.
    """
    if entry["layer"] not in SERVED:
        return {}, ""
    try:
        with readable_errors(), open_services().warehouse.connect() as connection:
            connection.execute("set statement_timeout = '5s'")
            return sampled(connection, entry), ""
    except FlowsError as error:
        return {}, f"No examples: {error}"


def sampled(connection: psycopg.Connection[Any], entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """The first few different values of each column among a few rows, as text."""
    names = [column["name"] for column in entry["columns"]]
    query = sql.SQL("select {} from analytics.{} limit {}").format(
        sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in names),
        sql.Identifier(entry["table"]),
        sql.Literal(_ROWS),
    )
    rows = connection.execute(query).fetchall()
    found = {}
    for place, column in enumerate(entry["columns"]):
        values = (row[place] for row in rows if row[place] is not None)
        # Of what a producer says beside nobody declared what is personal.
        is_hidden = column["pii"] or column["type"] == "JSON"
        shown = dict.fromkeys(_short(masked(value) if is_hidden else value) for value in values)
        found[column["name"]] = list(shown)[:_VALUES]
    return found


def masked(value: str) -> str:
    """The shape of a value: each run of letters an x, of digits a 9; how long they were is not told.

    What is not ASCII counts as letters: marks and signs of a script say as much as these.
    """
    return re.sub(r"[A-Za-z\u0080-\U0010ffff]+", "x", re.sub(r"\d+", "9", value))


def _short(value: str) -> str:
    return value if len(value) <= _LETTERS else f"{value[: _LETTERS - 1]}…"
