"""A run that ends while it prepares: it is entered and told, though nobody but itself saw it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import psycopg
import pytest

from flows import batch
from flows.errors import FlowsError
from flows.flow_names import APIS
from flows.monitoring.runs import recent
from flows.services import Services
from flows.stores.migrate import ConsentNeeded
from tests.flows.alerting.conftest import Watch
from tests.flows.warehouses import with_tables
from tests.house import Server
from transforms import registry
from transforms.entities import SourceEntity

CHARGES = registry.entity("raw_stripe__charges")


def _run(services: Services, entities: Sequence[SourceEntity] = ()) -> None:
    with mock.patch.object(batch, "open_services", return_value=services):
        batch.run(APIS, entities, None, yes=False)


def test_a_setting_that_is_missing_is_told_and_over_with_the_next_run(watch: Watch) -> None:
    with pytest.raises(FlowsError, match=r"^ANALYTICS_STRIPE_KEY is not set"):
        _run(watch.services(), [CHARGES])
    (message,) = watch.messages()
    assert message["title"].startswith(
        "CRITICAL: api_ingest failed: It could not begin: ANALYTICS_STRIPE_KEY"
    )
    assert watch.rows("select flow, state from ops.run") == [(APIS, "Failed")]
    watch.later(minutes=1)
    watch.ran("two", flow=APIS)
    assert watch.open() == []


def test_a_change_that_needs_consent_leaves_all_undone_not_the_table_alone_that_it_names(
    postgres18: Server, tmp_path: Path
) -> None:
    watch = Watch(tmp_path, with_tables(postgres18))
    with psycopg.connect(watch.dsn) as connection:
        connection.execute("alter table analytics.dim_currencies add column more integer")
    with pytest.raises(ConsentNeeded, match=r"^dim_currencies"):
        _run(watch.services())
    with psycopg.connect(watch.dsn) as connection:
        (run,) = recent(connection, watch.now)
    assert run.done == frozenset()
    ((told,),) = watch.rows("select message from ops.incident where subject = 'flow:api_ingest'")
    assert told.startswith("api_ingest failed: It could not begin: dim_currencies")
    assert "To make the change: python -m flows run --yes" in told


def test_where_the_warehouse_can_not_be_asked_what_ended_the_run_is_what_is_said(watch: Watch) -> None:
    nowhere = "postgresql://own:word@127.0.0.1:1/none"
    with pytest.raises(FlowsError, match=r"^ANALYTICS_STRIPE_KEY is not set"):
        _run(watch.services(warehouse_dsn=nowhere), [CHARGES])
    assert watch.messages() == []


def test_a_warehouse_that_was_never_prepared_says_what_ended_the_run(
    postgres18: Server, tmp_path: Path
) -> None:
    watch = Watch(tmp_path, postgres18.empty())
    with pytest.raises(FlowsError, match=r"^ANALYTICS_STRIPE_KEY is not set"):
        _run(watch.services(), [CHARGES])
