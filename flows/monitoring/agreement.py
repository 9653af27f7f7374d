"""schema_drift, reconciliation: do source, lake and warehouse agree with what is declared, and each other?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import cache

import pyarrow.parquet as pq
from psycopg import Connection

import quality
from flows import incomplete
from flows.counted import counted
from flows.monitoring import storage
from flows.monitoring.verdict import State, Verdict
from flows.monitoring.watch import Watch
from flows.stores import apply, migrate
from flows.streaming import findings
from transforms import catalog, registry
from transforms.contract import Layer, Table

SCHEMA, RECONCILIATION = "schema_drift", "reconciliation"
TOLD_FOR = timedelta(days=1)
"""How long a change that its declaration lets through is told; others stay until they are declared."""
_REMEMBERED = timedelta(days=35)
_CORRECTED = (
    "Readers have the batch's since. Which they were: `select observed from ops.check_result where rule = "
    f"'{findings.RULE}' and not passed order by checked_at desc`. Compare once more, which ends this: "
    "python -m flows check --stream"
)
"""What is to be done about what the batch has put right when it found it."""
_STOPPING = frozenset({"dropped", "missing", "recreated", "retyped"})
"""Changes that no contract lets through: a run that has done the table since has found it mended."""


def schema_drift(watch: Watch) -> Iterator[Verdict]:
    """Each source entity: columns that it has otherwise than declared. Each published table: what PostgreSQL
    has otherwise than its model says, leaves that are gone, content that an older model has made.
    """
    found: dict[str, list[tuple[str, str, str]]] = {}
    for table, column, change, contract, found_at, goes_on in watch.rows(
        "select distinct on (table_name, column_name) table_name, column_name, change, contract, found_at, "
        "contract = 'freeze' and exists (select from ops.ledger l where l.kind = 'land' "
        "and l.table_name = c.table_name and l.landed_at > c.found_at) "
        "from ops.schema_change c where found_at > %s "
        "order by table_name, column_name, found_at desc",
        watch.now - _REMEMBERED,
    ):
        is_mended = change in _STOPPING and any(
            run.started_at > found_at and table in run.done for run in watch.runs
        )
        if contract == "evolve":
            is_over = is_mended or found_at <= watch.now - TOLD_FOR
        else:
            is_over = is_mended or goes_on or _is_declared(table, column, change)
        if not is_over:
            found.setdefault(table, []).append((column, change, contract))
    for entity in registry.entities():
        changes = found.get(entity.table, [])
        is_stopped = any(contract == "freeze" or change in _STOPPING for _, change, contract in changes)
        told = "; ".join(f"{column} {change} ({contract})" for column, change, contract in changes)
        yield watch.says(
            SCHEMA,
            f"source:{entity.table}",
            float(len(changes)),
            0.0,
            "columns",
            state=State.OK if not changes else State.CRITICAL if is_stopped else State.WARNING,
            message=f"The source has columns of {entity.table} otherwise than declared: {told}."
            if told
            else "",
            action="Look at both: python -m flows schema diff; --write declares what the source has.",
        )
    # That it is away is told once, by the signal of its disk.
    is_lake_there = not storage.is_lake_away(watch)
    for table in registry.build_order():
        if table.is_published:
            yield _of_warehouse(watch, table, is_lake_there=is_lake_there)


def _is_declared(table: str, column: str, change: str) -> bool:
    """Whether the declaration has followed a change since: it has a column that came, lacks one that went."""
    names = {one.name for one in registry.table(table).columns} if table in registry.tables() else set()
    if change in ("added", "missing", "dropped"):
        return (column in names) == (change == "added")
    return False


def _of_warehouse(watch: Watch, table: Table, *, is_lake_there: bool) -> Verdict:
    connection = watch.connection
    differences = []
    migration = migrate.pending(connection, table)
    if migration is None:
        differences.append("it is not there")
    else:
        differences += [change.what for change in migration.changes]
    gone = _leaves_gone(connection, table) if migration is not None else []
    if gone:
        more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
        differences.append(f"published partitions are gone: {', '.join(gone[:3])}{more}")
    old = _of_older_model(watch, table)
    if old:
        differences.append(f"{counted(old, 'partition')} of an older model")
    differences += _of_lake(watch, table) if is_lake_there else []
    is_lost = bool(gone) or (migration is None and _was_published(watch, table))
    state = State.OK
    if differences and (migration is not None or is_lost):
        state = State.CRITICAL if is_lost else State.WARNING
    return watch.says(
        SCHEMA,
        table.name,
        float(len(differences)) if state is not State.OK else 0.0,
        0.0,
        "differences",
        state=state,
        message=f"{table.name} is not what its model says: {'; '.join(differences)}."
        if state is not State.OK
        else "",
        action=f"Make it right from the lake: python -m flows rebuild {table.name}"
        if is_lost
        else "The next run changes it: python -m flows",
    )


def _leaves_gone(connection: Connection[tuple[object, ...]], table: Table) -> list[str]:
    """Partitions that are published, hold rows and have no leaf; retention drops leaves and says so."""
    if not table.is_partitioned_in_postgres:
        return []
    there = apply.leaves(connection, table)
    published = connection.execute(
        "select partition from ops.partition_state where table_name = %s and published_at is not null "
        "and row_count > 0 and partition <> '' order by 1",
        (table.name,),
    ).fetchall()
    return [str(partition) for (partition,) in published if table.leaf(str(partition)) not in there]


def _of_lake(watch: Watch, table: Table) -> list[str]:
    """What the newest file of the lake has otherwise than the model that made it; its footer says that."""
    found = watch.rows(
        "select file ->> 'path' from ops.partition_state s, jsonb_array_elements(s.files) file "
        "where (s.table_name, s.fingerprint) = (%s, %s) and (file ->> 'rows')::bigint > 0 "
        "order by s.partition desc limit 1",
        table.name,
        catalog.fingerprint(table),
    )
    if not found:
        return []
    path = watch.services.settings.lake_root / found[0][0]
    if not path.exists():
        return [f"a file of the lake is gone ({found[0][0]})"]
    there = set(pq.read_schema(path).names)
    lacking = [column.name for column in table.columns if column.name not in there]
    return [f"its newest file in the lake lacks {', '.join(lacking)}"] if lacking else []


def _was_published(watch: Watch, table: Table) -> bool:
    return bool(
        watch.rows(
            "select 1 from ops.partition_state where table_name = %s and published_at is not null limit 1",
            table.name,
        )
    )


def _of_older_model(watch: Watch, table: Table) -> int:
    """Partitions with rows that a model has made which is not the one of today: the next run builds them, but
    for what is past its retention.
    """
    found = watch.rows(
        "select partition from ops.partition_state where table_name = %s and row_count > 0 "
        "and fingerprint not in (%s, 'backfill', 'replay')",
        table.name,
        catalog.fingerprint(table),
    )
    return sum(not table.is_past_retention(partition, watch.now) for (partition,) in found)


@cache
def _against_sources() -> list[str]:
    """Rules that hold a table to what its source counted."""
    return [
        rule.name
        for table in registry.build_order()
        for rule in quality.rules(table)
        if "control_total" in quality.requires([rule], table.name)
    ]


def reconciliation(watch: Watch) -> Iterator[Verdict]:
    """Each rule that holds a table to another, or to what its source counted: as it was judged last. And
    transactions of the application that did not arrive whole.
    """
    for table, rule, severity, passed, failing in watch.rows(
        "select distinct on (table_name, rule) table_name, rule, severity, passed, failing_rows "
        "from ops.check_result where (kind = 'consistency' or rule = any(%s)) and checked_at > %s "
        "order by table_name, rule, checked_at desc, passed",
        _against_sources(),
        watch.now - _REMEMBERED,
    ):
        if table not in registry.tables() or registry.table(table).layer is Layer.RAW:
            continue
        bad = State.CRITICAL if severity == "critical" else State.WARNING
        yield watch.says(
            RECONCILIATION,
            f"{table}.{rule}",
            float(failing) if not passed else 0.0,
            0.0,
            "rows",
            state=State.OK if passed else bad,
            message="" if passed else _disagreement(table, rule, failing),
            action=_CORRECTED if rule == findings.RULE else f"See which rows: python -m flows check {table}",
        )
    torn = incomplete.still(watch.connection)
    yield watch.says(
        RECONCILIATION,
        "transactions",
        float(len(torn)),
        0.0,
        "transactions",
        state=State.WARNING if torn else State.OK,
        message=f"{counted(len(torn), 'transaction')} of the application did not arrive whole; {torn[0]}."
        if torn
        else "",
        action="Replay their dead letters (python -m flows dlq list), or: python -m flows check --source",
    )


def _disagreement(table: str, rule: str, failing: int) -> str:
    if rule == findings.RULE:
        rows = counted(failing, "row")
        return f"The stream and the batch differed in {rows} of {table}, which the batch has corrected."
    return f"{table} does not agree: rule {rule} fails for {counted(failing, 'row')}."
