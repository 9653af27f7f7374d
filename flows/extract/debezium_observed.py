"""What PostgreSQL and Kafka Connect say of the source of the change topics, at one moment."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from flows.extract import debezium as named
from flows.extract import source_parts
from flows.extract.application import answering, secrets
from flows.extract.connect import Connect, ConnectorState
from flows.extract.postgres_session import catalogs
from flows.extract.postgres_types import SourceColumn
from flows.extract.source_parts import Parts
from flows.settings import Settings
from quality import session_settings
from transforms.entities import Postgres, SourceEntity

if TYPE_CHECKING:
    from flows.extract.embedded.connector import Embedded

REGISTRATION = "analytics.registration"
"""Property of the connector's configuration that tells one registration from another."""
BEGINS = "analytics.begins"
"""The same, of where each change topic ended when its table was registered: JSON, topic → offset. What is
before it, a registration before this one has sent; no topic without records is in it."""
_TABLES = """
select n.nspname, c.relname, c.oid::bigint as oid, c.relreplident::text as identity,
    coalesce(array(
        select a.attname::text from pg_index i
        join unnest(i.indkey) with ordinality as k (number, place) on true
        join pg_attribute a on a.attrelid = c.oid and a.attnum = k.number
        where i.indrelid = c.oid and i.indisprimary order by k.place
    ), '{}') as key,
    coalesce((
        select array_agg(a.attname::text) from pg_index i
        join pg_attribute a on a.attrelid = c.oid and a.attnum = any(i.indkey)
        where i.indrelid = c.oid and i.indisreplident
    ), '{}') as identity_key
from pg_class c join pg_namespace n on n.oid = c.relnamespace
join unnest(%s::text[], %s::text[]) as wanted (schema, name)
    on n.nspname = wanted.schema and c.relname = wanted.name
where c.relkind in ('r', 'p')
"""

IDENTITIES = {"d": "default", "f": "full", "i": "index", "n": "nothing"}
# A publication of all tables, or of a schema's, has no membership for each: the table itself stands for it.
_PUBLISHED = """
select t.schemaname::text as schema, t.tablename::text as name,
    coalesce(r.oid::bigint, (p.oid::bigint << 32) + c.oid::bigint) as member,
    coalesce(to_jsonb(r) ->> 'prqual', to_jsonb(r) ->> 'prattrs') is not null as is_in_part
from pg_publication p join pg_publication_tables t on t.pubname = p.pubname
join pg_class c on c.oid = to_regclass(format('%%I.%%I', t.schemaname, t.tablename))
left join pg_publication_rel r on r.prpubid = p.oid and r.prrelid = c.oid
where p.pubname = %s
"""
_WITHHELD = """
select array_remove(array[
    case when not pubinsert then 'insert' end, case when not pubupdate then 'update' end,
    case when not pubdelete then 'delete' end, case when not pubtruncate then 'truncate' end
], null) as withheld from pg_publication where pubname = %s
"""


@dataclass(frozen=True)
class Slot:
    """A replication slot. `kept` is the WAL that it keeps from being removed, in bytes; LSNs are numbers."""

    plugin: str
    database: str
    active: bool
    wal_status: str
    confirmed: int | None
    kept: int
    came_along: bool = False
    """Whether it was made for a failover, and on a standby that has taken over since."""


@dataclass(frozen=True)
class SourceTable:
    """A table of the application. `identity`: d(efault), f(ull), i(ndex), n(othing)."""

    identity: str
    key: tuple[str, ...]
    identity_key: tuple[str, ...] = ()

    def names_rows_by(self, key: Collection[str]) -> bool:
        """Whether an update's or delete's event says this key of the row that it was about. Columns beyond
        the replica identity are not in its image of the row; Debezium invents values for them.
        """
        named = self.key if self.identity == "d" else self.identity_key
        return self.identity == "f" or (bool(key) and {*key} <= {*named})


@dataclass(frozen=True)
class Observed:
    """What PostgreSQL and Kafka Connect say at one moment. `lsn` is the end of the source's WAL, a number."""

    registration: str | None
    connector: ConnectorState | None
    system: str
    timeline: int
    database: int
    lsn: int
    wal_level: str
    is_standby: bool
    version: int
    """Of the server, like 18."""
    keep_limit: int | None
    """max_slot_wal_keep_size in bytes; None: unlimited."""
    slot_name: str
    slot: Slot | None
    publication_name: str
    published: Mapping[tuple[str, str], int] | None
    """Tables of the publication, as (schema, table), each with a number: another one when it was made anew,
    or taken out and added again. None: there is no publication."""
    withheld: tuple[str, ...] = ()
    """What the publication does not send: insert, update, delete, truncate."""
    in_part: frozenset[tuple[str, str]] = frozenset()
    """Tables of the publication of which it sends some rows or columns only."""
    tables: Mapping[tuple[str, str], SourceTable] = field(default_factory=dict)
    columns: Mapping[tuple[str, str], Sequence[SourceColumn]] = field(default_factory=dict)
    """The columns of each table."""
    parts: Mapping[tuple[str, str], Parts] = field(default_factory=dict)
    """The partitions of those that have some."""
    mark: str | None = None
    """Identity of the newest heartbeat; None before the first."""
    beat: int | None = None
    """Its number: they are given in turn."""
    begins: Mapping[str, int] = field(default_factory=dict)
    """The offset from which on a change topic's records are of this registration, where that is known."""

    def facts(self) -> dict[str, Any]:
        """What a landing remembers of the source it read from; JSON."""
        return {
            "registration": self.registration,
            "system": self.system,
            "timeline": self.timeline,
            "database": self.database,
            "slot": self.slot_name,
            "lsn": lsn_text(self.lsn),
            "confirmed": (self.slot.confirmed if self.slot else None) or 0,
            "mark": self.mark,
            "beat": self.beat,
            "published": {
                ".".join(place): member
                for place, member in (self.published or {}).items()
                if place in self.tables
            },
            "parts": source_parts.remembered(self.parts),
        }


def lsn_number(text: str) -> int:
    """An LSN like 16/B374D848 as a number."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def lsn_text(number: int) -> str:
    """An LSN as PostgreSQL writes it."""
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"


def connect(settings: Settings) -> Connect | Embedded:
    """Kafka Connect as the settings name it, or the engine that stands in its place."""
    if settings.cdc_engine == "embedded":
        from flows.extract.embedded.connector import Embedded

        return Embedded(settings, named.names(settings))
    return Connect(settings.require("connect_url"), secrets(settings))


def observe(settings: Settings, entities: Iterable[SourceEntity] | None = None) -> Observed:
    """Look at the source of the cdc entities (default: of all that are declared).

    Take it before the topic is read: what is remembered must not be newer than what was landed. Raises
    SourceAway when PostgreSQL or Kafka Connect does not answer, SettingsError when one is not set.
    """
    names = named.names(settings)
    wanted = named.entities() if entities is None else entities
    reads = [entity.read for entity in wanted if isinstance(entity.read, Postgres)]
    with connect(settings) as client:
        configuration = client.configuration(names.connector)
        state = client.state(names.connector) if configuration is not None else None
    with answering(settings) as dsn:
        seen = observe_source(dsn, names, reads, (configuration or {}).get(REGISTRATION), state)
    return replace(seen, begins=beginnings(configuration or {}))


def beginnings(configuration: Mapping[str, str]) -> dict[str, int]:
    """What BEGINS says in a connector's configuration; nothing where it was registered without."""
    return {topic: int(offset) for topic, offset in json.loads(configuration.get(BEGINS, "{}")).items()}


def observe_source(
    dsn: str,
    names: named.Names,
    reads: Iterable[Postgres],
    registration: str | None,
    state: ConnectorState | None,
) -> Observed:
    """Look at PostgreSQL alone; the last two are what Kafka Connect says of the connector."""
    with psycopg.connect(dsn, connect_timeout=10, autocommit=True, row_factory=dict_row) as connection:
        connection.execute(session_settings.forms().encode())
        return _observed(connection, names, list(reads), registration, state)


def forgotten(dsn: str, names: named.Names, marks: Mapping[str, int | None]) -> frozenset[str]:
    """Those of the heartbeats (identity → number, where that is known) that the source does not know (any
    more). Of one that is older than all it has, that says nothing: old ones are let go of.
    """
    if not marks:
        return frozenset()
    with psycopg.connect(dsn, connect_timeout=10, autocommit=True) as connection:
        there = connection.execute("select to_regclass(%s) is not null", (names.heartbeat,)).fetchone()
        if not there or not there[0]:
            return frozenset(marks)
        query = (
            "select mark::text from unnest(%s::uuid[], %s::bigint[]) as asked(mark, beat) where not exists "
            f"(select from {names.heartbeat} h where h.mark = asked.mark) "
            f"and (beat < (select min(beat) from {names.heartbeat})) is not true"
        )
        found = connection.execute(query.encode(), ([*marks], [*marks.values()]))
        return frozenset(str(mark) for (mark,) in found)


def _observed(
    connection: psycopg.Connection[dict[str, Any]],
    names: named.Names,
    reads: list[Postgres],
    registration: str | None,
    state: ConnectorState | None,
) -> Observed:
    def row(query: str, *values: Any) -> dict[str, Any] | None:
        return connection.execute(query.encode(), values).fetchone()

    source = row(
        """
        select system_identifier::text as system, pg_is_in_recovery() as is_standby,
            (select oid::bigint from pg_database where datname = current_database()) as database,
            current_setting('wal_level') as wal_level,
            current_setting('server_version_num')::int / 10000 as version,
            (case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
                else pg_current_wal_lsn() end)::text as lsn,
            case when not pg_is_in_recovery()
                then ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int end as timeline,
            (select setting::bigint from pg_settings where name = 'max_slot_wal_keep_size') as keep_megabytes
        from pg_control_system()
        """
    )
    assert source is not None
    end = lsn_number(source["lsn"])
    slot = row(
        "select plugin::text, database::text, active, coalesce(wal_status, 'reserved') as wal_status, "
        "confirmed_flush_lsn::text as confirmed, restart_lsn::text as restart, "
        # Columns that PostgreSQL has from 17 on.
        "coalesce((to_jsonb(s) ->> 'failover')::boolean and (to_jsonb(s) ->> 'synced')::boolean, false) "
        "as came_along from pg_replication_slots s where slot_name = %s",
        names.slot,
    )
    publication = row(_WITHHELD, names.publication)
    members = list(connection.execute(_PUBLISHED.encode(), (names.publication,)))
    newest: dict[str, Any] = {}
    if row("select 1 where to_regclass(%s) is not null", names.heartbeat):
        newest = row(f"select mark::text, beat from {names.heartbeat} order by beat desc limit 1") or {}
    asked = ([read.schema for read in reads], [read.table for read in reads])
    tables = list(connection.execute(_TABLES.encode(), asked))
    oids = {(one["nspname"], one["relname"]): one["oid"] for one in tables}
    return Observed(
        registration=registration,
        connector=state,
        system=source["system"],
        timeline=source["timeline"] or 0,
        database=source["database"],
        lsn=end,
        wal_level=source["wal_level"],
        is_standby=source["is_standby"],
        version=source["version"],
        keep_limit=source["keep_megabytes"] << 20 if source["keep_megabytes"] >= 0 else None,
        slot_name=names.slot,
        slot=Slot(
            plugin=slot["plugin"] or "physical",
            database=slot["database"] or "",
            active=slot["active"],
            wal_status=slot["wal_status"],
            confirmed=lsn_number(slot["confirmed"]) if slot["confirmed"] else None,
            kept=max(0, end - lsn_number(slot["restart"])) if slot["restart"] else 0,
            came_along=slot["came_along"],
        )
        if slot
        else None,
        publication_name=names.publication,
        published={(one["schema"], one["name"]): one["member"] for one in members} if publication else None,
        withheld=tuple(publication["withheld"]) if publication else (),
        in_part=frozenset((one["schema"], one["name"]) for one in members if one["is_in_part"]),
        tables={
            (one["nspname"], one["relname"]): SourceTable(
                one["identity"], tuple(one["key"]), tuple(one["identity_key"])
            )
            for one in tables
        },
        columns=catalogs(connection, oids),
        parts=source_parts.parts(connection, oids),
        mark=newest.get("mark"),
        beat=newest.get("beat"),
    )
