"""Messages on their way: a real SMTP server and a real HTTP receiver, quiet hours, channels that fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from flows.monitoring.verdict import State
from flows.sandbox import processes
from tests.flows.alerting.conftest import Watch
from tests.flows.alerting.mail import mail_server

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
