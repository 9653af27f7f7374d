"""The lineage of a Polars model, read from the plan that `build` makes over empty frames."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from transforms.lineage_steps import ROWS, Kind, Made, Origin, Traced, merged

_TABLE_MARK = "__table__"
_NOTHING: Mapping[Origin, Made] = {}


def mark(table: str) -> Any:
    """A column that tells in a plan which table a frame is."""
    import polars as pl

    return pl.lit(None, dtype=pl.Boolean).alias(_TABLE_MARK + table)


def trace(frame: Any, names: Iterable[str]) -> Traced:
    """The lineage of these columns of a lazy frame whose inputs carry their marks."""
    with warnings.catch_warnings():
        # The JSON form is deprecated for storing plans; nothing here is stored.
        warnings.simplefilter("ignore", UserWarning)
        plan = json.loads(frame.serialize(format="json"))
    conditions: dict[Origin, Kind] = {}
    columns = _walk(plan, conditions)
    rows = tuple(sorted(origin.table for origin in columns[ROWS]))
    return Traced({name: columns[name] for name in names}, conditions, rows)


class _Columns(dict[str, Mapping[Origin, Made]]):
    """The columns of a node. `rest` is what those are made of whose names the plan does not tell: the
    fields of a struct that was taken apart.
    """

    def __init__(self, known: Mapping[str, Mapping[Origin, Made]], rest: Mapping[Origin, Made]) -> None:
        super().__init__(known)
        self.rest = rest

    def __missing__(self, _name: str) -> Mapping[Origin, Made]:
        return self.rest


def _walk(node: Any, conditions: dict[Origin, Kind]) -> _Columns:
    """The columns of one plan node; a node of an unknown kind hands its inputs' columns on."""
    if not isinstance(node, dict):
        return _Columns({}, _NOTHING)
    ((kind, body),) = node.items() if len(node) == 1 else (("", node),)
    if kind == "DataFrameScan":
        return _scanned(body)
    if not isinstance(body, dict):
        return _Columns({}, _NOTHING)
    known = _inputs(body, conditions)
    for how, clause in _clauses(kind, body):
        for name in _read(clause, known):
            for origin in known[name]:
                conditions.setdefault(origin, how)
    function = body.get("function")
    if isinstance(function, dict):
        return _mapped(function, known)
    keys, others = (
        body.get("keys", ()),
        [*body.get("aggs", ()), *body.get("expr", ()), *body.get("exprs", ())],
    )
    if not keys and not others:
        return known
    result = known if kind == "HStack" else _Columns({ROWS: known[ROWS]}, _NOTHING)
    given = [_given(expression, known, adds_up=False) for expression in keys]
    given += [_given(expression, known, adds_up=kind == "GroupBy") for expression in others]
    for columns in given:
        result.update(columns)
    return result


def _scanned(body: Mapping[str, Any]) -> _Columns:
    fields = list(body["schema"]["fields"])
    table = next((name.removeprefix(_TABLE_MARK) for name in fields if name.startswith(_TABLE_MARK)), "")
    own = (name for name in fields if not name.startswith(_TABLE_MARK))
    found = {name: {Origin(table, name): Made(Kind.PASS)} for name in own} if table else {}
    return _Columns({**found, ROWS: {Origin(table, ROWS): Made(Kind.PASS)}}, _NOTHING)


def _inputs(body: Mapping[str, Any], conditions: dict[Origin, Kind]) -> _Columns:
    known = _Columns({}, _NOTHING)
    for word in ("input", "input_left", "input_right", "contexts", "inputs"):
        value = body.get(word)
        for part in value if isinstance(value, list) else ([value] if value is not None else []):
            found = _walk(part, conditions)
            for name, made in found.items():
                is_other = word == "input_right" and name in known and name != ROWS
                target = f"{name}_right" if is_other else name
                known[target] = merged(known.get(target, _NOTHING), made)
            known.rest = merged(known.rest, found.rest)
    return known


def _clauses(kind: str, body: Mapping[str, Any]) -> Iterator[tuple[Kind, Any]]:
    if kind == "Join":
        yield Kind.JOIN, body.get("condition")
    if kind == "GroupBy":
        yield Kind.GROUP, body.get("keys")
    for clause in (body.get("predicate"), body.get("options") if kind == "Distinct" else None):
        if clause is not None:
            yield Kind.FILTER, clause


def _mapped(function: Mapping[str, Any], known: _Columns) -> _Columns:
    """What renames or takes apart; every other function leaves the columns as they are."""
    if isinstance(function.get("Rename"), dict):
        pairs = zip(function["Rename"]["existing"], function["Rename"]["new"], strict=True)
        moved = {new: known[old] for old, new in pairs}
        gone = set(function["Rename"]["existing"])
        return _Columns({**{n: m for n, m in known.items() if n not in gone}, **moved}, known.rest)
    if "Unnest" in function:
        apart = set(_selected(function["Unnest"].get("columns"), known))
        inside = merged(*(known[name] for name in apart))
        fields = {origin: Made(max(made.kind, Kind.EXPRESSION)) for origin, made in inside.items()}
        return _Columns({n: m for n, m in known.items() if n not in apart}, merged(known.rest, fields))
    return known


def _given(expression: Any, known: _Columns, *, adds_up: bool) -> Mapping[str, Mapping[Origin, Made]]:
    """The columns that one expression gives, each with what it is made of."""
    if isinstance(expression, dict) and "Selector" in expression:
        return {name: known[name] for name in _selected(expression["Selector"], known)}
    kind = _kind(expression, adds_up=adds_up)
    roots = list(_read(expression, known))
    if not roots and kind is Kind.AGGREGATE:
        roots = [ROWS]
    read = merged(*(known[root] for root in roots))
    made = {origin: Made(max(kind, upstream.kind)) for origin, upstream in read.items()}
    name = _name(expression)
    return {name: made} if name is not None else dict.fromkeys(roots, made)


def _kind(expression: Any, *, adds_up: bool) -> Kind:
    """A cast leaves the value: the declared types tell that it was one."""
    while isinstance(expression, dict) and not expression.keys().isdisjoint({"Alias", "Cast"}):
        expression = expression["Alias"][0] if "Alias" in expression else expression["Cast"]["expr"]
    if isinstance(expression, dict) and "Column" in expression:
        return Kind.PASS
    if adds_up or not {"Agg", "Len"}.isdisjoint(_words(expression)):
        return Kind.AGGREGATE
    return Kind.EXPRESSION


def _words(expression: Any) -> Iterator[str]:
    """Names of the operations in an expression; what runs over a window keeps each row."""
    if isinstance(expression, str):
        yield expression
    elif isinstance(expression, list):
        for value in expression:
            yield from _words(value)
    elif isinstance(expression, dict) and "Over" not in expression and "Window" not in expression:
        for word, value in expression.items():
            yield word
            if word not in {"Column", "Literal", "Alias"}:
                yield from _words(value)
            elif word == "Alias":
                yield from _words(value[0])


def _selected(selector: Any, known: _Columns) -> list[str]:
    """Columns that a selector means; all of them where it asks for something that only data tell."""
    everything = [name for name in known if name != ROWS]
    if isinstance(selector, dict):
        if "ByName" in selector:
            return list(selector["ByName"]["names"])
        if "Difference" in selector:
            more, less = (_selected(part, known) for part in selector["Difference"])
            return [name for name in more if name not in set(less)]
        if "Union" in selector:
            return [name for part in selector["Union"] for name in _selected(part, known)]
    return everything


def _name(expression: Any) -> str | None:
    """The name of what an expression gives: its alias, else that of its leftmost column."""
    if isinstance(expression, list):
        return _name(expression[0]) if expression else None
    if not isinstance(expression, dict):
        return None
    ((word, body),) = expression.items() if len(expression) == 1 else (("", expression),)
    if word == "Alias":
        return str(body[-1])
    if word == "Column":
        return str(body)
    if not isinstance(body, dict):
        return None
    if word == "RenameAlias":
        name, rename = _name(body["expr"]), body["function"]
        return f"{rename.get('Prefix', '')}{name}{rename.get('Suffix', '')}" if name is not None else None
    if word == "Ternary":
        return _name(body["truthy"])
    return next((found for value in body.values() if (found := _name(value)) is not None), None)


def _read(expression: Any, known: _Columns) -> Iterator[str]:
    """Names of all columns that an expression reads."""
    if isinstance(expression, dict):
        for word, value in expression.items():
            if word == "Column" and isinstance(value, str):
                yield value
            elif word == "Selector":
                yield from _selected(value, known)
            else:
                yield from _read(value, known)
    elif isinstance(expression, list):
        for value in expression:
            yield from _read(value, known)
