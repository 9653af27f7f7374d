"""One reading of the application's log: every change that was committed before it began, into the topics
that the warehouse keeps.

A mark is written into the heartbeat table; when Debezium tells of it, everything before has come, since
changes come in the order of their commits. Position and records are committed together, always between two
transactions of the source; only then the slot lets go of what it kept. So whatever is killed, the next
reading begins where the records end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import Connection

from flows.extract import SourceAway
from flows.extract.application import answering, secrets
from flows.extract.debezium import Names, topic_of
from flows.extract.embedded import topics
from flows.extract.embedded.engine import Engine
from flows.failpoints import failpoint
from flows.settings import Settings

_COMMIT_RECORDS = 50_000
"""Records after which what was read is committed, at the end of the transaction that is being read."""
_SLOT_SECONDS = 15.0
_SNAPSHOT_UNDER_WAY = "incremental_snapshot_"
"""Begins the keys of a position at which a table is being read beside the changes."""


@dataclass
class Reading:
    """A reading by `connection`, which must hold the capture's lock."""

    settings: Settings
    names: Names
    connection: Connection[Any]
    kept: topics.Kept
    properties: Mapping[str, str]
    seen: Mapping[str, Any]
    _mark: str = field(default="", init=False)
    _is_marked: bool = field(default=False, init=False)
    _pending: int = field(default=0, init=False)

    def run(self) -> None:
        """Read to the present end. Raises SourceAway where Debezium or PostgreSQL can't."""
        self.connection.execute("begin")
        try:
            self._run()
        except BaseException:
            # What holds the lock must be able to let it go.
            if not self.connection.closed and not self.connection.broken:
                self.connection.rollback()
            raise

    def _run(self) -> None:
        transactions = f"{self.names.prefix}.transaction"
        notes = (transactions, self.names.notifications)
        position = None
        with answering(self.settings) as dsn:
            if self.kept.position is not None:
                self._beat(dsn)
            with Engine(self.properties, self.kept.position, notes, secrets(self.settings)) as engine:
                for batch in engine.batches():
                    position = self._take(batch, dsn, transactions)
                    if position is not None:
                        break
            assert position is not None
            failpoint("capture.committed")
            self._let_go(dsn, int(position["lsn_commit"]))

    def _take(self, batch: pa.RecordBatch, dsn: str, transactions: str) -> dict[str, Any] | None:
        """Keep a batch's records; the position when the reading is complete."""
        heartbeat = topic_of(self.names.prefix, *self.names.heartbeat.split("."))
        topic = batch.column("topic")
        special = pc.or_(pc.is_valid(batch.column("position")), pc.equal(topic, heartbeat))
        begun = 0
        for at in pc.indices_nonzero(special).to_pylist():
            name, value = topic[at].as_py(), batch.column("value")[at].as_py()
            told = json.loads(value) if value else {}
            if name == heartbeat:
                self._is_marked |= bool(self._mark) and (told.get("after") or {}).get("mark") == self._mark
            elif name == self.names.notifications:
                if told.get("aggregate_type") == "Initial Snapshot" and told.get("type") == "COMPLETED":
                    self._beat(dsn)
            elif name == transactions and told.get("status") == "END":
                position = json.loads(batch.column("position")[at].as_py())
                is_between = not any(key.startswith(_SNAPSHOT_UNDER_WAY) for key in position)
                is_end = self._is_marked and is_between
                if is_end or self._pending + at - begun >= _COMMIT_RECORDS:
                    self._keep(batch.slice(begun, at + 1 - begun))
                    self._commit(position, is_end=is_end)
                    begun = at + 1
                if is_end:
                    return dict(position)
        self._keep(batch.slice(begun))
        return None

    def _beat(self, dsn: str) -> None:
        with psycopg.connect(dsn, connect_timeout=10, autocommit=True) as source:
            row = source.execute(
                f"insert into {self.names.heartbeat} default values returning mark::text".encode()
            ).fetchone()
            assert row is not None
            self._mark = str(row[0])

    def _keep(self, records: pa.RecordBatch) -> None:
        """The records of the captured tables; Debezium's own are not landed."""
        own = {*self.names.own_topics}
        for name in pc.unique(records.column("topic")).to_pylist():
            if name not in own:
                chosen = records.filter(pc.equal(records.column("topic"), name))
                topics.append(self.connection, name, chosen)
                self._pending += chosen.num_rows

    def _commit(self, position: Mapping[str, Any], *, is_end: bool) -> None:
        topics.note(self.connection, self.names.connector, position, self.seen)
        failpoint("capture.read")
        self.connection.execute("commit")
        self._pending = 0
        if not is_end:
            self.connection.execute("begin")

    def _let_go(self, dsn: str, lsn: int) -> None:
        """The source may remove what is here for good."""
        with psycopg.connect(dsn, connect_timeout=10, autocommit=True) as source:
            deadline = time.monotonic() + _SLOT_SECONDS
            slot = self.names.slot
            question = b"select active from pg_replication_slots where slot_name = %s"
            # The engine has ended; PostgreSQL notices a little later.
            while (found := source.execute(question, (slot,)).fetchone()) is not None and found[0]:
                if time.monotonic() > deadline:
                    raise SourceAway(
                        f"Replication slot {slot} is still in use {_SLOT_SECONDS:.0f} s after it was read: "
                        "another installation reads from it, or the network holds its connection. See "
                        "pg_stat_replication at the application's database, then run again."
                    )
                time.sleep(0.02)
            source.execute(b"select pg_replication_slot_advance(%s, '0/0'::pg_lsn + %s)", (slot, lsn))


def drop_slot(dsn: str, slot: str) -> None:
    """Drop a slot that nothing was kept of."""
    with psycopg.connect(dsn, connect_timeout=10, autocommit=True) as source:
        source.execute(
            b"select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s",
            (slot,),
        )
