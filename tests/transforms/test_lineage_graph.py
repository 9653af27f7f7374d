"""The graph holds every column from the sources to the charts, and every step of it names what exists."""

from __future__ import annotations

import json

import pytest

from transforms import registry
from transforms.charts import CHARTS
from transforms.contract import ContractError
from transforms.lineage_graph import Graph, View, build, from_data
from transforms.lineage_steps import ROWS, Origin
from warehouse_ddl.files import views

VIEWS = [View(view.name, view.description, view.query) for view in views()]


@pytest.fixture(scope="module")
def graph() -> Graph:
    """That of the models, views and charts there are."""
    return build(registry.default(), VIEWS)


def test_revenue_is_followed_from_the_order_to_the_chart(graph: Graph) -> None:
    way = [
        ("app.orders.total_amount", "raw_app__orders.total_amount", "pass"),
        ("raw_app__orders.total_amount", "stg_app__orders.total_amount", "pass"),
        ("stg_app__orders.total_amount", "fct_orders.revenue", "rename"),
        ("fct_orders.revenue", "mart_daily_revenue.revenue", "aggregate"),
        ("mart_daily_revenue.revenue", "mv_daily_revenue.revenue", "pass"),
        ("mv_daily_revenue.revenue", "dashboard.revenue_chart.revenue", "expression"),
    ]
    down = graph.reached(graph.find("app.orders.total_amount"), down=True)
    assert set(way) <= {(str(edge.origin), str(edge.target), edge.kind.word) for edge in down}
    up = graph.reached(graph.find("dashboard.revenue_chart.revenue"), down=False)
    assert set(way) <= {(str(edge.origin), str(edge.target), edge.kind.word) for edge in up}


def test_every_step_names_columns_that_exist(graph: Graph) -> None:
    columns = {name: {column.name for column in node.columns} | {ROWS} for name, node in graph.nodes.items()}
    for edge in graph.edges:
        assert edge.origin.column in columns[edge.origin.table], edge
        assert edge.target.column in columns[edge.target.table], edge
        assert edge.kind.is_condition <= (edge.target.column == ROWS), edge


def test_every_table_view_and_chart_hangs_on_what_it_reads_and_on_nothing_else(graph: Graph) -> None:
    read: dict[str, set[str]] = {name: set() for name in graph.nodes}
    for origin, target in graph.table_edges:
        read[target].add(origin)
    for table in registry.build_order():
        assert read[table.name] == set(table.upstreams), table.name
    for view in views():
        assert read[view.name] == set(view.upstreams), view.name
    for entity in registry.entities():
        assert read[entity.table] == {f"{entity.source}.{entity.name}"}
    for chart in CHARTS:
        assert read[f"dashboard.{chart.name}"], chart.name


def test_every_figure_of_a_chart_comes_from_a_source(graph: Graph) -> None:
    for chart in CHARTS:
        for column in (*chart.points, *chart.measures):
            steps = graph.reached(Origin(f"dashboard.{chart.name}", column), down=False)
            kinds = {graph.nodes[edge.origin.table].kind for edge in steps}
            assert "source" in kinds, f"{chart.name}.{column}"


def test_what_passes_through_a_view_keeps_its_documentation_and_says_when_it_is_personal(
    graph: Graph,
) -> None:
    sent = next(
        column for column in graph.nodes["dashboard.email_engagement"].columns if column.name == "sent"
    )
    assert sent.description == "E-mails SendGrid took on"
    statement = "create materialized view mv_people as select user_id, email as mail from analytics.dim_users"
    people = build(registry.default(), [View("mv_people", "", statement)], ()).nodes["mv_people"]
    personal = {column.name: column.pii for column in people.columns}
    assert personal == {"user_id": False, "mail": True}


def test_a_view_that_casts_a_column_says_its_type_no_more(graph: Graph) -> None:
    statement = "create view mv_days as select date, date::text as day from analytics.mart_daily_revenue"
    days = build(registry.default(), [View("mv_days", "", statement)], ()).nodes["mv_days"]
    assert {column.name: column.type for column in days.columns} == {"date": "DATE", "day": ""}


def test_a_source_has_what_it_sends_and_not_what_landing_adds(graph: Graph) -> None:
    names = {
        node: {column.name for column in graph.nodes[node].columns}
        for node in ("app.orders", "events.clicks", "stripe.charges")
    }
    assert names["stripe.charges"] == {"id", "object"}
    assert {"topic", "kafka_offset", "value"} <= names["events.clicks"]
    assert not [name for known in names.values() for name in known if name.startswith("_")]


@pytest.mark.parametrize(
    ("column", "sources"),
    [
        ("fct_orders.revenue", {"app.orders.total_amount"}),
        ("mart_daily_revenue.revenue", {"app.orders.total_amount", "app.orders.status"}),
        ("mart_daily_metrics.total_events", set()),
        ("dim_date.date", set()),
    ],
)
def test_the_values_of_a_column_are_those_of_columns_of_sources_never_rows_nor_conditions(
    graph: Graph, column: str, sources: set[str]
) -> None:
    assert set(map(str, graph.made_of(graph.find(column)))) == sources


def test_it_is_the_same_when_it_was_kept_as_json(graph: Graph) -> None:
    assert from_data(json.loads(json.dumps(graph.as_data()))) == graph


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("FCT_Orders.Revenue", Origin("fct_orders", "revenue")),
        (" ANALYTICS.fct_orders ", Origin("fct_orders", ROWS)),
        ("app.orders.total_amount", Origin("app.orders", "total_amount")),
        ("dashboard.revenue_chart.revenue", Origin("dashboard.revenue_chart", "revenue")),
        ("fct_orders.*", Origin("fct_orders", ROWS)),
    ],
)
def test_a_name_is_found_as_people_write_it(graph: Graph, name: str, place: Origin) -> None:
    assert graph.find(name) == place


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("recipient_domain", "recipient_domain is a column, of fct_emails. Say of which: fct_emails.recip"),
        (
            "Sku",
            "sku is a column, of dim_products, stg_app__products, raw_app__products, app.products. Say of",
        ),
        ("created_at", " more. Say of which: fct_orders.created_at"),
        ("fct_orders.revenu", "fct_orders has no column revenu. Did you mean revenue?"),
        ("fct_order.revenue", "no table, view or chart fct_order. Did you mean fct_orders"),
        ("app.order", "no table, view or chart app.order. Did you mean app.orders"),
        ("dashboard.revenue", "Did you mean dashboard.revenue_chart"),
    ],
)
def test_an_unknown_name_is_answered_with_what_is_close(graph: Graph, name: str, answer: str) -> None:
    with pytest.raises(ContractError) as refused:
        graph.find(name)
    assert answer in str(refused.value)
