"""The list of erased people: in the warehouse and, so that a restored backup knows of them too, in the lake,
beside the backups and in each of them.

None holds an address once an erasure is finished: addresses are known again by salted hashes. No list takes
the place of another: whoever one of them knows by an address stays known by it.
"""

from __future__ import annotations

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
from flows.stores.durable import written_whole
from flows.stores.files import written
from flows.stores.lake import Lake
from transforms.entities import SourceEntity

FILE = "_erasures.jsonl"

Entry = dict[str, Any]
"""What a line of a list holds: a row of ops.erasure without addresses."""
_FIELDS = {"user_id": int, "alias": str, "salt": str, "email_hashes": list, "reason": str, "asked_at": str}

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


def known(connection: Connection[Any], lake: Lake) -> dict[int, Person]:
    """By id: everybody whom this warehouse's list names or the lake's, and each by what both know of them."""
    found = {person.user_id: person for person in people(connection)}
    for user, entry in _read(lake.root).items():
        found[user] = found[user].united(_person(entry)) if user in found else _person(entry)
    return found


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
    """Write the lake's copy of the list, whole or not at all: what stands there and what ops has. Raises
    LakeError for what its disk says.
    """
    with written(lake.root):
        copy(connection, lake, lake.root)


def copy(connection: Connection[Any], lake: Lake, folder: Path) -> None:
    """Write into a folder what the lake's copy of the list has and what ops has, as this connection sees it:
    whoever is finished in it is in no row that it sees.
    """
    entries = _read(lake.root)
    rows = connection.execute(
        "SELECT user_id, alias, salt, email_hashes, reason, asked_at, finished_at FROM ops.erasure"
    ).fetchall()
    for entry in entries.values():
        entry["finished_at"] = None
    for user_id, alias, salt, hashes, reason, asked_at, finished_at in rows:
        own = {
            "user_id": user_id,
            "alias": alias,
            "salt": salt,
            "email_hashes": hashes,
            "reason": reason,
            "asked_at": asked_at.isoformat(),
            "finished_at": finished_at.isoformat() if finished_at else None,
        }
        entries[user_id] = _united(own, entries.get(user_id))
    if entries:
        _store(folder, entries)


def bring(source: Path, target: Path) -> None:
    """Add to the list in the folder `target` what the one in `source` knows and it does not. Whom or of whom
    it did not know is not finished there.
    """
    there = _read(target)
    new = dict(there)
    for user, entry in _read(source).items():
        new[user] = _united(there.get(user) or {**entry, "finished_at": None}, entry)
    if new != there:
        _store(target, new)


def still_in(backup: Path | None, *folders: Path) -> list[int]:
    """Everybody whom one of these lists names, but those of whom nothing was left when the list in the folder
    `backup` was written, and of whom no other list knows more than was looked for then.
    """
    own = _read(backup) if backup is not None else {}
    named = {*own}
    for folder in folders:
        for user, entry in _read(folder).items():
            named.add(user)
            if user in own:
                own[user] = _united(own[user], entry)
    return sorted(user for user in named if not own.get(user, {}).get("finished_at"))


def take_over(connection: Connection[Any], lake: Lake) -> list[int]:
    """Bring into the warehouse's list what only the lake's copy knows: it was restored from before. Gives
    everybody who has to be erased again, which is everybody.
    """
    entries = _read(lake.root)
    for user, person in known(connection, lake).items():
        if user not in entries:
            continue
        connection.execute(
            "INSERT INTO ops.erasure AS there (user_id, alias, salt, email_hashes, reason, asked_at) "
            "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (user_id) DO UPDATE "
            "SET (email_hashes, finished_at) = (excluded.email_hashes, NULL) "
            "WHERE NOT there.email_hashes @> excluded.email_hashes",
            (
                user,
                person.alias,
                person.salt,
                sorted(person.email_hashes),
                entries[user]["reason"],
                entries[user]["asked_at"],
            ),
        )
    return [user for (user,) in connection.execute("SELECT user_id FROM ops.erasure ORDER BY 1").fetchall()]


def _united(own: Entry, other: Entry | None) -> Entry:
    """One person's entry, with the hashes that another list has of them; not finished where they are new."""
    if other is None:
        return own
    hashes = _person(own).united(_person(other)).email_hashes
    if hashes <= set(own["email_hashes"]):
        return own
    return {**own, "email_hashes": sorted(hashes), "finished_at": None}


def _person(entry: Entry) -> Person:
    return Person(entry["user_id"], entry["alias"], entry["salt"], frozenset(entry["email_hashes"]))


def _store(folder: Path, known: Mapping[int, Entry]) -> None:
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as handle:
        handle.writelines(orjson.dumps(known[user]) + b"\n" for user in sorted(known))


def _read(folder: Path) -> dict[int, Entry]:
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        entries = [orjson.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
        is_whole = all(isinstance(entry[name], kind) for entry in entries for name, kind in _FIELDS.items())
    except (orjson.JSONDecodeError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise FlowsError(
            f"{path} is damaged, so who was erased can't be told from it. Move it away: it is written anew "
            "from ops.erasure; of a warehouse that was restored, restore this file too."
        )
    return {entry["user_id"]: entry for entry in entries}
