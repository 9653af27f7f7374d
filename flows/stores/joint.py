"""Commits of many tables that become true at one moment: all of them in one transaction of the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from psycopg import Connection

from flows.failpoints import failpoint
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.manifest import Commit
from flows.stores.warehouse import Warehouse


class JointLedger(Ledger):
    """A ledger whose commits wait for each other. Manifest lines follow when all of them are committed.

    `making` is a session of its own: tables that nobody sees yet are made and filled there, since COPY runs
    beside. `opened` ends after the transaction, which reads from them until then.
    """

    def __init__(self, connection: Connection[Any], making: Connection[Any], opened: ExitStack) -> None:
        super().__init__(connection)
        self.making = making
        self.opened = opened
        self._unfinished: dict[Lake, list[Commit]] = {}
        self._is_open = False

    def finish(self, lake: Lake, commits: Sequence[Commit]) -> None:
        """Note that these lines are owed."""
        self._unfinished.setdefault(lake, []).extend(commits)

    @contextmanager
    def jointly(self) -> Iterator[None]:
        """One transaction for all that is committed within; then the manifest lines of all of it. Within
        another one it is a part of that.
        """
        if self._is_open:
            with self.connection.transaction():
                yield
            return
        self._unfinished, self._is_open = {}, True
        try:
            with self.connection.transaction():
                yield
                failpoint("joint.before_commit")
        finally:
            self._is_open = False
        failpoint("joint.committed")
        for lake, commits in self._unfinished.items():
            super().finish(lake, commits)


@contextmanager
def joint_ledger(warehouse: Warehouse) -> Iterator[JointLedger]:
    """A ledger for one transaction over many tables. What was made for it is dropped at the end."""
    with warehouse.connect() as connection, warehouse.connect() as making, ExitStack() as opened:
        yield JointLedger(connection, making, opened)
