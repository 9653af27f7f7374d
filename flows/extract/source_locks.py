"""Locks at the source: waited for as long as is polite there, and then it is told who holds them."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from flows.stores.locks import holders

SECONDS = 30
"""How long a read waits for a table that somebody alters."""
AGAINST_READING = ("AccessExclusiveLock",)
AGAINST_PUBLISHING = (
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)
"""Modes that keep a table from entering a publication, or leaving it."""


def held(dsn: str, modes: Sequence[str]) -> str:
    """Who holds locks of these modes, and what to do about it: the end of a message."""
    try:
        with psycopg.connect(dsn, connect_timeout=5, autocommit=True) as connection:
            there = holders(connection, modes)
    except psycopg.Error:
        there = []
    by = "; ".join(there) or "a session that is over now, or that this role may not see"
    return f"held by {by}. End that session there or wait for it, then run again."
