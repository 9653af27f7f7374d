"""What Kafka Connect has lost halts, as what the source has lost does."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import httpx
import pytest

from flows.change_landing import land_changes
from flows.diagnosis import Finding
from flows.diagnosis.streams import capture as examined
from flows.extract import SourceError, debezium
from flows.extract.debezium_guard import ANEW
from tests.flows.capture import Capture, entity
from tests.flows.extract.told import landed_once, rows_of
from tests.flows.streaming.topics import until
from tests.house import House

ALPHA = entity("alpha")
LOST = "Kafka Connect has lost how far the connector had read"


def _ill(capture: Capture) -> list[Finding]:
    """What the doctor says of the capture where it is not well."""
    with mock.patch.object(debezium, "entities", return_value=(ALPHA,)):
        return [one for one in examined(capture.settings) if not one.well]


@pytest.mark.full
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
        assert (capture.look(ALPHA).problems, _ill(capture)) == ((), [])

        with capture.client() as client:
            client.stop(capture.names.connector)
            capture.app("delete from alpha where id = 2")
            path = f"connectors/{capture.names.connector}/offsets"
            httpx.delete(f"{capture.settings.connect_url}/{path}").raise_for_status()
            client.resume(capture.names.connector)
        until(lambda: len(capture.ids("alpha")) == 7, seconds=60)
        (told,), (found,) = capture.look(ALPHA).problems, _ill(capture)
        with pytest.raises(SourceError, match=LOST) as halted:
            land_changes(services, [ALPHA], "halted").of(ALPHA)
        assert str(halted.value).endswith(f"{ANEW}.")
        said = str(halted.value).removeprefix("app.alpha is halted: ")
        assert told == f"alpha halted: {said}", "whoever asks before a landing is told the same"
        assert capture.look(ALPHA).tables[0].halted == said.rstrip(".")
        assert (found.subject, found.seen, found.advice) == ("change capture: offsets", "alpha halted", said)
        assert [key for key, _ in rows_of(services, ALPHA)] == [1, 2, 3, 4]

        capture.anew(ALPHA)
        until(lambda: len(capture.ids("alpha")) == 10, seconds=60)
        assert (capture.look(ALPHA).problems, _ill(capture)) == ((), [])
        land_changes(services, [ALPHA], "anew").of(ALPHA)
        assert rows_of(services, ALPHA) == capture.app("select id, label from alpha order by id")
