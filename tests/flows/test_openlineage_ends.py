"""However a job ends, who listens is told that it began and how it ended, once."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from psycopg.conninfo import conninfo_to_dict

from flows import landing, prepare, source_totals
from flows.change_landing import ChangesLanded
from flows.extract import SourceError
from flows.landing import Landing
from flows.openlineage import report, streaming
from flows.progress import Progress
from flows.services import Services
from flows.stores import upkeep
from flows.stores.upkeep import Refreshed
from flows.streaming.route import route
from flows.summary import Summary
from tests.flows.extract.parts import World
from tests.flows.openlineage_run import RAW, RUN, VIEW, listening, read, world_in
from tests.flows.openlineage_schema import validator
from tests.house import House
from transforms import registry

_SCHEMA = validator()


@pytest.fixture(scope="module")
def world(house: House, tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_in(house, tmp_path_factory.mktemp("openlineage"))


@pytest.fixture
def events(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def services(world: World, events: Path) -> Services:
    return listening(world, str(events))


def told(events: Path) -> list[tuple[str, str]]:
    """State and reason of each event; one run, and each as the specification asks."""
    found = read(events)
    for event in found:
        _SCHEMA.validate(event)
    assert len({event["run"]["runId"] for event in found}) == 1
    return [(event["eventType"], _reason(event)) for event in found]


def _reason(event: dict[str, Any]) -> str:
    return str(event["run"]["facets"].get("errorMessage", {}).get("message", ""))


def test_a_run_that_could_not_begin_began_for_who_listens_and_failed(
    services: Services, events: Path
) -> None:
    summary = Summary(RUN, "analytics_pipeline", failures=["It could not begin: a lock is in the way"])
    prepare.note_run(services, summary, "Failed")
    assert told(events) == [("START", ""), ("FAIL", "It could not begin: a lock is in the way")]


def test_a_run_after_another_in_one_process_has_a_beginning_of_its_own(
    services: Services, events: Path
) -> None:
    for run_id in (RUN, RUN[::-1]):
        prepare.note_run(services, Summary(run_id, "analytics_pipeline", failures=["no"]), "Failed")
    assert [event["eventType"] for event in read(events)] == ["START", "FAIL", "START", "FAIL"]


def test_what_a_run_failed_by_is_told_without_passwords_and_without_values_of_rows(
    services: Services, events: Path, world: World
) -> None:
    password = str(conninfo_to_dict(world.app_dsn)["password"])
    said = f'{world.app_dsn}, or {password} alone, sent an invalid value: "eve@example.com"'
    prepare.note_run(services, Summary(RUN, "analytics_pipeline", failures=[said]), "Failed")
    _, (_, reason) = told(events)
    assert password not in reason
    assert " alone, sent" in reason
    assert "eve@example.com" not in reason


def test_a_landing_that_found_nothing_new_wrote_no_row(
    services: Services, events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing, "land", mock.Mock(return_value=None))
    assert report.land(services, registry.entity(RAW), RUN) is None
    assert [state for state, _ in told(events)] == ["START", "COMPLETE"]
    (output,) = read(events)[-1]["outputs"]
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 0


def test_a_stream_says_on_its_own_line_that_nobody_can_be_told(world: World, tmp_path: Path) -> None:
    services = listening(world, str(tmp_path))
    said = io.StringIO()
    with (
        Progress("stream", said) as progress,
        streaming.told(services, route([registry.entity("raw_events__clicks")]), [], progress),
    ):
        pass
    assert said.getvalue().count("OpenLineage events do not reach") == 1


def test_a_run_that_is_stopped_is_aborted(services: Services, events: Path) -> None:
    summary = Summary(RUN, "analytics_pipeline")
    prepare.note_run(services, summary, "Running")
    summary.failures.append("It was stopped")
    summary.was_stopped = True
    prepare.note_run(services, summary, "Failed")
    assert told(events) == [("START", ""), ("ABORT", "It was stopped")]


@pytest.mark.parametrize(("error", "state"), [(KeyboardInterrupt(), "ABORT"), (SourceError("gone"), "FAIL")])
def test_a_job_that_is_stopped_is_aborted_and_one_that_fails_fails(
    services: Services, events: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, state: str
) -> None:
    monkeypatch.setattr(landing, "land", mock.Mock(side_effect=error))
    with pytest.raises(type(error)):
        report.land(services, registry.entity(RAW), RUN)
    assert told(events) == [("START", ""), (state, str(error) or "KeyboardInterrupt")]


def test_a_stream_that_failed_is_told_to_go_on_no_more(services: Services, events: Path) -> None:
    with (
        Progress("stream", io.StringIO()) as progress,
        pytest.raises(SourceError),
        streaming.told(services, route([registry.entity("raw_events__clicks")]), [], progress, every=0.02),
    ):
        raise SourceError("offsets are gone")
    time.sleep(0.2)
    assert [state for state, _ in told(events) if state != "RUNNING"] == ["START", "FAIL"]
    assert told(events)[-1][0] == "FAIL"


def test_a_stream_of_changes_writes_what_landed_and_what_people_read(
    services: Services, events: Path
) -> None:
    orders = registry.entity("raw_app__orders")
    with (
        Progress("stream", io.StringIO()) as progress,
        streaming.told(services, route([registry.entity("raw_events__clicks")]), [orders], progress),
    ):
        pass
    begun = next(event for event in read(events) if event["job"]["name"] == "stream.changes")
    written = {output["name"].rsplit("/", 1)[-1].rsplit(".", 1)[-1] for output in begun["outputs"]}
    assert {"raw_app__orders", "fct_orders"} <= written
    assert not [name for name in written if name.startswith("stg_")]


def test_a_stream_that_is_stopped_is_aborted(services: Services, events: Path) -> None:
    with (
        Progress("stream", io.StringIO()) as progress,
        pytest.raises(KeyboardInterrupt),
        streaming.told(services, route([registry.entity("raw_events__clicks")]), [], progress),
    ):
        raise KeyboardInterrupt
    assert [state for state, _ in told(events)] == ["START", "ABORT"]


def test_tables_whose_changes_did_not_land_are_a_failure_beside_those_that_did(
    services: Services, events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = registry.entity("raw_app__orders")
    landed = ChangesLanded(
        {RAW: Landing(registry.entity(RAW), rows=3), orders.table: SourceError("users.id is gone")}
    )
    monkeypatch.setattr(source_totals, "land_changes", mock.Mock(return_value=landed))
    assert report.land_changes(services, [registry.entity(RAW), orders], RUN) is landed
    assert told(events) == [("START", ""), ("FAIL", "raw_app__orders: users.id is gone")]
    assert {event["job"]["name"] for event in read(events)} == {"land.changes"}
    counted = {
        output["name"].rsplit("/", 1)[-1]: output["outputFacets"].get("outputStatistics", {}).get("rowCount")
        for output in read(events)[-1]["outputs"]
    }
    assert counted == {RAW: 3, orders.table: None}


def test_a_view_that_a_lock_keeps_as_it_was_is_not_told_as_refreshed(
    services: Services, events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "refresh", mock.Mock(return_value=[Refreshed(VIEW, "session 7 of eve")]))
    report.refresh(services, VIEW)
    assert told(events) == [("START", ""), ("FAIL", "session 7 of eve is in the way")]
