"""How both ends of a session with PostgreSQL find that the other is gone without a word.

Checks have sessions of their own, and nothing of flows can be asked from here: so it stands here for both.
"""

from __future__ import annotations

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_ALIVE = {
    "connect_timeout": "10",
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
_SERVER_ALIVE = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60000",
    "client_connection_check_interval": "2000",
}
"""The same of the server, or the locks of a machine that vanished would last as long as its system waits, two
hours, and those of a process that was killed as long as what it had asked for takes. Set in the session,
since poolers refuse it in an address."""
_SETTABLE = "name <> 'client_connection_check_interval' OR pg_catalog.version() ~ 'linux'"
"""Other systems can't look, and PostgreSQL refuses to be told to."""


def kept_alive(dsn: str, application_name: str) -> str:
    """A connection string whose sessions find within a minute that their server is gone without a word, where
    it does not say itself how that is found. Raises psycopg.ProgrammingError for one that PostgreSQL does not
    read.
    """
    given = conninfo_to_dict(dsn)
    ours = {name: value for name, value in _ALIVE.items() if name not in given}
    return make_conninfo(dsn, application_name=application_name, **ours)


def server_alive(*, is_local: bool = False) -> str:
    """SQL that has the server of a session find that its client is gone, in this transaction alone where it
    `is_local`; what somebody has set for it stays as they did. It gives what it has set.
    """
    ours = ", ".join(f"('{name}', '{value}')" for name, value in _SERVER_ALIVE.items())
    return (
        f"SELECT name, pg_catalog.set_config(name, ours, {is_local}) FROM pg_catalog.pg_settings "
        f"JOIN (VALUES {ours}) AS given (name, ours) USING (name) WHERE source = 'default' AND ({_SETTABLE})"
    )
