"""How PostgreSQL says that it lets somebody not in, or nobody more: libpq tells no SQLSTATE then."""

from __future__ import annotations

import re

_NOT_THIS_LOGIN = (
    r"password authentication failed|no pg_hba\.conf entry|permission denied for database"
    r'|role ".*" (?:does not exist|is not permitted to log in)'
)
_LOGIN = re.compile(f"FATAL: +(?:{_NOT_THIS_LOGIN})")
_ANYBODY = re.compile(f'FATAL: +(?:database ".*" does not exist|{_NOT_THIS_LOGIN})')
_FULL = re.compile(r"too many (clients|connections)|connection slots are reserved")
PLACE_TO_DO = (
    "Let whoever has sessions there that nobody needs end them (pg_stat_activity says whose they are), or "
    "raise what limits them: max_connections, or the limit of this login or database."
)
"""What helps where there is no place for another session."""


def is_login_refused(text: str) -> bool:
    """Whether this error of a connection says that who asks may not come in."""
    return _is_said_by_all(_LOGIN, text)


def is_refused(text: str) -> bool:
    """Whether it says that, or that there is no such database."""
    return _is_said_by_all(_ANYBODY, text)


def has_no_place(text: str) -> bool:
    """Whether it says that the server is there, and has as many sessions as it takes."""
    return bool(_FULL.search(text))


def _is_said_by_all(pattern: re.Pattern[str], text: str) -> bool:
    """Of several hosts, or with and without TLS, each try is told in a line of its own."""
    tries = [line for line in text.splitlines() if " failed: " in line]
    return bool(tries) and all(map(pattern.search, tries))
