"""What real Debezium told lands transaction by transaction, or says why not."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from confluent_kafka.admin import AdminClient

from flows import first_read
from flows.change_landing import land_changes
from flows.extract import SourceError
from flows.landing import land
from flows.progress import Progress
from flows.services import Services
from tests.flows.capture import Capture, entity
from tests.flows.extract.told import rows_of
from tests.flows.streaming.topics import until
from tests.house import House
from transforms.entities import Postgres

ALPHA, BETA = entity("alpha"), entity("beta")


@pytest.fixture
def capture(house: House, tmp_path: Path) -> Iterator[Capture]:
    capture = Capture.build(house, tmp_path, warehouse_dsn=house.server().database())
    try:
        yield capture
    finally:
        capture.end()


def test_nothing_lands_while_nobody_tells_which_transactions_ended(capture: Capture) -> None:
    capture.tables("alpha")
    capture.register(ALPHA)
    until(lambda: capture.ids("alpha") == [1, 2, 3])
    services = Services(capture.settings)
    with capture.client() as client:  # Connect would make the topic again with the next transaction
        client.stop(capture.names.connector)
    topic = capture.names.transactions
    admin = AdminClient({"bootstrap.servers": capture.settings.require("kafka_bootstrap")})
    admin.delete_topics([topic])[topic].result(20)
    until(lambda: topic not in admin.list_topics(timeout=20).topics)
    with capture.client() as client:
        client.resume(capture.names.connector)
        until(lambda: capture.halts(ALPHA) == [])
    if topic in admin.list_topics(timeout=20).topics:
        pytest.fail("the topic is there again: this test would show nothing")

    with services.lake:
        outcome = land_changes(services, [ALPHA], "run").outcomes[ALPHA.table]
        assert isinstance(outcome, SourceError)
        assert f"Topic {topic} at" in str(outcome)
        assert str(outcome).endswith(
            "is gone; nothing was landed. Make it again: python -m flows cdc register."
        )

        capture.register(ALPHA)
        land_changes(services, [ALPHA], "run").of(ALPHA)
        assert [row[0] for row in rows_of(services, ALPHA)] == [1, 2, 3]


def test_a_registration_made_anew_begins_a_log_of_its_own(capture: Capture) -> None:
    capture.tables("alpha")
    services = Services(capture.settings)

    def land_told(offsets: int) -> None:
        until(lambda: len(capture.ids("alpha")) == offsets)
        land_changes(services, [ALPHA], "run").of(ALPHA)

    with services.lake:
        capture.register(ALPHA)
        land_told(3)
        capture.app("insert into alpha values (4, 'told')")
        land_told(4)
        capture.app("insert into alpha values (5, 'told and not landed')")
        until(lambda: len(capture.ids("alpha")) == 5)
        capture.anew(ALPHA)
        land_told(10)
        with services.ledger() as ledger, duckdb.connect() as connection:
            services.lake.read(connection, ledger.files(ALPHA.table)).create_view("raw")
            logs = connection.execute(
                "select list(kafka_offset order by kafka_offset), min(_registered_at) = min(_landed_at) "
                "from raw where kafka_offset is not null group by _registered_at order by _registered_at"
            ).fetchall()
    assert logs == [([0, 1, 2, 3, 4], True), ([5, 6, 7, 8, 9], True)]


def test_a_mode_changes_there_and_back_with_a_registration_each_time(capture: Capture) -> None:
    read_whole = replace(ALPHA, read=Postgres("alpha", mode="snapshot"))
    services = Services(capture.settings)
    capture.tables("alpha", "beta")
    capture.register(ALPHA, BETA)
    until(lambda: capture.ids("alpha") == capture.ids("beta") == [1, 2, 3])
    with services.lake:
        land_changes(services, [ALPHA, BETA], "told").of(ALPHA)
        assert "public.alpha is captured no more." in capture.register(BETA)
        capture.app("update alpha set label = 'read' where id = 1", "delete from alpha where id = 2")
        land(services, read_whole, "read")
        capture.app(
            "update alpha set label = 'between' where id = 1",
            "insert into alpha values (4, 'between')",
            "delete from alpha where id = 3",
        )
        # Taken into the publication by nobody, it halts with the command that does.
        with pytest.raises(SourceError, match=r"so its changes are not sent; .* cdc register\.$"):
            land_changes(services, [ALPHA, BETA], "too early").of(ALPHA)
        capture.register(ALPHA, BETA)
        capture.app("insert into alpha values (5, 'after')")
        until(lambda: {1, 4, 5} <= {*capture.ids("alpha")[3:]}, seconds=60)
        first = first_read.land(services, [ALPHA, BETA], "back", Progress("test", io.StringIO()), 60)
        assert first.failures() == {}
        land_changes(services, [ALPHA, BETA], "back").of(ALPHA)
        assert rows_of(services, ALPHA) == capture.app("select id, label from alpha order by id")


def test_what_goes_or_comes_with_a_partition_is_told_with_what_to_do(capture: Capture) -> None:
    services = Services(capture.settings)
    capture.app(
        "create table alpha (id bigint primary key, label text) partition by range (id)",
        "create table alpha_1 partition of alpha for values from (1) to (100)",
        "create table alpha_2 partition of alpha for values from (100) to (200)",
        "insert into alpha values (1, 'goes'), (101, 'stays')",
    )
    capture.register(ALPHA)
    until(lambda: capture.ids("alpha") == [1, 101])
    with services.lake:
        first = land_changes(services, [ALPHA], "first").of(ALPHA)
        assert first is not None
        assert first.warnings == ()
        capture.app(
            "alter table alpha detach partition alpha_1",
            "create table alpha_3 (like alpha including all)",
            "insert into alpha_3 values (201, 'came')",
            "alter table alpha attach partition alpha_3 for values from (200) to (300)",
            "create table alpha_4 partition of alpha for values from (300) to (400)",
            "insert into alpha values (301, 'told')",
        )
        until(lambda: 301 in capture.ids("alpha"))
        told = land_changes(services, [ALPHA], "told").of(ALPHA)
        assert told is not None
        went, came = told.warnings
        assert went.startswith("app.alpha: alpha_1 is no partition of public.alpha any more, which no change")
        assert came == (
            "app.alpha: alpha_3 was attached to public.alpha with rows that no change tells; "
            "python -m flows cdc resnapshot alpha brings them."
        )
        capture.resnapshot(ALPHA, only=("alpha",))
        until(lambda: 201 in capture.ids("alpha"))
        again = land_changes(services, [ALPHA], "again").of(ALPHA)
        assert again is not None
        assert again.warnings == (), "it is told once"
        assert [row[0] for row in rows_of(services, ALPHA)] == [1, 101, 201, 301]
        capture.anew(ALPHA)
        first_read.land(services, [ALPHA], "anew", Progress("test", io.StringIO()), 60)
        assert rows_of(services, ALPHA) == capture.app("select id, label from alpha order by id")


def test_a_table_that_is_to_have_another_key_halts_until_it_is_read_anew(capture: Capture) -> None:
    labelled = replace(ALPHA, key=("label",))
    services = Services(capture.settings)
    capture.tables("alpha")
    capture.app("alter table alpha replica identity full")
    capture.register(ALPHA)
    until(lambda: len(capture.ids("alpha")) == 3)
    capture.app("delete from alpha where id = 2")
    until(lambda: len(capture.events("alpha")) == 4)
    with services.lake:
        land_changes(services, [ALPHA], "told").of(ALPHA)
        with pytest.raises(
            SourceError, match=r"its key was id before, .*; read everything again: .* register\.$"
        ):
            land_changes(services, [labelled], "halted").of(labelled)
        capture.app("delete from alpha where id = 3", "update alpha set label = 'new' where id = 1")
        capture.anew(labelled)
        first_read.land(services, [labelled], "anew", Progress("test", io.StringIO()), 60)
        land_changes(services, [labelled], "told").of(labelled)
        assert rows_of(services, labelled) == [(1, "new")]
