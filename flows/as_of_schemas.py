"""The schemas that rebuilds as of a moment stand in: each appears with all its tables, under its name."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg import Connection, errors, sql

from flows.moment import AsOfError
from flows.stores.ledger import Ledger
from warehouse_ddl.statements import SCHEMAS

MARK = "The warehouse as it was"
"""What the comment begins with by which a schema is known that a rebuild has made."""
_MAKING = "Being made by `python -m flows rebuild --as-of`"
_LOCK = "as of"
_RESERVED = {*SCHEMAS, "public", "information_schema"}


def refuse(connection: Connection[Any], into: str) -> None:
    """Only a schema that is not there, or that a rebuild made, may be replaced. Raises AsOfError."""
    row = connection.execute(
        "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %s", (into,)
    ).fetchone()
    if (
        into in _RESERVED
        or into.startswith("pg_")
        or (row is not None and not str(row[0] or "").startswith(MARK))
    ):
        raise AsOfError(
            f"Schema {into} is not one that a rebuild made, and is left alone: name another one with --into."
        )


@contextmanager
def making(connection: Connection[Any], into: str) -> Iterator[str]:
    """A schema that nobody knows yet, to be given the name `into`; gone at the end where it was not. What
    rebuilds that were killed have left of theirs goes first.
    """
    remove_left(connection)
    name = f"{into[:50]}_{secrets.token_hex(4)}"
    with Ledger(connection).locked(_LOCK, name):
        with connection.transaction():
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
            connection.execute(
                sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(name), sql.Literal(_MAKING))
            )
        try:
            yield name
        finally:
            _drop(connection, name)


def remove_left(connection: Connection[Any]) -> None:
    """Drop the schemas of rebuilds that were killed: those of which no session holds the lock."""
    rows = connection.execute(
        "SELECT nspname FROM pg_namespace WHERE obj_description(oid, 'pg_namespace') = %s ORDER BY 1",
        (_MAKING,),
    ).fetchall()
    ledger = Ledger(connection)
    for (name,) in rows:
        if not ledger.is_ours(_LOCK, name):
            continue
        try:
            _drop(connection, name)
        except errors.InsufficientPrivilege:
            continue  # another login's: that one's next rebuild does it
        finally:
            ledger.give_back(_LOCK, name)


def _drop(connection: Connection[Any], name: str) -> None:
    connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))
