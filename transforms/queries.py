"""What a model's SQL reads, as DuckDB's parser sees it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import duckdb

from transforms.contract import VALID_FROM, ContractError
from transforms.header import Header

_ELSEWHERE = re.compile(r"read_|parquet_|glob$|sniff_|query|duckdb_|pragma_", re.IGNORECASE)
"""Table functions that read files, the network or DuckDB's own catalog."""
_UNSTEADY = re.compile(
    r"now|today|ago|(get_)?current_(local)?(date|time|timestamp)|local(time|timestamp)|"
    r"transaction_timestamp|random|(gen_random_)?uuid(v\d)?|nextval|currval",
    re.IGNORECASE,
)
"""What says something else each time it is asked: the clock, chance, a counter."""


def hold_to_as_of(sql: str, header: Header, upstreams: Sequence[str], where: str) -> None:
    """What the header joins as of a time, the text joins so, and nothing else."""
    joined = dict(_as_of_joins(_tree(sql, where)))
    for history, moment in header.as_of.items():
        columns = joined.get(history)
        if columns is None or not {VALID_FROM, moment} <= columns:
            raise ContractError(
                f"{where}: as_of names {history} at {moment}, and the text does not join it so. Write "
                f"`asof left join {history} as h on … = … and f.{moment} >= h.{VALID_FROM}`."
            )
    for history in joined.keys() & set(upstreams):
        if history not in header.as_of:
            raise ContractError(
                f"{where}: it joins {history} as of a time that the header does not name. Write e.g. "
                f"`as_of: {{{history}: created_at}}`, so that only the windows that it concerns are rebuilt."
            )


def _as_of_joins(node: Any) -> Iterator[tuple[str, set[str]]]:
    """Tables that a query joins with ASOF, each with the names of the columns in its condition."""
    if isinstance(node, dict):
        right = node.get("right")
        if node.get("ref_type") == "ASOF" and isinstance(right, dict) and right["type"] == "BASE_TABLE":
            yield str(right["table_name"]), set(_columns_in(node.get("condition")))
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from _as_of_joins(part)


def _columns_in(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if node.get("type") == "COLUMN_REF":
            yield str(node["column_names"][-1])
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from _columns_in(part)


@lru_cache(maxsize=1)
def _parser() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(":memory:", config={"threads": 1})


def tables_of(sql: str, where: str) -> set[str]:
    """Names of the tables a query reads, its own CTEs left out. Raises ContractError for one that it reads
    by another way than its name alone, and for a query that asks the clock or chance: nobody would know when
    that has news.
    """
    tree = _tree(sql, where)
    for name in _asked(tree):
        if _UNSTEADY.fullmatch(name):
            raise ContractError(
                f"{where}: it asks {name.lower()}, which says something else each time, and no run would "
                "know when that has changed. Compare with times and keys that rows have; what is to be told "
                "as of today, ask of the table."
            )
    for function in _functions(tree):
        if _ELSEWHERE.match(function):
            raise ContractError(
                f"{where}: it reads by {function}(), so no run would know when that has changed. Declare "
                "what it reads in transforms/sources, and read the table of that here."
            )
    return set(_base_tables(tree, frozenset(), where))


def _asked(node: Any) -> Iterator[str]:
    """Functions that a query calls, and names that stand for one without brackets."""
    if isinstance(node, dict):
        if node.get("class") == "FUNCTION":
            yield str(node["function_name"])
        if node.get("class") == "COLUMN_REF" and len(node["column_names"]) == 1:
            name = str(node["column_names"][0])
            if name.lower().startswith(("current_", "local")):
                yield name
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from _asked(part)


def _functions(node: Any) -> Iterator[str]:
    """The table functions that a query reads from."""
    if isinstance(node, dict):
        if node.get("type") == "TABLE_FUNCTION":
            yield str(node["function"]["function_name"])
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from _functions(part)


@lru_cache(maxsize=2)
def _tree(sql: str, where: str) -> Any:
    """A query as DuckDB reads it."""
    row = _parser().cursor().execute("select json_serialize_sql(?)", [sql]).fetchall()[0]
    parsed = json.loads(row[0])
    if parsed["error"]:
        line = sql.count("\n", 0, int(parsed.get("position") or 0)) + 1
        raise ContractError(f"{where}:{line}: DuckDB can't read it: {parsed['error_message']}.")
    if len(parsed["statements"]) != 1:
        raise ContractError(f"{where}: a model is one select; it has {len(parsed['statements'])} statements.")
    return parsed["statements"][0]["node"]


def _base_tables(node: Any, ctes: frozenset[str], where: str) -> Iterator[str]:
    """Tables of a query as DuckDB serializes it; a CTE hides a table only from what stands behind it.

    Case says nothing in names, and ours are lower-case.
    """
    if isinstance(node, list):
        for part in node:
            yield from _base_tables(part, ctes, where)
    if not isinstance(node, dict):
        return
    if node.get("type") == "RECURSIVE_CTE_NODE":
        ctes |= {node["cte_name"].lower()}
    for cte in node.get("cte_map", {}).get("map", ()):
        yield from _base_tables(cte["value"], ctes, where)
        ctes |= {cte["key"].lower()}
    if node.get("type") == "BASE_TABLE":
        name = str(node["table_name"]).lower()
        if node.get("schema_name"):
            raise ContractError(
                f"{where}: it reads {node['schema_name']}.{name}. Models name tables alone, wherever these "
                f"stand: write {name}."
            )
        if name not in ctes:
            yield name
    for word, part in node.items():
        if word != "cte_map":
            yield from _base_tables(part, ctes, where)
