"""What the application says of an account now: an address that was changed since the last landing is in no
row of raw yet, and would come with a message or an object of an API that knows nobody's id.
"""

from __future__ import annotations

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from flows.errors import FlowsError
from flows.settings import Settings, SettingsError
from transforms import registry
from transforms.entities import Postgres

_SECONDS = 10


class NotAsked(FlowsError):
    """The application does not tell; the message says why, without an address."""


def emails(settings: Settings, user_id: int) -> set[str]:
    """The addresses that stand in the account's row; none where there is no such row. Raises NotAsked."""
    found: set[str] = set()
    try:
        dsn = make_conninfo(settings.require("app_dsn"), connect_timeout=_SECONDS)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(f"set statement_timeout = '{_SECONDS}s'")
            for entity in registry.entities():
                read = entity.read
                if not isinstance(read, Postgres) or entity.person is None or entity.person not in entity.key:
                    continue
                query = sql.SQL("select {} from {} where {} = %s").format(
                    sql.SQL(", ").join(map(sql.Identifier, entity.addresses)),
                    sql.Identifier(read.schema, read.table),
                    sql.Identifier(entity.person),
                )
                for row in connection.execute(query, (user_id,)).fetchall() if entity.addresses else ():
                    found |= {str(value) for value in row if value}
    except (SettingsError, psycopg.Error) as error:
        reason = settings.scrub(str(error).splitlines()[0]) if str(error) else type(error).__name__
        raise NotAsked(reason) from None
    return found
