"""What an event says of columns: how each is made, what hides a person, which say what rows there are."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from flows.lineage import graph
from flows.openlineage.events import Dataset, Work, as_uuid, event
from flows.openlineage.places import Place
from tests.flows.openlineage_schema import validator

NOW = datetime(2025, 10, 27, 12, tzinfo=UTC)
_SCHEMA = validator()


def dataset(name: str) -> Dataset:
    node = graph().nodes[name]
    return Dataset(name, Place("file", name), node.columns, node.description)


def facets(target: str, *origins: str) -> dict[str, Any]:
    work = Work(f"build.{target}", [dataset(name) for name in origins], [dataset(target)])
    told = event(work, "COMPLETE", NOW, rows={target: 0})
    _SCHEMA.validate(told)
    assert told["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 0
    found: dict[str, Any] = told["outputs"][0]["facets"]
    return found


def how(lineage: dict[str, Any], column: str) -> list[tuple[str, str, str, str, bool]]:
    return [
        (read["name"], read["field"], one["type"], one["subtype"], one["masking"])
        for read in lineage["fields"][column]["inputFields"]
        for one in read["transformations"]
    ]


def test_a_person_is_hidden_by_what_is_computed_and_not_by_what_is_handed_on() -> None:
    emails = facets("fct_emails", "stg_sendgrid__messages", "stg_app__users")["columnLineage"]
    assert how(emails, "recipient_domain") == [
        ("stg_sendgrid__messages", "to_email", "DIRECT", "TRANSFORMATION", True)
    ]
    users = facets("stg_app__users", "raw_app__users")["columnLineage"]
    assert {masked for *_, masked in how(users, "email")} == {False}


def test_a_model_that_does_not_say_that_it_hands_on_a_person_hides_none() -> None:
    forgotten = dataset("stg_app__users")
    forgotten = replace(forgotten, columns=[replace(column, pii=False) for column in forgotten.columns])
    told = event(Work("build", [dataset("raw_app__users")], [forgotten]), "COMPLETE", NOW)
    lineage = told["outputs"][0]["facets"]["columnLineage"]
    assert [(kind, masked) for *_, kind, masked in how(lineage, "last_ip")] == [("IDENTITY", False)]


def test_each_kind_of_step_has_the_words_of_the_specification() -> None:
    revenue = facets("mart_daily_revenue", "fct_orders", "fct_refunds")["columnLineage"]
    assert ("fct_orders", "revenue", "DIRECT", "AGGREGATION", False) in how(revenue, "revenue")
    orders = facets("fct_orders", "stg_app__orders")["columnLineage"]
    assert how(orders, "revenue") == [("stg_app__orders", "total_amount", "DIRECT", "IDENTITY", False)]
    assert how(orders, "order_date") == [("stg_app__orders", "created_at", "DIRECT", "TRANSFORMATION", False)]
    emails = facets("fct_emails", "stg_sendgrid__messages", "stg_app__users")["columnLineage"]
    said = {
        (read["name"], read["field"], one["type"], one["subtype"])
        for read in emails["dataset"]
        for one in read["transformations"]
    }
    assert said == {
        ("stg_sendgrid__messages", "to_email", "INDIRECT", "JOIN"),
        ("stg_app__users", "email", "INDIRECT", "FILTER"),
    }
    visits = facets("mart_user_activity", "fct_events")["columnLineage"]["dataset"]
    assert "GROUP_BY" in {one["subtype"] for read in visits for one in read["transformations"]}


def test_rows_that_are_counted_are_no_column_of_an_event() -> None:
    metrics = facets("mart_daily_metrics", "fct_events")["columnLineage"]
    assert "total_events" not in metrics["fields"]
    fields = [read["field"] for made in metrics["fields"].values() for read in made["inputFields"]]
    assert "*" not in fields
    assert "*" not in [read["field"] for read in metrics["dataset"]]


def test_columns_of_what_a_job_does_not_read_are_left_out() -> None:
    lineage = facets("fct_emails", "stg_app__users")["columnLineage"]
    assert {read["name"] for made in lineage["fields"].values() for read in made["inputFields"]} <= {
        "stg_app__users"
    }
    assert "columnLineage" not in facets("dim_date")


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (Work("run"), ("BATCH", "PIPELINE")),
        (Work("build", parent=("0c9f1c9e-1f0f-4b8b-9d0b-1d1c1c1c1c1c", "run")), ("BATCH", "TASK")),
        (Work("stream", is_streaming=True), ("STREAMING", "PIPELINE")),
    ],
)
def test_what_kind_of_job_it_is_is_said(work: Work, expected: tuple[str, str]) -> None:
    told = event(work, "START", NOW)
    _SCHEMA.validate(told)
    kind = told["job"]["facets"]["jobType"]
    assert (kind["processingType"], kind["jobType"]) == expected
    assert {"ownership", "sql"}.isdisjoint(told["job"]["facets"])
    assert "errorMessage" not in told["run"]["facets"]
    assert ("parent" in told["run"]["facets"]) is (work.parent is not None)


def test_the_id_of_a_run_is_a_uuid_and_always_the_same_one() -> None:
    own = "0c9f1c9e-1f0f-4b8b-9d0b-1d1c1c1c1c1c"
    assert as_uuid(own) == own
    assert as_uuid("run-1") == as_uuid("run-1") != as_uuid("run-2")
    told = event(Work("run", run_id=as_uuid("run-1")), "START", NOW)
    _SCHEMA.validate(told)


def test_who_owns_a_job_and_its_sql_are_said_in_its_dialect() -> None:
    told = event(Work("refresh", owner="data-team", sql="select 1", dialect="postgres"), "START", NOW)
    _SCHEMA.validate(told)
    said = told["job"]["facets"]
    assert said["ownership"]["owners"] == [{"name": "team:data-team", "type": "OWNER"}]
    assert (said["sql"]["query"], said["sql"]["dialect"]) == ("select 1", "postgres")
