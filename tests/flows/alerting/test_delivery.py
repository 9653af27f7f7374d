"""Messages on their way: a real SMTP server and a real HTTP receiver, quiet hours, channels that fail."""

from __future__ import annotations

import json
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock

import pytest

from flows import services
from flows.alerting import away
from flows.alerting.delivery import Message, send
from flows.alerting.routes import Channel
from flows.alerts import ack_command, list_command, send_alert
from flows.monitoring.verdict import State
from flows.sandbox import processes
from flows.stores.warehouse import WarehouseError
from tests.flows.alerting.conftest import Watch
from tests.flows.alerting.mail import mail_server
from tests.house import Server

LATE = "data_freshness"


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An HTTP receiver: its address and what was posted there."""
    posted: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"json://127.0.0.1:{server.server_port}/hook", posted
    server.shutdown()
    thread.join()
    server.server_close()


def _mail(port: int) -> str:
    return f"mailto://127.0.0.1:{port}?from=warehouse@example.com&to=ops@example.com"


def test_a_message_arrives_as_mail_and_at_a_webhook_by_its_route(
    watch: Watch, receiver: tuple[str, list[dict[str, Any]]]
) -> None:
    port, (url, posted) = processes.free_port(), receiver
    watch.write(
        f"channels: {{mail: '{_mail(port)}', hook: '{url}'}}\n"
        "routes:\n"
        "  - {severity: critical, channels: [mail, hook]}\n"
        "  - {severity: warning, table: 'fct_emails*', channels: [hook]}\n"
        "  - {severity: warning, owner: somebody-else, channels: [mail]}\n"
    )
    with mail_server(port) as mails:
        watch.minute(
            watch.verdict(LATE, "fct_orders"),
            watch.verdict("null_rate", "fct_emails.user_id", State.WARNING),
            watch.verdict("null_rate", "fct_payments.user_id", State.WARNING),
        )
        (only,) = mails
        assert only["subject"].startswith("CRITICAL: fct_orders")
        assert "docs/runbook.md#data_freshness" in only.get_body(("plain",)).get_content()
        assert {(one["title"].split(":")[0], one["type"]) for one in posted} == {
            ("CRITICAL", "failure"),
            ("WARNING", "warning"),
        }
        watch.minute(watch.verdict(LATE, "fct_orders", State.OK))
        assert [one["type"] for one in posted][-1] == "success"
        assert mails[-1]["subject"].startswith("RESOLVED")


def test_while_the_mail_server_is_down_that_is_told_elsewhere_and_what_waits_is_sent_later(
    watch: Watch, receiver: tuple[str, list[dict[str, Any]]]
) -> None:
    port, (url, posted) = processes.free_port(), receiver
    watch.write(
        f"channels: {{mail: '{_mail(port)}', hook: '{url}'}}\n"
        "routes: [{severity: critical, channels: [mail]}, {severity: warning, channels: [mail, hook]}]\n"
    )
    bad = watch.verdict(LATE, "fct_orders")
    watch.minute(bad)
    (told,) = posted
    assert told["title"].startswith("WARNING: Channel mail takes no message")
    assert "docs/runbook.md#alert_channel" in told["message"]
    watch.minute(bad)
    assert len(posted) == 1
    with mail_server(port) as mails:
        watch.later(minutes=5)
        watch.minute(bad)
        assert [mail["subject"].split(":")[0] for mail in mails] == ["CRITICAL"]
        assert posted[-1]["type"] == "success"
        watch.minute(bad)
        assert len(mails) == 1


def test_tries_of_a_message_are_bounded_and_lie_ever_further_apart(watch: Watch) -> None:
    watch.write("channels: {log: 'file:///proc/no/such/file'}\nroutes: [{channels: [log]}]\n")
    bad = watch.verdict(LATE, "fct_orders")
    query = "select tries, problem, given_up_at is not null from ops.notification where kind = 'opened'"
    watch.minute(bad)
    watch.minute(bad)
    assert watch.rows(query)[0][0] == 2
    watch.minute(bad)
    assert watch.rows(query)[0][0] == 2
    for _ in range(7):
        watch.later(hours=1)
        watch.measured([bad])
    ((tries, problem, is_given_up),) = watch.rows(query)
    assert (tries, is_given_up) == (8, True)
    assert problem.startswith("/proc/no/such/file can't be written")


def test_in_quiet_hours_only_what_is_critical_goes_and_the_rest_waits_until_they_are_over(
    watch: Watch,
) -> None:
    watch.write(
        f"channels: {{log: 'file://{watch.log}'}}\nroutes: [{{channels: [log]}}]\n"
        'quiet: {from: "12:00", to: "13:00", timezone: UTC}\n'
    )
    warning = watch.verdict("row_count", "fct_emails", State.WARNING)
    blip = watch.verdict("row_count", "fct_refunds", State.WARNING)
    assert watch.minute(warning, blip) == []
    assert len(watch.minute(warning, blip, watch.verdict(LATE, "fct_orders"))) == 1
    good = watch.verdict("row_count", "fct_refunds", State.OK)
    assert watch.minute(warning, good, watch.verdict(LATE, "fct_orders")) == []
    watch.later(hours=1)
    told = [
        m["title"]
        for m in watch.minute(warning, good, watch.verdict(LATE, "fct_orders"))
        if "fct_orders" not in m["title"]
    ]
    assert [title.split(":")[0] for title in told] == ["WARNING", "RESOLVED after 2 min"]


def test_a_pager_is_not_called_for_what_is_over(watch: Watch) -> None:
    watch.write(
        f"channels: {{log: {{url: 'file://{watch.log}', resolved: false}}}}\nroutes: [{{channels: [log]}}]\n"
    )
    watch.minute(watch.verdict(LATE, "fct_orders"))
    assert watch.minute(watch.verdict(LATE, "fct_orders", State.OK)) == []


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
        incident = away.outage(gone.settings.lake_root)["incident_id"]
        with pytest.raises(WarehouseError):
            send_alert(gone, [])
        assert acknowledging[0].result() == 0
    told = json.loads((gone.settings.lake_root / away.FILE).read_text())
    assert (told["channels"], told["acknowledged_by"]) == (["log", "too"], "eve")


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
