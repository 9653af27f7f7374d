"""A connector's configuration, made from the declarations alone. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping

from psycopg.conninfo import conninfo_to_dict

from flows.errors import FlowsError
from flows.extract.debezium import Names
from flows.extract.debezium_observed import BEGINS, REGISTRATION
from transforms.entities import Postgres, SourceEntity

_FIXED = {
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "tasks.max": "1",
    "plugin.name": "pgoutput",
    "publication.autocreate.mode": "disabled",
    "snapshot.mode": "initial",
    # What a policy hides from its role would not be told: PostgreSQL is to refuse instead.
    "database.initial.statements": "set row_security = off",
    # A slot that is ahead of what was read was made anew: the connector fails, it does not go on from there.
    "offset.mismatch.strategy": "trust_offset",
    # Every value as it is at the source, in one form whatever its precision.
    "decimal.handling.mode": "string",
    "interval.handling.mode": "string",
    # In JSON these bytes are base64 too. The mode of that name sends null for a large value that an update
    # did not touch, which nobody can tell from a value that is null.
    "binary.handling.mode": "bytes",
    "hstore.handling.mode": "json",
    "time.precision.mode": "microseconds",
    "include.unknown.datatypes": "true",
    "unavailable.value.placeholder": "__debezium_unavailable_value",
    # Every change: a truncate is skipped unless it is asked for.
    "skipped.operations": "none",
    "tombstones.on.delete": "true",
    "provide.transaction.metadata": "true",
    "heartbeat.interval.ms": "10000",
    "signal.enabled.channels": "source",
    "incremental.snapshot.watermarking.strategy": "insert_delete",
    "incremental.snapshot.chunk.size": "10240",
    "notification.enabled.channels": "sink",
    # Measured: three times the rows a second of the defaults.
    "max.batch.size": "8192",
    "max.queue.size": "32768",
    "snapshot.fetch.size": "10240",
    "poll.interval.ms": "50",
    "producer.override.linger.ms": "5",
    "producer.override.batch.size": "262144",
    # A killed worker's transaction must not hold its successor back for a minute.
    "producer.override.transaction.timeout.ms": "5000",
    "key.converter": "org.apache.kafka.connect.json.JsonConverter",
    "key.converter.schemas.enable": "false",
    "value.converter": "org.apache.kafka.connect.json.JsonConverter",
    "value.converter.schemas.enable": "false",
    # A null is a null, also in a column that has a default: the converter would send the default.
    "value.converter.replace.null.with.default": "false",
}
BEATS_KEPT = 70_000
"""Heartbeats that the source keeps: those of eight days in which the connector lived."""
_CERTIFICATES = ("sslmode", "sslcert", "sslkey", "sslrootcert")


def configuration(
    names: Names,
    entities: Iterable[SourceEntity],
    dsn: str,
    registration: str,
    *,
    keyed_otherwise: Collection[tuple[str, str]] = frozenset(),
    begins: Mapping[str, int] | None = None,
    exactly_once: bool = False,
    failover: bool = False,
) -> dict[str, str]:
    """The connector's whole configuration.

    `dsn` is the database as Kafka Connect reaches it; `keyed_otherwise` are the tables whose primary key is
    not the declared key, as (schema, table): their events are keyed by the declaration. `begins`: change
    topic → where it ended before this registration. `failover` has the slot go along to standbys that
    synchronize slots, which PostgreSQL can from 17 on. Raises FlowsError
    when the DSN does not name a host that a connection over TCP can be made to.
    """
    declared = tuple(entities)
    reads = [entity.read for entity in declared if isinstance(entity.read, Postgres)]
    # The heartbeat's own change tells that all the way through the connector is alive.
    captured = [_pattern(read.schema, read.table) for read in reads] + [_pattern(*names.heartbeat.split("."))]
    keys = [
        f"{_pattern(read.schema, read.table)}:{','.join(entity.key)}"
        for entity in declared
        if isinstance(read := entity.read, Postgres) and (read.schema, read.table) in keyed_otherwise
    ]
    made = {
        **_FIXED,
        **database(dsn),
        REGISTRATION: registration,
        "topic.prefix": names.prefix,
        "slot.name": names.slot,
        "publication.name": names.publication,
        "table.include.list": ",".join(captured),
        # A landing remembers the newest beat: a source that does not know it any more went back in time. By
        # their number, and not by their age: while the connector is away nobody's beat is let go of.
        "heartbeat.action.query": (
            f"with old as (delete from {names.heartbeat} where beat <= "
            f"(select max(beat) from {names.heartbeat}) - {BEATS_KEPT}) "
            f"insert into {names.heartbeat} default values"
        ),
        "signal.data.collection": names.signal,
        "notification.sink.topic.name": names.notifications,
        "exactly.once.support": "required" if exactly_once else "requested",
        "slot.failover": str(failover).lower(),
    }
    if begins:
        made[BEGINS] = json.dumps(dict(begins), sort_keys=True)
    if keys:
        made["message.key.columns"] = ";".join(keys)
    return made


def captured_tables(configuration: Mapping[str, str]) -> frozenset[str]:
    """The application's tables that a connector's configuration captures, as schema.table."""
    patterns = [one for one in configuration.get("table.include.list", "").split(",") if one]
    tables = {re.sub(r"\\(.)", r"\1", pattern) for pattern in patterns}
    prefix = configuration.get("topic.prefix", "")
    return frozenset(tables - {Names(prefix).heartbeat})


def _pattern(schema: str, table: str) -> str:
    """The regular expression of exactly this table."""
    return re.sub(r"([^A-Za-z0-9_])", r"\\\1", f"{schema}.{table}")


def database(dsn: str) -> dict[str, str]:
    """The properties that name a database. Raises FlowsError like `configuration`."""
    given = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    host = given.get("host", "")
    if not host or host.startswith("/") or "," in host:
        raise FlowsError(
            "The application's database must be named by one host for Debezium, which can't use a socket or "
            "a list: write its address in ANALYTICS_CDC_DSN, e.g. host=db port=5432 dbname=app (without "
            "Kafka: in ANALYTICS_APP_DSN)."
        )
    user = given.get("user", "")
    found = {
        "database.hostname": host,
        "database.port": given.get("port", "5432"),
        "database.user": user,
        "database.dbname": given.get("dbname", user),
    }
    if "password" in given:
        found["database.password"] = given["password"]
    return found | {f"database.{name}": given[name] for name in _CERTIFICATES if name in given}
