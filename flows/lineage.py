"""Where a column comes from and what a change of it would touch, from the sources to the charts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from flows.code_reading import kept
from transforms.contract import Layer
from transforms.lineage_graph import CHART, SOURCE, VIEW, Edge, Graph, View, build, edge_data, from_data
from transforms.lineage_steps import ROWS, Kind, Origin


@cache
def graph() -> Graph:
    """The lineage of this package's models, views and charts."""
    return from_data(kept("lineage", _read))


def _read() -> dict[str, Any]:
    from transforms import registry
    from warehouse_ddl.files import views

    shown = [View(view.name, view.description, view.query, view.documentation) for view in views()]
    return build(registry.default(), shown).as_data()


def command(arguments: argparse.Namespace) -> int:
    """`python -m flows lineage NAME [--up|--down] [--json]`. Raises ContractError for an unknown name."""
    known = graph()
    place = known.find(arguments.name)
    ways = [False] if arguments.up else [True] if arguments.down else [False, True]
    if arguments.json:
        print(json.dumps(document(known, place, ways), indent=2))
        return 0
    print("\n\n".join("\n".join(_told(known, place, down=way)) for way in ways))
    return 0


def document(known: Graph, place: Origin, ways: Sequence[bool]) -> dict[str, object]:
    """What the command says, for programs: the steps up and down, between columns or whole tables."""
    node = known.nodes[place.table]
    said: dict[str, object] = {"name": _name(place), "kind": node.kind}
    for down in ways:
        steps: list[object] = []
        if place.column == ROWS:
            pairs = known.tables_reached(place.table, down=down)
            steps += [
                {"from": pair[0], "to": pair[1], "kinds": _words(known.table_edges[pair])} for pair in pairs
            ]
        else:
            steps += [edge_data(edge) for edge in known.reached(place, down=down)]
        said["down" if down else "up"] = steps
        if not down and place.column != ROWS:
            said["rows_by"] = [edge_data(edge) for edge in _conditions(known, place)]
    return said


def _told(known: Graph, place: Origin, *, down: bool) -> Iterator[str]:
    """The tree, and below it what else there is to know."""
    node = known.nodes[place.table]
    column = next((own for own in node.columns if own.name == place.column), None)
    about = f"{column.type}  {column.description}".strip() if column else node.description
    yield f"{_name(place)}  {about}".rstrip()
    branches = _tables(known, place.table, down=down) if column is None else _columns(known, place, down=down)
    if place not in branches:
        yield "└─ nothing is made of it" if down else _beginning(node.kind)
        return
    yield from _tree(branches, place, _name if column is None else _within, "", set())
    if down:
        yield _touched(known, branches)
    elif column is not None:
        yield from _chosen(known, place, branches)


_Branches = Mapping[Origin, Sequence[tuple[Origin, str]]]


def _columns(known: Graph, start: Origin, *, down: bool) -> _Branches:
    found: dict[Origin, list[tuple[Origin, str]]] = {}
    for edge in known.reached(start, down=down):
        near, far = (edge.origin, edge.target) if down else (edge.target, edge.origin)
        word = "" if edge.kind is Kind.PASS and ROWS in (near.column, far.column) else edge.kind.word
        found.setdefault(near, []).append((far, word))
    return found


def _tables(known: Graph, start: str, *, down: bool) -> _Branches:
    found: dict[Origin, list[tuple[Origin, str]]] = {}
    for pair in known.tables_reached(start, down=down):
        near, far = pair if down else pair[::-1]
        found.setdefault(Origin(near, ROWS), []).append(
            (Origin(far, ROWS), ", ".join(_words(known.table_edges[pair])))
        )
    return found


def _tree(
    branches: _Branches, place: Origin, named: Callable[[Origin], str], margin: str, shown: set[Origin]
) -> Iterator[str]:
    """What hangs on a place; what was shown above is not shown once more."""
    shown.add(place)
    under = branches.get(place, ())
    for number, (following, word) in enumerate(under, start=1):
        is_last = number == len(under)
        again = "  see above" if following in shown and following in branches else ""
        yield f"{margin}{'└─' if is_last else '├─'} {named(following)}{'  ' if word else ''}{word}{again}"
        if following not in shown:
            yield from _tree(branches, following, named, margin + ("   " if is_last else "│  "), shown)


def _touched(known: Graph, branches: _Branches) -> str:
    reached = {place for under in branches.values() for place, _ in under}
    columns = [place for place in reached if place.column != ROWS]
    by_kind: dict[str, list[str]] = {}
    for name in sorted({place.table for place in reached}):
        kind = known.nodes[name].kind
        by_kind.setdefault(kind if kind in {VIEW, CHART} else "table", []).append(name)
    counted = [_counted(len(by_kind[kind]), kind) for kind in ("table", VIEW, CHART) if kind in by_kind]
    charts = f": {', '.join(by_kind[CHART])}" if CHART in by_kind else ""
    inside = f"{_counted(len(columns), 'column')} of " if columns else ""
    return f"a change touches {inside}{', '.join(counted)}{charts}"


def _chosen(known: Graph, place: Origin, branches: _Branches) -> Iterator[str]:
    """What says which rows there are, of tables of which the tree does not say it."""
    told: dict[str, dict[tuple[str, str], list[str]]] = {}
    for edge in _conditions(known, place):
        if edge.target not in branches:
            by = told.setdefault(edge.target.table, {})
            by.setdefault((edge.kind.word, edge.origin.table), []).append(edge.origin.column)
    for table, by in told.items():
        said = "; ".join(f"{word} {origin}.{', '.join(names)}" for (word, origin), names in by.items())
        yield f"which rows {table} has: {said}"


def _conditions(known: Graph, place: Origin) -> list[Edge]:
    """What says which rows there are, in every table that the column comes through."""
    tables = dict.fromkeys([place.table, *(edge.origin.table for edge in known.reached(place, down=False))])
    into = (edge for table in tables for edge in known.into.get(Origin(table, ROWS), ()))
    return [edge for edge in into if edge.kind.is_condition]


def _beginning(kind: str) -> str:
    by = {SOURCE: "the source has it", Layer.RAW: "landing adds it"}
    return f"└─ here it begins: {by.get(kind, 'a constant, or made by the model')}"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _words(kinds: frozenset[Kind]) -> list[str]:
    return [kind.word for kind in sorted(kinds)]


def _name(place: Origin) -> str:
    return place.table if place.column == ROWS else str(place)


def _within(place: Origin) -> str:
    return f"rows of {place.table}" if place.column == ROWS else str(place)
