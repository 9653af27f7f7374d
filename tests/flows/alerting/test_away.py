"""While the warehouse is away: told once, escalated, acknowledged, whatever else fails with it."""

from __future__ import annotations

import json
import threading
import time
from argparse import Namespace
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
from psycopg.conninfo import make_conninfo

from flows import services
from flows.alerting import away, remembered
from flows.alerting.delivery import Message, send
from flows.alerting.routes import Channel
from flows.alerts import ack_command, list_command, send_alert
from flows.services import Services
from flows.stores import connections
from flows.stores.warehouse_errors import NoPlace, OnlyReads, WarehouseError
from tests.flows.alerting.conftest import Watch
from tests.flows.stores.logins import full
from tests.house import Server

LATE = "data_freshness"


def test_a_warehouse_that_was_never_prepared_is_not_away(watch: Watch, postgres18: Server) -> None:
    with pytest.raises(WarehouseError, match=r"relation .ops\.\w+. does not exist"):
        send_alert(watch.services(warehouse_dsn=postgres18.empty()), [])
    assert watch.messages() == []


def test_while_the_warehouse_is_away_that_is_told_once_and_its_end_too(watch: Watch) -> None:
    gone = watch.services(warehouse_dsn="postgresql://w:secret-of-w@127.0.0.1:1/w")
    for _ in range(3):
        watch.later(minutes=1)
        with pytest.raises(WarehouseError):
            send_alert(gone, [])
    (message,) = watch.messages()
    assert message["title"].startswith("CRITICAL: The warehouse is away")
    assert "docs/runbook.md#warehouse" in message["body"]
    assert "secret-of-w" not in str(message)
    said = watch.verdict("warehouse", "warehouse")
    (over,) = watch.minute(said)
    assert over["title"].startswith("RESOLVED after 3 min: The warehouse is away")
    assert watch.minute() == []
    assert watch.rows("select signal, resolved_at - opened_at from ops.incident")[0][0] == "warehouse"


def test_a_warehouse_that_takes_no_writes_is_told_once_with_the_way_on_and_its_end_too(
    watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No incident can be kept there: a primary that became a standby was told to nobody."""
    only_reads = make_conninfo(watch.dsn, options="-c default_transaction_read_only=on")
    for _ in range(2):
        watch.later(minutes=1)
        with pytest.raises(OnlyReads):
            send_alert(watch.services(warehouse_dsn=only_reads), [])
    (message,) = watch.messages()
    assert message["title"].startswith("CRITICAL: The warehouse takes no writes")
    assert "target_session_attrs=read-write" in message["body"]
    assert "sandbox start" not in message["body"]
    there = watch.services(warehouse_dsn=only_reads)
    with mock.patch.object(services, "open_services", return_value=there):
        assert list_command(Namespace(all=False, json=True)) == 0
    assert [one["incident_id"] for one in json.loads(capsys.readouterr().out)] == [message["incident"]]
    (over,) = watch.minute()
    assert over["title"].startswith("RESOLVED after 2 min: The warehouse takes no writes")
    ((action,),) = watch.rows("select action from ops.incident")
    assert "target_session_attrs=read-write" in action


def test_a_warehouse_without_a_place_for_another_session_is_told_with_what_makes_room(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told as one that is to be started, which sends away whoever is in it."""
    monkeypatch.setattr(connections, "_PLACE_SECONDS", 0.2)
    with full(watch.dsn) as shut, pytest.raises(NoPlace):
        send_alert(watch.services(warehouse_dsn=shut), [])
    (message,) = watch.messages()
    assert message["title"].startswith("CRITICAL: The warehouse has no place for another session")
    assert "max_connections" in message["body"]
    assert "Start PostgreSQL" not in message["body"]


def test_two_monitors_that_find_the_warehouse_away_tell_a_channel_once_and_lose_no_acknowledgement(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = watch.services(warehouse_dsn="postgresql://w:secret-of-w@127.0.0.1:1/w")
    all_at_it = threading.Barrier(2)

    def look(_: int) -> None:
        all_at_it.wait()
        with pytest.raises(WarehouseError):
            send_alert(gone, [])

    def slowly(channel: Channel, message: Message) -> None:
        time.sleep(0.2)
        send(channel, message)

    monkeypatch.setattr(away, "send", slowly)
    with ThreadPoolExecutor() as pool:
        list(pool.map(look, range(2)))
    assert len(watch.messages()) == 1

    def while_somebody_acknowledges(channel: Channel, message: Message) -> None:
        acknowledging.append(pool.submit(ack_command, Namespace(incident=incident, by="eve")))
        slowly(channel, message)

    acknowledging: list[Future[int]] = []
    watch.write(
        f"channels: {{log: 'file://{watch.log}', too: 'file://{watch.folder}/too'}}\n"
        "routes: [{channels: [log, too]}]\n"
    )
    monkeypatch.setattr(away, "send", while_somebody_acknowledges)
    with mock.patch.object(services, "open_services", return_value=gone), ThreadPoolExecutor() as pool:
        outage = away.outage(gone.settings.lake_root)
        assert outage is not None
        incident = outage["incident_id"]
        with pytest.raises(WarehouseError):
            send_alert(gone, [])
        assert acknowledging[0].result() == 0
    told = json.loads((gone.settings.lake_root / remembered.FILE).read_text())
    assert (told["channels"], told["acknowledged_by"]) == (["log", "too"], "eve")


def _look(watch: Watch, gone: Services) -> list[str]:
    """A minute in which the warehouse is away; the titles of what was told."""
    before = len(watch.messages())
    watch.later(minutes=1)
    with pytest.raises(WarehouseError):
        send_alert(gone, [])
    return [message["title"].split(" (")[0] for message in watch.messages()[before:]]


@pytest.mark.parametrize("is_full", [True, False])
def test_a_warehouse_that_is_away_is_told_once_though_the_lake_s_disk_is_full_or_gone(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_full: bool
) -> None:
    monkeypatch.setattr(remembered, "ELSEWHERE", watch.folder / "elsewhere")
    lake = watch.folder / "lake" if is_full else Path("/proc/no/such/lake")
    if is_full:
        lake.mkdir()
        (lake / f"{remembered.FILE}.new").symlink_to("/dev/full")
    gone = watch.services(warehouse_dsn="postgresql://w:secret-of-w@127.0.0.1:1/w", lake=lake)
    (title,) = _look(watch, gone)
    assert title.startswith("CRITICAL: The warehouse is away")
    assert _look(watch, gone) == []
    with mock.patch.object(services, "open_services", return_value=gone):
        list_command(Namespace(all=False, json=False))
        ack_command(Namespace(incident=capsys.readouterr().out[:6], by="eve"))
    watch.later(hours=1)
    assert _look(watch, gone) == []
    if is_full:  # there is room again, and what was noted elsewhere is not told another time
        (lake / f"{remembered.FILE}.new").unlink()
        assert _look(watch, gone) == []
    send_alert(watch.services(lake=lake), [])
    assert watch.messages()[-1]["kind"] == "resolved"
    assert away.outage(lake) is None
    assert watch.rows("select acknowledged_by from ops.incident") == [("eve",)]
    (again,) = _look(watch, gone)
    assert again.startswith("CRITICAL: The warehouse is away")


def test_a_warehouse_that_is_away_is_told_though_nothing_can_be_noted_anywhere(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = Path("/proc/no/such")
    monkeypatch.setattr(remembered, "ELSEWHERE", nowhere)
    gone = watch.services(warehouse_dsn="postgresql://w:secret-of-w@127.0.0.1:1/w", lake=nowhere / "lake")
    for _ in range(2):  # rather each minute than never
        (title,) = _look(watch, gone)
        assert title.startswith("CRITICAL: The warehouse is away")


def test_what_another_user_left_in_the_shared_folder_keeps_nobody_from_being_told(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = watch.folder / "strange"
    strange.mkdir()
    monkeypatch.setattr(remembered, "ELSEWHERE", watch.folder / "elsewhere")
    (watch.folder / "elsewhere").symlink_to(strange)
    gone = watch.services(
        warehouse_dsn="postgresql://w:secret-of-w@127.0.0.1:1/w", lake=Path("/proc/no/such/lake")
    )
    assert len(_look(watch, gone)) == 1
    assert list(strange.iterdir()) == []


def test_the_list_says_the_same_of_an_incident_while_the_warehouse_is_away(
    watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    watch.write(watch.routes.read_text() + "runbook: https://wiki.example.com/runbook\n")
    watch.minute(watch.verdict(LATE, "fct_orders"))
    gone = watch.services(warehouse_dsn="postgresql://w:secret-of-w@127.0.0.1:1/w")
    with pytest.raises(WarehouseError):
        send_alert(gone, [])
    shown = []
    for place in (watch.services(), gone):
        with mock.patch.object(services, "open_services", return_value=place):
            list_command(Namespace(all=False, json=True))
        shown += json.loads(capsys.readouterr().out)
    there, outage = shown
    assert outage.keys() == there.keys()
    assert outage["runbook"] == "https://wiki.example.com/runbook#warehouse"
    assert outage["seen_at"] == watch.now.isoformat()


@pytest.mark.parametrize("is_somebody_on_it", [False, True])
def test_a_warehouse_that_stays_away_is_escalated_once_unless_somebody_is_on_it(
    watch: Watch, capsys: pytest.CaptureFixture[str], is_somebody_on_it: bool
) -> None:
    pager = watch.folder / "pager.jsonl"
    watch.write(
        f"channels: {{log: 'file://{watch.log}', pager: 'file://{pager}'}}\n"
        "routes: [{channels: [log]}]\nescalate: {critical: 30m, channels: [pager]}\n"
    )
    gone = watch.services(warehouse_dsn="postgresql://w:secret-of-w@127.0.0.1:1/w")

    def minute() -> None:
        watch.later(minutes=1)
        with pytest.raises(WarehouseError):
            send_alert(gone, [])

    minute()
    if is_somebody_on_it:
        with mock.patch.object(services, "open_services", return_value=gone):
            list_command(Namespace(all=False, json=False))
            ack_command(Namespace(incident=capsys.readouterr().out[:6], by="eve"))
            list_command(Namespace(all=False, json=False))
        assert "acknowledged by eve" in capsys.readouterr().out
    watch.later(minutes=28)
    minute()
    assert not pager.exists()
    for _ in range(3):
        minute()
    told = [message["title"].split(" (")[0] for message in watch.messages()]
    assert [title.split(": ")[0] for title in told[1:]] == (
        [] if is_somebody_on_it else ["STILL CRITICAL after 30 min"]
    )
    watch.minute(watch.verdict("warehouse", "warehouse"))
    assert watch.messages()[-1]["kind"] == "resolved"
    assert pager.exists() is not is_somebody_on_it
    ((by, escalated),) = watch.rows("select acknowledged_by, escalated_at is not null from ops.incident")
    assert (by, escalated) == (("eve", False) if is_somebody_on_it else (None, True))


def test_of_its_end_is_told_who_wants_to_know_and_is_still_declared(watch: Watch) -> None:
    gone = watch.services(warehouse_dsn="postgresql://w:secret-of-w@127.0.0.1:1/w")
    names = ("log", "pager", "former")
    watch.write(
        "channels:\n"
        + "".join(
            f"  {name}: {{url: 'file://{watch.folder}/{name}', resolved: {str(name != 'pager').lower()}}}\n"
            for name in names
        )
        + "routes: [{channels: [log, pager, former]}]\n"
    )
    _look(watch, gone)
    watch.write(watch.routes.read_text().replace("  former", "  other").replace(", former", ""))
    watch.minute()
    told = {name: len((watch.folder / name).read_text().splitlines()) for name in names}
    assert told == {"log": 2, "pager": 1, "former": 1}


def test_its_end_is_told_once_though_what_was_remembered_could_not_be_forgotten(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    _look(watch, watch.services(warehouse_dsn="postgresql://w:secret-of-w@127.0.0.1:1/w"))
    monkeypatch.setattr(remembered, "forget", lambda _: None)
    assert [one["kind"] for _ in range(3) for one in watch.minute()] == ["resolved"]
