"""`python -m flows doctor`: ask every service whether the batch can use it, and say what to do where it
can't.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg

from flows.errors import FlowsError
from flows.settings import Settings, load

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

_TIMEOUT_SECONDS = 5
_LEAST_FREE_BYTES = 2 << 30
_MOST_CLOCK_SECONDS = 5.0
_LEAST_POSTGRES = 150000


@dataclass(frozen=True)
class Finding:
    """What was asked of one service, whether it is well, what was seen, and what to do when it is not."""

    subject: str
    well: bool
    seen: str
    advice: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Every check, side by side; a service that does not answer delays the answer by seconds, not more."""
    checks: list[tuple[str, Callable[[Settings], list[Finding]]]] = [
        ("warehouse", _warehouse),
        ("application database", _application),
        ("Kafka", _kafka),
        ("Stripe", _stripe),
        ("SendGrid", _sendgrid),
        ("lake", _lake),
        ("Prefect", _prefect),
        ("change capture", _capture),
    ]
    with ThreadPoolExecutor(max_workers=len(checks)) as pool:
        answers = pool.map(lambda check: _guarded(check[0], check[1], settings), checks)
        found = {subject: findings for (subject, _), findings in zip(checks, answers, strict=True)}
    if not found["application database"][0].well:
        del found["change capture"]  # it asks the same database: one reason is told once
    return [finding for findings in found.values() for finding in findings]


def _guarded(subject: str, check: Callable[[Settings], list[Finding]], settings: Settings) -> list[Finding]:
    try:
        # An address may hold a password of its own, and whatever quotes it.
        return [replace(finding, seen=settings.scrub(finding.seen)) for finding in check(settings)]
    except FlowsError as error:
        return [Finding(subject, False, settings.scrub(str(error)))]
    except (OSError, RuntimeError, psycopg.Error) as error:
        message = str(error).strip().splitlines() or [type(error).__name__]
        return [
            Finding(
                subject,
                False,
                settings.scrub(message[0]),
                "Correct the address or start the service, then ask again.",
            )
        ]


def _connect(settings: Settings, dsn: str) -> tuple[psycopg.Connection, int, float]:
    connection = psycopg.connect(dsn, connect_timeout=_TIMEOUT_SECONDS, autocommit=True)
    row = connection.execute(
        "select current_setting('server_version_num')::int, extract(epoch from clock_timestamp())"
    ).fetchone()
    assert row is not None
    return connection, int(row[0]), abs(float(row[1]) - settings.machine_time())


def _postgres(settings: Settings, subject: str, dsn: str) -> tuple[psycopg.Connection, list[Finding]]:
    connection, version, drift = _connect(settings, dsn)
    major = version // 10000
    findings = [
        Finding(subject, version >= _LEAST_POSTGRES, f"PostgreSQL {major}", "Use PostgreSQL 15 or newer."),
        Finding(
            f"{subject}: clock",
            drift <= _MOST_CLOCK_SECONDS,
            f"{drift:.1f} s from this machine's",
            "Set both machines by NTP: freshness is judged by comparing their clocks.",
        ),
    ]
    return connection, findings


def _warehouse(settings: Settings) -> list[Finding]:
    connection, findings = _postgres(settings, "warehouse", settings.require("warehouse_dsn"))
    with connection:
        row = connection.execute(
            "select has_database_privilege(current_database(), 'create'), "
            "to_regnamespace('analytics') is not null"
        ).fetchone()
        assert row is not None
        findings.append(
            Finding(
                "warehouse: rights",
                bool(row[0] or row[1]),
                "schemas can be created" if row[0] else "no right to create schemas",
                "As its owner: grant create on database <name> to <this role>;",
            )
        )
    return findings


def _application(settings: Settings) -> list[Finding]:
    from transforms.entities import Postgres
    from transforms.sources.app import ENTITIES

    connection, findings = _postgres(settings, "application database", settings.require("app_dsn"))
    names = [f"{read.schema}.{read.table}" for e in ENTITIES if isinstance(read := e.read, Postgres)]
    with connection:
        rows = connection.execute(
            "select name, to_regclass(name) is not null, "
            "coalesce(has_table_privilege(to_regclass(name), 'select'), false) "
            "from unnest(%s::text[]) as name",
            (names,),
        ).fetchall()
    missing = [name for name, there, _ in rows if not there]
    closed = [name for name, there, readable in rows if there and not readable]
    seen = f"{len(names) - len(missing) - len(closed)} of {len(names)} tables can be read"
    advice = f"Missing: {', '.join(missing)}. " if missing else ""
    advice += f"No right to read: {', '.join(closed)} (grant select on them to this role)." if closed else ""
    tables = Finding("application database: tables", not missing and not closed, seen, advice)
    return [*findings, tables, _columns(settings, missing)]


def _columns(settings: Settings, missing: Sequence[str]) -> Finding:
    """The source's columns beside the declared ones; one that nobody declared is no failure."""
    from flows.extract.postgres_session import catalog
    from flows.extract.schema_differences import Remembered, differences
    from transforms.entities import Postgres
    from transforms.sources.app import ENTITIES

    otherwise, undeclared = [], 0
    for entity in ENTITIES:
        read = entity.read
        if not isinstance(read, Postgres) or f"{read.schema}.{read.table}" in missing:
            continue
        current = catalog(settings.require("app_dsn"), read.schema, read.table)
        found = differences(entity, Remembered(), current)
        undeclared += sum(one.change == "added" for one in found)
        otherwise += [f"{entity.name}.{one.column}" for one in found if one.change != "added"]
    seen = f"{len(otherwise)} otherwise than declared" + (f", {undeclared} undeclared" if undeclared else "")
    advice = f"{', '.join(otherwise)}: python -m flows schema diff"
    return Finding("application database: columns", not otherwise, seen, advice)


def _kafka(settings: Settings) -> list[Finding]:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    from flows.extract import debezium
    from transforms.entities import LEAST_KEPT, Kafka, Postgres
    from transforms.sources.events import ENTITIES

    bootstrap = settings.require("kafka_bootstrap")
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, **settings.kafka_options})
    try:
        there = client.list_topics(timeout=_TIMEOUT_SECONDS).topics
    except KafkaException:
        return [
            Finding(
                "Kafka",
                False,
                f"no broker answers at {bootstrap}",
                "Start it or correct ANALYTICS_KAFKA_BOOTSTRAP.",
            )
        ]
    wanted = {e.read.topic: e.read.retention for e in ENTITIES if isinstance(e.read, Kafka)}
    missing = [topic for topic in wanted if topic not in there]
    seen = f"{len(wanted) - len(missing)} of {len(wanted)} topics at {bootstrap}"
    advice = f"Create: {', '.join(missing)}." if missing else ""
    if settings.cdc_engine == "kafka":
        captured = (e.read for e in debezium.entities())
        wanted |= {
            debezium.topic(settings, read): LEAST_KEPT for read in captured if isinstance(read, Postgres)
        }
    kept = {topic: least for topic, least in wanted.items() if topic in there}
    return [Finding("Kafka", not missing, seen, advice), *_retention(client, bootstrap, kept)]


def _retention(client: AdminClient, bootstrap: str, declared: Mapping[str, timedelta]) -> list[Finding]:
    """One finding for each topic that keeps less than declared, else one for all."""
    from flows.extract import kafka_retention

    subject = "Kafka: retention"
    shorter = kafka_retention.shorter(client, declared, _TIMEOUT_SECONDS) if declared else []
    if not shorter:
        return [Finding(subject, True, f"{len(declared)} topics keep what is declared")]
    return [Finding(subject, one.kept is None, str(one), one.mending(bootstrap)) for one in shorter]


def _capture(settings: Settings) -> list[Finding]:
    """Kafka Connect, connector, slot, publication, replica identities; nothing where nothing is cdc."""
    from flows.extract import debezium

    entities = debezium.entities()
    if not entities:
        return []
    from flows.cdc.status import wal_problems
    from flows.extract.debezium_guard import judged
    from flows.extract.debezium_observed import connect, observe

    with connect(settings) as client:
        title, version = client.title, client.version()
    seen = observe(settings, entities)
    subject, state, slot = "change capture", seen.connector, seen.slot
    halts = judged(seen, entities, {})
    shared = set(halts.values()) if len(halts) == len(entities) and len(set(halts.values())) == 1 else set()
    advice = f"{next(iter(shared))}." if shared else ""
    by_table = {} if shared else halts
    wal = wal_problems(seen)
    return [
        Finding(f"{subject}: Connect", True, f"{title} {version} answers"),
        Finding(
            f"{subject}: connector",
            bool(state and state.runs),
            f"{state.connector.state.lower()}, {len(state.tasks)} task" if state else "not registered",
            advice or "Look at it: python -m flows cdc status",
        ),
        Finding(
            f"{subject}: slot",
            bool(slot and slot.plugin == "pgoutput" and slot.wal_status != "lost" and not wal),
            f"{slot.wal_status}, {slot.kept / 1e6:.0f} MB of WAL kept" if slot else "missing",
            next(iter(wal), advice),
        ),
        Finding(
            f"{subject}: tables",
            not by_table and seen.published is not None,
            f"{len(entities) - len(by_table)} of {len(entities)} tables are published and name their rows",
            " ".join(sorted({f"{reason}." for reason in by_table.values()})) or advice,
        ),
    ]


def _api(subject: str, url: str, path: str, key: str, variable: str) -> list[Finding]:
    import httpx

    begun = time.perf_counter()
    try:
        answer = httpx.get(
            url.rstrip("/") + path, headers={"Authorization": f"Bearer {key}"}, timeout=_TIMEOUT_SECONDS
        )
    except httpx.HTTPError:
        return [
            Finding(
                subject,
                False,
                f"{url} does not answer",
                f"Correct ANALYTICS_{variable}_URL or wait for the service.",
            )
        ]
    seen = f"answers {answer.status_code} in {(time.perf_counter() - begun) * 1000:.0f} ms"
    advice = {
        401: f"The key is refused: correct ANALYTICS_{variable}_KEY.",
        403: "The key lacks the right to read this.",
    }
    return [
        Finding(
            subject, answer.status_code in {200, 429}, seen, advice.get(answer.status_code, f"Look at {url}.")
        )
    ]


def _stripe(settings: Settings) -> list[Finding]:
    return _api(
        "Stripe",
        settings.require("stripe_url"),
        "/v1/charges?limit=1",
        settings.require("stripe_key"),
        "STRIPE",
    )


def _sendgrid(settings: Settings) -> list[Finding]:
    key = settings.require("sendgrid_key")
    return _api(
        "SendGrid", settings.require("sendgrid_url"), "/v3/suppression/bounces?limit=1", key, "SENDGRID"
    )


def _lake(settings: Settings) -> list[Finding]:
    root = settings.lake_root
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        return [
            Finding(
                "lake",
                False,
                f"{root}: {error.strerror}",
                "Give this user the right to write, or set ANALYTICS_LAKE.",
            )
        ]
    free = shutil.disk_usage(root).free
    advice = f"Less than {_LEAST_FREE_BYTES >> 30} GiB are free at {root}: make room before the next run."
    return [
        Finding("lake", free >= _LEAST_FREE_BYTES, f"{root} is writable, {free / 1e9:.0f} GB free", advice)
    ]


def _prefect(settings: Settings) -> list[Finding]:
    import httpx

    address = settings.prefect_address
    if address is None:
        return [Finding("Prefect", True, "no server is set: runs use a temporary one of their own")]
    try:
        healthy = httpx.get(f"{address}/health", timeout=_TIMEOUT_SECONDS).status_code == 200
    except httpx.HTTPError:
        healthy = False
    return [
        Finding(
            "Prefect", healthy, address, "Start the server (prefect server start) or correct PREFECT_API_URL."
        )
    ]


def command(_: argparse.Namespace) -> int:
    """Print one line per finding; exit 1 when one is not well."""
    findings = examine(load())
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        print(f"{'ok  ' if finding.well else 'FAIL'}  {finding.subject:<{width}}  {finding.seen}")
        if not finding.well and finding.advice:
            print(f"{'':<{width + 8}}{finding.advice}")
    failed = sum(not finding.well for finding in findings)
    print("Everything the batch needs is there." if not failed else f"{failed} to mend.", file=sys.stderr)
    return 1 if failed else 0
