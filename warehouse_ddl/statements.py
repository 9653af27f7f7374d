"""SQL that makes the published tables, from the models alone. Text only: flows execute it.

PostgreSQL 15 and 18 take every statement here. A table that is written by merge, or has no partition, is
one table; the others are range-partitioned, without a DEFAULT partition (it would have to be scanned at
each attach).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transforms import catalog
from transforms import registry as registries
from transforms.contract import Column, Table, check_name
from transforms.postgres_types import postgres_type
from transforms.registry import Registry

PUBLISHED = "analytics"
UNPUBLISHED = "unpublished"
PERSONAL = "personal"
"""Where a published table stands that holds personal data: what readers see of it is a view in PUBLISHED."""
OPS = "ops"
SERVED = (PUBLISHED, PERSONAL)
"""Schemas of what people read."""
LASTING = (*SERVED, OPS)
"""Schemas of which every row counts; what stands in UNPUBLISHED is still being made."""
SCHEMAS = (*LASTING, UNPUBLISHED)
"""All that is ours."""


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key of one column, and the column of another table it references."""

    name: str
    column: str
    schema: str
    table: str
    referenced: str


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"' if name in _KEYWORDS else name


def literal(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def home(table: Table) -> str:
    """The schema in which a published table and its leaves stand."""
    return PERSONAL if table.personal else PUBLISHED


def ddl(table: Table, registry: Registry | None = None) -> list[str]:
    """Everything that makes a published table where there is none: table, indexes, foreign keys, comments,
    and the view that masks its personal data.

    The leaves of a partitioned table have their own indexes: on the parent there is only the key.
    """
    return [
        *table_ddl(table),
        *([] if table.is_partitioned_in_postgres else index_ddl(table)),
        *foreign_key_ddl(table, registry),
        *comment_ddl(table, registry),
        *masked_view_ddl(table, registry),
    ]


def table_ddl(table: Table, schema: str | None = None, name: str | None = None) -> list[str]:
    """The table itself with its key; a partitioned one without a partition."""
    name, schema = name or table.name, schema or home(table)
    lines = [_column_line(column) for column in table.columns]
    if _key_holds_partition(table):
        lines.append(f"constraint {check_name(f'{name}_pkey')} primary key ({_list(table.key)})")
    lines.extend(_history_lines(table, schema, name))
    body = ",\n".join(f"    {line}" for line in lines)
    partition = ""
    if table.is_partitioned_in_postgres and table.partition is not None:
        partition = f" partition by range ({quoted(table.partition.by)})"
    return [f"create table if not exists {schema}.{quoted(name)} (\n{body}\n){partition}"]


def index_ddl(table: Table, schema: str | None = None) -> list[str]:
    """The header's indexes, on the table where it stands (`schema`: elsewhere)."""
    return [
        f"create index if not exists {check_name(index)} "
        f"on {schema or home(table)}.{quoted(table.name)} ({', '.join(map(_index_column, columns))})"
        for index, columns in table.indexes.items()
    ]


def foreign_keys(table: Table, registry: Registry | None = None) -> list[ForeignKey]:
    """The foreign keys of a merged table."""
    registry = registry or registries.default()
    keys = []
    for column, reference in table.foreign_keys.items():
        other, _, referenced = reference.partition(".")
        there = registry.table(other)
        name = foreign_key_name(table, column)
        keys.append(ForeignKey(name, column, home(there), other, referenced or _only_key(there)))
    return keys


def foreign_key_name(table: Table, column: str) -> str:
    """What the foreign key of a column is called."""
    return check_name(f"{table.name}_{column}_fkey")


def foreign_key_ddl(table: Table, registry: Registry | None = None) -> list[str]:
    """Two statements for each foreign key: it may be there already, as after a rebuild."""
    target = f"{home(table)}.{quoted(table.name)}"
    statements = []
    for key in foreign_keys(table, registry):
        statements.append(f"alter table {target} drop constraint if exists {key.name}")
        statements.append(
            f"alter table {target} add constraint {key.name} foreign key ({quoted(key.column)}) "
            f"references {key.schema}.{quoted(key.table)} ({quoted(key.referenced)})"
        )
    return statements


def comments(table: Table, registry: Registry | None = None) -> dict[str, str]:
    """Column → its documentation, of those that have some; '' → that of the table."""
    said = {"": catalog.description(table)}
    for column in catalog.columns(table, registry):
        if column.description:
            text = f"{column.description} (personal data)" if column.pii else column.description
            said[column.name] = text
    return said


def comment_ddl(
    table: Table,
    registry: Registry | None = None,
    schema: str | None = None,
    kind: str = "table",
) -> list[str]:
    """COMMENTs on the table (or view) and on each column that has documentation."""
    target = f"{schema or home(table)}.{quoted(table.name)}"
    return [
        f"comment on column {target}.{quoted(column)} is {literal(text)}"
        if column
        else f"comment on {kind} {target} is {literal(text)}"
        for column, text in comments(table, registry).items()
    ]


def masked_view_ddl(table: Table, registry: Registry | None = None, order: Sequence[str] = ()) -> list[str]:
    """What everybody reads of a table with personal data: the view of its name in the published schema; none
    for other tables. `order`: its columns, where they are to stand otherwise than declared.

    Whoever is a pii_reader sees all; others see of a text a keyed hash (the same for the same text, in every
    table, so that counts and joins stay right, and of no use without the key), of anything else null.
    """
    if not table.personal:
        return []
    names = order or [column.name for column in table.columns]
    items = ",\n".join(f"    {_as_readers_see(table.column(name))}" for name in names)
    view = f"{PUBLISHED}.{quoted(table.name)}"
    return [
        f"create or replace view {view} as\nselect\n{items}\nfrom {home(table)}.{quoted(table.name)}",
        *comment_ddl(table, registry, schema=PUBLISHED, kind="view"),
    ]


def _as_readers_see(column: Column) -> str:
    name = quoted(column.name)
    if not column.pii:
        return name
    type_ = postgres_type(column)
    if column.type == "VARCHAR":
        hashed = f"sha256((select key from {PERSONAL}.access) || convert_to({name}, 'UTF8'))"
        masked = f"('masked:' || left(encode({hashed}, 'hex'), 16))::{type_}"
    else:
        masked = f"null::{type_}"
    return f"case when (select is_full from {PERSONAL}.access) then {name} else {masked} end as {name}"


def bounds(table: Table, partition: str) -> tuple[str, str]:
    """The half-open range of a partition as PostgreSQL reads it, whatever the session's time zone."""
    if table.partition is None:
        raise ValueError(f"{table.name} has no partitions.")
    start, end = table.partition.bounds(partition)
    if table.column(table.partition.by).type == "DATE":
        return start.date().isoformat(), end.date().isoformat()
    return start.isoformat(" "), end.isoformat(" ")


def _key_holds_partition(table: Table) -> bool:
    """A partitioned table's key must hold the partition column; otherwise each leaf has the key for
    itself."""
    if not table.is_partitioned_in_postgres or table.partition is None:
        return True
    return table.partition.by in table.key


def _column_line(column: Column) -> str:
    required = "" if column.nullable else " not null"
    return f"{quoted(column.name)} {postgres_type(column)}{required}"


def _history_lines(table: Table, schema: str, name: str) -> list[str]:
    """Constraints that keep a history free of overlaps: each row's `prev_to` is the `valid_to` of the row
    before it.

    Plain b-trees do it (an exclusion constraint needs btree_gist, which not every PostgreSQL has).
    """
    names = {column.name for column in table.columns}
    if not {"valid_from", "valid_to", "prev_to"} <= names or table.is_partitioned_in_postgres:
        return []
    member = _list(tuple(column for column in table.key if column != "valid_from"))
    return [
        f"constraint {check_name(f'{name}_valid_to_key')} unique ({member}, valid_to)",
        f"constraint {check_name(f'{name}_prev_to_key')} unique nulls not distinct ({member}, prev_to) "
        "deferrable initially deferred",
        f"constraint {check_name(f'{name}_order')} check (prev_to <= valid_from and valid_from < valid_to)",
        f"constraint {check_name(f'{name}_chain')} foreign key ({member}, prev_to) "
        f"references {schema}.{quoted(name)} ({member}, valid_to) deferrable initially deferred",
    ]


def _index_column(column: str) -> str:
    name, _, order = column.partition(" ")
    return f"{quoted(name)} {order}".strip()


def _only_key(table: Table) -> str:
    if len(table.key) != 1:
        raise ValueError(
            f"{table.name} has a key of {len(table.key)} columns; write the one: {table.name}.column."
        )
    return table.key[0]


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(map(quoted, names))


# Words of PostgreSQL 15 to 18 that can't name a column without quotes and that a column may well be named.
_KEYWORDS = frozenset(
    """
    all analyse analyze and any array as asc asymmetric authorization binary both case cast check
    collate collation column concurrently constraint create cross current_catalog current_date
    current_role current_schema current_time current_timestamp current_user default deferrable desc
    distinct do else end except false fetch for foreign freeze from full grant group having ilike in
    initially inner intersect into is isnull join lateral leading left like limit localtime
    localtimestamp natural not notnull null offset on only or order outer overlaps placing primary
    references returning right select session_user similar some symmetric system_user table tablesample
    then to trailing true union unique user using variadic verbose when where window with
    """.split()  # noqa: SIM905 - a list would be a line a word
)
