"""Registering, re-reading and unregistering: what changes at the source, the broker and Kafka Connect."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from flows import prepare
from flows.cdc import source, topics
from flows.cdc.configuration import captured_tables, configuration
from flows.errors import FlowsError
from flows.extract import debezium as named
from flows.extract.application import cdc_dsn
from flows.extract.connect import Connect
from flows.extract.debezium_guard import ANEW, failed
from flows.extract.debezium_observed import BEGINS, REGISTRATION, Observed, beginnings, connect, observe
from flows.extract.embedded.connector import Embedded
from flows.services import Services
from flows.settings import Settings
from flows.source_names import by_name
from transforms.entities import Postgres, SourceEntity

Say = Callable[[str], None]
_FAILOVER = 17
"""The first PostgreSQL whose slots can go along to a standby."""


def register(
    settings: Settings, entities: Iterable[SourceEntity], say: Say, *, wait_seconds: float = 0.0
) -> None:
    """Capture exactly these entities' tables; done twice it is done once.

    1. our tables and the publication at the source, 2. the topics, 3. the connector, which reads every table
    whole when it is new; 4. tables that came later are read beside the changes. Interrupted, the next call
    goes on. A new connector is given `wait_seconds` to have read every table. Raises FlowsError when the
    source is not fit for it, or when only a new beginning would help.
    """
    wanted = tuple(entities)
    if not wanted:
        raise FlowsError(
            'No table is declared as cdc: write mode="cdc" for one in transforms/sources/app.py, '
            "then register again."
        )
    if settings.cdc_engine == "embedded":
        # Its topics are the warehouse's, which may not have seen a run yet.
        with Services(settings).ledger() as ledger:
            prepare.schemas(ledger)
    names = named.names(settings)
    reads = [entity.read for entity in wanted if isinstance(entity.read, Postgres)]
    tables = [(read.schema, read.table) for read in reads]
    seen = observe(settings, wanted)
    _fit(seen, wanted)
    with source.opened(settings, names) as database, connect(settings) as client:
        known = client.configuration(names.connector)
        _not_paused(seen, names)
        _not_lost(seen, known is not None and bool(client.offsets(names.connector)))
        if known is None:
            database.all_is_seen(map(".".join, tables))
        database.prepare()
        for sentence in database.publish(tables):
            say(sentence)
        own = (*names.own_topics, *(named.topic(settings, read) for read in reads))
        made = topics.make(settings, own)
        if made:
            say(f"{len(made)} topics made, of one partition each.")
        keyed_otherwise = {
            place
            for entity, place in zip(wanted, tables, strict=True)
            if seen.tables[place].key != entity.key
        }
        new = configuration(
            names,
            wanted,
            cdc_dsn(settings),
            (known or {}).get(REGISTRATION) or uuid.uuid4().hex,
            keyed_otherwise=keyed_otherwise,
            begins=_begins(settings, reads, known or {}, made),
            exactly_once=settings.cdc_exactly_once,
            failover=seen.version >= _FAILOVER,
        )
        unpublished = {".".join(place) for place in tables if place not in (seen.published or tables)}
        if known is None:
            behind = 0 if names.notifications in made else topics.end_of(settings, names.notifications)
            client.begin(names.connector, new)
            read = f"it reads {len(tables)} tables whole, then every change"
            say(f"Connector {names.connector} is registered: {read}.")
        else:
            at_rest = seen.connector is not None and seen.connector.connector.state == "STOPPED"
            _change(client, database, names, known, new, unpublished, say, at_rest=at_rest)
        _running(client, names)
    if known is None and wait_seconds:
        done = topics.await_snapshot(settings, names.notifications, behind, wait_seconds)
        say("Every table is read." if done else "The tables are still being read: python -m flows cdc status")


def _begins(
    settings: Settings, reads: Sequence[Postgres], known: Mapping[str, str], made: Collection[str]
) -> dict[str, int]:
    """Where the change topics of tables that were not captured end, and what was noted of the others. A topic
    may hold what a registration before this one has sent, and nobody has landed.
    """
    captured = captured_tables(known)
    new = [named.topic(settings, read) for read in reads if f"{read.schema}.{read.table}" not in captured]
    ends = {topic: topics.end_of(settings, topic) for topic in new if topic not in made}
    return {topic: end for topic, end in ends.items() if end} | beginnings(known)


def _change(
    client: Connect | Embedded,
    database: source.Source,
    names: named.Names,
    known: dict[str, str],
    new: dict[str, str],
    unpublished: set[str],
    say: Say,
    *,
    at_rest: bool,
) -> None:
    """Give a connector that is there its new configuration; read what it did not capture before."""
    before, after = captured_tables(known), captured_tables(new)
    # Connect adds the connector's name to what it was given.
    changed = sorted(name for name in {*known, *new} - {"name"} if known.get(name) != new.get(name))
    if not changed and not unpublished:
        say(f"Connector {names.connector} is registered already; nothing has changed.")
        if at_rest:
            client.resume(names.connector)
        return
    added = sorted((after - before) | (unpublished & after))
    database.all_is_seen(added)
    client.stop(names.connector)
    if added:
        # While nothing runs: a task with the old configuration would take the order and leave the table out,
        # and whoever is interrupted here finds the order in the source's log.
        database.snapshot(added)
    client.configure(names.connector, new)
    client.resume(names.connector)
    for table in sorted(before - after):
        say(f"{table} is captured no more.")
    for table in added:
        say(f"{table} is captured from now on; its rows are read beside the changes.")
    if others := [name for name in changed if name not in ("table.include.list", BEGINS)]:
        say(f"Changed in the connector's configuration: {', '.join(others)}.")


def resnapshot(settings: Settings, entities: Iterable[SourceEntity], words: Iterable[str], say: Say) -> None:
    """Let tables be read again beside the changes; `words` are names of theirs, none: all of them. Raises
    FlowsError for a table that is not captured.
    """
    names = named.names(settings)
    known: dict[str, str] = {}
    for word, entity in by_name(entities).items():
        assert isinstance(entity.read, Postgres)
        known[word] = f"{entity.read.schema}.{entity.read.table}"
    if unknown := [word for word in words if word not in known]:
        raise FlowsError(
            f"{unknown[0]} is no table that is declared as cdc. These are: "
            f"{', '.join(sorted({*known.values()})) or 'none'}."
        )
    with connect(settings) as client:
        captured = captured_tables(client.configuration(names.connector) or {})
        chosen = sorted({known[word] for word in words} or {*known.values()})
        if missing := [table for table in chosen if table not in captured]:
            raise FlowsError(f"{missing[0]} is not captured yet: python -m flows cdc register")
    _not_paused(observe(settings, []), names)
    with source.opened(settings, names) as database:
        database.snapshot(chosen)
    say(f"{', '.join(chosen)}: read again beside the changes; python -m flows cdc status shows the topic.")


def unregister(settings: Settings, say: Say) -> None:
    """Remove the connector with its offsets, the slot, the publication and our tables. Topics stay."""
    names = named.names(settings)
    with connect(settings) as client:
        if client.configuration(names.connector) is None:
            say(f"There is no connector {names.connector}.")
        else:
            client.delete(names.connector)
            say(f"Connector {names.connector} is removed, and how far it had read.")
    with source.opened(settings, names) as database:
        if database.drop_slot():
            say(f"Replication slot {names.slot} is dropped: the source keeps no WAL for us any more.")
        database.drop_rest()
    say("The topics and what was landed of them stay. The next register reads every table whole.")


def _fit(seen: Observed, entities: tuple[SourceEntity, ...]) -> None:
    if seen.is_standby:
        raise FlowsError(
            "The application's database is a read replica: name its primary in ANALYTICS_APP_DSN."
        )
    if seen.wal_level != "logical":
        raise FlowsError(
            f"wal_level is {seen.wal_level} at the application's PostgreSQL: set wal_level = logical there "
            "and restart it, then register again."
        )
    for entity in entities:
        read = entity.read
        assert isinstance(read, Postgres)
        if (read.schema, read.table) not in seen.tables:
            raise FlowsError(
                f"{entity.source}.{entity.name}: the application's database has no table {read.schema}."
                f"{read.table}: create it, or take it from the declarations, then register again."
            )


def _not_paused(seen: Observed, names: named.Names) -> None:
    if seen.connector is not None and seen.connector.connector.state == "PAUSED":
        raise FlowsError(f"Connector {names.connector} is paused: first python -m flows cdc resume")


def _not_lost(seen: Observed, has_read: bool) -> None:
    """A slot that is not the one the connector has read from needs a new beginning: a person must want it."""
    anew = f"read everything again: {ANEW}"
    name = seen.slot_name
    if has_read and (seen.slot is None or seen.slot.wal_status == "lost"):
        raise FlowsError(
            f"Replication slot {name} is {'gone' if seen.slot is None else 'invalidated'} though the "
            f"connector has read from it, so changes are lost: {anew}"
        )
    if has_read and seen.published is None:
        raise FlowsError(
            f"Publication {seen.publication_name} is gone though the connector has read from it, so changes "
            f"may be lost: {anew}"
        )
    if seen.slot is not None and (seen.connector is None or seen.slot.plugin != "pgoutput"):
        raise FlowsError(
            f"There is a replication slot {name} that this connector did not make (plugin "
            f"{seen.slot.plugin}): if nobody else uses it, drop it with python -m flows cdc unregister; "
            "else choose another ANALYTICS_CDC_PREFIX."
        )


def _running(client: Connect | Embedded, names: named.Names) -> None:
    """Wait until the connector runs. Raises FlowsError with its reason when it fails."""
    state = client.wait_running(names.connector)
    if state.failure:
        raise FlowsError(f"{names.connector}: {failed(state.failure)}")
