"""Prefect's own server, as the sandbox runs it: on a file of SQLite, for whose lock nobody waits long.

A statement that failed is let go by whichever thread drops it last, mostly that of the event loop: only the
cursors of those that succeed are closed by SQLAlchemy's adapter. Letting go waits for the connection, which
may be waiting for the file's lock; and who holds that waits for the event loop. Then nobody is answered until
one of them gives up: by Prefect's own setting after a minute, which is as long as its clients wait.
"""

from __future__ import annotations

from fastapi import FastAPI
from prefect.server.api.server import create_app as prefects_own
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import MODELS_DEPENDENCIES
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

LOCK_SECONDS = 10
"""So long a statement waits for the file's lock. Who asked is told to ask again (503), and clients do."""


class _Impatient(AioSqliteConfiguration):
    def setup_sqlite(self, conn: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        super().setup_sqlite(conn, record)
        cursor = conn.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {LOCK_SECONDS * 1000}")
        cursor.close()


def create_app() -> FastAPI:
    """The application that uvicorn serves."""
    MODELS_DEPENDENCIES["database_config"] = _Impatient(
        connection_url=PREFECT_API_DATABASE_CONNECTION_URL.value()
    )
    return prefects_own()
