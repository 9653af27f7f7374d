"""A person in the tables of ops: dead letters, records that wait, and whatever text quotes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, LiteralString

from psycopg import Connection, sql

from flows.erasure.person import AT, Person, addresses
from flows.failpoints import failpoint
from transforms import registry

_TYPES: dict[str, LiteralString] = {
    "text": "text",
    "character varying": "varchar",
    "jsonb": "jsonb",
    "json": "json",
    "text[]": "text[]",
    "bytea": "bytea",
}
"""Types that can hold a text, and how to cast to them."""
_OWN = ("erasure",)


def columns(connection: Connection[Any], schemas: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """(schema, table, column, type) of every column of these schemas that can hold text or bytes; leaves by
    their parents.
    """
    return connection.execute(
        "SELECT n.nspname, c.relname, a.attname, format_type(a.atttypid, NULL) "
        "FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
        "JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition "
        "AND a.attnum > 0 AND NOT a.attisdropped AND format_type(a.atttypid, NULL) = ANY(%s) "
        "AND has_table_privilege(c.oid, 'select') ORDER BY 1, 2, a.attnum",
        (list(schemas), list(_TYPES)),
    ).fetchall()


def forget(connection: Connection[Any], people: Sequence[Person]) -> int:
    """Take people out of ops, each row in a statement of its own; returns the rows that changed.

    Dead letters: see `forget_letters`. In any other text the alias takes an address's place.
    """
    changed = forget_letters(connection, people)
    failpoint("erase.letters_forgotten")
    for schema, table, column, kind in columns(connection, ["ops"]):
        if table in _OWN:
            continue
        for ctid, text in _naming(connection, schema, table, column, kind, people):
            new = text
            for person in people:
                new = person.without(new)
            value: Any = new.encode("utf-8", "surrogateescape") if kind == "bytea" else new
            connection.execute(
                sql.SQL("UPDATE {} SET {} = %s::{} WHERE ctid = %s::tid").format(
                    sql.Identifier(schema, table),
                    sql.Identifier(column),
                    sql.SQL(_TYPES[kind]),
                ),
                (value, ctid),
            )
            changed += 1
    failpoint("erase.ops_forgotten")
    return changed


def recognized(connection: Connection[Any], people: Sequence[Person]) -> list[Person]:
    """These people with the addresses of theirs that ops quotes: of somebody who was erased before they are
    hashes alone, until a backup from before that is restored.
    """
    if all(person.is_known for person in people):
        return list(people)
    quoted = {address for text in _texts(connection) for _, _, address in addresses(text)}
    return [person.with_emails(filter(person.has, quoted)) for person in people]


def _texts(connection: Connection[Any]) -> Iterator[str]:
    """Every text in ops in which an address may stand."""
    for schema, table, column, kind in columns(connection, ["ops"]):
        if table in _OWN:
            continue
        name = sql.Identifier(column)
        text = sql.SQL("encode({}, 'escape')" if kind == "bytea" else "{}::text").format(name)
        query = sql.SQL("SELECT {shown} FROM {table} WHERE {text} ~ {at}").format(
            shown=name if kind == "bytea" else text,
            table=sql.Identifier(schema, table),
            text=text,
            at=sql.Literal(AT),
        )
        for (value,) in connection.execute(query).fetchall():
            yield bytes(value).decode("utf-8", "replace") if kind == "bytea" else value


def naming(
    connection: Connection[Any], schema: str, table: str, column: str, kind: str, people: Sequence[Person]
) -> int:
    """How many rows of a column name one of these people."""
    return sum(1 for _ in _naming(connection, schema, table, column, kind, people))


def forget_letters(
    connection: Connection[Any], people: Sequence[Person], among: Sequence[str] | None = None
) -> int:
    """A dead letter (`among` these ids; None: of all) that names one of these people, or that says it is of
    one of them, loses its payload, and waits no longer: there is nothing left to be replayed. Returns how
    many did.
    """
    letters = list(_letters_about(connection, people, among))
    for letter in letters:
        connection.execute(
            "UPDATE ops.dead_letter SET payload = NULL, reason = 'the person it is about was erased', "
            "status = CASE status WHEN 'waiting' THEN 'discarded' ELSE status END WHERE letter_id = %s",
            (letter,),
        )
    return len(letters)


def has_letters(connection: Connection[Any], person: Person) -> bool:
    """Whether a dead letter names somebody or says that it is of them."""
    return any(_letters_about(connection, [person], None))


def _letters_about(
    connection: Connection[Any], people: Sequence[Person], among: Sequence[str] | None
) -> Iterator[str]:
    rows = connection.execute(
        "SELECT letter_id, source || '.' || entity, payload, reason FROM ops.dead_letter "
        "WHERE payload IS NOT NULL AND (%(among)s::text[] IS NULL OR letter_id = ANY(%(among)s))",
        {"among": list(among) if among is not None else None},
    ).fetchall()
    persons = {entity.place: entity.person for entity in registry.entities() if entity.person is not None}
    for letter, place, payload, reason in rows:
        text = bytes(payload).decode("latin-1")
        says = persons.get(place, "user_id")
        if any(_is_about(text, person, says) or person.is_named_in(reason) for person in people):
            yield letter


def _is_about(text: str, person: Person, says: str) -> bool:
    """Whether bytes, each as one character, name a person or say that they are of one by the field `says`."""
    if person.is_named_in(text) or person.is_named_in(text.encode("latin-1").decode("utf-8", "replace")):
        return True
    return re.search(rf'"{says}"\s*:\s*"?{person.user_id}\b(?!:)', text) is not None


def _naming(
    connection: Connection[Any], schema: str, table: str, column: str, kind: str, people: Sequence[Person]
) -> Iterator[tuple[str, str]]:
    """(ctid, text) of the rows that name one of them; bytes, which need not be text, as UTF-8."""
    stored = _escaped if kind == "bytea" else str
    pattern = "|".join(person.spelled(stored) for person in people if person.emails)
    if not pattern:
        return
    like = [f"%{piece}%" for person in people for piece in person.pieces]
    name = sql.Identifier(column)
    text = (
        sql.SQL("lower(encode({}, 'escape'))").format(name)
        if kind == "bytea"
        else sql.SQL("lower({}::text)").format(name)
    )
    # What most texts lack is asked first: a regular expression takes six times as long.
    query = sql.SQL(
        "SELECT ctid::text, {shown} FROM {table} WHERE CASE WHEN {text} LIKE ANY(%s) THEN {text} ~ %s END"
    ).format(
        shown=name if kind == "bytea" else sql.SQL("{}::text").format(name),
        table=sql.Identifier(schema, table),
        text=text,
    )
    for ctid, value in connection.execute(query, (like, pattern)).fetchall():
        shown = bytes(value).decode("utf-8", "surrogateescape") if kind == "bytea" else value
        if any(person.is_named_in(shown) for person in people):
            yield ctid, shown


def _escaped(form: str) -> str:
    """A text as PostgreSQL's encode(…, 'escape') writes its bytes."""
    return "".join(
        chr(byte) if byte < 128 and byte != 92 else ("\\\\" if byte == 92 else f"\\{byte:03o}")
        for byte in form.encode()
    )
