"""A warehouse with a few rows of everything that the portal shows, and services at a moment of its world."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from flows.alerting.delivery import deliver
from flows.alerting.routes import Channel, Route, Routes
from flows.alerting.settlement import settle
from flows.monitoring.verdict import State, Verdict
from flows.services import Services
from tests.flows.clock import At
from tests.house import Server
from tests.warehouse_ddl import shop

NOW = datetime(2025, 10, 20, 12, tzinfo=UTC)
SECRET = "somebody.private@example.test"
"""What no page may show."""

_OPS = f"""
insert into ops.run (run_id, flow, started_at, finished_at, state, summary) values
    ('run-1', 'analytics_pipeline', '2025-10-20 02:00Z', '2025-10-20 02:01Z', 'Completed',
     '{{"seconds": 61.5, "checks": 4, "checks_passed": 3, "dead_letters": 2,
       "landed": {{"raw_app__orders": 12}},
       "tables": {{"fct_orders": {{"windows": ["2025-10"]}}}}, "failures": [], "warnings": ["a rule fails"],
       "steps": {{"build fct_orders": 1.25, "land raw_app__orders": 2.5}}}}'),
    ('run-2', 'api_ingest', '2025-10-20 11:10Z', null, 'Running', '{{}}'),
    ('run-3', 'backup', '2025-10-20 03:00Z', '2025-10-20 03:30Z', 'Crashed',
     '{{"failures": ["it was killed"]}}'),
    ('run-4', 'drill', '2025-10-20 04:00Z', '2025-10-20 05:00Z', 'TimedOut', '{{"failures": ["too long"]}}'),
    ('run-5', 'api_ingest', '2025-10-20 10:10Z', null, 'Late', '{{"failures": ["it does not start"]}}');
insert into ops.ledger (token, kind, layer, table_name, partition, run_id, manifest_hash, row_count)
values ('t1', 'publish', 'facts', 'fct_orders', '2025-10', 'run-1', 'h', 4);
insert into ops.partition_state (table_name, partition, token, version, row_count, files, published_at) values
    ('fct_orders', '2025-10', 't1', 1, 4, '[{{"bytes": 1234}}]', '2025-10-20 02:01Z'),
    ('fct_orders', '', 't1', 1, 0, '[]', null),
    ('stg_app__orders', '2025-10', 't0', 1, 4, '[]', null);
insert into ops.check_result (run_id, table_name, partition, rule, kind, severity, engine, passed,
    failing_rows, observed, checked_at) values
    ('run-1', 'fct_orders', '', 'unique_order_id', 'uniqueness', 'critical', 'duckdb', true, 0,
     '{{"rows": 4}}', '2025-10-20 02:00Z'),
    ('run-1', 'fct_orders', '', 'unique_order_id', 'uniqueness', 'critical', 'great_expectations', true, 0,
     '{{"rows": 4}}', '2025-10-20 02:00Z'),
    ('run-1', 'fct_orders', '', 'not_null_currency', 'completeness', 'critical', 'duckdb', true, 0,
     '{{"rows": 4}}', '2025-10-20 02:00Z'),
    ('run-1', 'stg_app__orders', '', 'between_quantity', 'accuracy', 'warning', 'duckdb', false, 2,
     '{{"rows": 4}}', '2025-10-20 02:00Z');
insert into ops.dead_letter (letter_id, source, entity, topic, kafka_partition, kafka_offset, reason, payload,
    received_at) values
    ('letter-1-of-the-clicks', 'events', 'clicks', 'clicks', 0, 7, 'no usable ''id'' & no time', '{SECRET}',
     '2025-10-20 01:00Z');
insert into ops.health (signal, subject, verdict, value, limit_value, unit, since, measured_at, message,
    action)
values
    ('data_freshness', 'fct_orders', 'critical', 7300, 3600, 's', '2025-10-20 11:00Z', '2025-10-20 11:59Z',
     'fct_orders is late.', 'Look at the last run.'),
    ('disk', 'lake', 'ok', 0.4, 0.9, 'ratio', '2025-10-20 09:00Z', '2025-10-20 11:59Z', '', '');
insert into ops.health_span (signal, subject, since, until, verdict) values
    ('data_freshness', 'fct_orders', '2025-10-20 09:00Z', '2025-10-20 10:59Z', 'ok'),
    ('data_freshness', 'fct_orders', '2025-10-20 11:00Z', '2025-10-20 11:59Z', 'critical'),
    ('disk', 'lake', '2025-10-20 09:00Z', '2025-10-20 11:59Z', 'ok');
insert into analytics.mart_daily_metrics
    (date, total_events, active_users, signed_in_events, anonymous_events, sessions)
select day, 100 + n, 10 + n, 90, 10 + n, 40
from (select day::date, row_number() over (order by day) as n
    from generate_series('2025-10-06'::date, '2025-10-20', '1 day') as day) as days;
update personal.dim_users set email = '{SECRET}' where user_id = 1;
"""

_YEAR = (
    """insert into analytics.mart_daily_revenue
    select date::date, currency, 100, 123456.78, 3, 1000.00, 5, 1234.56, 122222.22
    from generate_series('2024-10-01'::date, '2025-10-01', '1 day') as date
    cross join unnest(array['USD', 'EUR', 'GBP', 'JPY', 'INR', 'KRW', 'CHF']) as currency""",
    """insert into analytics.mart_revenue_reconciliation
    select date, currency, 100, revenue, 0, 100, revenue, 0, 0, 0, 0, 0, 0 from analytics.mart_daily_revenue
    where date < '2025-10-02'""",
    "refresh materialized view analytics.mv_daily_revenue",
    """insert into analytics.fct_daily_active_users
    select date::date, 2000 from generate_series('2024-10-01'::date, '2025-10-01', '1 day') as date""",
    """insert into analytics.mart_daily_event_types
    select date::date, 'event_type_' || kind, 12345, 678
    from generate_series('2024-10-01'::date, '2025-10-01', '1 day') as date
    cross join generate_series(1, 14) as kind""",
    """insert into ops.run
    select 'year-' || n, 'analytics_pipeline', '2025-10-20'::timestamptz - n * interval '1 hour',
        '2025-10-20'::timestamptz - n * interval '1 hour', 'Completed',
        '{"seconds": 30, "landed": {}, "tables": {}, "warnings": ["a rule fails"], "failures": []}'
    from generate_series(1, 8760) as n""",
    """insert into ops.check_result
    select 'year-' || n, 'fct_orders', '', 'rule_' || rule, 'accuracy', 'critical', 'duckdb', rule <> 7, 0,
        '{"rows": 4}', '2025-10-20'::timestamptz - n * interval '12 hours'
    from generate_series(1, 60) as n cross join generate_series(1, 340) as rule""",
    """insert into ops.incident (incident_id, cause, signal, subject, severity, opened_at, seen_at,
        resolved_at, message)
    select 'year-' || n, 'c' || n, 'row_count', 'fct_orders', 'warning', at, at, at + interval '1 hour',
        'fct_orders has fewer rows than it uses to have'
    from generate_series(1, 365) as n cross join lateral (
        select '2025-10-19'::timestamptz - n * interval '1 day') as opened (at)""",
)


def fill(dsn: str) -> None:
    """Make every published table and view, and the rows above beside those of the shop."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        shop.fill(connection)
        connection.execute(_OPS.encode())
        _settle(connection)


def _settle(connection: psycopg.Connection[Any]) -> None:
    """The incidents, as settlement writes them: one that is over, and one that more failed because of."""
    routes = Routes({"file": Channel("file", "file:///dev/null")}, (Route(("file",)),))
    day_before = NOW - timedelta(days=1)
    full = Verdict(
        "disk", "lake", State.WARNING, day_before - timedelta(hours=1), message="The disk is full."
    )
    late = [
        Verdict(
            "data_freshness",
            table,
            State.CRITICAL,
            NOW - timedelta(hours=1),
            message=f"{table} is late.",
            action="Look at the last run.",
        )
        for table in ("fct_orders", "mart_daily_revenue")
    ]
    over = replace(full, state=State.OK, measured_at=day_before)
    for verdicts in ([full], [over], late):
        with connection.transaction():
            settle(connection, routes, verdicts, verdicts[0].measured_at, hidden=())
        deliver(connection, routes, verdicts[0].measured_at, hidden=())


def services(server: Server, folder: Path, *, filled: bool = True, **settings: str) -> Services:
    """A warehouse of its own, with those rows or with none and no table."""
    dsn = server.database()
    if filled:
        fill(dsn)
    given: dict[str, Any] = {"_env_file": None, "moment": [NOW], "lake": folder / "lake"}
    given |= {"warehouse_dsn": dsn, "kafka_bootstrap": "127.0.0.1:1", "stripe_url": "http://127.0.0.1:1"}
    given |= {"app_dsn": "host=127.0.0.1 port=1", "sendgrid_url": "http://127.0.0.1:1"}
    return Services(At(**{**given, **settings}))


def add_a_year(services: Services) -> None:
    """A year of days beside those rows: what charts draw, runs by the hour, checks, an incident a day."""
    with services.warehouse.connect() as connection:
        for statement in _YEAR:
            connection.execute(statement.encode())
