"""warehouse, wal, disk, bloat: is what everything stands on there, and what fills up?"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from flows.cdc.status import NO_LIMIT_BYTES, SHARE_OF_LIMIT
from flows.extract import debezium
from flows.monitoring.verdict import State, Verdict
from flows.monitoring.watch import Watch
from flows.stores import read_only
from flows.stores.ledger import Ledger
from transforms.contract import Layer
from warehouse_ddl.statements import LASTING

WAREHOUSE, WAL, DISK, BLOAT = "warehouse", "wal", "disk", "bloat"
LEAST_FREE, CRITICALLY_FREE = 0.10, 0.05
"""Shares of the lake's disk that must be free."""
LEAST_FREE_BYTES = 2 << 30
"""What a run needs, however large the disk is."""
MOST_DEAD, FEWEST_DEAD = 0.25, 50_000
"""Share of a table's rows that may be dead ones, once there are so many of them."""
_TIMEOUT_SECONDS = 3


def warehouse(watch: Watch) -> Iterator[Verdict]:
    """That it answers, and how soon, and takes writes; where it does not answer no look could say so."""
    begun = time.perf_counter()
    because = read_only.why(watch.connection)
    seconds = time.perf_counter() - begun
    bad: dict[str, Any] = {}
    if because:
        said = f"The warehouse takes no writes: {because}. Nothing is published, and no verdict is kept."
        bad = {"state": State.CRITICAL, "message": said, "action": read_only.TO_DO}
    yield watch.says(WAREHOUSE, "warehouse", seconds, None, "s", **bad)


def kept_wal(watch: Watch) -> Iterator[Verdict]:
    """The replication slot at the application's PostgreSQL: WAL that it keeps, against what may be kept."""
    settings = watch.services.settings
    if not debezium.entities():
        return
    slot = debezium.names(settings).slot
    subject = f"slot:{slot}"
    dsn = psycopg.conninfo.make_conninfo(settings.require("app_dsn"), connect_timeout=_TIMEOUT_SECONDS)
    with psycopg.connect(dsn, autocommit=True, options=f"-c statement_timeout={_TIMEOUT_SECONDS}s") as source:
        row = source.execute(
            "select coalesce(wal_status, 'lost'), coalesce(pg_wal_lsn_diff(case when pg_is_in_recovery() "
            "then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end, restart_lsn), 0)::float8, "
            "(select setting::bigint * 1048576 from pg_settings where name = 'max_slot_wal_keep_size') "
            "from pg_replication_slots where slot_name = %s",
            (slot,),
        ).fetchone()
    if row is None:
        yield watch.says(
            WAL,
            subject,
            None,
            None,
            "bytes",
            state=State.CRITICAL,
            message=f"Replication slot {slot} is gone, so changes of the application are not kept.",
            action="See what is to be done: python -m flows cdc status",
        )
        return
    status, kept, most = str(row[0]), float(row[1]), int(row[2])
    limit = most * SHARE_OF_LIMIT if most >= 0 else float(NO_LIMIT_BYTES)
    is_lost = status == "lost"
    state = (
        State.CRITICAL if is_lost or status == "unreserved" else State.WARNING if kept > limit else State.OK
    )
    message = (
        f"Slot {slot} keeps {kept / 1e9:,.1f} GB of WAL ({status}); more than {limit / 1e9:,.1f} GB fills "
        "the disk, or PostgreSQL gives the slot up."
    )
    if is_lost:
        message = f"PostgreSQL has given up replication slot {slot}: changes are lost."
    yield watch.says(
        WAL,
        subject,
        kept,
        limit,
        "bytes",
        state=state,
        message="" if state is State.OK else message,
        action="See that the connector runs: python -m flows cdc status, cdc resume.",
        observed={"status": status},
    )


def is_lake_away(watch: Watch) -> bool:
    """Whether nothing of the lake is where it is looked for though the ledger names files of it: its disk is
    not mounted, or the setting names another folder. A run refuses to begin then. While the warehouse is away
    nobody knows.
    """
    root = watch.services.settings.lake_root
    if watch.session is None or any((root / layer.value).is_dir() for layer in Layer):
        return False
    is_prepared = Ledger(watch.session).is_there()
    return is_prepared and bool(watch.rows("select 1 from ops.ledger where in_manifest limit 1"))


def disk(watch: Watch) -> Iterator[Verdict]:
    """The disk under the lake; in the sandbox all of it is there."""
    root = watch.services.settings.lake_root
    if is_lake_away(watch):
        yield watch.says(
            DISK,
            "lake",
            None,
            None,
            "ratio",
            state=State.CRITICAL,
            message=f"The lake is not there: {root} has none of its folders, and the ledger names files in "
            "them.",
            action="Mount its disk, or correct ANALYTICS_LAKE: no run begins until then.",
        )
        return
    usage = shutil.disk_usage(_standing(root))
    share = usage.free / usage.total
    least, critical = (
        max(share_, LEAST_FREE_BYTES / usage.total) for share_ in (LEAST_FREE, CRITICALLY_FREE)
    )
    state = State.OK if share >= least else State.WARNING if share >= critical else State.CRITICAL
    yield watch.says(
        DISK,
        "lake",
        share,
        least,
        "ratio",
        state=state,
        message=""
        if state is State.OK
        else f"{usage.free / 1e9:,.1f} GB ({share:.1%}) of the lake's disk are free.",
        observed={"free_bytes": usage.free},
    )


def bloat(watch: Watch) -> Iterator[Verdict]:
    """The warehouse's tables: the share of dead rows in the worst of them."""
    rows = watch.rows(
        "select schemaname || '.' || relname, n_dead_tup::float8 / nullif(n_dead_tup + n_live_tup, 0), "
        "n_dead_tup from pg_stat_user_tables where schemaname = any(%s) and n_dead_tup > %s "
        "order by 2 desc nulls last limit 1",
        [*LASTING],
        FEWEST_DEAD,
    )
    name, share, dead = rows[0] if rows else ("", 0.0, 0)
    is_bad = bool(rows) and share > MOST_DEAD
    yield watch.says(
        BLOAT,
        "warehouse",
        float(share),
        MOST_DEAD,
        "ratio",
        state=State.WARNING if is_bad else State.OK,
        message=f"{share:.0%} of the rows of {name} are dead ({dead:,}): it takes more room and time."
        if is_bad
        else "",
        action=f"See who holds old rows (pg_stat_activity, backend_xmin), then: vacuum analyze {name};",
        observed={"table": name, "dead": int(dead)},
    )


def _standing(path: Path) -> Path:
    """The folder, or the one above that is there."""
    return path if path.exists() or path == path.parent else _standing(path.parent)
