"""What Kafka Connect has lost halts, as what the source has lost does."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from flows.change_landing import land_changes
from flows.extract import SourceError
from flows.extract.debezium_guard import ANEW
from tests.flows.capture import entity
from tests.flows.extract.told import landed_once, rows_of
from tests.flows.streaming.topics import until
from tests.house import House

ALPHA = entity("alpha")


def test_lost_offsets_of_connect_halt_its_tables_and_what_went_meanwhile_is_found_anew(
    house: House, tmp_path: Path
) -> None:
    with landed_once(house, tmp_path, ALPHA) as (capture, services):
        capture.app("insert into alpha values (4, 'four')")
        until(lambda: capture.ids("alpha") == [1, 2, 3, 4])
        ((place,),) = capture.app("select pg_current_wal_lsn()::text")
        noted = f"select confirmed_flush_lsn >= '{place}' from pg_replication_slots "
        noted += f"where slot_name = '{capture.names.slot}'"
        until(lambda: capture.app(noted) == [(True,)], seconds=60)
        land_changes(services, [ALPHA], "second").of(ALPHA)

        with capture.client() as client:
            client.stop(capture.names.connector)
            capture.app("delete from alpha where id = 2")
            path = f"connectors/{capture.names.connector}/offsets"
            httpx.delete(f"{capture.settings.connect_url}/{path}").raise_for_status()
            client.resume(capture.names.connector)
        until(lambda: len(capture.ids("alpha")) == 7, seconds=60)
        with pytest.raises(SourceError, match="has lost how far the connector had read") as halted:
            land_changes(services, [ALPHA], "halted").of(ALPHA)
        assert str(halted.value).endswith(f"{ANEW}.")
        assert [key for key, _ in rows_of(services, ALPHA)] == [1, 2, 3, 4]

        capture.anew(ALPHA)
        until(lambda: len(capture.ids("alpha")) == 10, seconds=60)
        land_changes(services, [ALPHA], "anew").of(ALPHA)
        assert rows_of(services, ALPHA) == capture.app("select id, label from alpha order by id")
