"""What a run tells who listens, held to the specification."""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from flows import landing, planner
from flows.build import job
from flows.extract import SourceError
from flows.openlineage import report, streaming
from flows.openlineage.events import PRODUCER
from flows.progress import Progress
from flows.stores.verified import DamagedFile
from flows.streaming.route import route
from tests.flows.extract.parts import World
from tests.flows.openlineage_run import (
    PUBLISHED,
    RAW,
    RUN,
    STAGED,
    VIEW,
    build,
    listening,
    read,
    run,
    world_in,
)
from tests.flows.openlineage_schema import validator
from tests.house import House
from transforms import registry
from transforms.entities import Kafka

_SCHEMA = validator()


@pytest.fixture(scope="module")
def world(house: House, tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_in(house, tmp_path_factory.mktemp("openlineage"))


@pytest.fixture(scope="module")
def told(world: World, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the first run told a file in a folder that was not there."""
    events = tmp_path_factory.mktemp("told") / "folder" / "events.jsonl"
    assert run(listening(world, str(events)), STAGED, PUBLISHED).warnings == []
    return read(events)


def test_a_run_tells_each_landing_and_build_as_the_specification_asks(told: list[dict[str, Any]]) -> None:
    for event in told:
        _SCHEMA.validate(event)
    assert set(_producers(told)) == {PRODUCER}
    assert [(event["job"]["name"], event["eventType"]) for event in told] == [
        ("run.analytics_pipeline", "START"),
        ("land.app.categories", "START"),
        ("land.app.categories", "COMPLETE"),
        (f"build.{STAGED}", "START"),
        (f"build.{STAGED}", "COMPLETE"),
        (f"build.{PUBLISHED}", "START"),
        (f"build.{PUBLISHED}", "COMPLETE"),
        (f"refresh.{VIEW}", "START"),
        (f"refresh.{VIEW}", "COMPLETE"),
        ("run.analytics_pipeline", "COMPLETE"),
    ]
    starts, ends = told[1::2], told[2::2]
    assert [event["run"]["runId"] for event in starts[:4]] == [event["run"]["runId"] for event in ends[:4]]
    assert {event["run"]["facets"]["parent"]["run"]["runId"] for event in told[1:-1]} == {RUN}
    counted = {
        event["job"]["name"]: event["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"]
        for event in ends[:3]
    }
    assert counted == {"land.app.categories": 3, f"build.{STAGED}": 3, f"build.{PUBLISHED}": 20}


def test_a_table_s_version_is_its_newest_entry_in_the_ledger(
    world: World, told: list[dict[str, Any]]
) -> None:
    with psycopg.connect(world.warehouse_dsn) as connection:
        newest: dict[str, str] = dict(
            connection.execute(
                "select distinct on (table_name) table_name, token from ops.ledger "
                "where table_name = any(%s) order by table_name, sequence desc",
                ([RAW, STAGED, PUBLISHED],),
            ).fetchall()
        )
    landed, staged, published, refreshed = told[2::2][:4]
    assert [_version(event["outputs"][0]) for event in (landed, staged, published)] == [
        newest[RAW],
        newest[STAGED],
        newest[PUBLISHED],
    ]
    staging_begins, staging_ends = told[3], staged
    assert _version(staging_begins["inputs"][0]) == _version(staging_ends["inputs"][0]) == newest[RAW]
    # Before anything is built there is none, and a source or a view has none of the ledger's.
    assert _version(staging_begins["outputs"][0]) is None
    assert _version(landed["inputs"][0]) is None
    assert _version(refreshed["outputs"][0]) is None


def test_what_was_replaced_while_it_was_read_is_told_without_a_version(house: House, tmp_path: Path) -> None:
    world, events = world_in(house, tmp_path), tmp_path / "events.jsonl"
    services = listening(world, str(events))
    run(services)
    build_itself = job.build

    def beside_another(*arguments: Any) -> Any:
        built = build_itself(*arguments)
        with psycopg.connect(world.app_dsn) as connection:
            connection.execute("insert into categories values (77, null, 'late', '2025-10-08')")
        with services.lake:
            services.lake.begin_session()
            landing.land(services, registry.entity(RAW), RUN)
        return built

    with mock.patch.object(job, "build", beside_another), services.lake:
        services.lake.begin_session()
        with services.ledger() as ledger:
            ledger.mark([(STAGED, planner.WHOLE)], planner.ASKED_FOR)
        build(services, STAGED)
    begun, ended = read(events)[-2:]
    assert (begun["eventType"], ended["eventType"]) == ("START", "COMPLETE")
    assert _version(begun["inputs"][0]) is not None
    assert _version(ended["inputs"][0]) is None
    assert _version(ended["outputs"][0]) is not None


def _version(dataset: dict[str, Any]) -> str | None:
    facet = dataset["facets"].get("version")
    return facet["datasetVersion"] if facet else None


def test_a_stream_begins_goes_on_and_ends_as_one_run_however_many_micro_batches_it_has(
    world: World, tmp_path: Path
) -> None:
    events = tmp_path / "events.jsonl"
    services = listening(replace(world, kafka_bootstrap="broker:9092"), str(events))
    way = route([entity for entity in registry.entities() if isinstance(entity.read, Kafka)])
    with Progress("stream", io.StringIO()) as progress:
        with streaming.told(services, way, [registry.entity(RAW)], progress, every=0.02):
            deadline = time.monotonic() + 60
            while "RUNNING" not in events.read_text() and time.monotonic() < deadline:
                time.sleep(0.02)
        with (
            pytest.raises(SourceError, match="gone"),
            streaming.told(services, way, [], progress),
        ):
            raise SourceError("offsets are gone")

    told = read(events)
    for event in told:
        _SCHEMA.validate(event)
    runs: dict[tuple[str, str], list[str]] = {}
    for event in told:
        runs.setdefault((event["job"]["name"], event["run"]["runId"]), []).append(event["eventType"])
    states = [(job, sorted(set(found)), found[0], found[-1]) for (job, _), found in runs.items()]
    assert states == [
        ("stream.events", ["COMPLETE", "RUNNING", "START"], "START", "COMPLETE"),
        ("stream.changes", ["COMPLETE", "RUNNING", "START"], "START", "COMPLETE"),
        ("stream.events", ["FAIL", "START"], "START", "FAIL"),
    ]
    assert told[-1]["run"]["facets"]["errorMessage"]["message"] == "offsets are gone"
    first = told[0]
    assert first["job"]["facets"]["jobType"]["processingType"] == "STREAMING"
    assert {(one["namespace"], one["name"]) for one in first["inputs"]} == {
        ("kafka://broker:9092", topic) for topic in way.topics
    }
    written = {one["name"].rsplit("/", 1)[-1].rsplit(".", 1)[-1] for one in first["outputs"]}
    assert written == {*way.entities, *(table.name for table in (*way.facts, *way.windows))}


def _producers(told: Any) -> Iterator[str]:
    """Who is said to say it, by an event and each of its facets."""
    if isinstance(told, list):
        for one in told:
            yield from _producers(one)
    elif isinstance(told, dict):
        yield from (told[name] for name in ("producer", "_producer") if name in told)
        yield from _producers(list(told.values()))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("producer",), "user analytics"),
        (("eventTime",), "2025-10-07 12:00"),
        (("eventType",), "DONE"),
        (("run", "runId"), "run-1"),
        (("run", "facets", "parent", "run", "runId"), "run-1"),
        (("run", "facets", "parent", "_producer"), "we"),
        (("job", "facets", "sql", "query"), None),
        (("outputs", 0, "facets", "columnLineage", "_schemaURL"), "https://openlineage.io/spec"),
        (("outputs", 0, "outputFacets", "outputStatistics", "rowCount"), "3"),
    ],
)
def test_what_breaks_the_specification_is_noticed(
    told: list[dict[str, Any]], path: tuple[str | int, ...], value: object
) -> None:
    event = copy.deepcopy(told[4])
    within: Any = event
    for name in path[:-1]:
        within = within[name]
    assert within[path[-1]] != value
    within[path[-1]] = value
    assert [tuple(error.absolute_path) for error in _SCHEMA.iter_errors(event)] == [path]


def test_what_one_job_writes_is_by_name_what_the_next_one_reads(
    world: World, told: list[dict[str, Any]]
) -> None:
    landed, staged, published = told[2::2][:3]

    def place(dataset: dict[str, Any]) -> tuple[str, str]:
        return dataset["namespace"], dataset["name"]

    with psycopg.connect(world.app_dsn) as connection:
        info = connection.info
        application = f"postgres://{'localhost' if info.host.startswith('/') else info.host}:{info.port}"
        assert place(landed["inputs"][0]) == (application, f"{info.dbname}.public.categories")
    assert place(landed["outputs"][0]) == ("file", str(world.lake / "raw" / RAW))
    assert [place(dataset) for dataset in staged["inputs"]] == [place(landed["outputs"][0])]
    assert place(published["outputs"][0])[1].endswith(".analytics.dim_currencies")


def test_the_columns_say_what_they_are_made_of(told: list[dict[str, Any]]) -> None:
    staged = told[4]
    facets = staged["outputs"][0]["facets"]
    assert facets["schema"]["fields"][0] == {
        "name": "category_id",
        "type": "INTEGER",
        "description": "Identifies the category",
        "fields": [],
    }
    lineage = facets["columnLineage"]
    how = {
        column: [(read["field"], read["transformations"][0]["subtype"]) for read in made["inputFields"]]
        for column, made in lineage["fields"].items()
    }
    assert how == {
        "category_id": [("id", "IDENTITY")],
        "parent_category_id": [("parent_id", "IDENTITY")],
        "category_name": [("name", "TRANSFORMATION")],
        "updated_at": [("updated_at", "IDENTITY")],
    }
    assert {(read["field"], read["transformations"][0]["subtype"]) for read in lineage["dataset"]} == {
        (name, "FILTER") for name in ("id", "_landed_at", "_seq", "_op")
    }


def test_a_view_is_made_of_its_mart_column_by_column(told: list[dict[str, Any]]) -> None:
    (view,) = told[8]["outputs"]
    assert view["name"].endswith(f".analytics.{VIEW}")
    made = view["facets"]["columnLineage"]["fields"]["revenue_per_order"]["inputFields"]
    assert {(read["name"].rsplit(".", 1)[-1], read["field"]) for read in made} == {
        ("mart_daily_revenue", "revenue"),
        ("mart_daily_revenue", "orders"),
    }
    assert told[8]["job"]["facets"]["sql"]["dialect"] == "postgres"


def test_a_build_that_fails_is_told_and_fails_all_the_same(world: World, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    services = listening(world, str(events))
    with services.lake:
        services.lake.begin_session()
        report.land(services, registry.entity(RAW), RUN)
        (gone,) = (world.lake / "raw" / RAW).rglob("*.parquet")
        gone.unlink()
        with services.ledger() as ledger:
            ledger.mark([(STAGED, planner.WHOLE)], planner.ASKED_FOR)
        with pytest.raises(DamagedFile):
            build(services, STAGED)
    failed = read(events)[-1]
    _SCHEMA.validate(failed)
    assert (failed["job"]["name"], failed["eventType"]) == (f"build.{STAGED}", "FAIL")
    assert str(gone) in failed["run"]["facets"]["errorMessage"]["message"]


def test_an_error_is_told_without_passwords_and_without_values_of_rows(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = f'{world.app_dsn} sent an invalid value: "eve@example.com"'
    monkeypatch.setattr(landing, "land", mock.Mock(side_effect=SourceError(said)))
    events = tmp_path / "events.jsonl"
    services = listening(world, str(events))
    with services.lake, pytest.raises(SourceError):
        report.land(services, registry.entity(RAW), RUN)
    started, failed = read(events)
    assert (started["eventType"], failed["eventType"]) == ("START", "FAIL")
    message = failed["run"]["facets"]["errorMessage"]["message"]
    assert message.endswith(" sent an invalid value: ***")
    assert str(conninfo_to_dict(world.app_dsn)["password"]) not in message
