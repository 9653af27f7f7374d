"""A run of the pipeline tells all it did: every job that begins ends, each as the specification asks."""

from __future__ import annotations

import json

import jsonschema
import pytest

from tests.flows.company import Company
from tests.flows.openlineage_schema import event_schema
from transforms import registry

pytestmark = pytest.mark.full


def test_every_job_of_a_run_begins_and_ends_and_names_what_it_read(company: Company) -> None:
    place = company.copy()
    events = place.lake.parent / "events.jsonl"
    done = place.run("rebuild", "fct_orders+", ANALYTICS_OPENLINEAGE=str(events))
    assert done.code == 0, done.said
    assert "OpenLineage" not in done.said, done.said
    told = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    validator = jsonschema.Draft202012Validator(event_schema())
    for event in told:
        validator.validate(event)
    states: dict[str, list[str]] = {}
    for event in told:
        states.setdefault(event["run"]["runId"], []).append(event["eventType"])
    assert set(map(tuple, states.values())) == {("START", "COMPLETE")}
    written = {
        event["outputs"][0]["name"].rsplit(".", 1)[-1]: event
        for event in told
        if event["job"]["name"].startswith("build.") and event["eventType"] == "COMPLETE"
    }
    assert {"fct_orders", "mart_daily_revenue", "mart_revenue_reconciliation"} <= set(written)
    for name, event in written.items():
        read = {dataset["name"].rsplit("/", 1)[-1].rsplit(".", 1)[-1] for dataset in event["inputs"]}
        assert read == set(registry.table(name).upstreams)
        assert event["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] >= 0
