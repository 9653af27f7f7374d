"""Which models are in force: those of the code that prepared the latest run. Who outlives them ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from psycopg import Connection

from flows.errors import FlowsError
from transforms import catalog
from transforms.contract import Table


class ModelsChanged(FlowsError):
    """Models have changed under a process that has read them before."""


def put(connection: Connection[Any], tables: Iterable[Table]) -> None:
    """From the caller's commit on these tables are made by this process's models."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO ops.model_in_force AS there (table_name, fingerprint) VALUES (%s, %s) "
            "ON CONFLICT (table_name) DO UPDATE SET (fingerprint, since) = "
            "(excluded.fingerprint, excluded.since) WHERE there.fingerprint <> excluded.fingerprint",
            [(table.name, catalog.fingerprint(table)) for table in tables],
        )


def refuse_others(connection: Connection[Any], fingerprints: Mapping[str, str]) -> None:
    """Raises ModelsChanged where other models are in force than those with these fingerprints, by table: what
    they made would be undone here, and made again by the next run.
    """
    rows = connection.execute(
        "SELECT table_name, fingerprint FROM ops.model_in_force WHERE table_name = ANY(%s) ORDER BY 1",
        (list(fingerprints),),
    ).fetchall()
    changed = [name for name, fingerprint in rows if fingerprint != fingerprints[name]]
    if changed:
        more = f" and {len(changed) - 3} more" if changed[3:] else ""
        raise ModelsChanged(
            f"The models of {', '.join(changed[:3])}{more} have changed since this process read them: a run "
            "with other code has put its own in force. Nothing more is made by the old ones. Start it again "
            "with the code of now; a shift of the deployment `stream` does that by itself."
        )
