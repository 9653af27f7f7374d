"""What stands after a run, and whether it is what stands after another one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
import psycopg

from flows.recovery import identity
from flows.stores import sessions
from flows.stores.lake import Lake
from flows.stores.ledger import Ledger
from flows.stores.manifest import LakeFile, fold
from tests.flows.kill_child import Place
from transforms import registry
from transforms.contract import Layer
from warehouse_ddl.files import views

_LOCKS = (
    "select 1 from pg_locks where locktype = 'advisory' "
    "and database = (select oid from pg_database where datname = current_database())"
)
# Where the next read begins; what was read when, and what it met on the way, may differ.
_POSITIONS = (
    "select entity, positions -> 'offsets', positions -> 'mark', positions -> 'until' "
    "from ops.position order by 1"
)
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass
class Seen:
    """Everything that has to be the same after a run that was killed and after one that was not."""

    published: dict[str, Counter[str]]
    leaves: list[str]
    dead_letters: list[tuple[Any, ...]]
    positions: list[tuple[Any, ...]]
    staging: dict[str, str]
    """Table → what stands after FROM for the rows that count; empty where there is no file."""


def seen(place: Place) -> Seen:
    """What stands, after it was made sure that nothing else does: no orphan, no debt, manifest = ledger."""
    with psycopg.connect(place.warehouse_dsn, autocommit=True) as connection, Lake(place.lake) as lake:
        _assert_tidy(connection, lake)
        names = [
            *(table.name for table in registry.build_order() if table.is_published),
            *(view.name for view in views()),
        ]
        published = {
            name: Counter(
                row[0]
                for row in connection.execute(f"select t::text from analytics.{name} t".encode()).fetchall()
            )
            for name in names
        }
        ledger = Ledger(connection)
        staging = {
            table.name: _scan(
                lake, [file for state in ledger.states([table.name]).values() for file in state.files]
            )
            for table in registry.build_order()
            if table.layer is Layer.STAGING
        }
        return Seen(
            published,
            leaves=[
                row[0]
                for row in connection.execute(
                    "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid "
                    "where c.relkind = 'r' order by 1"
                ).fetchall()
            ],
            dead_letters=connection.execute(
                "select letter_id, source, entity, topic, kafka_partition, kafka_offset, reason, payload, "
                "status from ops.dead_letter order by letter_id"
            ).fetchall(),
            positions=connection.execute(_POSITIONS).fetchall(),
            staging=staging,
        )


def _scan(lake: Lake, files: Iterable[LakeFile]) -> str:
    wanted = list(files)
    return lake.scan(wanted) if wanted else ""


def _assert_tidy(connection: psycopg.Connection[Any], lake: Lake) -> None:
    ledger = Ledger(connection)
    for marker in (lake.root / sessions.FOLDER).glob("*"):
        os.utime(marker, (0, 0))  # only one that is a second old is surely of the dead
    lake.sweep(ledger.named_paths)

    def ask(query: str) -> list[Any]:
        return connection.execute(query.encode()).fetchall()

    assert ask("select relname from pg_class where relnamespace = 'unpublished'::regnamespace") == []
    assert ask("select * from ops.refresh_owed") == []
    assert ask("select * from ops.pending_publish") == []
    assert ask("select token from ops.ledger where not in_manifest") == []
    assert ask(_LOCKS) == []
    entered = dict(ask("select table_name, array_agg(token order by sequence) from ops.ledger group by 1"))
    manifests = {table: lake.manifest(layer, table) for layer, table in lake.manifests()}
    written = {table: sorted(commit.token for commit in commits) for table, commits in manifests.items()}
    assert written == {table: sorted(tokens) for table, tokens in entered.items()}
    in_force: dict[str, set[str]] = {}
    for (table, _), state in ledger.states().items():
        in_force.setdefault(table, set()).update(file.path for file in state.files)
    for table, commits in manifests.items():
        folded = {file.path for file in fold(commits)}
        is_raw = commits[0].layer == Layer.RAW
        assert folded == (
            {file.path for file in ledger.files(table)} if is_raw else in_force.get(table, set())
        )
    named = set(ledger.named_paths(_LONG_AGO))
    there = {
        path.relative_to(lake.root).as_posix()
        for path in lake.root.rglob("*")
        if path.is_file()
        and path.name not in {"_manifest.jsonl", "lake.sql", identity.FILE}
        and "quarantine" not in path.parts
    }
    assert there <= named, f"orphans: {sorted(there - named)}"
    lost = {path for paths in in_force.values() for path in paths} - there
    assert not lost, f"named and not there: {sorted(lost)}"


def differences(unharmed: Seen, harmed: Seen) -> list[str]:
    """One line for each thing that is not equal; rows are compared as EXCEPT ALL does, both ways."""
    found = []
    for name, rows in unharmed.published.items():
        lost, added = rows - harmed.published[name], harmed.published[name] - rows
        if lost or added:
            example = next(iter(lost or added))
            found.append(
                f"{name}: {lost.total()} rows lost, {added.total()} too many, for example {example[:200]}"
            )
    for what in ("leaves", "dead_letters", "positions"):
        if getattr(unharmed, what) != getattr(harmed, what):
            found.append(f"{what}: {getattr(harmed, what)}, not {getattr(unharmed, what)}"[:1000])
    with duckdb.connect() as connection:
        for name, theirs in unharmed.staging.items():
            ours = harmed.staging[name]
            if not ours or not theirs:
                if ours != theirs:
                    found.append(f"{name}: {ours or 'no file'}, not {theirs or 'no file'}")
                continue
            for side, stored in (("ours", ours), ("theirs", theirs)):
                connection.execute(f"create or replace temp table {side} as from {stored}")
            for one, other in (("ours", "theirs"), ("theirs", "ours")):
                rows_left = connection.execute(
                    f"select * from {one} except all select * from {other} limit 3"
                ).fetchall()
                if rows_left:
                    found.append(f"{name}: only in {one}: {rows_left}"[:1000])
    return found
