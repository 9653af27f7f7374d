"""Landing: what a source has to say, unchanged, into the lake's raw layer, entered in the ledger.

`land` is the only way a row gets into the lake from outside. What it lands nobody interprets here; it only
asks which windows the rows touch, so that exactly these are rebuilt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection, DuckDBPyRelation
from psycopg import Connection

from flows import change_topics, deadletters, incomplete, schema_changes
from flows.change_topics import Told
from flows.erasure.listed import arriving
from flows.extract import Extract, SchemaChanged, cdc
from flows.extract.postgres import Landed
from flows.failpoints import failpoint
from flows.landed import (
    CLOCK,
    LANDED_ON,
    NOTHING_IN,
    ROWS_PER_FILE,
    WINDOWS_BY,
    control,
    enter_totals,
    landing_time,
    portions_of,
    rows_by_window,
    rows_landed,
    spans_with,
    windows_by,
)
from flows.services import Services
from flows.settings import Settings
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger, Position
from flows.stores.manifest import Commit, LakeFile
from flows.streaming.journal import Journal
from flows.streaming.rollup import land_journal
from flows.streaming.route import is_counted
from transforms import changes
from transforms.contract import Layer
from transforms.entities import Kafka, Postgres, SourceEntity


@dataclass(frozen=True)
class Landing:
    """What one read of an entity brought. `token` is empty when there was no new row."""

    entity: SourceEntity
    token: str = ""
    batch_id: str = ""
    landed_at: datetime | None = None
    files: tuple[LakeFile, ...] = ()
    rows: int = 0
    windows: Mapping[str, int] | None = None
    dead_letters: int = 0
    warnings: tuple[str, ...] = ()


def land(
    services: Services,
    entity: SourceEntity,
    run_id: str,
    *,
    rows_per_file: int = ROWS_PER_FILE,
    streamed_only: bool = False,
) -> Landing | None:
    """Land what is new of one entity; None when there is nothing to tell.

    1. Hold the entity's advisory lock: a second run waits here, and then finds nothing new.
    2. Read the position from the ledger.
    3. Extract from there, streaming into Parquet files of bounded size (final names that nobody trusts yet).
    4. Ask which windows the rows touch.
    5. In one transaction: ledger entry with the files, position, control totals, dead letters. Then the
    manifest.

    A crash before 5 leaves orphans that the next run sweeps; the same position gives the same token, so
    nothing is landed twice. Raises SourceError when the source can't be read; nothing is committed then.

    Of a topic, what the stream took in is landed first; while a stream reads it, nobody else does. With
    `streamed_only` nothing else is landed: what nobody has read yet is left to the next stream, or batch.
    Tables that are read by their changes land together: `flows.change_landing`.
    """
    with services.ledger() as ledger, ledger.locked("land", entity.table):
        if not isinstance(entity.read, Kafka):
            try:
                return EntityLanding(services, entity, run_id, ledger, rows_per_file).run()
            except SchemaChanged as stopped:
                schema_changes.enter(ledger.connection, stopped.changes)
                raise
        journal = Journal(ledger.connection)
        # What a stream took in before this reads is landed before it: a stream that ended in between, too.
        with journal.alone(entity.table) as is_alone:
            streamed = land_journal(services.lake, ledger, entity, services.settings.now(), run_id)
            reads = is_alone and not streamed_only
            own = EntityLanding(services, entity, run_id, ledger, rows_per_file).run() if reads else None
    if streamed == 0:
        return own
    return replace(own or Landing(entity), rows=streamed + (own.rows if own else 0))


class EntityLanding:
    """One landing of one entity, under its lock. `told`: the records of a table that is read by changes."""

    def __init__(
        self,
        services: Services,
        entity: SourceEntity,
        run_id: str,
        ledger: Ledger,
        rows_per_file: int = ROWS_PER_FILE,
        told: Told | None = None,
    ) -> None:
        self.settings: Settings = services.settings
        self.lake: Lake = services.lake
        self.ledger = ledger
        self.entity = entity
        self.run_id = run_id
        self.rows_per_file = rows_per_file
        self.told = told
        self._connection: DuckDBPyConnection | None = None
        self._kept: dict[str, str] = {}
        self._asked_at: datetime
        if isinstance(entity.read, Kafka):
            self._asked_at = Journal(ledger.connection).now()
        self.position = ledger.positions(entity.table)
        self.before = {
            name: value
            for name, value in self.position.positions.items()
            if name not in (CLOCK, NOTHING_IN, WINDOWS_BY)
        }
        if isinstance(entity.read, Postgres):
            self.before = cdc.continued(entity.read.mode, self.before)
        self.landed_at = landing_time(self.settings.now(), self.position)
        self._arriving = arriving(ledger.connection, entity)
        self.token = _token(entity, self.position)
        # The name is the run's own: whoever has lost its lock must not write over a file of its successor.
        self.batch_id = f"{self.token}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"

    def run(self) -> Landing | None:
        """Steps 2 to 5 of `land`."""
        self._kept = windows_by(self.entity, self.position)
        with ExitStack() as opened:
            extract = self._extract(opened)
            close = getattr(extract.batches, "close", None)
            if close is not None:
                opened.callback(close)
            files = list(self._write(extract))
            if cdc.CHANGES in self.before:
                extract.positions.setdefault(cdc.CHANGES, self.before[cdc.CHANGES])
            failpoint("landing.written")
            windows = extract.windows
            if windows is None:
                windows = self._windows(files, opened)
        rows = sum(file.rows for file in files)
        landing = Landing(
            self.entity,
            token=self.token if rows else "",
            batch_id=self.batch_id,
            landed_at=self.landed_at,
            files=tuple(files),
            rows=rows,
            windows=windows,
            warnings=tuple(extract.warnings),
        )
        new_letters = self._commit(landing, extract)
        if rows == 0 and not new_letters and not extract.warnings:
            return None
        return replace(landing, dead_letters=new_letters)

    # --------------------------------------------------------------------------------------------- reading

    def _extract(self, opened: ExitStack) -> Extract:
        entity, settings, before = self.entity, self.settings, self.before
        if isinstance(entity.read, Kafka):
            from flows.extract import kafka

            bootstrap = settings.require("kafka_bootstrap")
            return kafka.read(entity, bootstrap, before, options=settings.kafka_options)
        if isinstance(entity.read, Postgres):
            from flows.extract import postgres

            connection = self._duckdb(opened)
            if self.told is not None:
                return change_topics.extract(
                    settings,
                    entity,
                    self.told,
                    before,
                    connection,
                    lambda: self._raw(connection),
                    self.landed_at,
                )
            return postgres.read(
                entity,
                settings.require("app_dsn"),
                before,
                Landed(connection, partial(self._landed, connection), self._arriving),
                self.landed_at,
                clock_offset=settings.clock_offset,
                workers=settings.workers,
            )
        from flows.extract import api, rest

        there = api.connection(settings, entity, tries=settings.retries + 1)
        return rest.read(entity, there, before or None, self.landed_at)

    def _landed(
        self, connection: DuckDBPyConnection, since: datetime | None, entity: SourceEntity
    ) -> DuckDBPyRelation | None:
        """The rows of the landings since a time, with the columns that the entity has by now."""
        return rows_landed(connection, self.lake, entity, self._files(since))

    def _raw(self, connection: DuckDBPyConnection) -> DuckDBPyRelation | None:
        files = self._files(None)
        return self.lake.read(connection, files) if files else None

    def _files(self, since: datetime | None) -> list[LakeFile]:
        return [
            file
            for file in self.ledger.files(self.entity.table)
            if since is None or file.max is None or datetime.fromisoformat(file.max) >= since
        ]

    # --------------------------------------------------------------------------------------------- writing

    def _write(self, extract: Extract) -> Iterator[LakeFile]:
        extract.batches = map(self._arriving, extract.batches)
        portions = portions_of(extract, self.batch_id, self.landed_at, self.rows_per_file)
        for number, reader in enumerate(portions):
            if number == 0:
                failpoint("landing.extracted")
            yield self.lake.write(
                Layer.RAW.value,
                self.entity.table,
                LANDED_ON,
                f"{self.landed_at:%Y-%m-%d}",
                self.batch_id if number == 0 else f"{self.batch_id}-{number:05d}",
                reader,
                measured="_landed_at",
            )

    def _windows(self, files: list[LakeFile], opened: ExitStack) -> dict[str, int]:
        # The paths are our own, written a moment ago: nothing has to be verified yet.
        paths = [str(Path(self.lake.root, file.path)) for file in files]
        return rows_by_window(self._duckdb(opened), self.entity, paths, self._counts) if paths else {}

    @property
    def _counts(self) -> str:
        """Which rows touch windows: of change records those that change a row."""
        return changes.VISIBLE if self.told is not None else "true"

    # ------------------------------------------------------------------------------------------ committing

    def _commit(self, landing: Landing, extract: Extract) -> int:
        positions = {**extract.positions, **self._kept, CLOCK: self.landed_at.isoformat()}
        entered = 0

        def within(connection: Connection[Any]) -> None:
            nonlocal entered
            entered = deadletters.enter(connection, extract.dead_letters)
            schema_changes.enter(connection, extract.schema_changes)
            incomplete.enter(connection, self.settings, extract.incomplete)
            self._enter_control(connection, extract)
            if isinstance(self.entity.read, Kafka):
                offsets = extract.positions.get("offsets", {})
                counted = landing.windows if landing.windows and is_counted(self.entity) else {}
                Journal(connection).fence(self.entity.table, offsets, counted, self._asked_at)

        if landing.rows == 0:
            if extract.dead_letters or self.before != extract.positions:
                with self.ledger.connection.transaction():
                    within(self.ledger.connection)
                    kept = {**extract.positions, **self._kept, CLOCK: self.position.positions.get(CLOCK)}
                    if extract.offsets:
                        kept[NOTHING_IN] = spans_with(extract.offsets, self.position)
                    self.ledger.move_on(self.entity.table, kept, self.position.version)
            elif isinstance(self.entity.read, Kafka):
                Journal(self.ledger.connection).all_ended(self.entity.table, self._asked_at)
            return entered
        commit = Commit(
            token=self.token,
            kind="land",
            layer=Layer.RAW.value,
            table=self.entity.table,
            run_id=self.run_id,
            add=landing.files,
            positions=positions,
            windows=landing.windows or {},
            control=control(extract, self.position),
            row_count=landing.rows,
            landed_at=self.landed_at,
        )
        self.ledger.record(self.lake, commit, version=self.position.version, within=within)
        failpoint("landing.committed")
        return entered

    def _enter_control(self, connection: Connection[Any], extract: Extract) -> None:
        if extract.control is not None:
            enter_totals(connection, self.entity, extract.control)

    def _duckdb(self, opened: ExitStack) -> DuckDBPyConnection:
        """One for the whole landing."""
        if self._connection is None:
            self._connection = opened.enter_context(self.lake.duckdb(keeps_order=False))
        return self._connection


def _token(entity: SourceEntity, position: Position) -> str:
    text = json.dumps([entity.table, position.version, dict(position.positions)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]
