"""Which upstream columns each column of a query is made of, and which ones say what rows it has.

sqlglot parses and names; the walk through its scopes is done here, since it has to tell how a column is
made, follow unions by name, and see the conditions too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import duckdb
from sqlglot import exp, parse_one
from sqlglot.optimizer import build_scope, qualify
from sqlglot.optimizer.scope import Scope

from transforms.lineage_steps import ROWS, Kind, Made, Origin, Traced, merged

_CONDITIONS = {"where": Kind.FILTER, "having": Kind.FILTER, "qualify": Kind.FILTER, "group": Kind.GROUP}


def trace(sql: str, schema: Mapping[str, Mapping[str, str]], dialect: str = "duckdb") -> Traced:
    """The lineage of a select (or of what a view is made from) over these tables: column → type, by table.

    Names of schemas are left out: a table is known by its own. Raises sqlglot's SqlglotError.
    """
    tree = parse_one(sql, read=dialect)
    query = tree.expression if isinstance(tree, exp.Create) else tree
    for table in query.find_all(exp.Table):
        table.set("db", None)
    qualified = qualify.qualify(
        query,
        dialect=dialect,
        schema={name: dict(columns) for name, columns in schema.items()},
        validate_qualify_columns=False,
        identify=False,
    )
    scope = build_scope(qualified)
    if scope is None:
        return Traced({}, {}, ())
    walk = _Walk(schema)
    columns = {name: walk.column(scope, name) for name in _names(scope)}
    return Traced(columns, walk.conditions(scope), tuple(sorted(walk.rows(scope))))


class _Walk:
    """One query. What a column of a scope is made of is worked out once."""

    def __init__(self, schema: Mapping[str, Mapping[str, str]]) -> None:
        self._schema = schema
        self._known: dict[tuple[int, str], Mapping[Origin, Made]] = {}

    def column(self, scope: Scope, name: str) -> Mapping[Origin, Made]:
        """What the column `name` of a scope is made of; nothing for a constant."""
        place = (id(scope), name)
        if place not in self._known:
            # A recursive query reads itself: what it adds is what it began with.
            self._known[place] = {}
            self._known[place] = self._column(scope, name)
        return self._known[place]

    def conditions(self, root: Scope) -> Mapping[Origin, Kind]:
        """Columns that say which rows the query has, wherever in it they do."""
        found: dict[Origin, Kind] = {}
        for scope in root.traverse():
            for kind, clause in _clauses(scope.expression):
                for origin in self._read_by(scope, clause):
                    if origin.column != ROWS:
                        found.setdefault(origin, kind)
        return found

    def rows(self, scope: Scope) -> set[str]:
        """Tables whose rows a scope's are, or are added up from: not those that are only looked up in."""
        if scope.set_operation_scopes:
            return set().union(*(self.rows(part) for part in scope.set_operation_scopes))
        joins = scope.expression.args.get("joins") or ()
        looked_up = {
            join.alias_or_name for join in joins if join.side == "LEFT" or join.kind in {"SEMI", "ANTI"}
        }
        found: set[str] = set()
        for name, (_, source) in scope.selected_sources.items():
            if name in looked_up:
                continue
            if isinstance(source, Scope):
                found |= self.rows(source)
            elif source.name in self._schema:
                found.add(source.name)
        return found

    def _column(self, scope: Scope, name: str) -> Mapping[Origin, Made]:
        query = scope.expression
        if isinstance(query, exp.SetOperation):
            left, right = scope.set_operation_scopes
            other = name if query.args.get("by_name") else _names(right)[_names(left).index(name)]
            return merged(self._side(left, name), self._side(right, other))
        if not isinstance(query, exp.Query):
            # Rows that a function makes, of columns of whoever calls it.
            return {origin: Made(Kind.EXPRESSION) for origin in self._read_by(scope, query)}
        projection = _projection(query, name)
        return self._made(scope, projection) if projection is not None else {}

    def _side(self, scope: Scope, name: str) -> Mapping[Origin, Made]:
        """A column of one side of a union. A constant tells which side a row is of; null and 0 do not."""
        made = self.column(scope, name)
        if made or not isinstance(scope.expression, exp.Select):
            return made
        projection = _projection(scope.expression, name)
        constant = projection.find(exp.Literal, exp.Boolean) if projection is not None else None
        if constant is None or constant.name == "0":
            return made
        return {Origin(table, ROWS): Made(Kind.EXPRESSION) for table in self.rows(scope)}

    def _made(self, scope: Scope, expression: exp.Expr) -> Mapping[Origin, Made]:
        casts: list[str] = []
        while isinstance(expression, exp.Alias | exp.Cast | exp.Paren):
            if isinstance(expression, exp.Cast):
                casts.append(expression.to.sql(dialect="duckdb"))
            expression = expression.this
        # The first of several columns that is not null is one of them as it is: `using` gives that too.
        parts = (
            [expression.this, *expression.expressions]
            if isinstance(expression, exp.Coalesce)
            else [expression]
        )
        named = [part for part in parts if isinstance(part, exp.Column)]
        if len(named) == len(parts):
            given = merged(*(self._resolved(scope, part) for part in named))
            return {origin: Made(made.kind, (*made.casts, *casts)) for origin, made in given.items()}
        kind = Kind.AGGREGATE if _aggregates(expression) else Kind.EXPRESSION
        found = {origin: Made(max(kind, known)) for origin, known in self._read_by(scope, expression).items()}
        if kind is Kind.AGGREGATE and (not found or _counts_rows(expression)):
            found.update({Origin(table, ROWS): Made(kind) for table in self.rows(scope)})
        return found

    def _read_by(self, scope: Scope, node: exp.Expr) -> Mapping[Origin, Kind]:
        """Origins of all that an expression reads, what stands in queries within it too."""
        found: dict[Origin, Kind] = {}
        for part in node.walk(prune=lambda part: isinstance(part, exp.Query) and part is not node):
            if isinstance(part, exp.Column):
                given = self._resolved(scope, part)
            elif isinstance(part, exp.Query) and part is not node:
                given = self._queried(scope, part)
            else:
                continue
            for origin, made in given.items():
                found[origin] = max(found.get(origin, Kind.PASS), made.kind)
        return found

    def _queried(self, scope: Scope, query: exp.Expr) -> Mapping[Origin, Made]:
        inner = query.unnest() if isinstance(query, exp.Subquery) else query
        for candidate in scope.subquery_scopes:
            if candidate.expression is inner:
                return merged(*(self.column(candidate, name) for name in _names(candidate)))
        return {}

    def _resolved(self, scope: Scope, column: exp.Column) -> Mapping[Origin, Made]:
        around: Scope | None = scope
        while around is not None:
            source = around.sources.get(column.table)
            if source is not None:
                return self._of_source(source, column.name)
            around = around.parent
        if column.table:
            return {}
        return merged(*(self._of_source(source, column.name) for source in scope.sources.values()))

    def _of_source(self, source: Any, name: str) -> Mapping[Origin, Made]:
        if isinstance(source, Scope):
            return self.column(source, name)
        known = self._schema.get(source.name, {})
        return {Origin(source.name, name): Made(Kind.PASS)} if name in known else {}


def _names(scope: Scope) -> list[str]:
    """Names of the columns a scope gives, in order."""
    query = scope.expression
    if isinstance(query, exp.SetOperation):
        left, right = (_names(part) for part in scope.set_operation_scopes)
        return [*left, *(name for name in right if name not in left)] if query.args.get("by_name") else left
    return [part.alias_or_name for part in query.selects] if isinstance(query, exp.Query) else []


def _projection(query: exp.Query, name: str) -> exp.Expr | None:
    return next((part for part in query.selects if part.alias_or_name.lower() == name.lower()), None)


def _clauses(query: exp.Expr) -> Iterator[tuple[Kind, exp.Expr]]:
    for word, kind in _CONDITIONS.items():
        clause = query.args.get(word)
        if clause is not None:
            yield kind, clause
    for join in query.args.get("joins") or ():
        if join.args.get("on") is not None:
            yield Kind.JOIN, join.args["on"]


def _counts_rows(expression: exp.Expr) -> bool:
    return any(isinstance(count.this, exp.Star) for count in expression.find_all(exp.Count))


def _aggregates(expression: exp.Expr) -> bool:
    """Whether it adds up rows into one; a function over a window leaves each row."""
    for found in expression.find_all(exp.AggFunc, exp.Anonymous):
        if isinstance(found, exp.Anonymous) and found.name.lower() not in _aggregate_functions():
            continue
        inner = found.parent if isinstance(found.parent, exp.Filter) else found
        if not isinstance(inner.parent, exp.Window) and found.find_ancestor(exp.Query) in {
            None,
            expression.find_ancestor(exp.Query),
        }:
            return True
    return False


@cache
def _aggregate_functions() -> frozenset[str]:
    """Names of DuckDB's own aggregates; sqlglot does not know all of them (`mean`, `arg_max_null`)."""
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        query = "select function_name from duckdb_functions() where function_type = 'aggregate'"
        return frozenset(str(name) for (name,) in connection.execute(query).fetchall())
