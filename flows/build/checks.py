"""The checks of one build: the gate over its content, Great Expectations over its tables, the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from duckdb import DuckDBPyConnection
from psycopg import Connection

import quality
from flows.build import guard, quarantine
from flows.build.content import FRESH
from flows.build.inputs import Reader
from flows.services import Services
from flows.stores.ledger import Ledger
from flows.stores.manifest import LakeFile
from quality import CheckResult
from transforms import engine, registry
from transforms.contract import Table


class Checks:
    """What one build was held to. `results` are all of them, in the order they were made."""

    def __init__(self, services: Services, ledger: Ledger, table: Table, reader: Reader, run_id: str) -> None:
        self.results: list[CheckResult] = []
        self._unrecorded: list[CheckResult] = []
        self._services = services
        self._ledger = ledger
        self._table = table
        self._reader = reader
        self._run_id = run_id

    def gate(
        self,
        connection: DuckDBPyConnection,
        windows: Sequence[str],
        joined: Sequence[LakeFile],
        *,
        follows: bool = False,
    ) -> None:
        """Every rule over `fresh`, and over the files it joins where a rule is of both.

        `follows`: what stood of the keys of `fresh` was taken away, so they are unique if they are so there.

        Raises CheckFailed after what failed was put into quarantine.
        """
        lake, table = self._services.lake, self._table
        alone = self._of_fresh_alone() if follows else frozenset()
        of_both = [rule for rule in guard.gate_rules(table) if not rule.row_level and rule.name not in alone]
        standing = guard.reference_relation(lake, joined, table) if joined and of_both else None
        columns = ", ".join(engine.quoted(column.name) for column in table.columns)
        judged = guard.Judged(f"(select {columns} from {FRESH})", standing, alone)
        references = self._references()
        results = guard.hold(connection, table, judged, references=references, partitions=windows)
        failed = self._note(results)
        if not failed:
            return
        file = quarantine.put_aside(
            lake, connection, table, failed, judged, references, windows, self._batch_id()
        )
        self._record_now()
        raise guard.refuse(table, failed, file)

    def audit(self, schema: str, names: Mapping[str, str]) -> None:
        """Great Expectations over the tables that are about to be seen.

        Raises CheckFailed after what failed was put into quarantine.
        """
        failed = self._note(guard.audit(self._services, self._table, schema, names))
        if not failed:
            return
        file = quarantine.put_loaded_aside(
            self._services, self._table, failed, schema, names, self._batch_id()
        )
        self._record_now()
        raise guard.refuse(self._table, failed, file)

    def record(self, connection: Connection[Any]) -> None:
        """Write the results since the last time to ops.check_result, in the caller's transaction."""
        guard.record(connection, self._run_id, self._unrecorded, self._services.settings.now())
        self._unrecorded = []

    def _batch_id(self) -> str:
        return f"{self._services.settings.now():%Y%m%dT%H%M%S}-{self._run_id[:8]}"

    def _note(self, results: Sequence[CheckResult]) -> list[CheckResult]:
        self.results += results
        self._unrecorded += results
        return quality.blocking(results)

    def _record_now(self) -> None:
        with self._ledger.connection.transaction():
            self.record(self._ledger.connection)

    def _of_fresh_alone(self) -> frozenset[str]:
        """Rules of sets that what stands has no say in: a key that is in `fresh` does not stand any more, and
        totals that are not there judge nothing.
        """
        has_totals = guard.has_totals(self._ledger.connection)
        return frozenset(
            rule.name
            for rule in guard.gate_rules(self._table)
            if (rule.check == "unique" and {*quality.columns_of(rule)} >= {*self._table.key})
            or (not has_totals and "control_total" in quality.requires([rule], self._table.name))
        )

    def _references(self) -> dict[str, str]:
        """What the rules read beside the content: other tables as they stand, the totals of the source."""
        found: dict[str, str] = {}
        catalog = registry.tables()
        for name in quality.requires(guard.gate_rules(self._table), self._table.name):
            if name == "control_total":
                found[name] = guard.control_totals(self._ledger.connection)
            elif name in catalog:
                files = self._reader.everything(name)
                found[name] = guard.reference_relation(self._services.lake, files, catalog[name])
        return found
