"""How a run goes on when a task fails: who is tried again, and who does not wait for that."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import duckdb
import pytest

from flows import prepare, schedule
from flows.build.content import ContentError
from flows.build.guard import CheckFailed
from flows.extract import SchemaChanged, SourceAway, SourceError, SourceRefused
from flows.extract.http import AnswerError, RefusedError
from flows.openlineage import report
from flows.progress import Progress
from flows.services import Services
from flows.settings import SettingsError
from flows.stores.manifest import ManifestDamaged
from flows.stores.verified import DamagedFile, LakeError
from flows.stores.warehouse_errors import WarehouseError
from flows.summary import Summary
from flows.tries import may_pass
from tests.flows.extract.parts import World
from tests.house import House
from transforms import registry
from transforms.contract import ContractError
from transforms.engine import ModelError

AWAY, THERE = "raw_stripe__charges", "raw_stripe__refunds"
"""Two lists of one API, and so of one lane."""


@pytest.fixture(scope="module")
def world(house: House, tmp_path_factory: pytest.TempPathFactory) -> World:
    """An empty warehouse; one place in each lane, one more try, at once."""
    folder = tmp_path_factory.mktemp("schedule")
    return World.build(house.server(), folder, retries=1, retry_seconds=0, workers=1)


def land(
    services: Services,
    entities: Sequence[str],
    landing: Callable[[str], None],
    said: io.StringIO | None = None,
) -> Summary:
    """A run that only lands these, each by `landing`, which is given the table's name."""
    from prefect import flow
    from prefect.runtime import flow_run

    from flows.batch import runner
    from flows.schedule import Schedule

    @flow(name="schedule", task_runner=runner)
    def run() -> Summary:
        summary = Summary(str(flow_run.id), "schedule")
        chosen = [registry.entity(name) for name in entities]
        with Progress("run", said or io.StringIO()) as progress:
            Schedule(services, chosen, [], summary, progress).carry_out()
        return summary

    with mock.patch.object(report, "land", lambda _services, entity, _run: landing(entity.table)):
        return run()


class Clock:
    """Each look at it takes two thirds of an hour: pauses run out between two of a run's."""

    now = 0.0

    def perf_counter(self) -> float:
        self.now += 2400.0
        return self.now


def test_a_task_that_waits_for_its_next_try_lets_others_go_first(
    prefect: None, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    from prefect.context import TaskRunContext

    tries: list[tuple[str, int]] = []
    said = io.StringIO()

    def landing(table: str) -> None:
        context = TaskRunContext.get()
        tries.append((table, context.task_run.run_count if context else 0))
        if tries == [(AWAY, 1)]:
            raise SourceAway("The API does not answer.")

    summary = land(world.services(), [AWAY, THERE], landing, said)
    # The second try is Prefect's own, so that its pages count it.
    assert tries == [(AWAY, 1), (THERE, 1), (AWAY, 2)]
    assert summary.failures == []
    line = "The API does not answer. It is tried again in 0 s."
    assert line in said.getvalue()
    logged = [(one.levelname, one.getMessage()) for one in caplog.records if line in one.getMessage()]
    assert logged == [("WARNING", f"{AWAY}: {line}")]


def test_a_pause_that_runs_out_while_tasks_are_started_does_not_wait_for_another_task_to_end(
    prefect: None, world: World
) -> None:
    tried_again = threading.Event()
    asked: list[str] = []
    waited: list[bool] = []

    def landing(table: str) -> None:
        asked.append(table)
        if table != AWAY:
            waited.append(tried_again.wait(20))
        elif asked.count(AWAY) == 1:
            raise SourceAway("The API does not answer.")
        else:
            tried_again.set()

    patient = replace(world, settings={**world.settings, "retry_seconds": 3600}).services()
    with mock.patch.object(schedule, "time", Clock()):
        assert land(patient, [AWAY, "raw_app__categories"], landing).failures == []
    assert waited == [True]


@pytest.mark.parametrize(("deployment", "seconds"), [(None, "10 s"), ("daily", "300 s")])
def test_a_run_by_hand_is_tried_again_in_seconds_and_a_deployments_in_minutes(
    prefect: None, world: World, monkeypatch: pytest.MonkeyPatch, deployment: str | None, seconds: str
) -> None:
    asked: list[str] = []
    said = io.StringIO()

    def landing(table: str) -> None:
        asked.append(table)
        if len(asked) == 1:
            raise SourceAway("The API does not answer.")

    if deployment:
        monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", deployment)
    undeclared = replace(world, settings={**world.settings, "retry_seconds": None}).services()
    with mock.patch.object(schedule, "time", Clock()):
        assert land(undeclared, [AWAY], landing, said).failures == []
    assert f"It is tried again in {seconds}" in said.getvalue()


def test_what_another_try_would_only_give_again_fails_at_once(prefect: None, world: World) -> None:
    errors = {
        "raw_stripe__charges": AnswerError("Stripe refused the key (401).", 401, None),
        "raw_stripe__refunds": RefusedError("Stripe redirects elsewhere."),
        "raw_app__categories": SchemaChanged("A column has another type.", ()),
        "raw_app__suppliers": SettingsError("ANALYTICS_APP_DSN is not set."),
        "raw_app__coupons": ContractError("Two models have one name."),
        "raw_app__reviews": SourceRefused("The role may not read it."),
    }
    asked: list[str] = []

    def landing(table: str) -> None:
        asked.append(table)
        raise errors[table]

    failures = land(world.services(), list(errors), landing).failures
    assert sorted(failures) == sorted(f"{table}: {error}" for table, error in errors.items())
    assert sorted(asked) == sorted(errors)


@pytest.mark.parametrize(
    "error",
    [
        CheckFailed("A critical rule is broken.", ()),
        ContentError("A value does not fit its column."),
        ContractError("Two models have one name."),
        ModelError("A model's query fails."),
        SettingsError("ANALYTICS_APP_DSN is not set."),
        SourceRefused("The role may not read it."),
        DamagedFile("A file is not the one that was committed."),
        ManifestDamaged("A manifest can't be read."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_the_same_data_code_and_settings_would_only_give_again_does_not_pass(error: Exception) -> None:
    assert not may_pass(error)


@pytest.mark.parametrize(
    "error",
    [
        SourceError("The API sent half an answer."),
        SourceAway("The API does not answer."),
        LakeError("The disk is full."),
        WarehouseError("The warehouse does not answer."),
        OSError("Too many open files."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_may_come_back_passes(error: Exception) -> None:
    assert may_pass(error)


def test_a_task_is_tried_as_often_as_is_set_and_then_fails_in_one_line(prefect: None, world: World) -> None:
    asked: list[str] = []

    def landing(table: str) -> None:
        asked.append(table)
        raise SourceError(f"{len(asked)} times, the API did not answer.")

    failures = land(world.services(), [AWAY], landing).failures
    assert failures == [f"{AWAY}: 2 times, the API did not answer."]


def test_a_run_that_is_interrupted_does_not_wait_for_the_next_try(prefect: None, world: World) -> None:
    asked: list[str] = []

    def landing(table: str) -> None:
        asked.append(table)
        raise SourceAway("The API does not answer.")

    patient = replace(world, settings={**world.settings, "retry_seconds": 3600}).services()
    stopped = mock.patch.object(Progress, "say", side_effect=KeyboardInterrupt)
    with stopped, pytest.raises(KeyboardInterrupt):
        land(patient, [AWAY], landing)
    assert asked == [AWAY]


@pytest.mark.parametrize(
    ("table", "given", "said"),
    [
        (AWAY, {}, "ANALYTICS_STRIPE_KEY is not set"),
        (
            AWAY,
            {"stripe_key": "k", "stripe_url": "http://api.example.com"},
            "would carry the key in the clear",
        ),
        ("raw_app__users", {}, "ANALYTICS_CONNECT_URL is not set"),
    ],
)
def test_a_setting_that_a_source_needs_is_missed_before_a_run_begins(
    tmp_path: Path, table: str, given: dict[str, Any], said: str
) -> None:
    world = World("postgresql://127.0.0.1:1/app", "postgresql://127.0.0.1:1/warehouse", tmp_path / "lake")
    settings = world.services().settings.model_copy(update=given)
    prepare.sources(Services(settings), [registry.entity("raw_app__reviews")])
    without_broker = settings.model_copy(update={"cdc_engine": "embedded", "kafka_bootstrap": None})
    prepare.sources(Services(without_broker), [registry.entity("raw_app__users")])
    with pytest.raises((SettingsError, RefusedError), match=said) as caught:
        prepare.sources(Services(settings), [registry.entity(table)])
    assert caught.value.exit_code == 2


def test_what_a_run_says_of_a_failure_quotes_no_value() -> None:
    with duckdb.connect() as connection, pytest.raises(duckdb.Error) as caught:
        connection.sql("select ('anna@example.com' || i)::integer from range(1) as t (i)").fetchall()
    said = schedule.told(caught.value).partition("\n")[0]
    assert said == "ConversionException: Conversion Error: Could not convert string '…' to INT32"
