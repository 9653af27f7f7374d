"""The weekly report: its figures are the warehouse's, and it reaches who is told of `info`."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from flows import weekly_report
from flows.alerts import send_alert
from flows.portal import weekly
from flows.portal.reading import as_json
from flows.sandbox import processes
from flows.services import Services
from tests.flows.alerting.mail import mail_server
from tests.flows.portal import filled
from tests.flows.portal.reader import Read
from tests.house import Server

_ROUTES = """
channels:
  people: {url: "file:///PEOPLE"}
  mail: {url: "mailto://127.0.0.1:PORT?from=warehouse@example.com&to=board@example.com"}
routes:
  - {severity: info, channels: [people, mail]}
"""


@pytest.fixture(scope="module")
def port() -> int:
    """Where mail is sent, and taken in while a test has a mail server there."""
    return processes.free_port()


@pytest.fixture(scope="module")
def services(port: int, postgres18: Server, tmp_path_factory: pytest.TempPathFactory) -> Services:
    folder = tmp_path_factory.mktemp("world")
    told = folder / "alerts.yaml"
    told.write_text(
        _ROUTES.replace("/PEOPLE", str(folder / "people.jsonl")).replace("PORT", str(port)), encoding="utf-8"
    )
    return filled.services(postgres18, folder, alerts=str(told))


@pytest.fixture
def own(postgres18: Server, tmp_path: Path) -> Services:
    """A world that a test adds to."""
    return filled.services(postgres18, tmp_path)


def test_the_report_says_what_its_queries_give(services: Services, tmp_path: Path) -> None:
    report = weekly.render(services)
    assert report.subject == "User analytics, 2025-10-13 to 2025-10-19"
    with services.warehouse.connect() as connection:
        for result in report.results.values():
            found = [[as_json(cell) for cell in row] for row in connection.execute(result.sql.encode())]
            assert found == [list(row) for row in result.rows], result.name
    (tmp_path / "report.html").write_text(report.html, encoding="utf-8")
    figures = Read(tmp_path / "report.html").figures
    assert len(figures) > 8
    for figure in figures:
        assert figure.says(report.results[figure.query].value(figure.column, figure.row)), figure
    assert report.results["people"].value("events") == sum(100 + n for n in range(8, 15))
    assert f"{sum(100 + n for n in range(8, 15)):,}" in report.html
    assert "fct_orders is late" not in report.html, "that is this week's"
    assert "The disk is full." in report.html
    assert "//" not in report.html.replace("</", "")


def _in_another_week(services: Services) -> Services:
    return Services(services.settings.model_copy(update={"moment": [filled.NOW + timedelta(days=7)]}))


def test_it_reaches_the_channels_that_are_told_of_info_once_a_week(
    services: Services, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = weekly.render(services)
    monkeypatch.setattr(weekly_report, "open_services", lambda: services)
    with mail_server(port) as mails:
        for _ in range(2):
            sent = weekly_report.weekly_report.fn()
    assert sent == {"subject": report.subject, "channels": ["people", "mail"]}
    assert len(mails) == 1
    body = mails[0].get_body(("html",)).get_content()
    assert mails[0]["subject"] == report.subject
    assert "Revenue by currency, never added across" in body
    lines = (services.settings.lake_root.parent / "people.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[-1])["title"] == report.subject


def test_a_mail_server_that_is_down_gets_the_report_when_it_is_there_again(
    services: Services, port: int
) -> None:
    services = _in_another_week(services)
    report, told = weekly.render(services), services.settings.lake_root.parent / "people.jsonl"
    assert weekly.deliver(services, report) == ["people", "mail"]
    assert told.read_text(encoding="utf-8").count(report.subject) == 1, "the others have it"
    with services.warehouse.connect() as connection:
        row = connection.execute(
            "select message from ops.incident where signal = 'alert_channel' and resolved_at is null"
        ).fetchone()
    assert row is not None
    assert row[0].startswith("Channel mail takes no message")
    later = Services(
        services.settings.model_copy(update={"moment": [services.settings.now() + timedelta(minutes=2)]})
    )
    with mail_server(port) as mails:
        send_alert(later, [])
    reports = [mail for mail in mails if mail["subject"] == report.subject]
    assert len(reports) == 1
    assert "Revenue by currency, never added across" in reports[0].get_body(("html",)).get_content()
    assert told.read_text(encoding="utf-8").count(report.subject) == 1, "and once"


def test_every_run_that_did_not_come_to_a_good_end_is_counted(own: Services) -> None:
    with own.warehouse.connect() as connection:
        connection.execute(
            "insert into ops.run (run_id, flow, started_at, state, summary) "
            "select state, 'backup', '2025-10-15'::timestamptz, state, '{}' "
            "from unnest(array['Completed', 'Failed', 'Crashed', 'TimedOut', 'Late']) as state"
        )
        # One that was late, and has begun since.
        connection.execute(
            "insert into ops.run (run_id, flow, started_at, finished_at, state, summary) "
            "select 'begun', 'event_stream', at, at, 'Late', '{}' "
            "from (select '2025-10-15'::timestamptz as at) as moment"
        )
    report = weekly.render(own)
    assert "3 of 6 runs failed. 1 of 6 runs did not start." in report.text
    assert ">3</span> of them failed" in report.html


def test_all_incidents_are_counted_whatever_is_listed(own: Services) -> None:
    with own.warehouse.connect() as connection:
        connection.execute(
            "insert into ops.incident (incident_id, cause, signal, subject, severity, opened_at, seen_at, "
            "resolved_at, message, taken_in_by) "
            "select 'i' || n, 'c' || n, 'disk', 'lake', 'critical', at, at, at, 'The disk is full.', "
            "case when n > 30 then 'i1' end "
            "from generate_series(1, 33) as n cross join (select '2025-10-15'::timestamptz as at) as moment"
        )
    report = weekly.render(own)
    assert "Incidents: 31, of them 30 critical, 0 still open." in report.text, "one is the world's own"
    assert ">19</span> more" in report.html


def test_a_warehouse_without_tables_gives_a_report_all_the_same(postgres18: Server, tmp_path: Path) -> None:
    report = weekly.render(filled.services(postgres18, tmp_path, filled=False))
    assert "No order in these two weeks." in report.html
