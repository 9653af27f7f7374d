"""Nothing moves silently: whether the change topics still say everything that happened at the source.

`observe` looks at PostgreSQL and Kafka Connect; `reasons` judges what was seen beside what a landing has
remembered, and is pure. What is remembered of a table stands in the ledger's position, as `Observed.facts`:

    {"registration": …, "system": …, "timeline": 1, "database": 16384, "slot": …, "lsn": "0/16B3748",
     "confirmed": where the slot stood, a number,
     "published": {"public.users": 16402}, "parts": {"public.clicks": {"16480": "clicks_2025_10"}},
     "mark": identity of the newest heartbeat, "beat": its number, "topic": the change topic,
     "key": the declared one}

A registration made anew reads every table whole, so it voids what was remembered of the one before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from flows.extract import debezium
from flows.extract.application import answering
from flows.extract.debezium_observed import IDENTITIES, Observed, forgotten, lsn_number, lsn_text, observe
from flows.extract.told_texts import is_told
from flows.settings import Settings
from transforms.entities import Postgres, SourceEntity

__all__ = ["KEY", "REMEMBERED", "Observed", "guard", "observe", "reasons"]

REMEMBERED = "guard"
"""Where what is remembered stands in a table's position."""
KEY = "key"
"""Key, beside what is remembered of the source, of the columns by which changes were told apart."""
ANEW = "python -m flows cdc unregister && python -m flows cdc register"
OFFSETS_LOST = (
    "Kafka Connect has lost how far the connector had read, and each table is read anew unasked, so changes "
    f"may be lost; read everything again: {ANEW}"
)


def guard(
    settings: Settings,
    entities: Iterable[SourceEntity],
    remembered: Mapping[str, Mapping[str, Any]],
    observed: Observed | None = None,
) -> dict[str, str]:
    """Why tables must halt: raw table → one sentence with what to do; empty when all is well.

    `remembered` is by raw table what `Observed.facts` gave at its last landing, empty for a table that was
    never landed from its change topic. Raises SourceAway when PostgreSQL or Kafka Connect does not answer.
    """
    wanted = tuple(entities)
    seen = observed or observe(settings, wanted)
    return reasons(seen, wanted, remembered, unknown_marks(settings, remembered))


def unknown_marks(settings: Settings, remembered: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
    """Heartbeats that are remembered and that the source should know and does not. Raises SourceAway."""
    with answering(settings) as dsn:
        return forgotten(dsn, debezium.names(settings), marks_of(remembered.values()))


def marks_of(remembered: Iterable[Mapping[str, Any]]) -> dict[str, int | None]:
    """The heartbeats among what is remembered: identity → number, None where only the one was kept."""
    return {str(known["mark"]): known.get("beat") for known in remembered if known.get("mark")}


def reasons(
    observed: Observed,
    entities: Iterable[SourceEntity],
    remembered: Mapping[str, Mapping[str, Any]],
    forgotten_marks: Collection[str] = frozenset(),
) -> dict[str, str]:
    """`guard`'s judgement of what was seen."""
    wanted = tuple(entities)
    found = judged(observed, wanted, remembered, forgotten_marks)
    named = {entity.table: f"{entity.source}.{entity.name}" for entity in wanted}
    return {table: f"{named[table]} is halted: {reason}." for table, reason in found.items()}


def judged(
    observed: Observed,
    entities: Iterable[SourceEntity],
    remembered: Mapping[str, Mapping[str, Any]],
    forgotten_marks: Collection[str] = frozenset(),
) -> dict[str, str]:
    """The same, without the table's name and the full stop: many tables can have one reason."""
    found: dict[str, str] = {}
    for entity in entities:
        read = entity.read
        assert isinstance(read, Postgres)
        known = _still_counts(observed, remembered.get(entity.table, {}))
        reason = (
            _of_another_source(observed, known, forgotten_marks)
            or _of_source(observed)
            or _of_table(observed, entity, read, known)
            or _of_connector(observed)
        )
        if reason:
            found[entity.table] = reason
    return found


def of_source(observed: Observed, remembered: Mapping[str, Any], forgotten_marks: Collection[str]) -> str:
    """Why nothing of this source may be read, whatever the table; empty when all is well."""
    known = _still_counts(observed, remembered)
    return (
        _of_another_source(observed, known, forgotten_marks)
        or _of_source(observed)
        or _of_connector(observed)
    )


def _still_counts(observed: Observed, remembered: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is remembered, nothing after a new registration: it reads every table whole, so that where the one
    before had got to says nothing.
    """
    is_new = observed.registration not in (None, remembered.get("registration"))
    return {} if is_new else remembered


def _of_another_source(
    observed: Observed, remembered: Mapping[str, Any], forgotten_marks: Collection[str]
) -> str:
    """Whether this is not the source that was read before, at a later time."""
    if not remembered:
        return ""
    what = ""
    if observed.system != remembered["system"]:
        what = "the application's database is another PostgreSQL cluster than the one read before"
    elif observed.database != remembered["database"]:
        what = "the application's database was dropped and made anew"
    elif _is_another_history(observed, remembered["timeline"]):
        what = (
            f"the application's PostgreSQL went from timeline {remembered['timeline']} to "
            f"{observed.timeline} (restored from a backup, or a standby took over) and replication slot "
            f"{observed.slot_name} did not come along"
        )
    elif observed.lsn < lsn_number(remembered["lsn"]):
        what = (
            f"the application's PostgreSQL is at LSN {lsn_text(observed.lsn)}, before {remembered['lsn']} "
            "which was seen already (restored from an older backup)"
        )
    elif remembered.get("mark") in forgotten_marks:
        # Its log may have grown beyond what was seen since.
        what = (
            "the application's database no longer knows a heartbeat that was seen in it (restored from an "
            "older backup, or the heartbeat table was emptied)"
        )
    return (
        f"{what}, so its change topic no longer tells what the table holds; read everything again: {ANEW}"
        if what
        else ""
    )


def _is_another_history(observed: Observed, timeline: int) -> bool:
    """Whether it went back, or on without the slot. A backup holds no slots, so one that came along says that
    a standby took over; what it lacks of the old primary, LSN and heartbeat tell.
    """
    came_along = observed.slot is not None and observed.slot.came_along
    return not observed.is_standby and observed.timeline != timeline and not came_along


def _of_source(observed: Observed) -> str:
    slot, name = observed.slot, observed.slot_name
    if observed.is_standby:
        return "the application's database is a read replica; name its primary in ANALYTICS_APP_DSN"
    if observed.wal_level != "logical":
        return (
            f"wal_level is {observed.wal_level} at the application's PostgreSQL and changes can't be read; "
            "set wal_level = logical there and restart it"
        )
    if slot is None:
        if observed.connector is None:
            return "nothing captures the application's changes yet; python -m flows cdc register"
        failure = observed.connector.failure or ""
        if _NO_SENDER in failure:
            return failed(failure)  # it never came to make one
        return (
            f"replication slot {name} is gone, so changes since its last event are lost; "
            f"read everything again: {ANEW}"
        )
    if slot.plugin != "pgoutput":
        return (
            f"replication slot {name} is of plugin {slot.plugin}, not pgoutput; drop it "
            f"(select pg_drop_replication_slot('{name}')), then read everything again: {ANEW}"
        )
    if slot.wal_status == "lost":
        return (
            f"PostgreSQL has invalidated replication slot {name} (its WAL went over max_slot_wal_keep_size "
            f"or it idled too long), so changes are lost; read everything again: {ANEW}"
        )
    if observed.published is None:
        return (
            f"publication {observed.publication_name} is gone, so changes are lost; "
            f"read everything again: {ANEW}"
        )
    if observed.withheld:
        return (
            f"publication {observed.publication_name} does not send every change "
            f"({', '.join(observed.withheld)} left out), so changes are lost; read everything again: {ANEW}"
        )
    return ""


def _of_table(observed: Observed, entity: SourceEntity, read: Postgres, remembered: Mapping[str, Any]) -> str:
    place = f"{read.schema}.{read.table}"
    table = observed.tables.get((read.schema, read.table))
    if table is None:
        return f"the application's database has no table {place}; create it, or take it from the declarations"
    member = (observed.published or {}).get((read.schema, read.table))
    before = remembered.get("published", {}).get(place)
    if member is None and before is None:
        return (
            f"{place} is not in publication {observed.publication_name}, so its changes are not sent; "
            "python -m flows cdc register"
        )
    if before is not None and member != before:
        how = "is not in" if member is None else "was made anew or taken out of, and added again to,"
        return (
            f"{place} {how} publication {observed.publication_name}, so changes of it are lost; "
            f"read everything again: {ANEW}"
        )
    if (read.schema, read.table) in observed.in_part:
        return (
            f"publication {observed.publication_name} sends only some rows or columns of {place}, so changes "
            f"of it are lost; read everything again: {ANEW}"
        )
    if not table.names_rows_by(entity.key):
        lacking = f"without {', '.join(entity.key)}" if entity.key else "and no key is declared"
        # Without any identity PostgreSQL refuses to update or delete: nothing is lost.
        others = table.key if table.identity == "d" else table.identity_key
        again = f", then read everything again: {ANEW}" if others else ""
        return (
            f"updates and deletes in {place} do not say which row they are about (replica identity "
            f"{IDENTITIES[table.identity]}, {lacking}); alter table {place} replica identity full{again}"
        )
    if was := _other_key(entity, remembered.get(KEY, [])):
        return (
            f"its key was {was} before, and a row that was deleted then is named by that alone; read "
            f"everything again: {ANEW}"
        )
    named = {name for column in entity.columns for name in (column.name, *column.formerly)}
    there = observed.columns.get((read.schema, read.table), ())
    untold = [
        f"{one.name} ({'generated' if one.is_generated else one.pg_type})"
        for one in there
        if one.name in named and (one.is_generated or not is_told(one.pg_type))
    ]
    if untold:
        return (
            f"Debezium does not tell what stands in {', '.join(untold)} of {place}; "
            "declare the table's mode as incremental or snapshot"
        )
    return ""


def _other_key(entity: SourceEntity, known: Collection[str]) -> str:
    """The columns of a key that is not the declared one; '' where it is, also under other names by now."""
    now = {name: column.name for column in entity.columns for name in (*column.formerly, column.name)}
    return ", ".join(known) if known and {now.get(name, name) for name in known} != {*entity.key} else ""


_NO_SENDER = "permission denied to start WAL sender"
"""How PostgreSQL says that a role may not replicate."""
_NOT_LET_IN = "password authentication failed"
"""How it says that a role has another password by now."""
_LOST = "no longer available on the server"
"""How Debezium says that its slot does not go back to where it has read."""


def _of_connector(observed: Observed) -> str:
    state = observed.connector
    if state is None:
        return "no connector captures it; python -m flows cdc register"
    if (failure := state.failure) and _LOST in failure:
        return (
            f"replication slot {observed.slot_name} was made anew behind the connector's back, so changes "
            f"are lost; read everything again: {ANEW}"
        )
    if failure:
        return failed(failure)
    if state.connector.state in {"PAUSED", "STOPPED"}:
        return f"the connector is {state.connector.state.lower()}; python -m flows cdc resume"
    if state.connector.state == "UNASSIGNED" or any(task.state == "UNASSIGNED" for task in state.tasks):
        return "no worker of Kafka Connect runs the connector; look at its workers, then run again"
    return ""


def failed(failure: str) -> str:
    """That a connector has failed, and what to do."""
    mend = "mend that"
    if _NO_SENDER in failure:
        mend = (
            "let an administrator of the application's database run: alter role … replication; for the role "
            "that Connect uses (a managed service has a role to grant instead, as rds_replication)"
        )
    if _NOT_LET_IN in failure:
        return (
            f"the connector has failed ({failure.rstrip('.')}); write the password of now into "
            "ANALYTICS_CDC_DSN, or where that is not set ANALYTICS_APP_DSN, then python -m flows cdc register"
        )
    return f"the connector has failed ({failure.rstrip('.')}); {mend}, then python -m flows cdc resume"
