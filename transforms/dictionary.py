"""The data dictionary: what every table, view and chart is and what its columns mean, as plain data.

It says what the model files say, and what follows from them by lineage; nothing is written for it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transforms.charts import CHARTS, DASHBOARD
from transforms.contract import Column, Rule, Table
from transforms.lineage_graph import CHART, SOURCE, VIEW, Graph, Node
from transforms.lineage_steps import ROWS, Kind, Origin
from transforms.registry import Registry

Rules = Callable[[Table], Iterable[tuple[Rule, str]]]
"""The rules of a table, each with what it claims."""


def entries(graph: Graph, registry: Registry, rules: Rules | None = None) -> list[dict[str, Any]]:
    """An entry for every table, raw ones first, in build order, then views, then charts.

    `layer` is `view` or `chart` for these. A column's `from` are the columns it is made of, `made` how,
    with `dim_users.*` where rows are counted; `sources` are those of the sources it comes from; `inherited`
    is the column whose documentation it has.
    """
    found = []
    for node in graph.nodes.values():
        if node.kind == VIEW:
            found.append(
                _entry(node, graph, {"grain": node.description, "owner": _owner(node, graph, registry)})
            )
        elif node.kind == CHART:
            sql = next(chart.sql.strip() for chart in CHARTS if f"{DASHBOARD}.{chart.name}" == node.name)
            found.append(_entry(node, graph, {"sql": sql, "owner": _owner(node, graph, registry)}))
        elif node.kind != SOURCE:
            table = registry.table(node.name)
            found.append(_entry(node, graph, _declared(table, rules or _of_header)))
    return found


@dataclass(frozen=True)
class Hit:
    """What a search found: a table, or one of its columns."""

    table: str
    column: str | None
    text: str


def search(words: str, known: Sequence[Mapping[str, Any]]) -> list[Hit]:
    """Tables and columns in which all the words occur, in their name or in what is said of them.

    Names come before descriptions, what people read (marts, facts, dimensions, views) before what is made
    for it.
    """
    wanted = words.lower().split()
    found = []
    for entry in known:
        place = _READ_FIRST.get(entry["layer"], 2)
        for hit, name in _searched(entry):
            own, said = name.lower(), f"{name} {hit.text}".lower()
            if wanted and all(word in said for word in wanted):
                in_name = sum(word not in own for word in wanted)
                found.append((in_name, place, hit.column is not None, hit.table, hit.column or "", hit))
    return [hit for *_, hit in sorted(found, key=lambda ranked: ranked[:-1])]


_READ_FIRST = {"marts": 0, "facts": 0, "dimensions": 0, VIEW: 0, CHART: 1}


def _searched(entry: Mapping[str, Any]) -> Iterator[tuple[Hit, str]]:
    yield Hit(entry["table"], None, entry["description"]), entry["table"]
    for column in entry["columns"]:
        yield Hit(entry["table"], column["name"], column["description"]), column["name"]


def _entry(node: Node, graph: Graph, more: Mapping[str, Any]) -> dict[str, Any]:
    upstreams = sorted(origin for origin, target in graph.table_edges if target == node.name)
    return {
        "table": node.name,
        "layer": node.kind,
        "description": node.description,
        "grain": "",
        "key": [],
        "write": None,
        "partition": None,
        "rules": [],
        "upstreams": upstreams,
        "freshness_seconds": None,
        "retention_days": None,
        "file": None,
        **more,
        "downstreams": sorted(target for origin, target in graph.table_edges if origin == node.name),
        "sources": sorted(
            {
                origin
                for origin, _ in graph.tables_reached(node.name, down=False)
                if graph.nodes[origin].kind == SOURCE
            }
        ),
        "personal": [column.name for column in node.columns if column.pii],
        "columns": [_column(node, column, graph) for column in node.columns],
    }


def _declared(table: Table, rules: Rules) -> dict[str, Any]:
    return {
        "grain": table.grain,
        "key": list(table.key),
        "owner": table.owner,
        "write": table.write.value,
        "partition": asdict(table.partition) if table.partition else None,
        "freshness_seconds": table.freshness.total_seconds() if table.freshness else None,
        "retention_days": table.retention.days if table.retention else None,
        "file": f"transforms/{table.path.parent.name}/{table.path.name}" if table.path else None,
        "upstreams": list(table.upstreams),
        "rules": [
            {
                "name": rule.name,
                "kind": rule.kind.value,
                "check": rule.check,
                "severity": rule.severity,
                "claim": claim,
            }
            for rule, claim in rules(table)
        ],
    }


def _of_header(table: Table) -> Iterator[tuple[Rule, str]]:
    return ((rule, rule.name.replace("_", " ")) for rule in table.expect)


def _owner(node: Node, graph: Graph, registry: Registry) -> str:
    """Of a view or a chart: whoever owns the tables it reads."""
    tables = (name for name, _ in graph.tables_reached(node.name, down=False) if name in registry.models)
    return ", ".join(sorted({registry.table(name).owner for name in tables}))


def _column(node: Node, column: Column, graph: Graph) -> dict[str, Any]:
    place = Origin(node.name, column.name)
    made = {edge.origin: edge.kind for edge in graph.into.get(place, ())}
    beneath = {edge.origin for edge in graph.reached(place, down=False) if edge.origin.column != ROWS}
    description, inherited = _documented(place, column, made, graph)
    return {
        "name": column.name,
        "type": column.type,
        "description": description,
        "nullable": column.nullable,
        "pii": column.pii,
        "from": [str(origin) for origin in made if origin.column != ROWS],
        "made": {str(origin): kind.word for origin, kind in made.items()},
        "sources": sorted(str(origin) for origin in beneath if graph.nodes[origin.table].kind == SOURCE),
        "inherited": inherited,
    }


def _documented(
    place: Origin, column: Column, made: Mapping[Origin, Kind], graph: Graph
) -> tuple[str, str | None]:
    """What is said of a column, and the column of which it is said, where that is another one.

    What passes on a column means what that means; what landed and nobody described means what staging says
    of the same value.
    """
    if column.description:
        columns = [origin for origin in made if origin.column != ROWS]
        only = columns[0] if len(columns) == 1 and made[columns[0]] <= Kind.CAST else None
        told = graph.column(only).description if only is not None else ""
        return column.description, str(only) if told == column.description else None
    for edge in graph.out_of.get(place, ()):
        if edge.kind <= Kind.CAST and edge.target.column != ROWS and graph.column(edge.target).description:
            return graph.column(edge.target).description, str(edge.target)
    return "", None
