"""The list of erased people: in the warehouse and, so that a restored backup knows of them too, in the lake,
beside the backups and in each of them.

None holds an address once an erasure is finished: addresses are known again by salted hashes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
from psycopg import Connection
from psycopg.types.json import Jsonb

from flows.erasure.person import Person
from flows.erasure.scrub import Scrubber
from flows.errors import FlowsError
from flows.failpoints import failpoint
from flows.stores.lake import Lake
from flows.stores.manifest import fsync_folder
from transforms.entities import SourceEntity

FILE = "_erasures.jsonl"

Arriving = Callable[[pa.RecordBatch], pa.RecordBatch]
"""What is to be landed of rows that came."""


def people(connection: Connection[Any]) -> list[Person]:
    """Everybody who was erased, or is being erased; none in a warehouse that has no such list yet."""
    there = connection.execute("SELECT to_regclass('ops.erasure') IS NOT NULL").fetchone()
    if there is None or not there[0]:
        return []
    rows = connection.execute(
        "SELECT user_id, alias, salt, email_hashes, identifiers FROM ops.erasure ORDER BY user_id"
    ).fetchall()
    return [Person(row[0], row[1], row[2], frozenset(row[3]), tuple(row[4])) for row in rows]


def arriving(connection: Connection[Any], entity: SourceEntity) -> Arriving:
    """Whoever writes rows into raw puts them through this: they come back without personal data of those of
    whom the source, the broker or a letter still tells though they were erased.

    It knows the list as it was when it was asked for, so it holds for as long as nobody can be erased: under
    the landing lock of the entity, which an erasure needs for the files that name somebody, or while a stream
    has joined the journal, which an erasure refuses. It costs nothing while the list is empty.
    """
    erased = people(connection)
    if not erased:
        return lambda batch: batch
    scrubber = Scrubber(erased, entity, is_arriving=True)
    return lambda batch: scrubber.batch(batch)[0]


def begin(connection: Connection[Any], lake: Lake, person: Person, reason: str, now: datetime) -> None:
    """Note that somebody is being erased, with the addresses that are to be looked for. First in the
    warehouse, then in the lake; once more is the same.
    """
    connection.execute(
        """
        INSERT INTO ops.erasure AS there (user_id, alias, salt, email_hashes, reason, asked_at, identifiers)
        VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (user_id) DO UPDATE SET
        (email_hashes, reason, finished_at, identifiers, found) = (excluded.email_hashes,
        coalesce(nullif(excluded.reason, ''), there.reason), NULL, excluded.identifiers,
        CASE WHEN there.finished_at IS NULL THEN there.found ELSE '{}' END)
        """,
        (
            person.user_id,
            person.alias,
            person.salt,
            sorted(person.email_hashes),
            reason,
            now,
            Jsonb(list(person.emails)),
        ),
    )
    failpoint("erase.noted")
    write(connection, lake)


def finish(connection: Connection[Any], lake: Lake, user_id: int, now: datetime, found: Any) -> None:
    """Note that nothing of them was found any more, and where was looked; their addresses are forgotten."""
    connection.execute(
        "UPDATE ops.erasure SET (finished_at, identifiers, found) = (%s, '[]', %s) WHERE user_id = %s",
        (now, Jsonb(found), user_id),
    )
    write(connection, lake)


def write(connection: Connection[Any], lake: Lake) -> None:
    """Write the lake's copy of the list, whole or not at all: what stands there and what ops has."""
    copy(connection, lake, lake.root)


def copy(connection: Connection[Any], lake: Lake, folder: Path) -> None:
    """Write into a folder what the lake's copy of the list has and what ops has, as this connection sees it:
    whoever is finished in it is in no row that it sees.
    """
    known = _read(lake.root)
    rows = connection.execute(
        "SELECT user_id, alias, salt, email_hashes, reason, asked_at, finished_at FROM ops.erasure"
    ).fetchall()
    for entry in known.values():
        entry["finished_at"] = None
    for user_id, alias, salt, hashes, reason, asked_at, finished_at in rows:
        known[user_id] = {
            "user_id": user_id,
            "alias": alias,
            "salt": salt,
            "email_hashes": hashes,
            "reason": reason,
            "asked_at": asked_at.isoformat(),
            "finished_at": finished_at.isoformat() if finished_at else None,
        }
    if known:
        _store(folder, known)


def bring(source: Path, target: Path) -> None:
    """Add to the list in the folder `target` whom the one in `source` names and it does not. They are not
    finished there.
    """
    there = _read(target)
    new = {user: entry for user, entry in _read(source).items() if user not in there}
    if new:
        _store(target, {**there, **{user: {**entry, "finished_at": None} for user, entry in new.items()}})


def named(folder: Path) -> set[int]:
    """Everybody whom the list in a folder names."""
    return set(_read(folder))


def finished(folder: Path) -> set[int]:
    """Those of them of whom nothing was left when the list was written."""
    return {user for user, entry in _read(folder).items() if entry.get("finished_at")}


def take_over(connection: Connection[Any], lake: Lake) -> list[int]:
    """Bring into the warehouse's list whom only the lake's copy names: it was restored from before. Gives
    everybody who has to be erased again, which is everybody.
    """
    for entry in _read(lake.root).values():
        connection.execute(
            "INSERT INTO ops.erasure (user_id, alias, salt, email_hashes, reason, asked_at) "
            "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (user_id) DO NOTHING",
            (
                entry["user_id"],
                entry["alias"],
                entry["salt"],
                list(entry["email_hashes"]),
                entry["reason"],
                entry["asked_at"],
            ),
        )
    return [user for (user,) in connection.execute("SELECT user_id FROM ops.erasure ORDER BY 1").fetchall()]


def _store(folder: Path, known: Mapping[int, Mapping[str, Any]]) -> None:
    path = folder / FILE
    temporary = path.with_name(f".tmp-{os.getpid()}-{FILE}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("wb") as handle:
        handle.writelines(orjson.dumps(known[user]) + b"\n" for user in sorted(known))
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)
    fsync_folder(path.parent)


def _read(folder: Path) -> dict[int, dict[str, Any]]:
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        entries = [orjson.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
    except orjson.JSONDecodeError as error:
        raise FlowsError(
            f"{path} is damaged, so who was erased can't be told from it. Move it away: it is written anew "
            "from ops.erasure; of a warehouse that was restored, restore this file too."
        ) from error
    return {entry["user_id"]: entry for entry in entries}
