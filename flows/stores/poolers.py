"""Whether an address leads to PostgreSQL itself or to a pooler that lends sessions by the transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from psycopg import Connection

from flows.errors import FlowsError

_ASKED = 5


class Pooled(FlowsError):
    """What a session is relied on for (locks, settings, temporary tables) would be somebody else's."""


def refuse(connection: Connection[Any], connect: Callable[[], Connection[Any]]) -> None:
    """Raises Pooled where another statement of this session, which is in autocommit, would be another
    session's of the server. `connect` opens another one.

    A pooler answers with a number of its own for the process that serves; then who serves is looked at while
    another session is within a transaction. One that lends a session to one client alone is no hindrance.
    """
    own = _served_by(connection)
    if own == connection.info.backend_pid:
        return
    with connect() as other, other.transaction():
        others = _served_by(other)
        if others != own and all(_served_by(connection) == own for _ in range(_ASKED)):
            return
    raise Pooled(
        f"The warehouse's address ({connection.info.host}, port {connection.info.port}) leads to a pooler "
        "that lends PostgreSQL's sessions out by the transaction (PgBouncer: pool_mode = transaction). Locks "
        "and settings would be left in sessions of others, so nothing is done there. Let "
        "ANALYTICS_WAREHOUSE_DSN name PostgreSQL itself, or a pool of the pooler with pool_mode = session."
    )


def _served_by(connection: Connection[Any]) -> int:
    ((process,),) = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchall()
    return int(process)
