"""A warehouse that is there and takes no writes: a standby, or one that somebody has set so."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

STATE = "25006"
"""PostgreSQL's code for a write that is not taken."""
TO_DO = (
    "Let ANALYTICS_WAREHOUSE_DSN lead to the server that takes writes (with several hosts, "
    "target_session_attrs=read-write finds it), or take the setting back."
)


def why(connection: Connection[Any]) -> str:
    """Why nothing can be written in this session, as the end of a sentence; '' where it can."""
    row = connection.execute(
        "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::boolean"
    ).fetchone()
    is_standby, is_set = row or (False, False)
    if is_standby:
        return "it is a standby, or is being recovered"
    return "default_transaction_read_only is on for its login, database or server" if is_set else ""
