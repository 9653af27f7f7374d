"""The lineage of a Polars model, read from the plan that `build` makes over empty frames.

Polars itself is asked which columns a node gives: what the plan does not tell of them, or can't (a function
of Python's), is made of all that the node reads.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transforms.lineage_polars_expr import is_counted, kind_of, read, selectors, strings
from transforms.lineage_steps import ROWS, Kind, Made, Origin, Traced, merged

_TABLE_MARK = "__table__"
_Sources = Mapping[Origin, Made]
_INPUTS = ("input", "input_left", "input_right", "contexts", "inputs")
_HANDS_ON = {"Filter", "Sort", "Slice", "Distinct", "Cache", "Union", "HConcat", "MergeSorted", "ExtContext"}
"""Nodes that leave columns as they are."""
_LEAVES = {"Explode", "RowIndex", "Rechunk", "Hint"}
"""Functions that do."""
_LOOKS_UP = {"Left", "Semi", "Anti"}


def marked(frame: Any, table: str) -> Any:
    """The frame, lazy, as that of a table: a filter that keeps all, and tells in the plan which one it is."""
    import polars as pl

    return frame.lazy().filter(pl.lit(_TABLE_MARK + table).is_not_null())


def trace(frame: Any, names: Iterable[str]) -> Traced:
    """The lineage of these columns of a lazy frame whose inputs are marked.

    Raises ValueError for one that the frame does not give, or where the plan can't be followed.
    """
    with warnings.catch_warnings():
        # The JSON form is deprecated for storing plans; nothing here is stored.
        warnings.simplefilter("ignore")
        plan = json.loads(frame.serialize(format="json"))
        conditions: dict[Origin, Kind] = {}
        found = _walk(plan, conditions)
    wanted = list(names)
    if missing := [name for name in wanted if name not in found.columns]:
        raise ValueError(f"build gives no column {missing[0]}. Select it")
    rows = tuple(sorted(origin.table for origin in found.rows))
    return Traced({name: found.columns[name] for name in wanted}, conditions, rows)


@dataclass(frozen=True)
class _Frame:
    """What a node gives: its columns in order, and the tables whose rows its own are."""

    schema: Any
    columns: Mapping[str, _Sources]
    rows: _Sources
    empty: Any = field(default=None)
    """A plan that gives the same columns and no rows."""

    def of(self, name: str) -> _Sources:
        return self.rows if name == ROWS else self.columns.get(name, {})

    def all_of_it(self) -> _Sources:
        """Of what nobody tells how it is made."""
        made = merged(*self.columns.values())
        return {origin: Made(max(one.kind, Kind.EXPRESSION)) for origin, one in made.items()}


def _frame(schema: Any, columns: Mapping[str, _Sources], rows: _Sources) -> _Frame:
    import polars as pl

    empty = json.loads(pl.DataFrame(schema=schema).lazy().serialize(format="json"))
    return _Frame(schema, columns, rows, empty)


def _walk(node: Mapping[str, Any], conditions: dict[Origin, Kind]) -> _Frame:
    ((kind, body),) = node.items()
    if kind == "IR":  # of a frame whose schema was asked for
        return _walk(body["dsl"], conditions)
    if kind == "DataFrameScan":
        return _constant(node)
    if kind == "Filter" and (table := _table(body["predicate"])):
        schema = _schema(node)
        own: dict[str, _Sources] = {name: {Origin(table, name): Made(Kind.PASS)} for name in schema}
        return _frame(schema, own, {Origin(table, ROWS): Made(Kind.PASS)})
    inputs = [_walk(part, conditions) for part in _parts(kind, body)]
    bare = _over(body, [one.empty for one in inputs]) if kind != "SQL" else body
    schema = _schema({kind: bare})
    for how, made in _chosen(kind, body, inputs):
        for origin in made:
            if origin.column != ROWS:
                conditions.setdefault(origin, how)
    known = dict(_columns(kind, bare, inputs, schema))
    opaque = merged(*(one.all_of_it() for one in inputs))
    columns = {name: known.get(name, opaque) for name in schema}
    return _frame(schema, columns, _rows(kind, body, inputs))


def _schema(node: Mapping[str, Any]) -> Any:
    import polars as pl

    return pl.LazyFrame.deserialize(io.StringIO(json.dumps(node)), format="json").collect_schema()


def _table(predicate: Any) -> str | None:
    marks = (text for text in strings(predicate) if text.startswith(_TABLE_MARK))
    return next((mark.removeprefix(_TABLE_MARK) for mark in marks), None)


def _constant(node: Mapping[str, Any]) -> _Frame:
    """Rows that the model itself has; none at all are those of a table, collected."""
    import polars as pl

    frame = pl.LazyFrame.deserialize(io.StringIO(json.dumps(node)), format="json")
    schema = frame.collect_schema()
    if len(schema) and not frame.collect().height:
        raise ValueError(
            f"build collects a frame ({', '.join(list(schema)[:5])}), and no plan is left of what it was "
            "made of. Keep it lazy to the end"
        )
    return _frame(schema, {name: {} for name in schema}, {})


def _parts(kind: str, body: Mapping[str, Any]) -> list[Any]:
    if kind == "SQL":
        return [plan for _, plan in body["relations"]]
    found = []
    for word in _INPUTS:
        value = body.get(word)
        found += value if isinstance(value, list) else [value] if value is not None else []
    return found


def _over(body: Mapping[str, Any], empty: Sequence[Any]) -> dict[str, Any]:
    """The same node over other inputs."""
    given = iter(empty)
    changed = dict(body)
    for word in _INPUTS:
        value = body.get(word)
        if isinstance(value, list):
            changed[word] = [next(given) for _ in value]
        elif value is not None:
            changed[word] = next(given)
    return changed


def _rows(kind: str, body: Mapping[str, Any], inputs: Sequence[_Frame]) -> _Sources:
    how = body["options"]["args"]["how"] if kind == "Join" else None
    if isinstance(how, dict) or how in _LOOKS_UP:  # as of: looked up, too
        return inputs[0].rows
    return merged(*(one.rows for one in inputs))


def _columns(
    kind: str, body: Mapping[str, Any], inputs: Sequence[_Frame], schema: Any
) -> dict[str, _Sources]:
    """The columns of a node, as far as its kind tells how they are made."""
    if kind in {"Select", "HStack"}:
        before = dict(inputs[0].columns) if kind == "HStack" else {}
        expressions = body.get("expr", body.get("exprs", ()))
        return {**before, **_given(expressions, inputs[0], adds_up=False)}
    if kind == "GroupBy":
        return _grouped(body, inputs[0])
    if kind == "Join":
        left, right = inputs
        return _joined(body, left, right, schema)
    if kind == "Pivot":
        return _pivoted(body, inputs[0], schema)
    if kind == "MapFunction":
        return _mapped(body["function"], inputs[0], schema)
    if kind in _HANDS_ON:
        return {name: merged(*(one.of(name) for one in inputs)) for name in schema}
    return {}


def _given(expressions: Iterable[Any], known: _Frame, *, adds_up: bool) -> dict[str, _Sources]:
    """The columns that expressions give, each with what it is made of."""
    found: dict[str, _Sources] = {}
    for expression in expressions:
        names = list(_select(expression, known))
        kind = kind_of(expression, adds_up=adds_up)
        chosen = [list(_select(one, known)) for one in selectors(expression)]
        for place, name in enumerate(names):
            # What is computed of several columns alike is made of each for itself.
            roots = [
                root
                for several in chosen
                for root in ([several[place]] if len(several) == len(names) else several)
            ]
            roots += [*read(expression), *([ROWS] if is_counted(expression) else [])]
            made = merged(*(known.of(root) for root in roots))
            found[name] = {origin: Made(max(kind, one.kind)) for origin, one in made.items()}
    return found


def _select(expression: Any, known: _Frame) -> Any:
    return _schema({"Select": {"expr": [expression], "input": known.empty, "options": _OPTIONS}})


_OPTIONS = {
    "run_parallel": True,
    "duplicate_check": True,
    "should_broadcast": True,
    "maintain_dataframe_height": False,
}


def _grouped(body: Mapping[str, Any], known: _Frame) -> dict[str, _Sources]:
    found = _given(body["keys"], known, adds_up=False)
    for how in filter(None, (body["options"]["dynamic"], body["options"]["rolling"])):
        index = how["index_column"]
        kind = Kind.EXPRESSION if how is body["options"]["dynamic"] else Kind.PASS
        made = {origin: Made(max(kind, one.kind)) for origin, one in known.of(index).items()}
        found |= dict.fromkeys((index, "_lower_boundary", "_upper_boundary"), made)
    if body["apply"] is not None:
        return {}
    # A wildcard leaves out what it groups by.
    return {**_given(body["aggs"], known, adds_up=True), **found}


def _joined(body: Mapping[str, Any], left: _Frame, right: _Frame, schema: Any) -> dict[str, _Sources]:
    """Those of the left, then those of the right, with the suffix where the left has the name too; one key
    of two stays where they are made one.
    """
    arguments = body["options"]["args"]
    how, suffix = arguments["how"], arguments["suffix"]
    if how in ("Semi", "Anti"):
        return dict(left.columns)
    lefts, rights = list(left.schema), list(right.schema)
    keys = _keys(body)
    gone = len(lefts) + len(rights) - len(schema)
    if how == "Right" and gone:
        lefts = [name for name in lefts if name not in {own for own, _ in keys}]
    found = {name: left.of(name) for name in lefts}
    others = iter(list(schema)[len(lefts) :])
    other = next(others, None)
    for name in rights:
        if other is not None and other in {name, name + suffix}:
            found[other] = right.of(name)
            other = next(others, None)
    if how == "Full" and gone:
        found |= {own: merged(left.of(own), right.of(its)) for own, its in keys if own in found}
    return found


def _keys(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The columns that are joined by, in pairs, as far as they are columns."""
    equal = (body["condition"] or {}).get("Equi") or {"left_on": [], "right_on": []}
    pairs = zip(equal["left_on"], equal["right_on"], strict=True)
    return [(own["Column"], its["Column"]) for own, its in pairs if "Column" in own and "Column" in its]


def _pivoted(body: Mapping[str, Any], known: _Frame, schema: Any) -> dict[str, _Sources]:
    index = _meant(body["index"], known)
    spread = [*_meant(body["on"], known), *_meant(body["values"], known)]
    made = {origin: Made(Kind.AGGREGATE) for name in spread for origin in known.of(name)}
    return {name: known.of(name) if name in index else made for name in schema}


def _meant(selector: Any, known: _Frame) -> list[str]:
    """The columns that a selector means."""
    return list(_select({"Selector": selector}, known))


def _mapped(function: Any, known: _Frame, schema: Any) -> dict[str, _Sources]:
    """A function of the whole frame; one that is not told here makes each column of all."""
    word: str = function if isinstance(function, str) else next(iter(function))
    body: Any = function[word] if isinstance(function, dict) else None
    if word in _LEAVES:
        counted = {origin: Made(Kind.EXPRESSION) for origin in known.rows}
        return {name: known.columns.get(name, counted) for name in schema}
    if word == "Rename":
        new = dict(zip(body["existing"], body["new"], strict=True))
        return {new.get(name, name): made for name, made in known.columns.items()}
    if word == "Unnest":
        apart = _meant(body["columns"], known)
        inside = merged(*(known.of(name) for name in apart))
        fields = {origin: Made(max(made.kind, Kind.EXPRESSION)) for origin, made in inside.items()}
        kept = {name: made for name, made in known.columns.items() if name not in apart}
        return {name: kept.get(name, fields) for name in schema}
    if word == "Unpivot":
        arguments = body["args"]
        value = merged(*(known.of(name) for name in _meant(arguments["on"], known)))
        which = {origin: Made(Kind.EXPRESSION) for origin in known.rows}
        named = {arguments["variable_name"] or "variable": which, arguments["value_name"] or "value": value}
        return {**known.columns, **named}
    if word == "Stats":
        return {
            name: {origin: Made(Kind.AGGREGATE) for origin in made} for name, made in known.columns.items()
        }
    return {}


def _chosen(kind: str, body: Mapping[str, Any], inputs: Sequence[_Frame]) -> Iterator[tuple[Kind, _Sources]]:
    """What says which rows there are."""

    def of(known: _Frame, clause: Any) -> _Sources:
        names = [name for one in selectors(clause) for name in _select(one, known)]
        return merged(*(known.of(name) for name in (*names, *read(clause))))

    if kind == "Filter":
        yield Kind.FILTER, of(inputs[0], body["predicate"])
    elif kind == "Join":
        condition, how = body["condition"] or {}, body["options"]["args"]["how"]
        left, right = inputs
        for equal in filter(None, [condition.get("Equi")]):
            yield Kind.JOIN, merged(of(left, equal["left_on"]), of(right, equal["right_on"]))
        if "NonEqui" in condition:
            whole = _Frame(None, {**_suffixed(body, left, right), **left.columns}, {}, None)
            yield Kind.JOIN, merged(*(whole.of(name) for name in read(condition["NonEqui"])))
        if isinstance(how, dict) and "AsOf" in how:
            by = how["AsOf"]
            yield Kind.JOIN, merged(*(left.of(name) for name in by["left_by"] or ()))
            yield Kind.JOIN, merged(*(right.of(name) for name in by["right_by"] or ()))
    elif kind == "GroupBy":
        options = body["options"]
        index = [how["index_column"] for how in (options["dynamic"], options["rolling"]) if how]
        yield Kind.GROUP, merged(of(inputs[0], body["keys"]), *(inputs[0].of(name) for name in index))
        yield Kind.FILTER, of(inputs[0], body["predicates"])
    elif kind == "Pivot":
        yield Kind.GROUP, merged(*(inputs[0].of(n) for n in _meant(body["index"], inputs[0])))
    elif kind == "MapFunction" and "Explode" in body["function"]:
        # An empty list leaves its row out, a long one repeats it.
        lists = _meant(body["function"]["Explode"]["columns"], inputs[0])
        yield Kind.FILTER, merged(*(inputs[0].of(name) for name in lists))
    elif kind == "Distinct":
        subset = body["options"]["subset"]
        if subset is None:
            yield Kind.GROUP, merged(*inputs[0].columns.values())
        else:
            yield Kind.FILTER, of(inputs[0], subset)
    before = body.get("input") or {}
    before = before["IR"]["dsl"] if "IR" in before else before
    if kind in {"Slice", "Distinct"} and "Sort" in before:
        yield Kind.FILTER, of(inputs[0], before["Sort"]["by_column"])  # decides which are the first


def _suffixed(body: Mapping[str, Any], left: _Frame, right: _Frame) -> dict[str, _Sources]:
    suffix = body["options"]["args"]["suffix"]
    return {name + suffix if name in left.columns else name: made for name, made in right.columns.items()}
