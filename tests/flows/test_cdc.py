"""Debezium, managed: real Connect, real broker, real PostgreSQL."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

import flows.sandbox as sandbox
from flows.cdc import registration
from flows.commands import sandbox_parts
from flows.diagnosis import Finding
from flows.doctor import examine
from flows.errors import FlowsError
from flows.extract import debezium
from flows.sandbox import Part, processes
from flows.settings import Settings
from tests.broker import topic_config
from tests.flows.capture import Capture, entity
from tests.flows.company import run_here
from tests.flows.streaming.topics import until
from tests.house import House, Server
from transforms.entities import Postgres

ALPHA, BETA = entity("alpha"), entity("beta")


def test_what_is_declared_is_read_whole_and_then_every_change_of_it(capture: Capture) -> None:
    capture.tables("alpha", "not_declared")
    assert "reads 1 tables whole" in "".join(capture.register(ALPHA))
    until(lambda: capture.ids("alpha") == [1, 2, 3])
    capture.app(
        "update alpha set label = 'new' where id = 2", "delete from alpha where id = 3", "truncate alpha"
    )
    until(lambda: [event["op"] for event in capture.events("alpha")] == ["r", "r", "r", "u", "d", "t"])
    assert capture.observe(ALPHA).published is not None
    assert ("public", "not_declared") not in (capture.observe(ALPHA).published or {})
    assert capture.halts(ALPHA, since=capture.observe(ALPHA)) == []


def test_change_topics_keep_a_week_and_drop_nothing_within_it(capture: Capture) -> None:
    capture.tables("alpha")
    capture.register(ALPHA)
    kept = topic_config(
        capture.settings.require("kafka_bootstrap"), debezium.topic(capture.settings, Postgres("alpha"))
    )
    # What the topic says itself: a broker's defaults are others tomorrow.
    assert kept["retention.ms"] == str(7 * 24 * 60 * 60 * 1000)
    assert kept["cleanup.policy"] == "delete"


def test_a_registration_can_wait_until_every_table_is_read(capture: Capture) -> None:
    capture.tables("alpha", rows=1_000)
    registration.register(capture.settings, [ALPHA], capture.said.append, wait_seconds=60)
    assert capture.said[-1] == "Every table is read."
    assert len(capture.ids("alpha")) == 1_000


def test_registering_twice_is_registering_once(capture: Capture) -> None:
    capture.tables("alpha")
    capture.register(ALPHA)
    until(lambda: capture.ids("alpha") == [1, 2, 3])
    before = capture.observe(ALPHA)
    assert capture.register(ALPHA) == [
        f"Connector {capture.names.connector} is registered already; nothing has changed."
    ]
    after = capture.observe(ALPHA)
    assert (after.registration, after.published) == (before.registration, before.published)
    assert capture.ids("alpha") == [1, 2, 3]


def test_a_table_that_is_declared_later_is_read_beside_the_changes(capture: Capture) -> None:
    capture.tables("alpha", "beta")
    capture.register(ALPHA)
    told = capture.register(ALPHA, BETA)
    assert "public.beta is captured from now on; its rows are read beside the changes." in told
    until(lambda: sorted(capture.ids("beta")) == [1, 2, 3])
    assert capture.ids("alpha") == [1, 2, 3]
    capture.app("insert into beta values (4, 'four')")
    until(lambda: 4 in capture.ids("beta"))

    assert "public.alpha is captured no more." in capture.register(BETA)
    capture.app("insert into alpha values (4, 'nobody')", "insert into beta values (5, 'five')")
    until(lambda: 5 in capture.ids("beta"))
    assert 4 not in capture.ids("alpha")


def test_a_table_is_read_again_without_the_others(capture: Capture) -> None:
    capture.tables("alpha", "beta")
    capture.register(ALPHA, BETA)
    until(lambda: capture.ids("alpha") == capture.ids("beta") == [1, 2, 3])
    capture.resnapshot(ALPHA, BETA, only=("app.beta",))
    until(lambda: capture.ids("beta") == [1, 2, 3, 1, 2, 3])
    assert capture.ids("alpha") == [1, 2, 3]
    with pytest.raises(
        FlowsError, match=r"nothing is no table that is declared as cdc\. These are: public\.alpha"
    ):
        capture.resnapshot(ALPHA, only=("nothing",))


def test_the_commands_tell_how_it_is_and_what_to_do(capture: Capture, tmp_path: Path) -> None:
    capture.tables("alpha")

    def run(*words: str) -> tuple[int, str]:
        with mock.patch.object(debezium, "entities", return_value=(ALPHA,)):
            done = run_here(["cdc", *words], tmp_path, capture.environment)
        assert "Traceback" not in done.said
        for dsn in (capture.settings.app_dsn, capture.settings.warehouse_dsn):
            assert dsn is not None
            password = conninfo_to_dict(dsn.get_secret_value()).get("password")
            assert password is None or str(password) not in done.said
        return done.code, done.said

    code, said = run("status")
    assert code == 1
    assert (
        "alpha halted: nothing captures the application's changes yet; python -m flows cdc register." in said
    )
    assert run("pause") == (
        2,
        f"There is no connector {capture.names.connector} yet: python -m flows cdc register\n",
    )

    assert run("register")[0] == 0
    until(lambda: capture.ids("alpha") == [1, 2, 3])
    seen = capture.observe(ALPHA)
    code, said = run("status", "--json")
    found = json.loads(said)
    assert (found["state"], found["tasks"], found["wal_status"]) == ("RUNNING", ["RUNNING"], "reserved")
    (table,) = found["tables"]
    assert table["topic"] == f"{capture.settings.cdc_prefix}.public.alpha"
    assert (table["messages"], table["published"], table["replica_identity"]) == (3, True, "default")
    # Only the warehouse, which this test does not have, is missed.
    assert len(found["problems"]) == 1
    assert "halted" not in found["problems"][0]

    assert run("pause")[0] == 0
    assert capture.halts(ALPHA, since=seen) == [
        "app.alpha is halted: the connector is paused; python -m flows cdc resume."
    ]
    code, said = run("register")
    assert (code, said) == (
        2,
        f"Connector {capture.names.connector} is paused: first python -m flows cdc resume\n",
    )
    capture.app("insert into alpha values (4, 'while it was paused')")
    assert run("resume") == (0, f"Connector {capture.names.connector} runs.\n")
    until(lambda: capture.ids("alpha") == [1, 2, 3, 4])
    assert capture.halts(ALPHA, since=seen) == []
    assert run("unregister")[0] == 0
    assert run("status")[0] == 1


def test_a_dropped_slot_halts_its_tables_and_comes_back_only_when_asked_for(capture: Capture) -> None:
    capture.tables("alpha")
    capture.register(ALPHA)
    until(lambda: capture.ids("alpha") == [1, 2, 3])
    seen = capture.observe(ALPHA)
    slot = capture.names.slot
    with capture.client() as client:
        client.stop(capture.names.connector)
        capture.app(f"select pg_drop_replication_slot('{slot}')", "insert into alpha values (4, 'lost')")
        gone = f"replication slot {slot} is gone"
        assert gone in capture.halts(ALPHA, since=seen)[0]
        with pytest.raises(
            FlowsError, match=r"Replication slot .* is gone though the connector has read from it"
        ):
            capture.register(ALPHA)
        # Somebody makes one of that name: it does not go back to where the connector had read.
        capture.app(f"select pg_create_logical_replication_slot('{slot}', 'pgoutput')")
        client.resume(capture.names.connector)
        # Connect calls a task running before it has asked its slot for anything.
        until(lambda: capture.halts(ALPHA, since=seen) != [])
        assert "was made anew behind the connector's back" in capture.halts(ALPHA, since=seen)[0]
    assert 4 not in capture.ids("alpha")

    capture.anew(ALPHA)
    until(lambda: capture.ids("alpha") == [1, 2, 3, 1, 2, 3, 4])
    assert capture.halts(ALPHA, since=seen) == []


def test_a_table_that_was_out_of_the_publication_for_a_while_halts(capture: Capture) -> None:
    capture.tables("alpha", "beta")
    capture.register(ALPHA, BETA)
    seen = capture.observe(ALPHA, BETA)
    publication = capture.names.publication
    capture.app(f"alter publication {publication} drop table beta")
    (halt,) = capture.halts(ALPHA, BETA, since=seen)
    assert halt.startswith("app.beta is halted: public.beta is not in publication")
    capture.app("delete from beta where id = 3", f"alter publication {publication} add table beta")
    (halt,) = capture.halts(ALPHA, BETA, since=seen)
    assert "changes of it are lost" in halt
    capture.anew(ALPHA, BETA)
    assert capture.halts(ALPHA, BETA, since=seen) == []


def test_the_doctor_looks_at_the_capture(capture: Capture) -> None:
    capture.tables("alpha", "beta")

    def examined() -> dict[str, Finding]:
        with mock.patch.object(debezium, "entities", return_value=(ALPHA, BETA)):
            found = examine(capture.settings)
        return {
            one.subject.partition(": ")[2]: one for one in found if one.subject.startswith("change capture")
        }

    found = examined()
    assert [name for name, one in found.items() if not one.well] == ["connector", "slot", "tables"]
    assert "python -m flows cdc register" in found["connector"].advice
    capture.register(ALPHA, BETA)
    assert [name for name, one in examined().items() if not one.well] == []
    capture.app("alter table beta replica identity nothing")
    found = examined()
    assert [name for name, one in found.items() if not one.well] == ["tables"]
    assert "alter table public.beta replica identity full." in found["tables"].advice
    assert "1 of 2" in found["tables"].seen
    capture.app(f"alter publication {capture.names.publication} set (publish = 'insert')")
    found = examined()
    assert [name for name, one in found.items() if not one.well] == ["tables"], "what halts all is told, too"
    assert "does not send every change" in found["tables"].advice


def test_nobody_can_read_the_database_s_password_at_kafka_connect(capture: Capture) -> None:
    capture.tables("alpha")
    capture.register(ALPHA)
    with capture.client() as client:
        configuration = client.configuration(capture.names.connector) or {}
    password = conninfo_to_dict(capture.settings.require("app_dsn"))["password"]
    assert configuration["database.password"] == "${env:APP_POSTGRES_PASSWORD}"
    assert str(password) not in json.dumps(configuration)


def test_a_role_that_may_not_prepare_the_source_gets_the_statements_for_one_that_may(
    house: House, capture: Capture, tmp_path: Path
) -> None:
    capture.tables("alpha")
    role = capture.settings.cdc_prefix
    capture.app(
        f"create role {role} login replication password 'hunter2-canary'", f"grant select on alpha to {role}"
    )
    own = make_conninfo(capture.settings.require("app_dsn"), user=role, password="hunter2-canary")
    poor = Capture(capture.settings.model_copy(update={"app_dsn": SecretStr(own)}))
    with pytest.raises(FlowsError) as told:
        poor.register(ALPHA)
    assert 'create schema if not exists "analytics_cdc"' in str(told.value)
    assert f'"{capture.names.prefix}_heartbeat"' in str(told.value)
    assert "canary" not in str(told.value)
    capture.app(f"drop owned by {role}", f"drop role {role}")


def test_exactly_once_is_refused_by_a_worker_that_does_not_offer_it(house: House, tmp_path: Path) -> None:
    capture = Capture.build(house, tmp_path, cdc_exactly_once=True)
    capture.tables("alpha")
    try:
        with pytest.raises(FlowsError, match=r"exactly.once"):
            capture.register(ALPHA)
    finally:
        capture.end()


def test_postgresql_15_is_captured_too(house: House, postgres15: Server, tmp_path: Path) -> None:
    capture = Capture.build(house, tmp_path, postgres15)
    capture.tables("alpha")
    try:
        capture.register(ALPHA)
        capture.app("update alpha set label = 'new' where id = 1")
        until(lambda: capture.ids("alpha") == [1, 2, 3, 1])
        assert capture.halts(ALPHA, since=capture.observe(ALPHA)) == []
    finally:
        capture.end()


def test_unregistering_leaves_nothing_behind_in_the_application_s_database(capture: Capture) -> None:
    capture.tables("alpha")
    capture.register(ALPHA)
    registration.unregister(capture.settings, capture.said.append)
    left = capture.app(
        "select slot_name::text from pg_replication_slots where database = current_database() union all "
        "select pubname::text from pg_publication union all "
        "select nspname::text from pg_namespace where nspname = 'analytics_cdc'"
    )
    assert left == []


def test_connect_is_asked_again_while_it_divides_its_work(capture: Capture) -> None:
    capture.tables("things")

    def anew() -> None:
        for _ in range(6):
            capture.anew(entity("things"))

    asked = 0
    with ThreadPoolExecutor(1) as beside, capture.client() as client:
        rebalancing = beside.submit(anew)
        while not rebalancing.done():
            client.configuration(capture.names.connector)
            asked += 1
        rebalancing.result()
    assert asked > 100


def test_the_sandbox_has_kafka_connect_only_where_a_table_is_declared_as_cdc(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, sandbox=tmp_path)
    for declared, has_it in (((), False), ((ALPHA,), True)):
        with mock.patch.object(debezium, "entities", return_value=declared):
            assert (Part.CONNECT in sandbox_parts(settings)) is has_it
            named = settings.model_copy(update={"connect_url": "http://connect:8083"})
            assert Part.CONNECT not in sandbox_parts(named)


@pytest.mark.full
def test_exactly_once_leaves_no_event_twice_when_connect_is_killed(tmp_path: Path) -> None:
    rows, folder = 20_000, tmp_path / "sandbox"
    parts = frozenset({Part.APP_POSTGRES, Part.CONNECT})
    state = sandbox.start(folder, parts, exactly_once=True)
    try:
        settings = Settings(
            _env_file=None,
            app_dsn=SecretStr(str(state.app_dsn)),
            cdc_dsn=SecretStr(str(state.cdc_dsn)),
            kafka_bootstrap=state.kafka_bootstrap,
            connect_url=state.connect_url,
            cdc_exactly_once=True,
        )
        capture = Capture(settings)
        capture.tables("alpha")
        registration.register(settings, [ALPHA], capture.said.append, wait_seconds=60)
        for start in range(10, rows, rows // 4):
            capture.app(
                f"insert into alpha select n, 'x' from generate_series({start}, {start + rows // 4 - 1}) n"
            )
            process = sandbox.read(folder).parts[Part.CONNECT].process  # type: ignore[union-attr]
            assert process is not None
            processes.end(process, [(signal.SIGKILL, 10.0)])
            sandbox.start(folder, parts, exactly_once=True)
        expected = [key for (key,) in capture.app("select id from alpha order by id")]
        until(lambda: len(capture.ids("alpha")) >= len(expected), 120)
        assert sorted(capture.ids("alpha")) == expected
    finally:
        sandbox.reset(folder)
