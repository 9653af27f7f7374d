"""Rows whose key was changed, and of which only the first half came.

Debezium tells a change of a key by two records, the delete of the old key and the create of the new one, and
notes the same place for both. A connector that is stopped or killed between them goes on behind the second,
which nobody sends any more (debezium/dbz#2549); the end of the transaction does not count it either. So such
deletes are looked for, and their rows are read again from the table. Until a row has come so, changes of it
can lack values that nobody knows: they are left out, since the row that comes holds them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from duckdb import DuckDBPyConnection

from flows.extract.row_lives import KEYED, applied

Reread = Callable[[Sequence[Mapping[str, Any]]], None]
"""Has the rows of these keys, column → value, read again beside the changes."""
_TEXT = "to_json({})::varchar"
"""A key as positions keep it: the text of an object."""


@dataclass(frozen=True)
class HalfMove:
    """A delete that says that its row has another key from now on, and no create of that followed."""

    offset: int
    transaction: int | None


class Awaited:
    """The rows that are read again, among the `parsed` records of one landing whose duplicates are known.

    `awaited`, a table of the connection: the text of each new key, and the offset `since` which its row is
    lacking (-1: since an earlier landing).
    """

    def __init__(self, connection: DuckDBPyConnection, known: Iterable[str] = ()) -> None:
        """`known`: the keys that were awaited before these records."""
        self._connection = connection
        self._run("create or replace temp table awaited (key varchar, since bigint)")
        if earlier := [(key, -1) for key in known]:
            connection.executemany("insert into awaited values (?, ?)", earlier)
        self._run(
            "create or replace temp table half as select gone.kafka_offset, gone._transaction, gone._new "
            f"from (from parsed where _change = 'd' and _new is not null and {applied()}) as gone anti join "
            "(select _old, _lsn, _transaction from parsed where is_moved) as come on come._old = gone._key "
            "and come._lsn = gone._lsn and come._transaction = gone._transaction "
            # A create that can't be read is one all the same: it is a dead letter.
            "where gone._key not in "
            "(select _old from parsed where is_moved and _problem is not null and _old is not null)"
        )
        found = connection.execute("select kafka_offset, _transaction from half order by 1").fetchall()
        self.halves = [HalfMove(int(offset), transaction) for offset, transaction in found]
        """Those that these records show, in their order."""
        self._run(f"insert into awaited select {_TEXT.format('_new')}, kafka_offset from half")
        self._is_any = bool(self.halves or earlier)
        while self._is_any and self._followed():
            pass

    def _followed(self) -> int:
        """Rows that were moved on meanwhile are awaited under their next key; their number."""
        ((count,),) = self._connection.execute(
            f"insert into awaited select distinct {_TEXT.format('_key')}, kafka_offset from parsed "
            f"join awaited on {_TEXT.format('_old')} = key and since < kafka_offset "
            "where is_moved and _change = 'c' "
            f"and {applied()} and kafka_offset not in (select since from awaited)"
        ).fetchall()
        return int(count)

    def leave_out(self) -> None:
        """Ignore the records among `judged` that lack values of such a row which nobody knows."""
        if not self._is_any:
            return
        self._run(
            "update parsed set _ignored = 'awaited' from judged where lacks "
            "and judged.kafka_offset = parsed.kafka_offset "
            f"and {_TEXT.format('_key')} in (select key from awaited where since <= parsed.kafka_offset)"
        )
        self._run(
            "delete from judged where kafka_offset in "
            "(select kafka_offset from parsed where _ignored = 'awaited')"
        )

    def new(self) -> list[dict[str, Any]]:
        """The keys, column → value, of the rows that are to be read again: since these records, and where
        they lacked values once more. Debezium leaves a row out that is changed while it reads it.
        """
        if not self._is_any:
            return []
        again = f"(select {_TEXT.format('_key')} from parsed where _ignored = 'awaited')"
        return [json.loads(key) for key in self._keys(f"since >= 0 or key in {again}")]

    def left(self) -> list[str]:
        """The keys that are awaited still: neither the whole row nor its end came behind what it lacks."""
        if not self._is_any:
            return []
        return self._keys(
            f"not exists (from parsed where _change in {KEYED} and _problem is null "
            "and coalesce(_ignored, '') not in ('duplicate', 'awaited') "
            f"and {_TEXT.format('_key')} = key and kafka_offset > since) and "
            "not exists (from parsed where _ignored = 'truncate' and kafka_offset > since)"
        )

    def _keys(self, condition: str) -> list[str]:
        query = f"select distinct key from awaited where {condition} order by key"
        return [str(key) for (key,) in self._connection.execute(query).fetchall()]

    def _run(self, query: str) -> None:
        self._connection.execute(query).fetchall()
