"""Models that change under a stream: what a run makes by the new ones is not undone by the old."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from flows import prepare
from flows.build.job import build_due
from flows.progress import Progress
from flows.stores.in_force import ModelsChanged
from tests.flows.streaming.changes import Company
from tests.flows.streaming.topics import Topics, until
from tests.house import House
from transforms import catalog, registry
from transforms.registry import Registry

COUNTRIES = "select distinct country from analytics.dim_users where not is_inferred"


@contextmanager
def _other_code() -> Iterator[None]:
    """The code of an update, in which countries are told otherwise."""
    known = registry.default()
    model = known.models["dim_users"]
    sql = str(model.sql).replace("    country::varchar as country", "    lower(country)::varchar as country")
    changed = Registry({**known.models, "dim_users": replace(model, sql=sql)}, known.entities)
    assert catalog.fingerprint("dim_users", changed) != catalog.fingerprint("dim_users")
    with mock.patch.object(registry, "default", return_value=changed):
        yield


@pytest.mark.full
def test_changes_are_not_shown_by_models_of_before_and_what_a_run_has_made_stays(company: Company) -> None:
    assert company.shown(COUNTRIES) == [("DE",)]
    services = company.services()
    with _other_code(), services.lake:
        prepare.warehouse(services, False, Progress("test", io.StringIO()))
        for table in company.models():
            build_due(services, registry.table(table.name), catalog.fingerprint(table.name), "run")
    assert company.shown(COUNTRIES) == [("de",)]
    company.capture.app("update users set plan = 'team' where id = 3")
    company.wait_for_user("plan", "team")

    with pytest.raises(ModelsChanged, match="The models of dim_users have changed since"):
        company.follow()
    assert company.shown(COUNTRIES) == [("de",)]
    assert company.shown("select plan from analytics.dim_users where user_id = 3") == [("free",)]

    with _other_code():
        assert company.follow().messages == 1
    assert company.shown(COUNTRIES) == [("de",)]
    assert company.shown("select plan from analytics.dim_users where user_id = 3") == [("team",)]


def test_a_living_stream_of_events_ends_when_other_models_come_into_force(
    house: House, tmp_path: Path
) -> None:
    topics = Topics.build(house, tmp_path)
    topics.send([topics.event(1)])

    def live() -> None:
        with topics.living() as living:
            until(lambda: len(topics.numbers()) == 1)
            topics.rows(
                "update ops.model_in_force set fingerprint = 'other' where table_name = 'fct_events' "
                "returning true"
            )
            until(living.done, seconds=60)

    with pytest.raises(ModelsChanged, match="The models of fct_events have changed since"):
        live()
    assert [number for number, _, _ in topics.numbers()] == [1]
