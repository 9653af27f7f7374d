"""Connect, the broker and the batch are killed while changes come: real parts, and what is landed equals the
source.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import flows.sandbox as sandbox
from flows.change_landing import land_changes
from flows.extract import SourceError, debezium, kafka
from flows.sandbox import Part
from flows.services import Services
from tests.flows.capture import Capture, entity
from tests.flows.extract import landing_child
from tests.flows.extract.told import CDC, MARKER, TABLES, assert_equal, land, prepared, rows_of
from tests.flows.extract.workload import Workload
from tests.flows.streaming.topics import until
from tests.house import House
from transforms.entities import Postgres

ALPHA = entity("alpha")
PARTS = frozenset({Part.KAFKA, Part.CONNECT})
IN_A_LANDING = {
    "landing.extracted": 3,
    "lake.temporary_written": 2,
    "lake.fsynced": 1,
    "lake.renamed": 0,
    "lake.folder_fsynced": 2,
    "landing.written": 2,
    "ledger.entered": 1,
    "ledger.before_commit": 2,
    "ledger.committed": 2,
    "landing.committed": 1,
    "joint.before_commit": 0,
    "joint.committed": 0,
    "lake.manifest_written": 0,
    "lake.manifest_appended": 0,
}
"""Failpoints of a landing, and how often each is passed before it kills: another table each time."""


def brought_back(house: House, capture: Capture) -> None:
    """Start what was killed; a port that another program has taken meanwhile is another one now."""
    state = sandbox.start(house.folder, PARTS)
    addresses = {"connect_url": state.connect_url, "kafka_bootstrap": state.kafka_bootstrap}
    capture.settings = capture.settings.model_copy(update=addresses)


def records(capture: Capture, table: str) -> int:
    settings = capture.settings
    topic = kafka.Topic(
        debezium.topic(settings, Postgres(table)), settings.require("kafka_bootstrap"), {}, 15.0
    )
    return sum(end - start for start, end in topic.spans({}).values())


@pytest.mark.full
def test_connect_killed_in_the_middle_of_100_000_rows_loses_and_doubles_nothing(
    own_house: House, tmp_path: Path
) -> None:
    house, rows = own_house, 100_000
    capture = Capture.build(house, tmp_path, warehouse_dsn=house.server().database())
    try:
        capture.tables("alpha", rows=rows)
        capture.register(ALPHA)
        until(lambda: records(capture, "alpha") > 5_000, seconds=120)
        house.kill(Part.CONNECT)
        before = records(capture, "alpha")
        assert before < rows
        # What is landed of half a snapshot is landed, and comes again with the whole one.
        capture.app("insert into alpha values (0, '')", "update alpha set label = 'x' where id <= 100")
        brought_back(house, capture)
        services = Services(capture.settings)
        with services.lake:
            land_changes(services, [ALPHA], "half").of(ALPHA)
        # Before, they would be missing among the rows that are read again, and nobody would tell of them.
        until(lambda: streams(capture), seconds=120)
        capture.app("delete from alpha where id between 50 and 60")
        until(lambda: capture_is_over(capture, rows), seconds=200)
        services = Services(capture.settings)
        with services.lake:
            land_changes(services, [ALPHA], "whole").of(ALPHA)
            assert rows_of(services, ALPHA) == capture.app("select id, label from alpha order by id")
    finally:
        brought_back(house, capture)
        capture.end()


def streams(capture: Capture) -> bool:
    """Whether the connector has read the tables and is at the log."""
    query = f"select active from pg_replication_slots where slot_name = '{capture.names.slot}'"
    return capture.app(query) == [(True,)]


def capture_is_over(capture: Capture, rows: int) -> bool:
    """Whether the deletes, which are the last changes, are in the topic; a connector may send some twice."""
    if records(capture, "alpha") < rows:
        return False
    return len({event["before"]["id"] for event in capture.events("alpha") if event["op"] == "d"}) == 11


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_whatever_is_killed_in_a_workload_it_ends_equal_to_the_source(
    own_house: House, tmp_path: Path
) -> None:
    house = own_house
    capture = prepared(house, None, tmp_path)
    try:
        load = Workload(capture.settings.require("app_dsn"), 7)
        load.run(30)
        capture.register(*CDC, MARKER)
        with ThreadPoolExecutor(1) as beside:
            for part in (Part.CONNECT, Part.KAFKA, Part.CONNECT):
                changing = beside.submit(load.run, 60)
                house.kill(part)
                if part is Part.KAFKA:
                    with pytest.raises(SourceError, match=r"can't be read|does not answer"):
                        land(capture, CDC)
                brought_back(house, capture)
                changing.result(120)
            for name, passes in IN_A_LANDING.items():
                changing = beside.submit(load.run, 30)
                changing.result(120)
                ((mark,),) = capture.app("insert into marker select count(*) from marker returning id")
                capture.come("marker", mark, seconds=120)
                assert landing_child.dies(capture.environment, name, passes, TABLES), name
        load.run(5)
        assert_equal(capture, tmp_path, house.server().database())
    finally:
        brought_back(house, capture)
        capture.end()
