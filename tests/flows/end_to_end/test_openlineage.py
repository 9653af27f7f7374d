"""A run of the pipeline tells all it did: every job that begins ends, each as the specification asks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.flows.company import Company
from tests.flows.openlineage_schema import validator
from transforms import registry

pytestmark = pytest.mark.full


def test_every_job_of_a_run_begins_and_ends_and_names_what_it_read(company: Company) -> None:
    place = company.copy(own_application=True)
    place.application(
        "update orders set total_amount = total_amount + 1, updated_at = "
        "(select max(updated_at) from orders) + interval '1 second' where id in "
        "(select id from orders where total_amount > 0 order by id limit 1)"
    )
    events = place.lake.parent / "events.jsonl"
    done = place.run(ANALYTICS_OPENLINEAGE=str(events))
    assert done.code == 0, done.said
    assert "OpenLineage" not in done.said, done.said
    told = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    specification = validator()
    for event in told:
        specification.validate(event)
    states: dict[str, list[str]] = {}
    for event in told:
        states.setdefault(event["run"]["runId"], []).append(event["eventType"])
    assert set(map(tuple, states.values())) == {("START", "COMPLETE")}
    ended = {event["job"]["name"]: event for event in told if event["eventType"] == "COMPLETE"}
    built = {name.removeprefix("build."): event for name, event in ended.items() if name.startswith("build.")}
    assert {"stg_app__orders", "fct_orders", "mart_daily_revenue", "mart_revenue_reconciliation"} <= set(
        built
    )
    for name, event in built.items():
        assert {_table(dataset) for dataset in event["inputs"]} == set(registry.table(name).upstreams)
        assert [_table(dataset) for dataset in event["outputs"]] == [name]
    # One order was changed, and is followed by its key.
    for name in ("land.app.orders", "build.stg_app__orders", "build.fct_orders"):
        (made,) = ended[name]["outputs"]
        assert (name, made["outputFacets"]["outputStatistics"]["rowCount"]) == (name, 1)


def _table(dataset: dict[str, Any]) -> str:
    """Of a table in PostgreSQL or of a folder of the lake."""
    return str(dataset["name"]).rsplit("/", 1)[-1].rsplit(".", 1)[-1]
