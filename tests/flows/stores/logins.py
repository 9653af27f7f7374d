"""Logins of a test: members of the warehouse's roles, gone afterwards."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from flows.stores import roles
from flows.stores.warehouse import Warehouse


@contextmanager
def login(dsn: str, role: str) -> Iterator[str]:
    """The DSN of a new login that is a member of this role and nothing else; none of it is left."""
    name, password = f"t_{role}_{secrets.token_hex(4)}", secrets.token_hex(8)
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(f"create role {name} login password '{password}' in role {role}".encode())
        try:
            yield make_conninfo(dsn, user=name, password=password)
        finally:
            admin.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = %s", (name,)
            )
            # Fails if anything belongs to it: what the pipeline makes belongs to loader.
            admin.execute(f"drop role {name}".encode())


@contextmanager
def full(dsn: str) -> Iterator[str]:
    """The DSN of a login that has all the sessions that it may have."""
    with login(dsn, "loader") as named:
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(f'alter role "{conninfo_to_dict(named)["user"]}" connection limit 1'.encode())
        with psycopg.connect(named):
            yield named


def lay(dsn: str) -> None:
    """Make the roles and schemas as an administrator."""
    with Warehouse(dsn).connect() as connection:
        roles.lay(connection)
