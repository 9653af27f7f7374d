"""Counts by windows of event time, kept up to date by adding: what every micro-batch adds is merged here.

Micro-batches only append what they add (`flows.streaming.counts`), in the transaction of their rows. One
process at a time, the keeper, merges that into the published table: each change gives a count a higher
revision, and each revision a message in `ops.outbox`, all in one transaction. What is added commutes, so
nothing here need know who else adds: other streams, and the batch's corrections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection, sql

from flows.failpoints import failpoint
from flows.stores.ledger import Ledger
from flows.streaming.journal import Journal
from flows.streaming.watermark import watermark
from transforms.contract import IS_FINAL, REVISION, Table, Windowed, moved
from warehouse_ddl.statements import home

VACUUM_AFTER = 100_000
"""Merged additions after which their table is vacuumed: it is read whole by every merge."""


@dataclass(frozen=True)
class Names:
    """A windowed table's identifiers: itself, its additions, and counts that fell to zero."""

    table: Table

    @property
    def windowed(self) -> Windowed:
        """Its declaration; AssertionError for a table that has none."""
        assert self.table.windowed is not None
        return self.table.windowed

    @property
    def additions(self) -> sql.Identifier:
        """`ops.<table>_added`: key, end, what is added, and whether that is a correction of the batch."""
        return sql.Identifier("ops", f"{self.table.name}_added")

    @property
    def late(self) -> sql.Identifier:
        """`ops.<table>_late`: what came too late for its window; the batch will count it."""
        return sql.Identifier("ops", f"{self.table.name}_late")

    @property
    def vanished(self) -> sql.Identifier:
        """`ops.<table>_vanished`: the last revision of counts that fell to zero, should they come back."""
        return sql.Identifier("ops", f"{self.table.name}_vanished")

    @property
    def added_columns(self) -> tuple[str, ...]:
        """The columns of an addition, as `COPY` takes them."""
        return (*self.table.key, self.windowed.end, self.windowed.adds)

    def parts(self) -> dict[str, sql.Composable]:
        """What the statements of this file are put together from."""
        table, windowed = self.table, self.windowed
        assert table.partition is not None
        keys = [sql.Identifier(name) for name in table.key]
        same = sql.SQL(" AND ").join(sql.SQL("v.{k} = s.{k}").format(k=key) for key in keys)
        shown = (*table.key, windowed.end)
        fields = sql.SQL(", ").join(
            sql.SQL("{}, {}").format(sql.Literal(name), _shown(table, name)) for name in shown
        )
        return {
            "table": sql.Identifier(home(table), table.name),
            "additions": self.additions,
            "late": self.late,
            "vanished": self.vanished,
            "keys": sql.SQL(", ").join(keys),
            "same": same,
            "start": sql.Identifier(table.partition.by),
            "end": sql.Identifier(windowed.end),
            "adds": sql.Identifier(windowed.adds),
            "topic": sql.Literal(windowed.topic),
            "message": sql.SQL("{}::text, json_build_object({}, 'count', {}, {}, {}, {}, {})::text").format(
                keys[0],
                fields,
                sql.Identifier(windowed.adds),
                sql.Literal(REVISION),
                sql.Identifier(REVISION),
                sql.Literal(IS_FINAL),
                sql.Identifier(IS_FINAL),
            ),
        }


def prepare(connection: Connection[Any], table: Table) -> Names:
    """Make what belongs to a windowed table beside itself, where it is not there yet. Takes no lock that
    whoever adds would wait for.
    """
    names = Names(table)
    added = sql.SQL(", ").join(map(sql.Identifier, names.added_columns))
    revised = sql.SQL(", ").join(map(sql.Identifier, (*table.key, REVISION)))
    beside = (
        (names.additions, sql.SQL("{}, false AS is_correction").format(added)),
        (names.late, added),
        (names.vanished, revised),
    )
    with Ledger(connection).locked("windows", table.name):
        for target, columns in beside:
            connection.execute(
                sql.SQL("CREATE TABLE IF NOT EXISTS {} AS SELECT {} FROM {} LIMIT 0").format(
                    target, columns, sql.Identifier(home(table), table.name)
                )
            )
    return names


def merge(
    connection: Connection[Any], table: Table, entity: str, world_time: Callable[[datetime], datetime]
) -> int:
    """Put what was added into the published counts; returns the number of revisions.

    To be called by the keeper alone. In one transaction, which publishes of the table wait for:

    1. How far event time has come is asked. All that was taken in by then is among what 2 and 3 merge.
    2. What micro-batches added to windows that are final is put aside: the batch counts it, and corrects. Of
       windows past the retention nothing is kept: they may have no leaf any more.
    3. The rest is added up by window and merged; what 4 makes final is so at once. A count that falls to
       zero goes; its revision is kept.
    4. The watermark goes on to 1, and windows that it has passed by the lateness become final, if a stream
       ever added to them; not in a partition that is owed a comparison: what a batch has read itself is
       missing there. So what was taken in together with what moves the watermark is never too late for
       it, however much was waiting.
    5. Each row of 3, and each other one of 4, is a revision, and a message in the outbox. (One that a model
       without revisions wrote has none yet.)
    """
    parts = Names(table).parts()
    with Ledger(connection).locked("publish", table.name), connection.transaction():
        before = _watermark(connection, table)
        found = watermark(Journal(connection).progress([entity], world_time), before)
        owed = [*Journal(connection).owed(entity)]
        parts["kept"] = _kept(table, parts, world_time(Journal(connection).now()))
        parts["closes"] = _closes(connection, table, parts, _passed(table, found), owed)
        revisions = _add(connection, table, parts, _passed(table, before))
        failpoint("windows.added")
        if found is not None:
            if found != before:
                _advance(connection, table, found)
            revisions += _close(connection, parts)
        failpoint("windows.before_commit")
    failpoint("windows.committed")
    return revisions


def vacuum(connection: Connection[Any], table: Table) -> None:
    """Let merged additions and sent messages make room: their tables would be read through them."""
    for target in (Names(table).additions, sql.Identifier("ops", "outbox")):
        connection.execute(sql.SQL("VACUUM {}").format(target))


def is_open(connection: Connection[Any], table: Table, partition: str) -> bool:
    """Whether a partition has windows that are not final yet."""
    row = connection.execute(
        sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE NOT is_final)").format(
            sql.Identifier(home(table), table.leaf(partition))
        )
    ).fetchone()
    return bool(row and row[0])


def open_windows(connection: Connection[Any], table: Table) -> int:
    """How many windows of the stream's partitions are not final yet."""
    within = _within(table, _hot(connection, table))
    row = connection.execute(
        sql.SQL("SELECT count(DISTINCT {start}) FROM {table} WHERE {within} AND NOT is_final").format(
            within=within, **Names(table).parts()
        )
    ).fetchone()
    return int(row[0]) if row else 0


def passed(connection: Connection[Any], table: Table) -> datetime | None:
    """The time up to which the windows of the stream's partitions are final; None: no window is yet."""
    return _passed(table, _watermark(connection, table))


def _passed(table: Table, moment: datetime | None) -> datetime | None:
    return None if moment is None else moment - Names(table).windowed.lateness


def _watermark(connection: Connection[Any], table: Table) -> datetime | None:
    row = connection.execute(
        "SELECT watermark FROM ops.stream_window WHERE table_name = %s", (table.name,)
    ).fetchone()
    return row[0] if row else None


def _advance(connection: Connection[Any], table: Table, found: datetime) -> None:
    connection.execute(
        "INSERT INTO ops.stream_window (table_name, watermark) VALUES (%s, %s) "
        "ON CONFLICT (table_name) DO UPDATE SET watermark = excluded.watermark",
        (table.name, found),
    )


def _add(
    connection: Connection[Any], table: Table, parts: dict[str, sql.Composable], passed: datetime | None
) -> int:
    """Steps 2 and 3."""
    fallen = connection.execute(
        sql.SQL("SELECT DISTINCT {keys} FROM {additions} WHERE {adds} < 0").format(**parts)
    ).fetchall()
    merged = connection.execute(
        sql.SQL(
            """
            WITH taken AS (DELETE FROM {additions} RETURNING {keys}, {end}, {adds}, is_correction),
            judged AS (
                SELECT *, NOT is_correction AND coalesce({end} <= %(passed)s, false) AS is_late FROM taken
                WHERE {kept}
            ),
            aside AS (
                INSERT INTO {late} ({keys}, {end}, {adds}) SELECT {keys}, {end}, {adds} FROM judged
                WHERE is_late
            ),
            s AS (
                SELECT {keys}, {end}, sum({adds})::bigint AS {adds} FROM judged WHERE NOT is_late
                GROUP BY {keys}, {end} HAVING sum({adds}) <> 0
            ),
            back AS (DELETE FROM {vanished} v USING s WHERE {same} RETURNING v.*),
            merged AS (
                INSERT INTO {table} AS t ({keys}, {end}, {adds}, revision, is_final)
                SELECT {keys}, {end}, {adds}, coalesce(back.revision, 0) + 1,
                    coalesce({end} <= %(passed)s, false) OR {closes}
                FROM s LEFT JOIN back USING ({keys}) ORDER BY {keys}
                ON CONFLICT ({keys}) DO UPDATE
                SET {adds} = t.{adds} + excluded.{adds}, revision = coalesce(t.revision, 0) + 1,
                    is_final = coalesce(t.is_final OR excluded.is_final, excluded.is_final)
                RETURNING t.*
            )
            INSERT INTO ops.outbox (topic, key, value) SELECT {topic}, {message} FROM merged
            """
        ).format(**parts),
        {"passed": passed},
    ).rowcount
    if fallen:
        _let_vanish(connection, table, parts, fallen)
    return merged


def _kept(table: Table, parts: dict[str, sql.Composable], now: datetime) -> sql.Composable:
    """Whether a window is of a partition that is not past its retention, as a condition on a row."""
    if table.retention is None:
        return sql.SQL("true")
    assert table.partition is not None
    oldest, _ = table.partition.bounds(table.partition.key(moved(now, -table.retention)))
    return sql.SQL("{start} >= {oldest}").format(oldest=sql.Literal(oldest), **parts)


def _let_vanish(
    connection: Connection[Any],
    table: Table,
    parts: dict[str, sql.Composable],
    keys: Sequence[tuple[Any, ...]],
) -> None:
    condition = sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in table.key)
    with connection.cursor() as cursor:
        cursor.executemany(
            sql.SQL(
                "WITH gone AS (DELETE FROM {table} WHERE {condition} AND {adds} <= 0 RETURNING *) "
                "INSERT INTO {vanished} ({keys}, revision) SELECT {keys}, revision FROM gone"
            ).format(condition=condition, **parts),
            keys,
        )


def _closes(
    connection: Connection[Any],
    table: Table,
    parts: dict[str, sql.Composable],
    passed: datetime | None,
    owed: Sequence[str],
) -> sql.Composable:
    """Of which windows 4 makes the counts final, as a condition on a row. No partition is sealed before all
    its windows are final: only those that are not sealed are looked at, however old one of them is.
    """
    if passed is None:
        return sql.SQL("false")
    hot = [partition for partition in _hot(connection, table) if partition not in owed]
    return sql.SQL("({within} AND {start} < {passed} AND {end} <= {passed})").format(
        within=_within(table, hot), passed=sql.Literal(passed), **parts
    )


def _close(connection: Connection[Any], parts: dict[str, sql.Composable]) -> int:
    """Step 4, for counts that nothing was added to."""
    return connection.execute(
        sql.SQL(
            """
            WITH final AS (
                UPDATE {table} SET is_final = true, revision = coalesce(revision, 0) + 1
                WHERE {closes} AND NOT is_final RETURNING *
            )
            INSERT INTO ops.outbox (topic, key, value) SELECT {topic}, {message} FROM final
            """
        ).format(**parts)
    ).rowcount


def _hot(connection: Connection[Any], table: Table) -> list[str]:
    """The stream's unsealed partitions, in order: in all others every window is final, or the batch's."""
    rows = connection.execute(
        "SELECT partition FROM ops.hot_partition WHERE table_name = %s AND sealed_at IS NULL ORDER BY 1",
        (table.name,),
    ).fetchall()
    return [str(partition) for (partition,) in rows]


def _within(table: Table, partitions: Sequence[str]) -> sql.Composable:
    """Whether a row is of one of these partitions, so that PostgreSQL reads no leaf of another."""
    assert table.partition is not None
    spans: list[tuple[datetime, datetime]] = []
    for low, high in map(table.partition.bounds, partitions):
        if spans and spans[-1][1] == low:
            spans[-1] = (spans[-1][0], high)
        else:
            spans.append((low, high))
    start = sql.Identifier(table.partition.by)
    ranges = [
        sql.SQL("{} >= {} AND {} < {}").format(start, sql.Literal(low), start, sql.Literal(high))
        for low, high in spans
    ]
    return sql.SQL("({})").format(sql.SQL(" OR ").join(ranges)) if ranges else sql.SQL("false")


def _shown(table: Table, name: str) -> sql.Composable:
    """A column as a message shows it: times in ISO 8601, UTC."""
    column = sql.Identifier(name)
    if not table.column(name).type.startswith("TIMESTAMP"):
        return column
    form = sql.Literal('YYYY-MM-DD"T"HH24:MI:SS"Z"')
    return sql.SQL("to_char({} AT TIME ZONE 'UTC', {})").format(column, form)
