"""A run that ends while it prepares: it is entered and told, though nobody but itself saw it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import pytest

from flows import batch
from flows.errors import FlowsError
from flows.flow_names import APIS
from flows.services import Services
from tests.flows.alerting.conftest import Watch
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
