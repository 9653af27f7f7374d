"""How much waits at a source, asked cheaply and without landing anything: what `plan` tells beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql

from flows.extract import SourceError, cdc, kafka
from flows.extract.debezium import topic as topic_of
from flows.extract.debezium_guard import ANEW
from flows.extract.embedded import topics
from flows.extract.postgres_marks import begins_anew
from flows.planner import UNKNOWN
from flows.settings import Settings
from transforms.contract import Partition
from transforms.entities import Kafka, Postgres, SourceEntity

_ANSWER_MILLISECONDS = 1000


def waiting(
    entity: SourceEntity,
    positions: Mapping[str, Any],
    settings: Settings,
) -> dict[str, int] | None:
    """Window → rows that a run would land, as far as the source can say it within a second; None where only
    reading it tells: snapshots, what is to be compared whole, APIs, and the application's log where no broker
    holds what is in it.

    A topic can't tell its records' days before they are read: they are UNKNOWN's. Raises SourceError when
    the source does not answer.
    """
    if isinstance(entity.read, Kafka):
        bootstrap, options = settings.require("kafka_bootstrap"), settings.kafka_options
        rows = sum(kafka.lag(bootstrap, entity.read.topic, positions, options=options).values())
        return {UNKNOWN: rows} if rows else {}
    if isinstance(entity.read, Postgres) and entity.read.mode == "cdc":
        rows = waiting_in(settings, topic_of(settings, entity.read), cdc.continued("cdc", positions))
        if not rows and settings.cdc_engine == "embedded":
            return None
        return {UNKNOWN: rows} if rows else {}
    if isinstance(entity.read, Postgres) and entity.read.mode == "incremental":
        if begins_anew(positions, entity, entity.read):
            return None
        return _changed_rows(entity, entity.read, _seen(positions), settings.require("app_dsn"))
    return None


def waiting_in(settings: Settings, topic: str, positions: Mapping[str, Any]) -> int:
    """Records of a change topic behind the positions. Without Kafka those that a run has read and not landed:
    what else the source's log holds, nobody knows before it is read. Raises SourceError.
    """
    if settings.cdc_engine == "embedded":
        return topics.span(settings, topic, positions).records
    bootstrap, options = settings.require("kafka_bootstrap"), settings.kafka_options
    return sum(kafka.lag(bootstrap, topic, positions, options=options, cure=ANEW).values())


def _seen(positions: Mapping[str, Any]) -> object:
    """The highest cursor that was read: a number's mark follows one run behind, see postgres.py."""
    pending = positions.get("pending")
    return pending["high"] if pending else positions.get("mark")


def _changed_rows(entity: SourceEntity, read: Postgres, mark: object, dsn: str) -> dict[str, int]:
    assert read.cursor is not None
    cursor = sql.Identifier(read.cursor)
    after = sql.SQL("where {} > {}").format(cursor, sql.Literal(mark)) if mark is not None else sql.SQL("")
    query = sql.SQL("select {}, count(*) from {} {} group by 1").format(
        _key(entity.partition), sql.Identifier(read.schema, read.table), after
    )
    try:
        with psycopg.connect(dsn, connect_timeout=3, autocommit=True) as connection:
            connection.execute(
                sql.SQL("set statement_timeout = {}").format(sql.Literal(_ANSWER_MILLISECONDS))
            )
            connection.execute("set timezone = 'UTC'")
            return {str(key): int(count) for key, count in connection.execute(query).fetchall()}
    except psycopg.Error as error:
        reason = (error.diag.message_primary or str(error).splitlines()[0]).rstrip(".")
        raise SourceError(f"{read.schema}.{read.table} did not say what is new: {reason}.") from None


def _key(partition: Partition | None) -> sql.Composable:
    if partition is None:
        return sql.Literal("")
    form = "YYYY-MM-DD" if partition.every == "day" else "YYYY-MM"
    return sql.SQL("to_char({}, {})").format(sql.Identifier(partition.by), sql.Literal(form))
