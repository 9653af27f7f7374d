"""A PIVOT or UNPIVOT as the select that it stands for: its columns can be followed like any others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlglot import exp

UNNAMED = "*"
"""Alias of an item that gives columns whose names the text does not tell: data decide them, or a pattern."""


def spelled_out(query: exp.Expr) -> exp.Expr:
    """The query without pivots, and with each item that has no name of its own under `UNNAMED`."""
    holder = exp.Paren(this=query)  # so that the query itself can be replaced
    for pivot in list(holder.find_all(exp.Pivot)):
        if pivot.this is not None:
            pivot.replace(_statement(pivot))
    for source in list(holder.find_all(exp.Table, exp.Subquery)):
        for pivot in source.args.get("pivots") or ():
            source = _beside(source, pivot)
    for select in holder.find_all(exp.Select):
        for item in select.expressions:
            if _is_unnamed(item):
                item.replace(_unnamed(item))
    found: exp.Expr = holder.this
    return found.pop()


def _is_unnamed(item: exp.Expr) -> bool:
    if isinstance(item, exp.Alias):
        return "\\" in item.alias  # `columns('(.*)_at') as '\\1'`
    if isinstance(item, exp.Star | exp.Column):
        return False
    if isinstance(item, exp.Unnest | exp.Explode) or item.find(exp.Columns) is not None:
        return True
    return any(not isinstance(star.parent, exp.Count) for star in item.find_all(exp.Star))


def _unnamed(item: exp.Expr) -> exp.Expr:
    return exp.alias_(item.unalias().copy(), UNNAMED, quoted=True)


def _statement(pivot: exp.Pivot) -> exp.Expr:
    """`pivot t on x using sum(y) group by z`, `unpivot t on x, y into name k value v`."""
    into = pivot.args.get("into")
    if pivot.args.get("unpivot"):
        names = [into.this.name, *(value.name for value in into.expressions)] if into else ["name", "value"]
        select = _apart(pivot, pivot.expressions, names)
    else:
        on = [item.this if isinstance(item, exp.In) else item for item in pivot.expressions]
        select = _across(on, pivot.args.get("using") or (), pivot.args.get("group"))
    return select.from_(pivot.this.copy(), copy=False)


def _beside(source: exp.Expr, pivot: exp.Pivot) -> exp.Subquery:
    """`from t pivot (sum(y) for x in (1, 2))`, `from t unpivot (v for k in (x, y))`; puts it in the place of
    the source.
    """
    fields = pivot.args["fields"]
    if pivot.args.get("unpivot"):
        values = [name for item in pivot.expressions for name in _columns(item)]
        select = _apart(pivot, fields[0].expressions, [fields[0].this.name, *values])
    else:
        select = _across([field.this for field in fields], pivot.expressions, pivot.args.get("group"))
    plain = source.copy()
    plain.set("pivots", None)
    alias = pivot.args.get("alias") or source.args.get("alias")
    made = exp.Subquery(this=select.from_(plain, copy=False), alias=alias.copy() if alias else None)
    source.replace(made)
    return made


def _across(on: Sequence[exp.Expr], using: Iterable[exp.Expr], group: exp.Group | None) -> exp.Select:
    """Rows become columns: what is not spread out nor added up is what it groups by."""
    added = [item.unalias() for item in using] or [exp.Count(this=exp.Star())]
    made = _unnamed(exp.Tuple(expressions=[*(item.copy() for item in on), *(item.copy() for item in added)]))
    if group is None:
        rest = _all_but(name for item in (*on, *added) for name in _columns(item))
        return exp.Select(expressions=[rest, made], group=exp.Group(all=True))
    return exp.Select(expressions=[*(item.copy() for item in group.expressions), made], group=group.copy())


def _apart(pivot: exp.Pivot, on: Iterable[exp.Expr], names: Sequence[str]) -> exp.Select:
    """Columns become rows: each value is one of them as it is; which one, the row tells. Nulls make none."""
    name, *values = names
    items = [item.unalias() for item in on]
    sides = [item.expressions if isinstance(item, exp.Tuple) else [item] for item in items]
    made: list[exp.Expr] = [exp.alias_(exp.Window(this=exp.Count(this=exp.Star())), name)]
    for number, value in enumerate(values):
        parts = [side[number].copy() for side in sides if number < len(side)]
        made.append(exp.alias_(exp.Coalesce(this=parts[0], expressions=parts[1:]), value))
    select = exp.Select(expressions=[_all_but(name for item in items for name in _columns(item)), *made])
    if pivot.args.get("include_nulls"):
        return select
    values_there = exp.Tuple(expressions=[part.copy() for side in sides for part in side])
    return select.where(exp.Not(this=exp.Is(this=values_there, expression=exp.Null())), copy=False)


def _all_but(names: Iterable[str]) -> exp.Star:
    return exp.Star(except_=[exp.column(name) for name in dict.fromkeys(names)] or None)


def _columns(item: exp.Expr) -> list[str]:
    """Names that an item holds; `* exclude (…)` holds none that it takes away."""
    if isinstance(item, exp.Identifier):
        return [item.name]
    if item.find(exp.Star) is not None and not isinstance(item, exp.Count):
        return []
    if isinstance(item, exp.Tuple):
        return [name for part in item.expressions for name in _columns(part)]
    return [column.name for column in item.find_all(exp.Column)]
