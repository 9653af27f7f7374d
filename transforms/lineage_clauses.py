"""What the clauses and functions of a query say of its rows: which ones there are, and whether many become
one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import duckdb
from sqlglot import exp

from transforms.lineage_steps import Kind

_CONDITIONS = {"where": Kind.FILTER, "having": Kind.FILTER, "qualify": Kind.FILTER, "group": Kind.GROUP}
_NUMBERS_ROWS = (exp.Rank, exp.DenseRank, exp.PercentRank, exp.CumeDist, exp.Ntile)
_WITHIN = (exp.Filter, exp.IgnoreNulls, exp.RespectNulls)
"""What may stand between a function and the window it runs over."""


def clauses(query: exp.Expr) -> Iterator[tuple[Kind, exp.Expr]]:
    """What says which rows a query has, and how; not what stands in queries within it."""
    for word, kind in _CONDITIONS.items():
        clause = query.args.get(word)
        if clause is not None:
            yield kind, clause
            if word == "group" and clause.args.get("all"):
                yield from ((kind, part) for part in selects(query) if not aggregates(part))
    for part in query.walk(
        prune=lambda part: isinstance(part, exp.Select | exp.SetOperation) and part is not query
    ):
        # In brackets, too: `from (a join b using (id))`.
        if isinstance(part, exp.Join) and part.args.get("on") is not None:
            yield Kind.JOIN, part.args["on"]
        elif isinstance(part, exp.Unnest | exp.Explode):
            yield Kind.FILTER, part  # an empty list leaves its row out, a long one repeats it
    distinct = query.args.get("distinct")
    if isinstance(distinct, exp.Distinct):
        on = distinct.args.get("on")
        yield from [(Kind.FILTER, on)] if on is not None else ((Kind.GROUP, part) for part in selects(query))
    if query.args.get("order") is not None and (query.args.get("limit") or distinct):
        yield Kind.FILTER, query.args["order"]  # it decides which rows are the first ones


def selects(query: exp.Expr) -> list[exp.Expr]:
    """What a query gives, item by item; of what is no query nothing."""
    return query.selects if isinstance(query, exp.Query) else []


def compares(query: exp.Expr) -> Kind | None:
    """How whole rows decide which ones a set operation keeps; `union all` keeps all."""
    if isinstance(query, exp.Except | exp.Intersect):
        return Kind.FILTER
    return Kind.GROUP if isinstance(query, exp.Union) and query.args.get("distinct") else None


def stands_for_all(star: exp.Star) -> bool:
    """Whether a star is all columns, and not the rows of `count(*)` or part of what is read by itself."""
    return not isinstance(star.parent, exp.Count | exp.Columns | exp.Column | exp.Dot)


def named_windows(window: exp.Window) -> list[exp.Expr]:
    """The window of the `window` clause that `over w` or `over (w …)` builds on."""
    select = window.find_ancestor(exp.Select)
    named = (select.args.get("windows") or ()) if select is not None else ()
    return [other for other in named if other.this.name.lower() == window.args["alias"].name.lower()]


def counts_rows(expression: exp.Expr) -> bool:
    """Whether it adds up what is no column's: `count(*)`, `sum(1)`."""
    return any(
        found.find(exp.Column, exp.TableColumn, exp.Query) is None and not isinstance(found, _NUMBERS_ROWS)
        for found in _aggregates_in(expression)
    )


def aggregates(expression: exp.Expr) -> bool:
    """Whether it adds up rows into one; a function over a window leaves each row."""
    for found in _aggregates_in(expression):
        inner = found
        while isinstance(inner.parent, _WITHIN):
            inner = inner.parent
        if not isinstance(inner.parent, exp.Window):
            return True
    return False


def _aggregates_in(expression: exp.Expr) -> Iterator[exp.Expr]:
    """The functions over many rows of an expression itself, not of queries within it."""
    for found in expression.walk(prune=lambda part: isinstance(part, exp.Query)):
        is_own = isinstance(found, exp.Anonymous) and found.name.lower() in _aggregate_functions()
        if is_own or isinstance(found, exp.AggFunc):
            yield found


@cache
def _aggregate_functions() -> frozenset[str]:
    """Names of DuckDB's own aggregates; sqlglot does not know all of them (`mean`, `arg_max_null`)."""
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        query = "select function_name from duckdb_functions() where function_type = 'aggregate'"
        return frozenset(str(name) for (name,) in connection.execute(query).fetchall())
