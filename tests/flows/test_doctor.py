"""What the doctor asks and does not ask, without a sandbox around it."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from flows.diagnosis import LEAST_FREE_BYTES, clock, databases, room
from flows.diagnosis.alerts import channels
from flows.diagnosis.broker_version import BrokerVersion
from flows.diagnosis.databases import application, warehouse
from flows.diagnosis.disks import folders
from flows.diagnosis.servers import _prefect_version, api, apis, lineage
from flows.diagnosis.streams import kafka
from flows.sandbox import ALL
from flows.sandbox.state import Process, Running, new, write
from flows.settings import Settings, SettingsError
from flows.stores.warehouse import Warehouse
from flows.stores.warehouse_errors import WarehouseError
from tests.flows.stores.logins import lay, login
from tests.house import House, Server
from transforms import registry
from transforms.contract import Column
from transforms.entities import Postgres, SourceEntity

SEALED_FOR = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
"""The public half of a key, as age's own documentation has it."""


ENTITY = {entity.source: entity for entity in apis(registry.entities())}
"""One list of each API."""


def _settings(**given: Any) -> Settings:
    return Settings(_env_file=None, **given)


@pytest.mark.parametrize(("vendor", "path"), [("stripe", "/v1/charges"), ("sendgrid", "/v3/stats")])
def test_a_key_is_not_sent_where_a_run_would_not_send_it(apis: Any, vendor: str, path: str) -> None:
    ask = partial(api, entity=ENTITY[vendor])
    key = apis.connection(vendor).key
    # The same server, by an address that is not this machine's own loopback.
    elsewhere = apis.url.replace("127.0.0.1", "0.0.0.0")
    before = apis.requests(path)
    (found,) = ask(_settings(**{f"{vendor}_url": elsewhere, f"{vendor}_key": key}))
    assert not found.well
    assert "in the clear" in found.seen
    assert apis.requests(path) == before

    found, _ = ask(_settings(**{f"{vendor}_url": apis.url, f"{vendor}_key": key}))
    assert found.well, found
    assert apis.requests(path) == before + 1


def test_a_proxy_for_the_way_out_is_not_asked_for_this_machine_s_own_services(
    apis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    found, _ = api(_settings(stripe_url=apis.url, stripe_key=apis.connection().key), ENTITY["stripe"])
    assert found.well, found


def test_a_service_that_asks_for_patience_is_there(apis: Any) -> None:
    apis.limit("stripe", 0, 3600)
    found, *_ = api(_settings(stripe_url=apis.url, stripe_key=apis.connection().key), ENTITY["stripe"])
    assert found.well, found


def test_the_broker_s_version_is_what_the_requests_say_that_it_takes(house: House) -> None:
    told = kafka(_settings(kafka_bootstrap=house.kafka, cdc_engine="embedded"))
    assert ("Kafka: version", True, "Kafka 4.0 or newer") in [
        (one.subject, one.well, one.seen) for one in told
    ]


@pytest.mark.parametrize(
    ("forms", "is_well", "seen"),
    [
        (["Fetch (1) Versions 4..18"], True, "Kafka 4.0 or newer"),
        (["Fetch (1) Versions 0..12", "DescribeCluster (60) Versions 0..0"], True, "Kafka 2.8 or newer"),
        (["Fetch (1) Versions 0..11", "TxnOffsetCommit (28) Versions 0..3"], True, "Kafka 2.5 or newer"),
        (["Fetch (1) Versions 0..11", "TxnOffsetCommit (28) Versions 0..2"], False, "older than Kafka 2.5"),
        ([], True, "the broker does not tell what it takes"),
    ],
)
def test_a_broker_that_is_too_old_is_told(forms: list[str], is_well: bool, seen: str) -> None:
    broker = BrokerVersion()
    for form in forms:
        broker.log.debug("APIVERSION [rdkafka#producer-1] [thrd:x]: broker/1:   ApiKey %s", form)
    found = broker.finding()
    assert (found.well, found.seen) == (is_well, seen)
    assert found.well or "2.5 or newer" in found.advice


@pytest.mark.parametrize(
    ("there", "is_well"),
    [
        ("{major}.{minor}.0", True),
        ("{major}.{newer}.1", True),
        ("{major}.{older}.9", False),
        ("2.20.1", False),
    ],
)
def test_a_server_of_prefect_that_is_older_than_the_client_is_told(there: str, is_well: bool) -> None:
    major, minor = map(int, version("prefect").split(".")[:2])
    told = there.format(major=major, minor=minor, newer=minor + 1, older=minor - 1)
    found = _prefect_version(httpx.Response(200, json=told))
    assert found.well is is_well
    assert told in found.seen
    assert _prefect_version(httpx.Response(401)).well


def test_a_clock_is_off_by_what_the_time_of_the_question_does_not_explain() -> None:
    assert clock("broker", 100.0, 90.0, 110.0).seen == "0.0 s from this machine's"
    ahead, behind = clock("broker", 120.0, 90.0, 110.0), clock("broker", 60.0, 90.0, 110.0)
    assert (ahead.well, ahead.seen) == (False, "10.0 s from this machine's")
    assert (behind.well, behind.seen) == (False, "30.0 s from this machine's")
    assert "NTP" in ahead.advice


@pytest.mark.parametrize(
    ("free", "is_well", "seen"), [(1 << 30, False, "1 GB free"), (100 * 10**9, True, "100 GB free")]
)
def test_a_warehouse_on_this_machine_says_what_room_there_is(
    postgres18: Server, free: int, is_well: bool, seen: str
) -> None:
    with mock.patch.object(shutil, "disk_usage", return_value=SimpleNamespace(free=free)) as asked:
        disk = warehouse(_settings(warehouse_dsn=postgres18.dsn("postgres")))[-1]
    (folder,) = asked.call_args.args
    assert (disk.subject, disk.well, disk.seen) == ("warehouse: disk", is_well, f"{folder}, {seen}")
    assert (folder / "PG_VERSION").exists()


@pytest.mark.parametrize("hidden", ["over a network", "a container's folder", "no right to ask", "no disk"])
def test_a_warehouse_whose_disk_is_not_for_us_to_see_says_what_it_takes(
    postgres18: Server, hidden: str
) -> None:
    dsn = postgres18.dsn("postgres")
    with ExitStack() as stack:
        asked = stack.enter_context(mock.patch.object(shutil, "disk_usage", side_effect=OSError))
        if hidden == "over a network":
            stack.enter_context(mock.patch.object(databases, "is_loopback", return_value=False))
        elif hidden == "a container's folder":
            stack.enter_context(mock.patch.object(Path, "exists", return_value=False))
        elif hidden == "no right to ask":
            dsn = stack.enter_context(login(postgres18.database(), "reader"))
        disk = warehouse(_settings(warehouse_dsn=dsn))[-1]
    assert (disk.subject, disk.well) == ("warehouse: disk", True)
    assert disk.seen.startswith("the database takes 0.0 GB; what is free there can't be asked from here")
    assert asked.called == (hidden == "no disk")


def test_little_room_is_told_with_what_to_do() -> None:
    found = room("lake", "/lake is writable", LEAST_FREE_BYTES - 1)
    assert (found.well, found.seen) == (False, f"/lake is writable, {LEAST_FREE_BYTES / 1e9:.0f} GB free")
    assert "make room" in found.advice
    assert room("lake", "/lake is writable", LEAST_FREE_BYTES).well


def test_a_lake_says_what_room_its_own_disk_has(tmp_path: Path) -> None:
    with mock.patch.object(shutil, "disk_usage", return_value=SimpleNamespace(free=1)) as asked:
        lake, backups = folders(_settings(lake=tmp_path / "lake", sandbox=tmp_path / "none"))
    assert asked.call_args.args == (tmp_path / "lake",)
    assert (lake.subject, lake.well, lake.seen) == ("lake", False, f"{tmp_path}/lake is writable, 0 GB free")
    assert (backups.well, backups.seen.split(":")[0]) == (True, "none can be taken")


def test_backups_that_can_not_be_written_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    lake, backups = folders(_settings(lake=tmp_path / "lake", backups=tmp_path / "file" / "backups"))
    assert lake.subject == "lake"
    assert (backups.subject, backups.well) == ("backups", False)
    assert "ANALYTICS_BACKUPS" in backups.advice


def test_every_folder_and_key_that_a_setting_names_is_tried(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    there, away = tmp_path / "there", tmp_path / "file" / "away"
    for folder, key, is_well in ((there, SEALED_FOR, True), (away, "age1nonsense", False)):
        settings = _settings(
            lake=there, portal=str(folder), metrics_folder=folder, backup_key=key, sandbox=tmp_path / "none"
        )
        _, _, *found = folders(settings)
        assert [one.subject for one in found] == ["backups: key", "portal", "metrics"]
        assert {one.well for one in found} == {is_well}
    assert "ANALYTICS_BACKUP_KEY" in found[0].seen
    assert [one.advice.split()[-1][:-1] for one in found[1:]] == [
        "ANALYTICS_PORTAL",
        "ANALYTICS_METRICS_FOLDER",
    ]


def test_what_takes_the_lineage_is_tried_where_one_is_named(tmp_path: Path, apis: Any) -> None:
    (tmp_path / "file").write_text("no folder")
    assert lineage(_settings()) == []
    for target, is_well in (
        (str(tmp_path / "made" / "lineage.jsonl"), True),
        (str(tmp_path / "file" / "lineage.jsonl"), False),
        (apis.url, True),
        ("http://127.0.0.1:9/", False),
        ("http://127.0.0.1:port/", False),
    ):
        (found,) = lineage(_settings(openlineage=target))
        assert (found.well, target in found.seen) == (is_well, True), found
        assert is_well or "ANALYTICS_OPENLINEAGE" in found.advice
    assert (tmp_path / "made" / "lineage.jsonl").read_text() == ""


def test_who_is_told_is_read_and_each_channel_that_can_not_be_is_named(tmp_path: Path) -> None:
    file = tmp_path / "alerts.yaml"
    nowhere = dict.fromkeys(("warehouse_dsn", "app_dsn"), "postgresql://u@127.0.0.1:1/d")
    nowhere |= dict.fromkeys(("stripe_url", "sendgrid_url"), "http://127.0.0.1:1")
    (unset,) = channels(_settings(kafka_bootstrap="127.0.0.1:1", **nowhere))
    assert unset.well
    assert unset.seen == "no channel is declared: incidents are kept, and nobody is told"
    routes = "routes: [{channels: [log]}]\n"
    file.write_text("channels: {log: 'file:///log', slack: {url_from: /no/such}}\n" + routes)
    (slack,) = channels(_settings(alerts=file))
    assert (slack.subject, slack.well) == ("alerts: slack", False)
    assert "channels.slack.url_from names /no/such, which can't be read" in slack.seen
    file.write_text("channels: {log: 'file:///log'}\nroutes: [{channels: [logg]}]\n")
    (wrong,) = channels(_settings(alerts=file))
    assert (wrong.subject, wrong.well) == ("alerts", False)
    assert "routes[1].channels names 'logg'" in wrong.seen
    assert "nobody is told" in wrong.advice
    file.write_text("channels: {log: 'file:///log'}\n" + routes)
    (well,) = channels(_settings(alerts=file))
    assert well.well
    assert well.seen.startswith("log ")


def _rights(dsn: str) -> tuple[bool, str]:
    (found,) = (one for one in warehouse(_settings(warehouse_dsn=dsn)) if one.subject == "warehouse: rights")
    return found.well, found.seen


def test_a_warehouse_is_well_only_for_who_can_begin_a_run_there(house: House) -> None:
    server = house.server()
    laid, empty = server.empty(), server.empty()
    lay(laid)
    assert _rights(laid) == (True, "a run may begin")
    assert _rights(empty) == (True, "a run may begin")
    with psycopg.connect(empty) as connection:
        assert connection.execute("select to_regnamespace('ops')").fetchone() == (None,)
    with login(laid, "loader") as dsn:
        assert _rights(dsn) == (True, "a run may begin")
    for role, dsn, advice in (
        ("reader", laid, "grant loader to"),
        ("loader", empty, "python -m flows roles"),
    ):
        with login(dsn, role) as named:
            is_well, seen = _rights(named)
            assert not is_well
            assert advice in seen


def test_a_warehouse_that_takes_no_writes_is_told(house: House) -> None:
    dsn = make_conninfo(house.server().database(), options="-c default_transaction_read_only=on")
    (told,) = [one for one in warehouse(_settings(warehouse_dsn=dsn)) if not one.well]
    assert told.subject == "warehouse: writes"
    assert "default_transaction_read_only is on" in told.seen


def test_a_reader_of_the_warehouse_who_asks_for_its_ledgers_is_told_what_is_missing(house: House) -> None:
    with (
        login(house.server().database(), "reader") as dsn,
        pytest.raises(WarehouseError, match="grant loader"),
        Warehouse(dsn).connect() as connection,
    ):
        connection.execute("select from ops.ledger")


def test_a_table_of_the_application_is_found_whatever_letters_its_name_has(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = house.server().database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute('create schema "Billing-2024"')
        connection.execute('create table "Billing-2024"."Invoice Lines" (id bigint primary key)')
    lines = SourceEntity(
        source="app",
        name="invoice_lines",
        read=Postgres(table="Invoice Lines", schema="Billing-2024", mode="snapshot"),
        key=("id",),
        grain="one row per line",
        columns=(Column("id", "bigint", nullable=False),),
    )
    monkeypatch.setattr("transforms.sources.app.ENTITIES", (lines,))
    *_, tables, _ = application(_settings(app_dsn=dsn))
    assert (tables.well, tables.seen) == (True, "1 of 1 tables can be read")


def test_an_application_s_schema_that_may_not_be_looked_into_is_named_with_the_grant(house: House) -> None:
    dsn = house.server().empty()
    with psycopg.connect(dsn) as connection:
        connection.execute("revoke usage on schema public from public")
    with login(house.server().database(), "reader") as reader:
        user = conninfo_to_dict(reader)
        *_, found = application(
            _settings(app_dsn=make_conninfo(dsn, user=user["user"], password=user["password"]))
        )
    assert not found.well
    assert found.seen == "no right to look into schema public"
    assert f"grant usage on schema public to {user['user']}" in found.advice


@pytest.mark.parametrize("vendor", ["stripe", "sendgrid"])
def test_a_service_of_one_s_own_is_not_asked_with_the_sandbox_s_key(tmp_path: Path, vendor: str) -> None:
    write(replace(new(tmp_path), parts={part: Running(1, Process(1, "then")) for part in ALL}))
    settings = _settings(sandbox=tmp_path, **{f"{vendor}_url": "https://api.example.com"})
    with pytest.raises(SettingsError, match=f"ANALYTICS_{vendor.upper()}_KEY is not set"):
        settings.require(f"{vendor}_key")
