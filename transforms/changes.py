"""Rows of a database's table out of what was landed of it: typed rows that were read, and change records.

A change record lands as it came (`RECORD`), beside what the landing found out about it (`FOUND`) and its key
and window column, typed. What a record does to its row depends on it alone by then, so reading is a matter
of one record at a time, whatever files are read together. Everything here is SQL text.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

from transforms.change_values import WHOLE, is_unavailable, value
from transforms.contract import Column, ContractError
from transforms.entities import Postgres, SourceEntity
from transforms.model import canonical_type

RECORD = ("topic", "kafka_partition", "kafka_offset", "kafka_timestamp", "key", "headers", "value")
"""Columns of the Kafka record, unchanged."""
FOUND = {
    "_change": "VARCHAR",
    "_registered_at": "TIMESTAMP WITH TIME ZONE",
    "_lsn": "BIGINT",
    "_commit_lsn": "BIGINT",
    "_transaction": "BIGINT",
    "_total_order": "BIGINT",
    "_changed_at": "TIMESTAMP WITH TIME ZONE",
    "_snapshot": "VARCHAR",
    "_filled": "VARCHAR",
    "_ignored": "VARCHAR",
    "_problem": "VARCHAR",
}
"""What the landing adds. `_change` is Debezium's op (c, u, d, r, t, m); `_registered_at` when the
connector's registration began to land, since places in the log (`_lsn`) begin anew where a source was
restored and are compared within one; `_changed_at` the source's commit time, null for a row of a
snapshot; `_filled` a JSON object of the values that were not sent, or not as PostgreSQL writes them;
`_ignored` says why a record changes no row, `_problem` why it can't be read."""

LANDED_ON = "landed_on"
"""Folder column of raw files: the day they were landed."""
OWN = frozenset({*FOUND, LANDED_ON, "_op", "_deleted_at", "_batch_id", "_landed_at", "_seq", "_payload"})
"""Names that no column of a source can have in raw, in lower case."""

VISIBLE = "_ignored is null and _problem is null"
"""SQL: whether a raw row is one that models see."""

DELETED_AT = "case when _op = 'd' then coalesce(_changed_at, _landed_at) end"
"""SQL: when a row of a typed relation went: by the source's commit, else when it was found gone."""

DELETED_AT_READ = "case when _op = 'd' then _landed_at end"
"""The same of files that hold nothing but rows that were read."""


def marks_deleted(entity: SourceEntity) -> bool:
    """Whether models see what a deleted row was."""
    return isinstance(entity.read, Postgres) and entity.read.deletes == "mark"


def check(entity: SourceEntity) -> None:
    """Raises ContractError for a table whose change records can't land beside its columns."""
    if not isinstance(entity.read, Postgres) or entity.read.mode != "cdc":
        return
    for column in entity.columns:
        if column.name in RECORD:
            raise ContractError(
                f"{entity.table}: a column {column.name} can't be read with mode cdc, since raw keeps a "
                "Kafka record's part under that name. Read the table with mode incremental or snapshot."
            )


def placed(entity: SourceEntity) -> tuple[Column, ...]:
    """The declared columns that a change record's file holds typed: the key and the column of the windows."""
    wanted = {*entity.key, *([entity.partition.by] if entity.partition else [])}
    return tuple(column for column in entity.columns if column.name in wanted)


def is_of_changes(present: Collection[str]) -> bool:
    """Whether raw files with these columns hold change records."""
    return "_change" in present


def typed(entity: SourceEntity, source: str, present: Collection[str], *also: str) -> str:
    """SQL that gives the rows of raw files with the declared columns, whatever way they were landed.

    `source` is a query over the files, `present` the columns it has; `also` are columns of it that come
    along. Records that change no row, or can't be read, are left out.
    """
    if not is_of_changes(present):
        return source
    own = {column.name for column in placed(entity)}
    fields, kept = [], []
    for column in entity.columns:
        name, read = _quoted(column.name), as_read(column, present)
        if column.name in own or read:
            kept.append(f"{read or name} as {name}")
        if column.name in own:
            fields.append(name)
            continue
        decoded = _held(entity, column, f"_texts.{name}")
        if read:
            decoded = f"case when _change is null then {name} else {decoded} end"
        fields.append(f"{decoded} as {name}")
    rest = ("_op", "_changed_at", "_registered_at", "_lsn", "_batch_id", "_landed_at", "_seq", *also)
    # Files may be older than the last of what is found of a record.
    given = [
        f"null::{FOUND[name]} as {name}" if name in FOUND and name not in present else name for name in rest
    ]
    # Once, and not anew for each value that is asked of it: a record's text would be parsed for every one.
    return (
        f"with decoded as materialized (select {', '.join((*kept, *given, '_change', '_texts'))} "
        f"from ({texts(entity, source, VISIBLE)})) select {', '.join((*fields, *rest))} from decoded"
    )


def as_read(column: Column, present: Collection[str]) -> str:
    """SQL: a column of rows that were read, from files with the columns `present`; '' where none has it.

    A file has a column's value under the name that it had then, and under no other.
    """
    names = [_quoted(name) for name in (column.name, *column.formerly) if name in present]
    return names[0] if len(names) == 1 else f"coalesce({', '.join(names)})" if names else ""


def texts(entity: SourceEntity, source: str, where: str) -> str:
    """SQL: the raw rows that `where` names, with `_texts`, a struct of the declared columns of a live change.

    The values are as Debezium writes them; NULL for rows that were read. What a record does not send, sends
    under another name or writes otherwise than PostgreSQL stands in `_filled`, of a delete what its row was
    where that is declared.
    """
    filled = ", ".join(
        f"{name} := coalesce(_given.{name}, case when not {is_unavailable(sent)} then {sent} end)"
        for name, sent in ((_quoted(column.name), _sent(column)) for column in entity.columns)
    )
    names = {name: "VARCHAR" for column in entity.columns for name in (column.name, *column.formerly)}
    shape = json.dumps({"after": names})
    return (
        f"select *, struct_pack({filled}) as _texts from ("
        f"select *, coalesce(_envelope.after, _wrapped.payload.after) as _after from ("
        f"select *, {in_schema('_text', '_envelope.after', shape)} as _wrapped from ("
        f"select *, try(from_json(_text, {_literal(shape)})) as _envelope from ("
        f"select *, case when _change is not null and _op = 'r' then decode(value) end as _text, "
        f"from_json(_filled, {_literal(json.dumps(fields(entity.columns)))}) as _given "
        f"from ({source}) where {where}))))"
    )


def envelope(entity: SourceEntity, also: Collection[str] = ()) -> str:
    """The shape of a change event without its JSON schema, for `from_json`; `in_schema` has the other.

    `also` are fields of a row that are no columns of the entity.
    """
    row = fields(entity.columns) | dict.fromkeys(also, "VARCHAR")
    return json.dumps(
        {
            "op": "VARCHAR",
            "before": row,
            "after": row,
            "source": {
                "lsn": "BIGINT",
                "txId": "BIGINT",
                "sequence": "VARCHAR",
                "snapshot": "VARCHAR",
                "ts_us": "BIGINT",
                "ts_ms": "BIGINT",
            },
            "transaction": {"id": "VARCHAR", "total_order": "BIGINT"},
        }
    )


def in_schema(text: str, found: str, shape: str) -> str:
    """SQL: what is told in `payload`, where Connect has put the schema around it. Asked only where the same
    shape has not `found` it without: most topics have no schemas, and to look for both costs a fifth more.
    """
    wrapped = _literal(f'{{"payload": {shape}}}')
    return f"case when {found} is null then try(from_json({text}, {wrapped})) end"


def message_key(entity: SourceEntity) -> str:
    """The shape of a record's key, with or without its JSON schema, for `from_json`."""
    return json.dumps(_with_payload(fields([c for c in entity.columns if c.name in entity.key])))


def fields(columns: Sequence[Column]) -> dict[str, str]:
    """A row's fields, each as text."""
    return {column.name: "VARCHAR" for column in columns}


def _with_payload(shape: Mapping[str, object]) -> dict[str, object]:
    return {**shape, "payload": shape}


def _sent(column: Column) -> str:
    """SQL: a column's text in a live change, which may have it under a name of then."""
    sent = f"_after.{_quoted(column.name)}"
    if not column.formerly:
        return sent
    # Null or not there: only where the name is not there, another one stands for it.
    path = json.dumps(column.name)
    there = " or ".join(
        f"json_exists(decode(value), {_literal(f'$.{prefix}after.{path}')})" for prefix in ("", "payload.")
    )
    former = ", ".join(f"_after.{_quoted(name)}" for name in column.formerly)
    return f"case when {there} then {sent} else coalesce({former}) end"


def _held(entity: SourceEntity, column: Column, text: str) -> str:
    """SQL: the text as the column's type. A number that the landing let pass for a wider type raises."""
    kind, held = canonical_type(column.type), value(column, text)
    if kind not in WHOLE and not kind.startswith("DECIMAL"):
        return held
    why = _literal(
        f"{entity.table}: {column.name} has a value that {kind} can not hold, since the source widened it. "
        "Declare it wider (python -m flows schema diff --write), and cast it so in models."
    )
    return f"coalesce({held}, case when {text} is not null then error({why})::{kind} end)"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
