"""Erasures held against a warehouse that came from a backup: it is older than the list in the lake says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from psycopg import Connection, sql

from flows.erasure import listed, ops
from flows.erasure.person import AT, addresses
from flows.stores.lake import Lake
from flows.stores.warehouse import Warehouse


def in_warehouse(warehouse: Warehouse, lake: Lake) -> int:
    """Take everybody who was ever erased out of a warehouse whose published tables are the lake's already:
    out of its dead letters and other entries of ops. Returns how many people that are. The lake is only read.

    Their addresses are not known any more: each address that ops quotes is asked whether it is one of theirs.
    """
    with warehouse.connect() as connection:
        if not listed.take_over(connection, lake):
            return 0
        people = [replace(person, emails=()) for person in listed.people(connection)]
        named = set(_addresses(connection))
        known = [person.with_emails(filter(person.has, named)) for person in people]
        ops.forget(connection, known)
    return len(people)


def _addresses(connection: Connection[Any]) -> Iterator[str]:
    """Every text in ops that looks like an address."""
    for schema, table, column, kind in ops.columns(connection, ["ops"]):
        if table == "erasure":
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
            shown = bytes(value).decode("utf-8", "replace") if kind == "bytea" else value
            yield from (address for _, _, address in addresses(shown))
