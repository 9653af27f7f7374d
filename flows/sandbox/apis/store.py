"""The objects behind the simulated APIs, in `<folder>/apis.sqlite`: where generator and server meet.

Grain of the one table: an object of a list (a charge, a bounce, a day of statistics). `body` is the object's
JSON exactly as it is served, `created` the unix second its list is ordered and filtered by.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import orjson

StripeKind = Literal[
    "charges", "refunds", "customers", "balance_transactions", "disputes", "payouts", "events"
]
SendGridKind = Literal["messages", "stats", "bounces", "blocks", "spam_reports", "unsubscribes"]
Kind = StripeKind | SendGridKind

STRIPE_KINDS: tuple[StripeKind, ...] = get_args(StripeKind)
SENDGRID_KINDS: tuple[SendGridKind, ...] = get_args(SendGridKind)

_SCHEMA = """
create table if not exists objects (
    seq integer primary key,
    kind text not null,
    id text not null,
    created integer not null,
    body text not null,
    unique (kind, id)
);
create index if not exists objects_newest_first on objects (kind, created desc, seq desc);
"""


def _iso_seconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


# What identifies an object of each list, and the second it is ordered by.
_IDENTITY: dict[str, Callable[[Mapping[str, Any]], tuple[str, int]]] = {
    **{kind: lambda item: (item["id"], int(item["created"])) for kind in STRIPE_KINDS},
    "messages": lambda item: (item["msg_id"], _iso_seconds(item["last_event_time"])),
    "stats": lambda item: (item["date"], _iso_seconds(item["date"])),
    **{
        kind: lambda item: (item["email"], int(item["created"]))
        for kind in ("bounces", "blocks", "spam_reports", "unsubscribes")
    },
}


class Store:
    """One connection to the objects; several processes may each have one (SQLite's WAL).

    `put` takes whole objects (see stripe_objects.py and sendgrid_objects.py). Every method is one
    transaction; wrap several in `transaction()` to make them one.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "apis.sqlite"
        self._connection = sqlite3.connect(
            self.path, timeout=30, isolation_level=None, check_same_thread=False
        )
        self._connection.execute("pragma journal_mode = wal")
        # A generated world can be generated again; what a power cut could take is not worth an fsync each.
        self._connection.execute("pragma synchronous = off")
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is written together; nested ones join the outer one."""
        if self._connection.in_transaction:
            yield
            return
        self._connection.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._connection.execute("rollback")
            raise
        self._connection.execute("commit")

    def put(self, kind: Kind, objects: Iterable[Mapping[str, Any]]) -> int:
        """Insert the objects, or replace those of the same identity. Returns how many were given."""
        identity = _IDENTITY[kind]
        rows = [(kind, *identity(item), orjson.dumps(item).decode()) for item in objects]
        with self.transaction():
            self._connection.executemany(
                "insert into objects (kind, id, created, body) values (?, ?, ?, ?) "
                "on conflict (kind, id) do update set created = excluded.created, body = excluded.body",
                rows,
            )
        return len(rows)

    def get(self, kind: Kind, identity: str) -> dict[str, Any] | None:
        """The object of that identity (id, msg_id, date or e-mail address), or None."""
        row = self._connection.execute(
            "select body from objects where kind = ? and id = ?", (kind, identity)
        ).fetchone()
        return None if row is None else orjson.loads(row[0])

    def change(self, kind: Kind, identity: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Set some top-level fields of an object and return it whole; raises KeyError if there is none."""
        with self.transaction():
            item = self.get(kind, identity)
            if item is None:
                raise KeyError(f"no {kind} object {identity}")
            item.update(changes)
            self.put(kind, [item])
        return item

    def delete(self, kind: Kind, identity: str) -> None:
        """Take an object out of its list, as a deleted customer or a lifted bounce leaves it."""
        self._connection.execute("delete from objects where kind = ? and id = ?", (kind, identity))

    def clear(self) -> None:
        """Forget every object."""
        self._connection.execute("delete from objects")

    def count(self, kind: Kind) -> int:
        """How many objects the list holds."""
        row = self._connection.execute("select count(*) from objects where kind = ?", (kind,)).fetchone()
        return int(row[0])

    def place(self, kind: Kind, identity: str) -> tuple[int, int] | None:
        """Where an object stands in its list: (created, seq), the list being ordered by both, falling."""
        row = self._connection.execute(
            "select created, seq from objects where kind = ? and id = ?", (kind, identity)
        ).fetchone()
        return None if row is None else (int(row[0]), int(row[1]))

    def page(
        self,
        kind: Kind,
        *,
        limit: int,
        since: int | None = None,
        until: int | None = None,
        before: tuple[int, int] | None = None,
        after: tuple[int, int] | None = None,
        offset: int = 0,
        equals: Mapping[str, str] | None = None,
        ordered: Iterable[tuple[str, str, str]] = (),
    ) -> list[str]:
        """Bodies of a list, newest first: at most `limit`, created in [since, until).

        `before` keeps what follows that place (older), `after` what precedes it (newer, the
        nearest `limit` of them). `equals` compares top-level fields of the object as text, and so
        does `ordered`: (field, <, <=, > or >=, text).
        """
        where = ["kind = ?"]
        arguments: list[object] = [kind]
        # The plus keeps SQLite from walking down to a place from the end of the range: the place is nearer.
        upper = "created < ?" if before is None else "+created < ?"
        for condition, bound in (("created >= ?", since), (upper, until)):
            if bound is not None:
                where.append(condition)
                arguments.append(bound)
        for condition, place in (("(created, seq) < (?, ?)", before), ("(created, seq) > (?, ?)", after)):
            if place is not None:
                where.append(condition)
                arguments.extend(place)
        for field, operator, wanted in (*((f, "=", text) for f, text in (equals or {}).items()), *ordered):
            where.append(f"cast(json_extract(body, ?) as text) {operator} ?")
            arguments.extend((f'$."{field}"', wanted))
        direction = "asc" if after is not None else "desc"
        rows = self._connection.execute(
            f"select body from objects where {' and '.join(where)} "
            f"order by created {direction}, seq {direction} limit ? offset ?",
            (*arguments, limit, offset),
        ).fetchall()
        bodies = [row[0] for row in rows]
        return bodies[::-1] if after is not None else bodies
