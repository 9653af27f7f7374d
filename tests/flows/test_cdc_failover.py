"""A standby takes over from the application's PostgreSQL: real replication, real Debezium."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from tests.flows.capture import Capture, entity
from tests.flows.replicated import Pair, pair
from tests.flows.streaming.topics import until
from tests.house import House, Server

ALPHA = entity("alpha")


def go_on_at(capture: Capture, server: Server) -> None:
    """What a person does after a failover: name the new primary."""
    name = conninfo_to_dict(capture.settings.require("app_dsn"))["dbname"]
    capture.settings = capture.settings.model_copy(update={"app_dsn": SecretStr(server.dsn(str(name)))})


def captured(house: House, folder: Path, both: Pair) -> Capture:
    capture = Capture.build(house, folder, both.primary)
    capture.tables("alpha")
    capture.register(ALPHA)
    until(lambda: capture.ids("alpha") == [1, 2, 3], seconds=60)
    return capture


@pytest.mark.full
def test_with_a_slot_that_came_along_nothing_is_lost_and_without_it_the_table_halts(
    house: House, tmp_path: Path
) -> None:
    with pair() as both:
        kept, lost = captured(house, tmp_path, both), captured(house, tmp_path, both)
        try:
            slots = (kept.names.slot, lost.names.slot)
            assert kept.app(
                f"select count(*) from pg_replication_slots where failover and slot_name in {slots}"
            ) == [(2,)]
            until(lambda: all(both.has_slot(slot) for slot in slots), seconds=120)
            seen, before = kept.observe(ALPHA), lost.observe(ALPHA)
            kept.app("insert into alpha values (4, 'told before'), (5, 'told before')")
            until(lambda: {4, 5} <= set(kept.ids("alpha")), seconds=60)
            with kept.client() as client, lost.client() as other:
                client.stop(kept.names.connector)
                other.stop(lost.names.connector)
            kept.app("delete from alpha where id = 1", "insert into alpha values (6, 'told by nobody yet')")

            both.fail_over()
            for capture in (kept, lost):
                go_on_at(capture, both.standby)

            told = kept.register(ALPHA)
            assert "database.port" in told[-1]
            kept.app("insert into alpha values (7, 'after')")
            until(lambda: 7 in kept.ids("alpha"), seconds=60)
            assert kept.halts(ALPHA, since=seen) == []
            assert [event["op"] for event in kept.events("alpha")] == ["r"] * 3 + ["c", "c", "d", "c", "c"]
            assert kept.ids("alpha") == [1, 2, 3, 4, 5, 6, 7]

            # As a server before 17 has it, or a standby that synchronizes none.
            lost.app(f"select pg_drop_replication_slot('{lost.names.slot}')")
            (halt,) = lost.halts(ALPHA, since=before)
            assert "went from timeline 1 to 2" in halt
            assert f"replication slot {lost.names.slot} did not come along" in halt
            assert halt.endswith("python -m flows cdc unregister && python -m flows cdc register.")
            lost.app(f"select pg_create_logical_replication_slot('{lost.names.slot}', 'pgoutput')")
            assert "did not come along" in lost.halts(ALPHA, since=before)[0]
            lost.anew(ALPHA)
            until(lambda: lost.ids("alpha")[-3:] == [1, 2, 3], seconds=60)
            assert lost.halts(ALPHA, since=before) == []
        finally:
            kept.end()
            lost.end()
