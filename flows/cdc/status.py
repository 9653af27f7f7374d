"""How the capture of changes is: connector, slot, and each table with its topic; and what is to be done."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psycopg

from flows.cdc import lost_offsets
from flows.errors import FlowsError
from flows.extract import SourceError
from flows.extract import debezium as named
from flows.extract.debezium_guard import REMEMBERED, judged, unknown_marks
from flows.extract.debezium_observed import IDENTITIES, Observed, lsn_text, observe
from flows.extract.waiting import waiting_in
from flows.services import Services
from flows.settings import Settings
from flows.stores.ledger_reader import LedgerReader
from transforms.entities import Postgres, SourceEntity

SHARE_OF_LIMIT = 0.5
"""Of max_slot_wal_keep_size: more WAL kept than this is said before PostgreSQL gives the slot up."""
NO_LIMIT_BYTES = 10 << 30
"""The same where PostgreSQL has no limit: it would keep WAL until its disk is full."""


@dataclass(frozen=True)
class TableStatus:
    """One captured table: `messages` are those that its topic holds, `waiting` those not landed yet."""

    table: str
    source: str
    topic: str
    published: bool
    replica_identity: str | None
    messages: int | None
    waiting: int | None
    halted: str | None


@dataclass(frozen=True)
class Status:
    """Everything that was seen. `problems` are sentences that say what to do; empty when all is well."""

    connector: str
    state: str
    tasks: tuple[str, ...]
    failure: str
    slot: str
    slot_active: bool
    wal_status: str | None
    wal_kept_bytes: int | None
    wal_limit_bytes: int | None
    confirmed_lsn: str | None
    publication: str
    tables: tuple[TableStatus, ...]
    problems: tuple[str, ...]

    def json(self) -> str:
        """For programs."""
        return json.dumps(asdict(self), indent=2)

    def lines(self) -> list[str]:
        """For people."""
        tasks = f", its task {', '.join(self.tasks)}" if self.tasks else ""
        kept = "-" if self.wal_kept_bytes is None else _size(self.wal_kept_bytes)
        limit = "no limit" if self.wal_limit_bytes is None else f"of {_size(self.wal_limit_bytes)}"
        active = "active" if self.slot_active else "not active"
        slot = f"{active}, {self.wal_status}, {kept} of WAL kept ({limit})"
        lines = [
            f"connector    {self.connector}: {self.state}{tasks}",
            f"slot         {self.slot}: {slot if self.wal_status else 'missing'}"
            + (f", confirmed {self.confirmed_lsn}" if self.confirmed_lsn else ""),
            f"publication  {self.publication}",
            "",
        ]
        width = max([len(one.source) for one in self.tables] or [0])
        for one in self.tables:
            published = "published" if one.published else "not published"
            messages = "no topic" if one.messages is None else f"{one.messages:,} messages"
            waiting = "never landed" if one.waiting is None else f"{one.waiting:,} not landed"
            identity = f"identity {one.replica_identity or '-'}"
            lines.append(
                f"{one.source:<{width}}  {published}, {identity}, {one.topic}: {messages}, {waiting}"
            )
        return lines


def look(settings: Settings, entities: Iterable[SourceEntity]) -> Status:
    """Ask PostgreSQL, Kafka Connect, the broker and the ledger. Raises FlowsError when one of the first two
    does not answer.
    """
    wanted = tuple(entities)
    names = named.names(settings)
    seen = observe(settings, wanted)
    positions, problems = positions_of(settings, wanted)
    remembered = {table: found.get(REMEMBERED, {}) for table, found in positions.items()}
    halts = {
        **lost_offsets.halts(settings, seen, wanted, positions),
        **judged(seen, wanted, remembered, unknown_marks(settings, remembered)),
    }
    tables = []
    for entity in wanted:
        one, trouble = _table(settings, seen, entity, positions.get(entity.table), halts.get(entity.table))
        tables.append(one)
        problems += trouble
    by_reason: dict[str, list[str]] = {}
    for entity in wanted:
        if reason := halts.get(entity.table):
            by_reason.setdefault(reason, []).append(entity.name)
    told = [f"{who(tables_, len(wanted))}: {reason}." for reason, tables_ in by_reason.items()]
    state, slot = seen.connector, seen.slot
    return Status(
        connector=names.connector,
        state=state.connector.state if state else "missing",
        tasks=tuple(task.state for task in state.tasks) if state else (),
        failure=state.failure if state else "",
        slot=names.slot,
        slot_active=slot.active if slot else False,
        wal_status=slot.wal_status if slot else None,
        wal_kept_bytes=slot.kept if slot else None,
        wal_limit_bytes=seen.keep_limit,
        confirmed_lsn=lsn_text(slot.confirmed) if slot and slot.confirmed else None,
        publication=names.publication if seen.published is not None else f"{names.publication}: missing",
        tables=tuple(tables),
        problems=(*told, *wal_problems(seen), *problems),
    )


def wal_problems(seen: Observed) -> list[str]:
    """What is to be done about the WAL that the slot keeps."""
    slot = seen.slot
    if slot is None or slot.wal_status == "lost":
        return []
    most = seen.keep_limit * SHARE_OF_LIMIT if seen.keep_limit is not None else NO_LIMIT_BYTES
    if slot.kept <= most:
        return []
    limit = "no limit is set" if seen.keep_limit is None else f"{_size(seen.keep_limit)} are the most"
    return [
        f"Slot {seen.slot_name} keeps {_size(slot.kept)} of WAL at the application's PostgreSQL ({limit}): "
        "see that the connector runs (python -m flows cdc resume), or raise max_slot_wal_keep_size."
    ]


def who(names: list[str], of: int) -> str:
    """Which of so many tables are halted."""
    return "Every table is halted" if len(names) == of and of > 1 else f"{', '.join(sorted(names))} halted"


def _table(
    settings: Settings,
    seen: Observed,
    entity: SourceEntity,
    positions: Mapping[str, Any] | None,
    halted: str | None,
) -> tuple[TableStatus, list[str]]:
    read = entity.read
    assert isinstance(read, Postgres)
    place = (read.schema, read.table)
    topic = named.topic(settings, read)
    table = seen.tables.get(place)
    messages = waiting = None
    problems: list[str] = []
    try:
        messages = waiting_in(settings, topic, {})
        if positions and "offsets" in positions:
            waiting = waiting_in(settings, topic, positions)
    except SourceError as error:
        # Before the first register there is none, which the connector's state says already.
        if seen.connector is not None:
            problems.append(str(error))
    return (
        TableStatus(
            table=entity.table,
            source=".".join(place),
            topic=topic,
            published=place in (seen.published or {}),
            replica_identity=IDENTITIES[table.identity] if table else None,
            messages=messages,
            waiting=waiting,
            halted=halted,
        ),
        problems,
    )


def positions_of(
    settings: Settings, entities: Iterable[SourceEntity]
) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """How far each table was landed; a warehouse that can't be asked is one problem and stops nothing."""
    try:
        with Services(settings).warehouse.connect() as connection:
            there = connection.execute("select to_regclass('ops.position') is not null").fetchone()
            if there is None or not there[0]:
                return {}, []
            reader = LedgerReader(connection)
            return {entity.table: reader.positions(entity.table).positions for entity in entities}, []
    except FlowsError as error:
        return {}, [str(error)]
    except psycopg.Error as error:
        kind = type(error).__name__
        return {}, [f"The warehouse does not say what was landed ({kind}): start it, then ask again."]


def _size(size: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GB"
