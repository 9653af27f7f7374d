"""What a session with PostgreSQL must be like, whatever somebody has set for its login, database or server.

Who administers a database sets such things for people: a limit of time for every query, the way dates are
written, where bare names are looked for. A COPY that takes minutes would end at that limit, and dates and
types are read in the form that PostgreSQL gives them by itself. That a server or a login shall only read is
no such thing: nothing is set against it.
"""

from __future__ import annotations

from quality.alive import server_alive

_FORMS = {
    "client_encoding": "'UTF8'",
    "TimeZone": "'UTC'",
    **dict.fromkeys(
        (
            *("DateStyle", "IntervalStyle", "extra_float_digits", "bytea_output"),
            *("quote_all_identifiers", "standard_conforming_strings", "search_path"),
        ),
        "NULL",
    ),
}
"""How values and names are written. NULL: as PostgreSQL has it where nobody has set anything."""
_WORK = (
    *("statement_timeout", "lock_timeout", "transaction_timeout"),
    *("idle_in_transaction_session_timeout", "idle_session_timeout"),
    "default_transaction_isolation",
)
"""How long what is asked for may take, and what it sees. Likewise, unless the address itself says so."""

UNQUOTED = "-c quote_all_identifiers=off"
"""The same of names, as the `options` of an address say it: for who reads names as a session begins."""
QUOTES_NAMES = "SELECT 1 FROM pg_catalog.pg_settings WHERE name = 'quote_all_identifiers' AND setting = 'on'"
"""SQL that gives a row where a session writes names between quotes."""


def forms(*, is_local: bool = False) -> str:
    """SQL that has a session write values and names as they are read here, in this transaction alone where it
    `is_local`; it gives what it has set.
    """
    given = ", ".join(f"('{name}', {value})" for name, value in _FORMS.items())
    return _set(given, "true", is_local=is_local)


def whole() -> str:
    """SQL that makes a session one that works here, and whose server finds that its client is gone; it gives
    what it has set.
    """
    given = ", ".join(f"('{name}', NULL)" for name in _WORK)
    work = _set(given, "source <> 'client'", is_local=False)
    return f"{server_alive()} UNION ALL {forms()} UNION ALL {work}"


def _set(given: str, where: str, *, is_local: bool) -> str:
    return (
        f"SELECT name, pg_catalog.set_config(name, coalesce(ours, boot_val), {is_local}) "
        f"FROM pg_catalog.pg_settings JOIN (VALUES {given}) AS given (name, ours) USING (name) WHERE {where}"
    )
