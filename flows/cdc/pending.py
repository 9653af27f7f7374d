"""Change records that were read and not landed yet, and what is known of the transactions that made them.

The records are in a backlog; of each one DuckDB knows its place. Tables of its connection: `pending`, the
records' offsets with their transaction (`tx`, null for a snapshot's rows), which of its changes of the table
they are (`number`, null where nobody says) and when they were read; `ended`, the transactions that ended, in
the order of their commits (`place`, an offset), and the last ones that were handed on; `expected`, how many
records of each topic an ended transaction has.

A connector that was killed sends again what it could not note: it goes on within a transaction, whose end
tells of all its changes once more. So each change counts once, and once an end was told, the same end expects
nothing: nobody waits for what was handed on, and what comes of it again belongs to no transaction.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from duckdb import DuckDBPyConnection

from flows.cdc import told
from flows.cdc.backlog import Backlog, Records
from flows.cdc.reach import Reach
from flows.cdc.snapshots import Mark
from flows.extract import Incomplete
from transforms.engine import text_literal

_COUNTED = (
    "(with counted as materialized (select tx, topic, count(*) as there, count(number) as numbered, "
    "max(number) as highest, sum(number) as total from pending where tx in (select tx from expected) "
    "group by all), apart as (select tx, topic, count(distinct number) + count(*) filter (number is null) as "
    "there from pending semi join (select tx, topic from counted where numbered <> highest "
    "or 2 * total <> highest * (highest + 1)) as unclear using (tx, topic) group by all) "
    "select tx, topic, coalesce(apart.there, counted.there) as there from counted "
    "left join apart using (tx, topic))"
)
"""How many changes are there of each transaction that ended. Only where some are there twice, or lack one
before them, are they told apart: that takes ten times as long."""
_END = 1 << 63
STALL_SECONDS = 10.0
"""How long a transaction is waited for of which the end, or a change, does not come though all was read, and
the broker says so."""
_ASKED_AFTER = 0.2
"""From this part of it on the broker is asked."""
REMEMBERED = 10_000
"""So many transactions that were handed on are remembered, at least. Connect sends again what it did not note
within its `offset.flush.interval.ms`: of more than these, the one that it goes on in waits and is named, as
if it lacked the changes before."""


@dataclass(frozen=True)
class Cut:
    """Where what is handed on ends: topic → the offset after it, for each topic with something to land.

    `transactions` is the offset, in the topic of their ends, before which all are landed then.
    """

    after: Mapping[str, int] = field(default_factory=dict)
    rows: int = 0
    bytes: int = 0
    transactions: int = 0
    oldest: float | None = None
    """When the broker got the first of these records, seconds since 1970; None where no record says."""
    incomplete: tuple[Incomplete, ...] = ()


class Pending:
    """The records of some topics. `connection` serves it alone; below `folder` is what has no room in memory
    (None: everything has).
    """

    def __init__(self, connection: DuckDBPyConnection, folder: Path | None = None) -> None:
        self._connection = connection
        self._backlog = Backlog(folder)
        self._run(
            "create or replace temp table pending (topic varchar, kafka_offset bigint, "
            "kafka_timestamp timestamptz, tx bigint, number bigint, seen_at double)"
        )
        self._run("create or replace temp table ended (place bigint, tx bigint, seen_at double)")
        self._run("create or replace temp table expected (tx bigint, topic varchar, records bigint)")

    # ------------------------------------------------------------------------------------------- taking in

    def keep(self, batch: pa.RecordBatch, *, is_first: bool = False) -> list[Mark]:
        """Take in records of one table. What can't be read belongs to no transaction that anybody knows.

        Returns what they tell of the table's first read, where it `is_first`.
        """
        placed = told.of_records(time.monotonic())
        with self._registered(pa.Table.from_batches([batch])):
            if is_first:
                self._run(f"create or replace temp table came as {placed}")
                placed = "from came"
            self._run(f"insert into pending select * exclude (mark, lsn) from ({placed})")
        self._backlog.keep(batch)
        return self._marks() if is_first else []

    def _marks(self) -> list[Mark]:
        """What the records that came tell of a first read: those of the log count where they come before."""
        return self._connection.execute(
            "select mark, coalesce(lsn, -1), count(*) from came where mark <> 'false' group by all union all "
            "select mark, -1, count(*) from came where mark = 'false' and kafka_offset < coalesce("
            f"(select min(kafka_offset) from came where mark <> 'false'), {_END - 1}) group by all"
        ).fetchall()

    def note_ends(self, batch: pa.RecordBatch, collections: Mapping[str, tuple[str, int]]) -> None:
        """Take in what Debezium tells of transactions.

        `collections`: a table as it is called there → its topic, and the place from which on transactions
        were not landed of it.
        """
        with self._registered(pa.Table.from_batches([batch])):
            self._run(
                f"create or replace temp table told as from ({told.of_ends()}) where tx not in "
                "(select tx from ended) qualify row_number() over (partition by tx order by place) = 1"
            )
        self._run(f"insert into ended select place, tx, {time.monotonic()} from told")
        if collections:
            ours = _values((name, topic, first) for name, (topic, first) in collections.items())
            self._run(
                "insert into expected select tx, topic, each.event_count from "
                "(select place, tx, unnest(collections) as each from told) "
                f"join (values {ours}) as ours(collection, topic, first) "
                "on each.data_collection = ours.collection and place >= ours.first"
            )

    # ---------------------------------------------------------------------------------------- transactions

    def cut(self, reaches: Mapping[str, Reach], ends: Reach | None) -> Cut | None:
        """All of the transactions that are in whole, in the order of their commits; None if there is nothing.

        `reaches`: how far each topic was read, `ends` the same of that which tells of transactions; None
        where nobody does. One of which the end or a change has not come STALL_SECONDS after the rest, though
        the broker has told since that nothing of its topics is left, is among them and named as incomplete:
        nothing waits for ever.
        """
        incomplete: list[Incomplete] = []
        bound = 0
        firsts: dict[str, int | None] = dict.fromkeys(reaches)
        if ends is not None:
            blocked = self.blocked()
            given_up, endless = self._given_up(reaches, ends, is_blocked=bool(blocked))
            incomplete += [Incomplete(tx, "a change of it did not come") for tx in sorted(given_up)]
            incomplete += [Incomplete(tx, "its end did not come") for tx in sorted(endless)]
            bound = min((place for place, tx in blocked if tx not in given_up), default=ends.position)
            firsts = self.first_held(bound, endless)
        after = {name: reaches[name].position if held is None else held for name, held in firsts.items()}
        rows = self.count(after) if after else {}
        if not rows:
            return None
        after = {name: after[name] for name in rows}
        there = self.transactions(after) if incomplete else set[int]()
        named = tuple(one for one in incomplete if one.transaction in there)
        size = sum(self._backlog.before(topic, offset).bytes for topic, offset in after.items())
        return Cut(after, sum(rows.values()), size, bound, self.oldest(after), named)

    def _given_up(
        self, reaches: Mapping[str, Reach], ends: Reach, *, is_blocked: bool
    ) -> tuple[set[int], set[int]]:
        """Those that nobody waits for any more: they lack a change, or their end.

        A broker that is away is as silent as one that has no more. So the one whose topics are silent is
        asked, and what passes counts only while it answers: who fills the topics needs it too, and a while
        after it has come back.
        """
        soon = STALL_SECONDS * _ASKED_AFTER
        lacking: dict[int, list[str]] = {}
        if is_blocked:
            lacking = self.lost_changes({name: one.silent(soon) for name, one in reaches.items()})
        asked = [reaches[name] for name in sorted({name for names in lacking.values() for name in names})]
        if self.lost_ends(ends.silent(soon)):
            asked.append(ends)
        does_answer = all(reach.look() for reach in asked)
        for reach in (*reaches.values(), ends):
            if not (does_answer and any(reach is one for one in asked)):
                reach.rest()
        if not (asked and does_answer):
            return set(), set()
        read = {name: reach.read(STALL_SECONDS) for name, reach in reaches.items()}
        return {*self.lost_changes(read)}, self.lost_ends(ends.read(STALL_SECONDS))

    def bound(self, position: int) -> int:
        """The place before which all that ended is in whole, where ends were read up to `position`."""
        return min((place for place, _ in self.blocked()), default=position)

    def blocked(self) -> list[tuple[int, int]]:
        """(place, transaction) of those that ended and are not in whole, in the order of their commits."""
        return self._connection.execute(
            "select place, tx from ended where tx in (select expected.tx from expected "
            f"left join {_COUNTED} as found using (tx, topic) where coalesce(there, 0) < records) "
            "order by place"
        ).fetchall()

    def lost_changes(self, looked_at: Mapping[str, float]) -> dict[int, list[str]]:
        """Those among them that ended before all their topics that lack something were `looked_at`, with
        these topics.
        """
        values = _values(looked_at.items())
        found = self._connection.execute(
            "select expected.tx, list(expected.topic) from expected join ended on ended.tx = expected.tx "
            f"join (values {values}) as reached(name, moment) on reached.name = expected.topic "
            f"left join {_COUNTED} as found on found.tx = expected.tx and found.topic = expected.topic "
            "where coalesce(there, 0) < records group by expected.tx having bool_and(seen_at < moment)"
        ).fetchall()
        return {int(tx): topics for tx, topics in found}

    def lost_ends(self, looked_at: float) -> set[int]:
        """Transactions whose last record came before their end was looked for, and nobody told it."""
        found = self._connection.execute(
            "select tx from pending where tx is not null and tx not in (select tx from ended) "
            f"group by tx having max(seen_at) < {looked_at}"
        ).fetchall()
        return {int(tx) for (tx,) in found}

    def first_held(self, bound: int, endless: set[int]) -> dict[str, int | None]:
        """Topic → the first offset of a transaction that did not end before the place `bound`, and is not
        among the `endless`; None where there is none.
        """
        held = f"tx is not null and tx not in (select tx from ended where place < {bound})"
        if endless:
            held += f" and tx not in ({', '.join(map(str, endless))})"
        return dict(
            self._connection.execute(
                f"select topic, min(kafka_offset) filter (where {held}) from pending group by topic"
            ).fetchall()
        )

    # --------------------------------------------------------------------------------------------- records

    def __len__(self) -> int:
        ((count,),) = self._connection.execute("select count(*) from pending").fetchall()
        return int(count)

    def firsts(self) -> dict[str, int]:
        """Topic → the first offset that is here; topics without one are left out."""
        return dict(
            self._connection.execute("select topic, min(kafka_offset) from pending group by topic").fetchall()
        )

    def count(self, after: Mapping[str, int]) -> dict[str, int]:
        """Topic → its records before that offset; topics without one are left out."""
        return dict(
            self._connection.execute(
                f"select topic, count(*) from pending join (values {_values(after.items())}) "
                "as ends(topic, after) using (topic) where kafka_offset < after group by topic"
            ).fetchall()
        )

    def oldest(self, after: Mapping[str, int]) -> float | None:
        """When the broker got the first record before those offsets, seconds since 1970; None where no record
        says.
        """
        ((moment,),) = self._connection.execute(
            f"select epoch(min(kafka_timestamp)) from pending join (values {_values(after.items())}) "
            "as ends(topic, after) using (topic) where kafka_offset < after"
        ).fetchall()
        return None if moment is None else float(moment)

    def transactions(self, after: Mapping[str, int]) -> set[int]:
        """Transactions with a record before those offsets."""
        found = self._connection.execute(
            f"select distinct tx from pending join (values {_values(after.items())}) "
            "as ends(topic, after) using (topic) where kafka_offset < after and tx is not null"
        ).fetchall()
        return {int(tx) for (tx,) in found}

    @property
    def bytes(self) -> int:
        """How large the records are."""
        return self._backlog.bytes

    def records(self, topic: str, after: int) -> Records:
        """The records of a topic before that offset, in their order; good until they are forgotten."""
        return self._backlog.before(topic, after)

    def forget(self, after: Mapping[str, int], transactions: int) -> None:
        """Let go of records before those offsets; of transactions that ended before that place, and of those
        whose end did not come, it is remembered for a while that nobody waits for them.
        """
        if after:
            self._run(
                f"insert into ended select distinct {transactions - 1}, tx, {time.monotonic()} from pending "
                f"join (values {_values(after.items())}) as ends(topic, after) using (topic) "
                "where kafka_offset < after and tx is not null and tx not in (select tx from ended)"
            )
            # What is deleted keeps its memory; what stays is little.
            self._run(
                "create or replace temp table pending as select pending.* from pending left join "
                f"(values {_values(after.items())}) as ends(topic, after) using (topic) "
                "where after is null or kafka_offset >= after"
            )
            self._backlog.forget(after)
        self._run(f"delete from expected where tx in (select tx from ended where place < {transactions})")
        passed = f"from ended where place < {transactions}"
        ((count,),) = self._connection.execute(f"select count(*) {passed}").fetchall()
        if count > 2 * REMEMBERED:
            self._run(
                f"create or replace temp table ended as from ended where place >= {transactions} union all "
                f"({passed} order by place desc limit {REMEMBERED})"
            )

    def leave_out(self, topic: str) -> None:
        """Let go of a topic."""
        for table in ("pending", "expected"):
            self._connection.execute(f"delete from {table} where topic = ?", [topic])
        self._backlog.forget({topic: _END})

    def close(self) -> None:
        """Let go of everything."""
        self._backlog.close()

    @contextmanager
    def _registered(self, rows: pa.Table) -> Iterator[None]:
        """Arrow rows as the relation `fresh`, for a block."""
        self._connection.register("fresh", rows)
        try:
            yield
        finally:
            self._connection.unregister("fresh")

    def _run(self, query: str) -> None:
        self._connection.execute(query).fetchall()


def _values(rows: Iterable[tuple[str | float, ...]]) -> str:
    """Rows of texts and numbers as what stands behind VALUES."""
    return ", ".join(
        "(" + ", ".join(text_literal(one) if isinstance(one, str) else str(one) for one in row) + ")"
        for row in rows
    )
