"""Tables that no model and no source declares any more: a model was renamed or removed, and what it had made
stands in the lake, in PostgreSQL and in the ledger as before.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg import Connection, errors, sql

from flows.errors import FlowsError
from flows.failpoints import failpoint
from flows.recovery.agreement import refuse_two_stories
from flows.services import Services
from flows.stores.dependents import InTheWay
from flows.stores.lake import QUARANTINE, Lake
from flows.stores.ledger import Ledger
from flows.stores.locks import BRIEF, Blocked, refuse_while_dumped, with_short_waits
from transforms import registry
from transforms.contract import Layer
from warehouse_ddl.files import views
from warehouse_ddl.statements import PERSONAL, PUBLISHED, SERVED

_BOOTSTRAPPED = ("access", "mask_key")
"""What stands in PERSONAL and is no published table."""
_ENTRIES = (
    ("ledger", "table_name"),
    ("partition_state", "table_name"),
    ("position", "entity"),
    ("landed_window", "table_name"),
    ("pending_publish", "table_name"),
    ("control_total", "entity"),
    ("stream_batch", "entity"),
    ("stream_partition", "entity"),
    ("comparison_owed", "entity"),
    ("hot_partition", "table_name"),
    ("stream_window", "table_name"),
    ("model_in_force", "table_name"),
    ("partition_profile", "table_name"),
    ("refresh_owed", "view_name"),
    ("view_definition", "view_name"),
)
"""What ops says of a table as it is, and by which column; what it says of the past (checks, dead letters)
stays.
"""
_OF_A_STREAM = (
    "SELECT table_name FROM ops.hot_partition WHERE since IS NOT NULL "
    "UNION SELECT entity FROM ops.stream_partition UNION SELECT entity FROM ops.stream_batch "
    "UNION SELECT entity FROM ops.comparison_owed UNION SELECT table_name FROM ops.stream_window"
)
"""The names of which a stream has left something."""
_COUNTED_BESIDE = ("added", "late", "vanished")
"""What stands in ops beside a table of windows, behind its name (flows.streaming.windows)."""
_KINDS = {"r": "TABLE", "p": "TABLE", "m": "MATERIALIZED VIEW"}


@dataclass(frozen=True)
class Undeclared:
    """One such table, and where something of it stands."""

    name: str
    relations: tuple[tuple[str, str], ...]
    """(schema, kind as pg_class has it) of what has its name in PostgreSQL."""
    folders: tuple[Path, ...]
    """Its folders in the lake, that in quarantine too."""
    is_entered: bool
    """Whether the ledger tells of it."""

    @property
    def where(self) -> str:
        """The places, for people."""
        places = [f"{schema}.{self.name}" for schema, _ in self.relations] + [*map(str, self.folders)]
        return ", ".join(places) or "the ledger alone"

    @property
    def is_raw(self) -> bool:
        """Whether a source landed in it: what that no longer has is nowhere else."""
        return any(folder.parent.name == Layer.RAW.value for folder in self.folders)


def find(connection: Connection[Any], lake: Lake) -> list[Undeclared]:
    """Every table of that kind, by name."""
    entered = {name for (name,) in connection.execute(
        "SELECT table_name FROM ops.ledger UNION SELECT table_name FROM ops.partition_state "
        f"UNION SELECT entity FROM ops.position UNION {_OF_A_STREAM}"
    ).fetchall()}  # fmt: skip
    relations: dict[str, list[tuple[str, str]]] = {}
    for schema, name, kind in connection.execute(
        "SELECT n.nspname, c.relname, c.relkind::text FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = ANY(%s) AND c.relkind::text = ANY(%s) AND NOT c.relispartition "
        "AND NOT (n.nspname = %s AND c.relname = ANY(%s)) ORDER BY 1, 2",
        (list(SERVED), list(_KINDS), PERSONAL, list(_BOOTSTRAPPED)),
    ).fetchall():
        relations.setdefault(name, []).append((schema, kind))
    folders: dict[str, list[Path]] = {}
    for place in (*(layer.value for layer in Layer), QUARANTINE):
        for folder in sorted(path for path in (lake.root / place).glob("*") if path.is_dir()):
            folders.setdefault(folder.name, []).append(folder)
    declared = {*registry.tables(), *(view.name for view in views())}
    return [
        Undeclared(name, tuple(relations.get(name, ())), tuple(folders.get(name, ())), name in entered)
        for name in sorted({*entered, *relations, *folders} - declared)
    ]


def left_by_a_stream(connection: Connection[Any]) -> list[str]:
    """A sentence where a stream has left something of tables that nothing declares any more: no landing and
    no comparison sees to that.
    """
    names = {name for (name,) in connection.execute(_OF_A_STREAM.encode()).fetchall()}
    gone = sorted(names - registry.tables().keys())
    if not gone:
        return []
    return [
        f"A stream wrote of {', '.join(gone)}, which nothing declares any more: what it left is neither "
        "landed nor compared. Declare it again, or see what would go: python -m flows maintain --drop "
        f"{gone[0]}"
    ]


def drop(services: Services, ledger: Ledger, name: str, *, yes: bool) -> Undeclared:
    """Remove a table that nothing declares any more from PostgreSQL, the lake and the ledger; returns what
    went.

    The lake's folders go within the transaction, as its last step: what a crash or an error leaves is still
    in the ledger, and the same call goes on. Raises FlowsError for a table that is declared or nowhere, for
    one that nobody said `yes` to, and where its files can't be removed; InTheWay where something else reads
    it, Blocked where somebody uses it. Nothing was removed then but files. TwoStories before anything: a lake
    that is not there would come back with a table that the ledger does not know.
    """
    if name in registry.tables() or name in {view.name for view in views()}:
        raise FlowsError(
            f"{name} is declared, so it stays. Take its file out of transforms first, then run again."
        )
    connection = ledger.connection
    refuse_two_stories(ledger, services.lake, besides=name)
    with ExitStack() as held:
        for purpose in ("land", "build", "publish"):
            held.enter_context(ledger.locked(purpose, name))
        one = {found.name: found for found in find(connection, services.lake)}.get(name)
        if one is None:
            raise FlowsError(f"There is nothing of {name} in the warehouse or the lake: look for a typo.")
        if not yes:
            raise FlowsError(_asked(one))

        def work() -> None:
            refuse_while_dumped(connection)
            _drop_relations(connection, one)
            for table, column in _ENTRIES:
                query = sql.SQL("DELETE FROM {} WHERE {} = %s")
                connection.execute(
                    query.format(sql.Identifier("ops", table), sql.Identifier(column)), (name,)
                )
            for beside in _COUNTED_BESIDE:
                place = sql.Identifier("ops", f"{name}_{beside}")
                connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(place))
            failpoint("drop.entries_gone")
            for folder in one.folders:
                _remove(folder)
                failpoint("drop.folder_removed")

        try:
            with_short_waits(services.warehouse, connection, BRIEF, work)
        except Blocked as blocked:
            raise FlowsError(
                f"{name} is in use by {blocked.by}. Nothing was removed: wait for that or end it, run again."
            ) from blocked
    return one


def _asked(one: Undeclared) -> str:
    last = " It is raw: what its source no longer has is lost with it." if one.is_raw else ""
    return (
        f"{one.name} would go for good ({one.where}), and only a backup brings it back.{last} Nothing was "
        f"removed. Run again with --yes: python -m flows maintain --drop {one.name} --yes"
    )


def _drop_relations(connection: Connection[Any], one: Undeclared) -> None:
    """In the caller's transaction. Raises InTheWay where something reads one of them."""
    masked = connection.execute(
        "SELECT FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relname = %s AND relkind = 'v'",
        (PUBLISHED, one.name),
    ).fetchone()
    dropped = [("VIEW", PUBLISHED)] if masked is not None and one.relations else []
    dropped += [(_KINDS[kind], schema) for schema, kind in one.relations]
    try:
        for what, schema in dropped:
            connection.execute(sql.SQL(f"DROP {what} {{}}").format(sql.Identifier(schema, one.name)))
    except errors.DependentObjectsStillExist as error:
        hanging = "; ".join((error.diag.message_detail or "").splitlines())
        raise InTheWay(
            f"{one.name} can't be removed: {hanging}. Nothing was removed: drop that or move it to another "
            "source, then run again."
        ) from error


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise FlowsError(
            f"{folder} can't be removed ({error.strerror or error}), so the ledger still names the table. "
            "Mend that (whose is it?) and run the same command again."
        ) from error
