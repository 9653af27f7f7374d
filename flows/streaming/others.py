"""What others have published: which partitions they wrote into, and which records stand there.

The rule that keeps copies of one record from being published by two streams, whatever times they say:

- A stream that commits rows of a table holds its lock (`streamed.lock`) until then, so these commits follow
  one another; each micro-batch leaves its id at the partitions that it wrote into
  (`ops.hot_partition.last_batch`).
- A stream notes that id before it reads a partition's rows into its memory (`flows.streaming.seen`), and
  replaces it by its own when it commits rows into it. While both are the same, it knows what stands there,
  and of what it does not know whole it has asked PostgreSQL beforehand.
- Where the id is another, another stream has written. Within the transaction, under the lock, PostgreSQL is
  asked which records of the micro-batch stand in such partitions, and copies are settled once more. The
  partition stays another's until it is read anew: at the next assignment, or once it had been let go of.
- A batch that publishes rows into a partition, or corrects some, leaves an id there as well, also where no
  stream ever wrote. What it has landed and not published yet, letters that were replayed too, a stream knows
  (`flows.streaming.unbuilt`): copies of that are left to the batch.
- Who replays a letter holds no lock that a stream would wait for: of a copy that is on its way into the table
  at that moment nobody knows, and should it be published before that one was landed, both stand until a batch
  has computed its day.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from psycopg import Connection, sql

from flows.stores.warehouse import Warehouse
from transforms.contract import Table
from transforms.postgres_types import postgres_type
from warehouse_ddl.statements import bounds, home


def last_batches(connection: Connection[Any], table: Table, windows: Sequence[str]) -> dict[str, str]:
    """What wrote last into each of these partitions; nothing for one of which nobody has noted that."""
    rows = connection.execute(
        "SELECT partition, last_batch FROM ops.hot_partition "
        "WHERE table_name = %s AND partition = ANY(%s) AND last_batch IS NOT NULL",
        (table.name, list(windows)),
    ).fetchall()
    return dict(rows)


def last_batches_read(warehouse: Warehouse, table: Table) -> dict[str, str]:
    """The same of all its partitions, beside the session that commits."""
    query = (
        "select partition, last_batch from ops.hot_partition "
        f"where table_name = '{table.name}' and last_batch is not null"
    )
    with warehouse.reading(query) as reader:
        rows = reader.read_all()
    return dict(zip(rows["partition"].to_pylist(), rows["last_batch"].to_pylist(), strict=True))


def standing(
    connection: Connection[Any],
    table: Table,
    columns: Sequence[str],
    identities: pa.Table,
    windows: Sequence[str],
) -> pa.Table | None:
    """The published rows of these partitions that are copies of these records; None where there is none.

    `identities` are by column, as text. The cost is a look into the key's index for each of them and each
    partition.
    """
    assert table.partition is not None
    names = sql.SQL(", ").join(map(sql.Identifier, identities.column_names))
    arrays = sql.SQL(", ").join(
        sql.SQL("%s::text[]::{}[]").format(sql.SQL(postgres_type(table.column(name))))
        for name in identities.column_names
    )
    listed = sql.SQL(", ").join(
        sql.SQL("t.{}::text" if table.column(name).type == "UUID" else "t.{}").format(sql.Identifier(name))
        for name in columns
    )
    reach = sql.SQL(" OR ").join(
        sql.SQL("(t.{by} >= {low} AND t.{by} < {high})").format(
            by=sql.Identifier(table.partition.by), low=low, high=high
        )
        for low, high in (map(sql.Literal, bounds(table, window)) for window in windows)
    )
    rows = connection.execute(
        sql.SQL("SELECT {} FROM unnest({}) AS mine({}) JOIN {} AS t USING ({}) WHERE {}").format(
            listed, arrays, names, sql.Identifier(home(table), table.name), names, reach
        ),
        [identities[name].to_pylist() for name in identities.column_names],
    ).fetchall()
    if not rows:
        return None
    return pa.table(
        {name: list(values) for name, values in zip(columns, zip(*rows, strict=True), strict=True)}
    )
