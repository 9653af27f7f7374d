"""What Prometheus is told: declared names and no others, on the stream, of a run, of the warehouse."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from psycopg.types.json import Jsonb

from flows.alerting.routes import AlertsError
from flows.metrics import endpoint, monitor, names, run
from flows.metrics.endpoint import PortTaken, of_stream, serving
from flows.metrics.stream import StreamNumbers
from flows.metrics.warehouse import WarehouseNumbers
from flows.monitoring.look import look
from flows.monitoring.signals import BY_NAME
from flows.monitoring.verdict import State
from flows.prepare import note_run
from flows.services import Services
from flows.settings import Settings
from flows.streaming.tally import Count, Tally
from flows.summary import Summary, TableSummary
from transforms import registry

DOCS = Path(__file__).parents[3] / "docs" / "metrics"
LABELS = {
    "stream": {"events", "changes"},
    "flow": {"analytics_pipeline"},
    "table": set(registry.tables()),
    "outcome": {"passed", "failed"},
    "severity": {"critical", "warning", "info"},
    "source": {"app", "events", "stripe", "sendgrid"},
    "state": {"ok", "warning", "critical", "unknown"},
    "objective": {"freshness", "uptime", "quality"},
    "alert": {"fast", "medium", "slow"},
}


def _scraped(text: str) -> dict[str, list[Any]]:
    """Samples by the name they are asked for."""
    found: dict[str, list[Any]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def _exposed(metrics: Iterable[names.Metric]) -> set[str]:
    return {name for metric in metrics for name in metric.exposed}


def _ask(collector: Any) -> dict[str, list[Any]]:
    with serving(collector, "127.0.0.1", 0) as port:
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=30)
    assert answer.status_code == 200
    return _scraped(answer.text)


def _assert_bounded(found: dict[str, list[Any]]) -> None:
    for samples in found.values():
        for sample in samples:
            for label, value in sample.labels.items():
                if label in LABELS:
                    assert value in LABELS[label], sample


def test_names_follow_the_conventions() -> None:
    assert len({metric.name for metric in names.ALL}) == len(names.ALL)
    for metric in names.ALL:
        assert re.fullmatch(r"analytics_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.help.endswith("."), metric.name
        assert set(metric.labels) <= {*LABELS, "signal", "channel"}, metric.name
        assert ("seconds" in metric.help) <= metric.name.endswith("_seconds"), metric.name


def test_the_stream_answers_with_what_it_counted() -> None:
    tally = Tally(messages=7, bytes=700, rows=6, copies=1, dead_letters=2, batches=2, interruptions=3, lag=4)
    tally.took(0.15)
    tally.took(500.0)
    found = _ask(StreamNumbers({"events": tally, "changes": Count()}))
    assert set(found) == _exposed(names.STREAM)
    _assert_bounded(found)

    def value(name: str, **labels: str) -> float:
        (sample,) = [s for s in found[name] if s.labels == {"stream": "events", **labels}]
        return float(sample.value)

    assert value("analytics_stream_messages_total") == 7
    assert value("analytics_stream_bytes_total") == 700
    assert value("analytics_stream_lag_messages") == 4
    assert value("analytics_stream_latency_seconds_bucket", le="0.1") == 0
    assert value("analytics_stream_latency_seconds_bucket", le="0.2") == 1
    assert value("analytics_stream_latency_seconds_bucket", le="300.0") == 1
    assert value("analytics_stream_latency_seconds_bucket", le="+Inf") == 2
    assert value("analytics_stream_latency_seconds_count") == 2
    assert value("analytics_stream_latency_seconds_sum") == pytest.approx(500.15)


def test_the_stream_answers_nobody_unless_a_port_is_set() -> None:
    say = mock.Mock()
    with of_stream(StreamNumbers({}), "127.0.0.1", None, say):
        say.assert_not_called()
    settings = Settings(_env_file=None)
    assert (settings.metrics_port, settings.metrics_host) == (None, "127.0.0.1")


def test_a_stream_whose_port_another_one_still_has_goes_on_and_is_there_once_that_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint, "AGAIN_SECONDS", 0.01)
    told: list[str] = []
    heard = threading.Event()

    def say(_: str, line: str) -> None:
        told.append(line)
        if line.startswith("http"):
            heard.set()

    with ExitStack() as before:
        port = before.enter_context(serving(StreamNumbers({}), "127.0.0.1", 0))
        with pytest.raises(PortTaken), serving(StreamNumbers({}), "127.0.0.1", port):
            pass
        with of_stream(StreamNumbers({"events": Tally(messages=7)}), "127.0.0.1", port, say):
            (only,) = told
            assert only.startswith(f"Metrics can't be served at 127.0.0.1:{port}: Address already in use.")
            assert not heard.wait(0.1)
            before.close()
            assert heard.wait(30)
            answer = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=30)
            assert _scraped(answer.text)["analytics_stream_messages_total"][0].value == 7
    assert told[1:] == [f"http://127.0.0.1:{port}/metrics"]
    with serving(StreamNumbers({}), "127.0.0.1", port):  # it was given back
        pass


def test_a_stream_that_ends_before_its_port_is_free_does_not_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint, "AGAIN_SECONDS", 60.0)
    with serving(StreamNumbers({}), "127.0.0.1", 0) as port:
        begun = time.monotonic()
        with of_stream(StreamNumbers({}), "127.0.0.1", port, mock.Mock()):
            pass
        assert time.monotonic() - begun < endpoint.AGAIN_SECONDS


@pytest.fixture
def services(dsn: str, tmp_path: Path) -> Services:
    return _services(dsn, tmp_path)


def _services(dsn: str, folder: Path) -> Services:
    settings = Settings(
        _env_file=None,
        warehouse_dsn=dsn,
        sandbox=folder,
        lake=folder / "lake",
        metrics_folder=folder / "prom",
    )
    return Services(settings)


@pytest.fixture
def summary(services: Services) -> Summary:
    """A run that landed, wrote and failed something."""
    summary = Summary("run-1", "analytics_pipeline", landed={"raw_app__orders": 7}, checks=5, checks_passed=4)
    summary.tables["fct_orders"] = TableSummary(rows=9, windows=["2025-11"], rows_written=3)
    summary.failures, summary.seconds, summary.dead_letters = ["fct_orders: no"], 12.5, 2
    for state in ("Running", "Completed"):
        note_run(services, Summary("run-0", "analytics_pipeline"), state)
    note_run(services, summary, "Failed")
    with services.warehouse.connect() as connection:
        connection.execute(
            "insert into ops.ledger (token, kind, layer, table_name, run_id, files, manifest_hash) "
            "values ('t', 'land', 'raw', 'raw_app__orders', 'run-1', %s, '')",
            (Jsonb([{"path": "a", "bytes": 100}, {"path": "b", "bytes": 23}]),),
        )
    return summary


def test_a_run_leaves_its_numbers_as_a_file(services: Services, summary: Summary) -> None:
    run.write(services, summary)
    assert services.settings.metrics_folder is not None
    (path,) = services.settings.metrics_folder.iterdir()
    assert path.name == "analytics_analytics_pipeline.prom"
    found = _scraped(path.read_text())
    assert set(found) == _exposed(names.RUN)
    _assert_bounded(found)
    assert found["analytics_run_success"][0].value == 0
    assert found["analytics_run_landed_bytes"][0].value == 123
    assert found["analytics_run_landed_rows"][0].labels == {
        "flow": "analytics_pipeline",
        "table": "raw_app__orders",
    }
    assert {s.labels["outcome"]: s.value for s in found["analytics_run_checks"]} == {"passed": 4, "failed": 1}


def test_a_folder_that_cannot_be_written_fails_no_run(
    services: Services, summary: Summary, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "prom").write_text("a file")
    run.write(services, summary)
    assert "metrics could not be written" in caplog.text


def test_the_warehouse_answers_with_every_metric_that_is_declared(
    services: Services, summary: Summary
) -> None:
    with services.warehouse.connect() as connection:
        fill(connection)
    found = _ask(WarehouseNumbers(services))
    assert set(found) == _exposed(names.WAREHOUSE)
    _assert_bounded(found)

    def values(name: str, label: str) -> dict[str, float]:
        return {sample.labels[label]: sample.value for sample in found[name]}

    assert values("analytics_table_rows", "table") == {"fct_orders": 30}
    assert values("analytics_table_freshness_seconds", "table") == {"fct_orders": 90}
    assert values("analytics_rules_checked", "table") == {"fct_orders": 2}
    assert values("analytics_rules_failed", "severity") == {"critical": 0, "warning": 1, "info": 0}
    assert values("analytics_incidents_open", "severity") == {"info": 0, "warning": 0, "critical": 1}
    assert values("analytics_dead_letters_waiting", "source")["events"] == 1
    assert values("analytics_sla_target_ratio", "objective")["uptime"] == 0.999


def test_a_look_that_can_tell_nobody_leaves_that_as_a_number(services: Services, tmp_path: Path) -> None:
    file = tmp_path / "alerts.yaml"
    file.write_text("channels: {log: 'file:///log'}\nroutes: [{channels: [logg]}]\n")
    silent = Services(services.settings.model_copy(update={"alerts": file}))
    with pytest.raises(AlertsError, match="no channel"):
        look(silent)
    found = _scraped((tmp_path / "prom" / "analytics_monitor.prom").read_text())
    verdicts = {sample.labels["signal"]: sample.value for sample in found["analytics_monitor_verdict"]}
    assert verdicts["alert_channel"] == monitor.RANK[State.CRITICAL]
    assert verdicts["warehouse"] == monitor.RANK[State.OK]


def test_a_look_leaves_its_numbers_as_a_file_that_tells_what_the_warehouse_tells(
    services: Services, summary: Summary
) -> None:
    with services.warehouse.connect() as connection:
        fill(connection)
    verdicts = look(services)
    assert services.settings.metrics_folder is not None
    (path,) = services.settings.metrics_folder.iterdir()
    assert path.name == "analytics_monitor.prom"
    found = _scraped(path.read_text())
    asked = _ask(WarehouseNumbers(services))
    assert set(found) == _exposed(names.MONITOR)
    _assert_bounded({name: samples for name, samples in found.items() if name != names.VERDICT.name})
    for name in set(found) & set(asked):
        assert found[name] == asked[name], name

    told = {(s.labels["signal"], s.labels["table"]): s.value for s in found["analytics_monitor_verdict"]}
    assert {signal for signal, _ in told} == {verdict.signal for verdict in verdicts}
    assert {signal for signal, _ in told} <= {*BY_NAME, "sla_burn"}
    assert {table for _, table in told} - {""} <= {
        *registry.tables(),
        *(e.table for e in registry.entities()),
    }
    assert told["warehouse", ""] == 0
    for verdict in verdicts:
        if verdict.subject in registry.tables():
            assert told[verdict.signal, verdict.subject] >= monitor.RANK[verdict.state]


def test_of_a_look_at_a_warehouse_that_is_away_the_file_says_that_it_is(tmp_path: Path) -> None:
    look(_services("host=127.0.0.1 port=9", tmp_path))
    found = _scraped((tmp_path / "prom" / "analytics_monitor.prom").read_text())
    told = {(s.labels["signal"], s.labels["table"]): s.value for s in found["analytics_monitor_verdict"]}
    assert told["warehouse", ""] == 3
    assert not set(found) & _exposed([names.INCIDENTS, names.SLA_SHARE])


def test_without_a_folder_nothing_is_written(services: Services, summary: Summary, tmp_path: Path) -> None:
    nowhere = Services(services.settings.model_copy(update={"metrics_folder": None}))
    monitor.write(nowhere, [], 1.0)
    run.write(nowhere, summary)
    assert not (tmp_path / "prom").exists()


def fill(connection: Any) -> None:
    """A little of everything that the warehouse knows of itself, at the time of its clock."""
    (now,) = connection.execute("select clock_timestamp()").fetchone()
    for statement in (
        "insert into ops.partition_state (table_name, partition, token, version, row_count, published_at) "
        "values ('fct_orders', 'a', 't', 1, 10, %(now)s), ('fct_orders', 'b', 't', 1, 20, %(now)s)",
        "insert into ops.health (signal, subject, verdict, value, limit_value, since, measured_at) "
        "values ('data_freshness', 'fct_orders', 'ok', 90, 3600, %(now)s, %(now)s)",
        "insert into ops.health_span (signal, subject, since, until, verdict) "
        "values ('data_freshness', 'fct_orders', %(now)s, %(now)s, 'ok')",
        "insert into ops.incident (incident_id, cause, signal, subject, severity, opened_at, seen_at, "
        "message) values ('i', 'c', 's', 't', 'critical', %(now)s, %(now)s, '')",
        "insert into ops.dead_letter (letter_id, source, entity, reason, received_at) "
        "values ('l', 'events', 'e', 'r', %(now)s)",
        "insert into ops.check_result (run_id, table_name, rule, kind, severity, engine, passed, "
        "failing_rows, observed, checked_at) select 'r', 'fct_orders', 'rule_' || n, 'accuracy', 'warning', "
        "'duckdb', n = 1, n - 1, '{\"rows\": 30}', %(now)s from generate_series(1, 2) as n",
    ):
        connection.execute(statement.encode(), {"now": now})


def _named(text: str) -> set[str]:
    return set(re.findall(r"\banalytics_[a-z_]+\b", text)) - {"analytics_pipeline"}


def test_the_example_rules_and_the_dashboard_ask_for_names_that_are_emitted() -> None:
    emitted = _exposed(names.ALL)
    rules = [
        rule
        for group in yaml.safe_load((DOCS / "alerts.yaml").read_text())["groups"]
        for rule in group["rules"]
    ]
    panels = json.loads((DOCS / "dashboard.json").read_text())["panels"]
    asked = {expr for rule in rules for expr in _named(rule["expr"])}
    shown = {expr for panel in panels for target in panel["targets"] for expr in _named(target["expr"])}
    assert asked
    assert shown
    assert asked | shown <= emitted
    for rule in rules:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"].endswith((".", "list"))
        assert rule["annotations"]["runbook_url"].startswith("docs/runbook.md")
