"""Which upstream columns each column of a query is made of, and which ones say what rows it has.

sqlglot parses and names; the walk through its scopes is done here, since it has to tell how a column is
made, follow unions by name, and see the conditions too. What can't be followed is refused: an origin that is
left out would read as if there were none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlglot import errors, exp, parse_one
from sqlglot.optimizer import build_scope, qualify
from sqlglot.optimizer.scope import Scope

from transforms.lineage_clauses import (
    aggregates,
    clauses,
    compares,
    counts_rows,
    named_windows,
    selects,
    stands_for_all,
)
from transforms.lineage_pivot import UNNAMED, spelled_out
from transforms.lineage_steps import ROWS, Kind, Made, Origin, Traced, merged


def trace(sql: str, schema: Mapping[str, Mapping[str, str]], dialect: str = "duckdb") -> Traced:
    """The lineage of a select (or of what a view is made from) over these tables: column → type, by table.

    Names of schemas are left out: a table is known by its own. Raises sqlglot's SqlglotError.
    """
    tree = parse_one(sql, read=dialect)
    query = spelled_out(tree.expression if isinstance(tree, exp.Create) else tree)
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
        raise errors.OptimizeError("it is no select. End it with one")
    walk = _Walk(schema, scope)
    columns = {name: walk.column(scope, name) for name in _names(scope)}
    return Traced(columns, walk.conditions(scope), tuple(sorted(walk.rows(scope))))


class _Walk:
    """One query. What a column of a scope is made of is worked out once."""

    def __init__(self, schema: Mapping[str, Mapping[str, str]], root: Scope) -> None:
        # sqlglot tells names in small letters, as case makes no difference; raw has those of its source.
        self._schema = {
            name: {column.lower(): column for column in columns} for name, columns in schema.items()
        }
        self._known: dict[tuple[int, str], Mapping[Origin, Made]] = {}
        self._open: set[tuple[int, str]] = set()
        self._met_itself = False
        # Of a query that reads itself sqlglot shows it what it began with.
        self._whole = {
            id(scope.set_operation_scopes[0].expression): scope
            for scope in root.traverse()
            if scope.is_cte and scope.set_operation_scopes
        }

    def column(self, scope: Scope, name: str) -> Mapping[Origin, Made]:
        """What the column `name` of a scope is made of; nothing for a constant."""
        place = (id(scope), name)
        if place in self._known:
            self._met_itself |= place in self._open
            return self._known[place]
        self._known[place] = {}
        self._open.add(place)
        before = set(self._known)
        while True:
            self._met_itself = False
            made = merged(self._known[place], self._column(scope, name))
            is_settled = not self._met_itself or _kinds(made) == _kinds(self._known[place])
            self._known[place] = made
            if is_settled:
                break
            # A recursive query adds to what it reads: all that was made of that is worked out again.
            self._known = {known: self._known[known] for known in before}
        self._open.discard(place)
        return self._known[place]

    def conditions(self, root: Scope) -> Mapping[Origin, Kind]:
        """Columns that say which rows the query has, wherever in it they do."""
        scopes = list(root.traverse())
        told = [
            (kind, self._read_by(scope, clause))
            for scope in scopes
            for kind, clause in clauses(scope.expression)
        ]
        told += [
            (how, _kinds(self._all_of(part)))
            for scope in scopes
            if (how := compares(scope.expression)) is not None
            for part in scope.set_operation_scopes
        ]
        found: dict[Origin, Kind] = {}
        for kind, origins in told:
            for origin in origins:
                if origin.column != ROWS:
                    found.setdefault(origin, kind)
        return found

    def rows(self, scope: Scope) -> set[str]:
        """Tables whose rows a scope's are, or are added up from: not those that are only looked up in."""
        if scope.set_operation_scopes:
            parts = scope.set_operation_scopes
            kept = parts[:1] if isinstance(scope.expression, exp.Except | exp.Intersect) else parts
            return set().union(*(self.rows(part) for part in kept))
        if isinstance(scope.expression, exp.Lateral):
            return set().union(*(self.rows(inner) for inner in scope.subquery_scopes))
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
            other = name if query.args.get("by_name") else _beside(name, left, right)
            if isinstance(query, exp.Except | exp.Intersect):
                return self.column(left, name)
            return merged(self._side(left, name), self._side(right, other))
        if isinstance(query, exp.Lateral) and scope.subquery_scopes:
            (inner,) = scope.subquery_scopes
            names = query.alias_column_names
            return self.column(inner, _names(inner)[names.index(name)] if name in names else name)
        if not isinstance(query, exp.Query):
            # Rows that a function makes, of columns of whoever calls it.
            return {origin: Made(Kind.EXPRESSION) for origin in self._read_by(scope, query)}
        projection = _projection(query, name)
        return self._made(scope, projection) if projection is not None else self._unnamed(scope, name)

    def _unnamed(self, scope: Scope, name: str) -> Mapping[Origin, Made]:
        """A column that the text does not name: the one of that name behind a star or a pattern, else made of
        all that such items read.
        """
        items = [item for item in selects(scope.expression) if item.alias_or_name == UNNAMED]
        behind = self._giving(scope, name)
        own = merged(*(self._of_source(scope, source, name) for source in behind))
        if behind and any(item.unalias().is_star for item in items):
            return own
        if not items:
            given = scope.expression.sql(dialect="duckdb")
            raise errors.OptimizeError(f"`{given[:60]}` gives no column {name}. Select it there")
        found = []
        for item in items:
            made = self._made(scope, item)
            least = Kind.EXPRESSION
            if behind and item.find(exp.Columns, exp.Star) is not None:
                is_alone = isinstance(item.unalias(), exp.Columns | exp.Like | exp.SimilarTo)
                least = Kind.PASS if is_alone else max(one.kind for one in made.values())
                made = own
            found.append({origin: Made(max(least, one.kind)) for origin, one in made.items()})
        return merged(*found)

    def _side(self, scope: Scope, name: str) -> Mapping[Origin, Made]:
        """A column of one side of a union. A constant tells which side a row is of; null and 0 do not."""
        if name not in _names(scope) and UNNAMED not in _names(scope):
            return {}  # by name, and the other side alone has it
        made = self.column(scope, name)
        if made or not isinstance(scope.expression, exp.Select):
            return made
        projection = _projection(scope.expression, name)
        constant = projection.find(exp.Literal, exp.Boolean) if projection is not None else None
        if constant is None or constant.name == "0":
            return made
        return self._rows_of(scope, Kind.EXPRESSION)

    def _rows_of(self, scope: Scope, kind: Kind) -> Mapping[Origin, Made]:
        return {Origin(table, ROWS): Made(kind) for table in self.rows(scope)}

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
        kind = Kind.AGGREGATE if aggregates(expression) else Kind.EXPRESSION
        found = {origin: Made(max(kind, known)) for origin, known in self._read_by(scope, expression).items()}
        if counts_rows(expression) or (not found and expression.find(exp.AggFunc, exp.Window)):
            found.update(self._rows_of(scope, kind))
        return found

    def _read_by(self, scope: Scope, node: exp.Expr) -> Mapping[Origin, Kind]:
        """Origins of all that an expression reads, what stands in queries within it too."""
        found: dict[Origin, Kind] = {}
        for part in node.walk(prune=lambda part: isinstance(part, exp.Query) and part is not node):
            if isinstance(part, exp.Column):
                given = self._resolved(scope, part)
            elif isinstance(part, exp.TableColumn):
                given = self._whole_row(scope, part.name)
            elif isinstance(part, exp.Columns) or (isinstance(part, exp.Star) and stands_for_all(part)):
                given = merged(*(self._whole_row(scope, name) for name in scope.sources))
            elif isinstance(part, exp.Window) and part.args.get("alias") is not None:
                given = {
                    origin: Made(kind)
                    for window in named_windows(part)
                    for origin, kind in self._read_by(scope, window).items()
                }
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
                if isinstance(query.parent, exp.Exists):
                    return self._rows_of(candidate, Kind.EXPRESSION)
                return self._all_of(candidate)
        raise errors.OptimizeError(f"`{inner.sql()[:60]}` can't be followed where it stands. Put it in a CTE")

    def _all_of(self, scope: Scope) -> Mapping[Origin, Made]:
        return merged(*(self.column(scope, name) for name in _names(scope)))

    def _whole_row(self, scope: Scope, name: str) -> Mapping[Origin, Made]:
        """A row as one value: all of its columns."""
        around = _around(scope, name)
        if around is None:
            raise errors.OptimizeError(f"there is no table {name} to read. Give it in `from`")
        source = around.sources[name]
        made = merged(*(self._of_source(around, source, column) for column in self._given(source) or [name]))
        return {origin: Made(max(one.kind, Kind.EXPRESSION)) for origin, one in made.items()}

    def _resolved(self, scope: Scope, column: exp.Column) -> Mapping[Origin, Made]:
        around = _around(scope, column.table)
        if around is not None:
            return self._of_source(around, around.sources[column.table], column.name)
        # sqlglot names no table where `using` leaves it open, and none of what has no name in the text.
        for within in _outward(scope) if not column.table else ():
            if giving := self._giving(within, column.name):
                return merged(*(self._of_source(within, source, column.name) for source in giving))
            if column.name in _names(within) and not column.find_ancestor(exp.Alias):
                return self.column(within, column.name)  # its own, in `having`, `order by` …
        if column.name.lower() == "rowid":
            return self._rows_of(scope, Kind.EXPRESSION)
        raise errors.OptimizeError(
            f"nothing that it reads has a column {column.sql()}. Name it in what gives it"
        )

    def _of_source(self, scope: Scope, source: Any, name: str) -> Mapping[Origin, Made]:
        if isinstance(source, Scope):
            return self.column(self._whole.get(id(source.expression), source), name)
        if isinstance(source.this, exp.Func):
            return {origin: Made(Kind.EXPRESSION) for origin in self._read_by(scope, source.this)}
        known = self._schema.get(source.name)
        if known is None:
            raise errors.OptimizeError(
                f"{source.name} is no table that is known here. Read a table by its bare name, or take away "
                "what reads this one"
            )
        column = known.get(name.lower())
        return {Origin(source.name, column): Made(Kind.PASS)} if column is not None else {}

    def _giving(self, scope: Scope, name: str) -> list[Any]:
        """The sources that have a column of that name, else those in which it may be one without a name."""
        known = [(source, self._given(source)) for source in scope.sources.values()]
        having = [source for source, names in known if name in names]
        return having or [source for source, names in known if UNNAMED in names]

    def _given(self, source: Any) -> list[str]:
        """Names of what a source gives; of a function that gives rows nobody knows them."""
        return _names(source) if isinstance(source, Scope) else list(self._schema.get(source.name, ()))


def _around(scope: Scope, table: str) -> Scope | None:
    """The scope, of this one and those around it, that has a table of that name."""
    return next((around for around in _outward(scope) if table in around.sources), None)


def _outward(scope: Scope) -> Iterator[Scope]:
    around: Scope | None = scope
    while around is not None:
        yield around
        around = around.parent


def _kinds(made: Mapping[Origin, Made]) -> Mapping[Origin, Kind]:
    return {origin: one.kind for origin, one in made.items()}


def _beside(name: str, left: Scope, right: Scope) -> str:
    """The column of the right side that stands where this one stands on the left."""
    names, others = _names(left), _names(right)
    if name in names and UNNAMED not in names[: names.index(name)] and len(others) == len(names):
        return others[names.index(name)]
    return name


def _names(scope: Scope) -> list[str]:
    """Names of the columns a scope gives, in order."""
    query = scope.expression
    if isinstance(query, exp.SetOperation):
        left, right = (_names(part) for part in scope.set_operation_scopes)
        return [*left, *(name for name in right if name not in left)] if query.args.get("by_name") else left
    if isinstance(query, exp.Lateral) and scope.subquery_scopes:
        return query.alias_column_names or _names(scope.subquery_scopes[0])
    return [part.alias_or_name for part in selects(query)]


def _projection(query: exp.Query, name: str) -> exp.Expr | None:
    return next((part for part in selects(query) if part.alias_or_name.lower() == name.lower()), None)
