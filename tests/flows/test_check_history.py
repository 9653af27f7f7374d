"""What only a look through all history finds is looked for each night, kept, and told."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import psycopg
import pytest

from flows import check_history
from flows.monitoring import arrivals
from flows.monitoring.verdict import State
from flows.monitoring.watch import Watch
from tests.flows.extract.parts import World
from tests.house import Server
from transforms import registry
from transforms.postgres_types import postgres_type

PUBLISHED = [table for table in registry.build_order() if table.is_published]


def test_an_event_that_stands_in_two_months_fails_the_check_of_all_history_and_is_told(
    postgres18: Server, tmp_path: Path
) -> None:
    services = World.build(postgres18, tmp_path).services()
    dsn = services.settings.require("warehouse_dsn")
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table in PUBLISHED:
            columns = ", ".join(f'"{column.name}" {postgres_type(column)}' for column in table.columns)
            connection.execute(f"create table analytics.{table.name} ({columns})".encode())
        with mock.patch.object(check_history, "open_services", return_value=services):
            # Events that no mart has counted yet are not its business: a stream writes them at any time.
            connection.execute(
                "insert into analytics.fct_events (event_id, event_time) values (gen_random_uuid(), now())"
            )
            assert check_history.check_history.fn() == {"fct_events.event_id_once_in_all_history": 0}
            connection.execute(
                "insert into analytics.fct_events (event_id, event_time) "
                "select '00000000-0000-4000-8000-000000000001', time::timestamptz "
                "from unnest(array['2025-10-07', '2025-12-07']) as time"
            )
            with pytest.raises(check_history.HistoryBroken, match="event_id_once_in_all_history") as broken:
                check_history.check_history.fn()
        assert broken.value.exit_code == 1
        watch = Watch(services, services.settings.now(), connection)
        told = {verdict.subject: verdict.state for verdict in arrivals._broken_keys(watch)}
    assert told == {"fct_events": State.CRITICAL}
