"""Messages on their way: a real SMTP server and a real HTTP receiver, channels that fail."""

from __future__ import annotations

import json
import threading
from argparse import Namespace
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock

import pytest

from flows import services
from flows.alerting import trial
from flows.alerting.routes import AlertsError
from flows.monitoring.verdict import State
from flows.sandbox import processes
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


BROKEN = "/proc/no/such/file"


def test_what_a_channel_does_not_take_is_tried_ever_further_apart_for_as_long_as_its_incident_is_open(
    watch: Watch,
) -> None:
    watch.write(f"channels: {{log: 'file://{BROKEN}'}}\nroutes: [{{channels: [log]}}]\n")
    bad = watch.verdict(LATE, "fct_orders")
    query = "select tries, problem, given_up_at is not null from ops.notification where kind = 'opened'"
    watch.minute(bad)
    watch.minute(bad)
    assert watch.rows(query)[0][0] == 2
    watch.minute(bad)
    assert watch.rows(query)[0][0] == 2
    for _ in range(10):
        watch.later(hours=1)
        watch.measured([bad])
    ((tries, problem, is_given_up),) = watch.rows(query)
    assert (tries, is_given_up) == (12, False)
    assert problem.startswith("/proc/no/such/file can't be written")
    watch.write(f"channels: {{log: 'file://{watch.log}'}}\nroutes: [{{channels: [log]}}]\n")
    watch.later(hours=1)
    told = watch.measured([bad])
    assert [one["kind"] for one in told] == ["opened", "escalated"]
    assert watch.open() == ["fct_orders"]


def test_a_channel_that_took_nothing_for_days_is_tried_each_hour_still_and_silences_no_other(
    watch: Watch,
) -> None:
    watch.write(
        f"channels: {{away: 'file://{BROKEN}', log: 'file://{watch.log}'}}\n"
        "routes: [{channels: [away, log]}]\n"
    )
    bad = watch.verdict(LATE, "fct_orders")
    watch.minute(bad)
    watch.rows("update ops.notification set tries = 100 where channel = 'away' returning 1")
    watch.later(hours=1)
    told = watch.measured([bad, watch.verdict(LATE, "fct_payments")])
    assert [one["title"] for one in told if "fct_payments" in one["title"]]
    tried = "select tries, due_at - tried_at, given_up_at from ops.notification where tries > 99"
    assert (101, timedelta(hours=1), None) in watch.rows(tried)


def test_what_nobody_has_to_know_any_more_is_given_up_and_the_last_one_shows_when_the_channel_is_well(
    watch: Watch,
) -> None:
    watch.write(f"channels: {{log: 'file://{BROKEN}'}}\nroutes: [{{channels: [log]}}]\n")
    watch.minute(watch.verdict(LATE, "fct_orders"))
    good = watch.verdict(LATE, "fct_orders", State.OK)
    watch.minute(good)
    for _ in range(20):
        watch.later(hours=1)
        watch.measured([good])
    query = "select kind, tries, given_up_at is not null from ops.notification order by notification_id"
    (opened, over) = watch.rows(query)
    assert opened == ("opened", 8, True)
    assert (over[0], over[2]) == ("resolved", False)
    assert over[1] > 8
    assert watch.open() == ["channel:log"]
    watch.write(f"channels: {{log: 'file://{watch.log}'}}\nroutes: [{{channels: [log]}}]\n")
    watch.later(hours=1)
    watch.measured([good])
    assert watch.open() == []


def test_what_is_owed_to_a_channel_that_nobody_declares_any_more_is_given_up(watch: Watch) -> None:
    watch.write(f"channels: {{log: 'file://{BROKEN}'}}\nroutes: [{{channels: [log]}}]\n")
    bad = watch.verdict(LATE, "fct_orders")
    watch.minute(bad)
    watch.write("")
    for _ in range(8):
        watch.later(hours=1)
        watch.measured([bad])
    query = "select tries, problem, given_up_at is not null from ops.notification where kind = 'opened'"
    assert watch.rows(query) == [(8, "no channel of that name is declared any more", True)]


def test_what_waits_for_a_channel_goes_with_the_first_message_that_it_takes(watch: Watch) -> None:
    watch.write(f"channels: {{log: 'file://{BROKEN}'}}\nroutes: [{{channels: [log]}}]\n")
    one, two = (watch.verdict(LATE, table) for table in ("fct_orders", "fct_events"))
    watch.minute(one)
    for _ in range(8):
        watch.later(hours=1)
        watch.measured([one])
    watch.write(f"channels: {{log: 'file://{watch.log}'}}\nroutes: [{{channels: [log]}}]\n")
    told = watch.minute(one, two)
    assert [message["title"].split(": ")[1].split(",")[0] for message in told][:1] == ["fct_events"]
    assert {"opened", "escalated"} == {m["kind"] for m in told if "fct_orders" in m["title"]}


def test_a_channel_without_a_usable_address_is_told_to_the_others_and_silences_none(watch: Watch) -> None:
    secret = watch.folder / "slack"
    watch.write(
        f"channels: {{log: 'file://{watch.log}', slack: {{url_from: '{secret}'}}}}\n"
        "routes: [{channels: [log, slack]}]\n"
    )
    (told,) = watch.minute()
    assert told["title"].startswith("WARNING: Channel slack takes no message: ")
    assert f"channels.slack.url_from names {secret}, which can't be read" in told["title"]
    bad = watch.verdict(LATE, "fct_orders")
    (told,) = watch.minute(bad)
    assert told["title"].startswith("CRITICAL: fct_orders")
    assert watch.minute(bad) == []
    mended = watch.folder / "mended.jsonl"
    secret.write_text(f"file://{mended}\n")
    watch.later(minutes=5)
    (over,) = watch.minute(bad)
    assert over["title"].startswith("RESOLVED")
    assert "Channel slack" in over["title"]
    assert [json.loads(line)["kind"] for line in mended.read_text().splitlines()] == ["opened"]


def test_a_channel_that_was_mended_before_anything_waited_for_it_is_well(watch: Watch) -> None:
    secret = watch.folder / "slack"
    watch.write(
        f"channels: {{log: 'file://{watch.log}', slack: {{url_from: '{secret}'}}}}\n"
        "routes: [{channels: [log]}, {severity: info, channels: [slack]}]\n"
    )
    watch.minute()
    assert watch.open() == ["channel:slack"]
    secret.write_text(f"file://{watch.folder}/mended.jsonl")
    (over,) = watch.minute()
    assert over["kind"] == "resolved"


def test_who_was_told_of_an_incident_is_told_of_its_end_however_bad_it_became_meanwhile(
    watch: Watch,
) -> None:
    names = ("team", "lead", "pager")
    watch.write(
        "channels: {" + ", ".join(f"{name}: 'file://{watch.folder}/{name}'" for name in names) + "}\n"
        "routes: [{severity: warning, channels: [team]}, {severity: critical, channels: [lead]}]\n"
        "escalate: {critical: 30m, channels: [pager]}\n"
    )
    watch.minute(watch.verdict(LATE, "fct_orders", State.WARNING))
    watch.minute(watch.verdict(LATE, "fct_orders"))
    watch.later(minutes=30)
    watch.minute(watch.verdict(LATE, "fct_orders"))
    watch.minute(watch.verdict(LATE, "fct_orders", State.OK))
    heard = {
        name: [json.loads(line)["title"].split(":")[0] for line in (watch.folder / name).open()]
        for name in names
    }
    assert [titles[0].split(" after")[0] for titles in heard.values()] == [
        "WARNING",
        "NOW CRITICAL",
        "NOW CRITICAL",
    ]
    assert all(titles[-1].startswith("RESOLVED") for titles in heard.values()), heard


def test_a_pager_is_not_called_for_what_is_over(watch: Watch) -> None:
    watch.write(
        f"channels: {{log: {{url: 'file://{watch.log}', resolved: false}}}}\nroutes: [{{channels: [log]}}]\n"
    )
    watch.minute(watch.verdict(LATE, "fct_orders"))
    assert watch.minute(watch.verdict(LATE, "fct_orders", State.OK)) == []


def _tested(watch: Watch, *channels: str, **settings: Any) -> int:
    with mock.patch.object(services, "open_services", return_value=watch.services(**settings)):
        return trial.command(Namespace(channel=[*channels]))


def test_a_channel_can_be_tried_and_what_waits_for_it_goes_at_once(
    watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    well = watch.folder / "well"
    watch.write(
        f"channels: {{log: 'file://{BROKEN}', well: 'file://{well}'}}\nroutes: [{{channels: [log]}}]\n"
    )
    bad = watch.verdict(LATE, "fct_orders")
    watch.minute(bad)
    for _ in range(8):
        watch.later(hours=1)
        watch.measured([bad])
    assert _tested(watch) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"log: takes no message: {BROKEN} can't be written")
    assert said[1] == "well: took a message"
    assert json.loads(well.read_text())["title"].startswith("TEST: ")
    watch.write(f"channels: {{log: 'file://{watch.log}'}}\nroutes: [{{channels: [log]}}]\n")
    assert _tested(watch, "log") == 0
    assert [message["kind"] for message in watch.messages()] == ["info", "opened", "escalated"]
    watch.minute(bad)
    assert watch.open() == ["fct_orders"]


def test_channels_are_tried_without_a_warehouse_and_one_that_is_not_declared_is_named(
    watch: Watch, capsys: pytest.CaptureFixture[str], postgres18: Server
) -> None:
    for dsn in ("postgresql://w:secret-of-w@127.0.0.1:1/w", postgres18.empty()):
        assert _tested(watch, warehouse_dsn=dsn) == 0
        said = capsys.readouterr()
        assert said.out == "log: took a message\n"
        assert said.err.startswith("What waits for them could not be sent: ")
        assert "secret-of-w" not in said.err
    assert len(watch.messages()) == 2
    with pytest.raises(AlertsError, match=r"'logg' is no channel in the file of ANALYTICS_ALERTS \(log\)"):
        _tested(watch, "logg")
    watch.write("")
    assert _tested(watch) == 0
    assert "nobody is told" in capsys.readouterr().out
