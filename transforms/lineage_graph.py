"""The whole lineage as one graph: from the sources' columns through models and views to the charts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from transforms import catalog, relations
from transforms.charts import CHARTS, DASHBOARD, Chart
from transforms.contract import Column, ContractError
from transforms.entities import Kafka, Rest, SourceEntity
from transforms.lineage import ColumnLineage, conditions, lineage, rows, steps
from transforms.lineage_steps import ROWS, Kind, Origin, Traced
from transforms.registry import Registry

SOURCE, VIEW, CHART = "source", "view", "chart"
"""Kinds of nodes beside the layers of tables."""
_MOST_NAMES = 5


@dataclass(frozen=True)
class Node:
    """A source's table, topic or list, a table, a view or a chart."""

    name: str
    kind: str
    """`source`, `raw`, `staging`, `dimensions`, `facts`, `marts`, `view` or `chart`: left to right."""
    description: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, order=True)
class Edge:
    """One step: `target` is made of `origin`. `ROWS` in place of a column stands for a table's rows: what
    filters, joins and groups leads there, and so do the rows of the tables that they are.
    """

    origin: Origin
    target: Origin
    kind: Kind


@dataclass(frozen=True)
class Graph:
    """Every node by name, upstreams first, and every step between two of them."""

    nodes: Mapping[str, Node]
    edges: tuple[Edge, ...]

    @cached_property
    def into(self) -> Mapping[Origin, tuple[Edge, ...]]:
        """The steps that lead to a column."""
        return _grouped((edge.target, edge) for edge in self.edges)

    @cached_property
    def out_of(self) -> Mapping[Origin, tuple[Edge, ...]]:
        """The steps that lead from a column."""
        return _grouped((edge.origin, edge) for edge in self.edges)

    @cached_property
    def table_edges(self) -> Mapping[tuple[str, str], frozenset[Kind]]:
        """(from, to) of whole tables, with all kinds of steps between them."""
        found: dict[tuple[str, str], set[Kind]] = {}
        for edge in self.edges:
            found.setdefault((edge.origin.table, edge.target.table), set()).add(edge.kind)
        return {pair: frozenset(kinds) for pair, kinds in found.items()}

    def column(self, place: Origin) -> Column:
        """The column of that name."""
        return next(column for column in self.nodes[place.table].columns if column.name == place.column)

    def find(self, name: str) -> Origin:
        """What `fct_orders.revenue` or `fct_orders` names, in any case; a table alone stands for its rows.

        `analytics.` may stand before it. Raises ContractError, naming what is close, for what is not there,
        and the tables for a column alone.
        """
        name = name.strip().lower().removeprefix("analytics.")
        if name in self.nodes:
            return Origin(name, ROWS)
        table, _, column = name.rpartition(".")
        if table in self.nodes:
            own = [known.name for known in self.nodes[table].columns]
            if column in (*own, ROWS):
                return Origin(table, column)
            raise ContractError(f"{table} has no column {column}.{relations.close(column, own)}")
        # What people read stands last.
        nodes = reversed(list(self.nodes.values()))
        holders = [node.name for node in nodes if any(own.name == name for own in node.columns)]
        if holders:
            more = f" and {len(holders) - _MOST_NAMES} more" if len(holders) > _MOST_NAMES else ""
            raise ContractError(
                f"{name} is a column, of {', '.join(holders[:_MOST_NAMES])}{more}. Say of which: "
                f"{holders[0]}.{name}"
            )
        # All of `app.order` and `dashboard.revenu` is the name; of `fct_order.revenue` what is before it.
        groups = {known.rpartition(".")[0] for known in self.nodes}
        missing = name if table in groups else table
        raise ContractError(
            f"There is no table, view or chart {missing}.{relations.close_table(missing, self.nodes)}"
        )

    def reached(self, start: Origin, *, down: bool) -> tuple[Edge, ...]:
        """Every step up or down from a column, nearest first. From a table's rows: every step of rows, which
        leads to the tables that would have others; `tables_reached` leads to all that read it.
        """
        steps_from = self.out_of if down else self.into
        found: dict[Edge, None] = {}
        waiting, seen = [start], {start}
        for place in waiting:
            for edge in steps_from.get(place, ()):
                found[edge] = None
                following = edge.target if down else edge.origin
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)
        return tuple(found)

    def made_of(self, column: Origin) -> frozenset[Origin]:
        """The columns of sources whose values stand in a column, or were computed into it."""
        found, waiting, seen = set(), [column], {column}
        for place in waiting:
            for edge in self.into.get(place, ()):
                if edge.kind.is_condition or edge.origin.column == ROWS or edge.origin in seen:
                    continue
                seen.add(edge.origin)
                waiting.append(edge.origin)
                if self.nodes[edge.origin.table].kind == SOURCE:
                    found.add(edge.origin)
        return frozenset(found)

    def tables_reached(self, start: str, *, down: bool) -> tuple[tuple[str, str], ...]:
        """Every step between whole tables up or down from one, nearest first."""
        found: dict[tuple[str, str], None] = {}
        waiting, seen = [start], {start}
        for name in waiting:
            for pair in self.table_edges:
                if pair[0 if down else 1] == name:
                    found[pair] = None
                    following = pair[1 if down else 0]
                    if following not in seen:
                        seen.add(following)
                        waiting.append(following)
        return tuple(found)

    def as_data(self) -> dict[str, Any]:
        """Nodes and edges as JSON has them; `from_data` reads it back."""
        return {
            "nodes": [
                {
                    "name": node.name,
                    "kind": node.kind,
                    "description": node.description,
                    "columns": [_column_data(column) for column in node.columns],
                }
                for node in self.nodes.values()
            ],
            "edges": [edge_data(edge) for edge in self.edges],
        }


def edge_data(edge: Edge) -> dict[str, str]:
    """A step as JSON has it."""
    return {"from": str(edge.origin), "to": str(edge.target), "kind": edge.kind.word}


def from_data(data: Mapping[str, Any]) -> Graph:
    """The graph of which `Graph.as_data` made this. Raises KeyError or ValueError for anything else."""
    nodes = {
        node["name"]: Node(
            node["name"],
            node["kind"],
            node["description"],
            tuple(Column(**column) for column in node["columns"]),
        )
        for node in data["nodes"]
    }
    edges = (
        Edge(_place(edge["from"]), _place(edge["to"]), Kind[edge["kind"].upper()]) for edge in data["edges"]
    )
    return Graph(nodes, tuple(edges))


@dataclass(frozen=True)
class View:
    """A view of the warehouse: the statement that makes it, in PostgreSQL."""

    name: str
    description: str
    statement: str
    labels: Mapping[str, str] = field(default_factory=dict)
    """What the columns mean that it computes."""


def build(registry: Registry, views: Iterable[View], charts: Iterable[Chart] = CHARTS) -> Graph:
    """The graph of these models, views and charts.

    Raises ContractError for a query that can't be read so far.
    """
    nodes: dict[str, Node] = {}
    edges: list[Edge] = []
    for entity in registry.entities.values():
        node = _source(entity, registry)
        nodes[node.name] = node
        edges += _landed(node, entity.table)
    for table in registry.tables.values():
        columns = catalog.columns(table, registry)
        nodes[table.name] = _node(table.name, table.layer.value, catalog.description(table), columns)
        edges += _made(table.name, lineage(table.name, registry))
        edges += _chosen(table.name, conditions(table.name, registry), rows(table.name, registry))
    for view in views:
        node = Node(view.name, VIEW, view.description, ())
        edges += _add_query(nodes, node, f"warehouse_ddl/views/{view.name}.sql", view.statement, view.labels)
    for chart in charts:
        node = Node(f"{DASHBOARD}.{chart.name}", CHART, chart.description, ())
        edges += _add_query(nodes, node, "transforms/charts.py", chart.sql, chart.measures)
    return Graph(nodes, tuple(sorted(set(edges))))


def _source(entity: SourceEntity, registry: Registry) -> Node:
    """What the source itself has: of an API its objects, of a topic its records."""
    match entity.read:
        case Rest():
            names = {"id", "object"}
        case Kafka():
            names = {column.name for column in registry.table(entity.table).columns if column.name[0] != "_"}
        case _:
            names = {column.name for column in entity.columns}
    columns = tuple(column for column in registry.table(entity.table).columns if column.name in names)
    return _node(entity.place, SOURCE, entity.description or entity.grain, columns)


def _node(name: str, kind: str, description: str, columns: Iterable[Column]) -> Node:
    """Of the columns what lineage shows; how long a text may be is the tables' affair."""
    shown = (replace(column, max_length=None, formerly=()) for column in columns)
    return Node(name, kind, description, tuple(shown))


def _landed(source: Node, raw: str) -> Iterator[Edge]:
    """Landing changes nothing; what it adds itself (when, in which batch) comes from nowhere."""
    for name in (*(column.name for column in source.columns), ROWS):
        yield Edge(Origin(source.name, name), Origin(raw, name), Kind.PASS)


def _made(name: str, known: Mapping[str, ColumnLineage]) -> Iterator[Edge]:
    for column, made in known.items():
        for origin, kind in made.kinds.items():
            yield Edge(origin, Origin(name, column), kind)


def _chosen(name: str, known: Mapping[Origin, Kind], tables: Iterable[str]) -> Iterator[Edge]:
    for origin, kind in known.items():
        yield Edge(origin, Origin(name, ROWS), kind)
    for table in tables:
        yield Edge(Origin(table, ROWS), Origin(name, ROWS), Kind.PASS)


def _add_query(
    nodes: dict[str, Node], node: Node, file: str, sql: str, labels: Mapping[str, str]
) -> Iterator[Edge]:
    """Put a view or a chart, which stands in `file`, among the nodes with the columns that its query gives.

    What passes through keeps its type and its documentation; what is computed has its label, if any.
    """
    types = {known.name: {column.name: column.type for column in known.columns} for known in nodes.values()}
    traced = _traced(f"{file}: {node.name}", sql, types)
    made = steps((Column(column, "") for column in traced.columns), traced, types)
    columns = []
    for name, how in made.items():
        column = Column(name, "", labels.get(name, ""))
        if how.passed_through is not None:
            origin = how.passed_through
            upstream = next(own for own in nodes[origin.table].columns if own.name == origin.column)
            is_cast = how.kinds[origin] is Kind.CAST
            column = replace(upstream, name=name, type="" if is_cast else upstream.type)
        columns.append(column)
    nodes[node.name] = replace(node, columns=tuple(columns))
    yield from _made(node.name, made)
    yield from _chosen(node.name, traced.conditions, traced.rows)


def _traced(where: str, sql: str, types: Mapping[str, Mapping[str, str]]) -> Traced:
    from sqlglot import errors

    from transforms import lineage_sql

    try:
        return lineage_sql.trace(sql, types, dialect="postgres")
    except errors.SqlglotError as error:
        raise ContractError(f"{where}: its column lineage can't be read: {error}") from error


def _column_data(column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "type": column.type,
        "description": column.description,
        "nullable": column.nullable,
        "pii": column.pii,
    }


def _place(name: str) -> Origin:
    table, _, column = name.rpartition(".")
    return Origin(table, column)


def _grouped(pairs: Iterable[tuple[Origin, Edge]]) -> Mapping[Origin, tuple[Edge, ...]]:
    found: dict[Origin, list[Edge]] = {}
    for place, edge in pairs:
        found.setdefault(place, []).append(edge)
    return {place: tuple(edges) for place, edges in found.items()}
