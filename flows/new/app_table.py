"""A table of the application's database as it is now: its declaration, and a staging model of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import psycopg
from psycopg import sql

from flows.declaration import column_name, in_python, in_sql, spelled, tuple_in_python
from flows.errors import FlowsError
from flows.extract.application import answering
from flows.extract.postgres_session import catalog
from flows.new.draft import call, documented, item, select_list
from flows.new.samples import case, row
from flows.settings import Settings
from transforms.contract import Column
from transforms.entities import SourceEntity
from transforms.model import canonical_type

Mode = Literal["incremental", "snapshot", "cdc"]
CURSOR = "updated_at"
_COLUMN = re.compile(r"[a-z][a-z0-9_]{0,62}")
_KEY = """
    select array_agg(attname::text order by array_position(indkey::int2[], attnum))
    from pg_index join pg_attribute on attrelid = indrelid and attnum = any(indkey::int2[])
    where indrelid = to_regclass(%s) and indisprimary
"""
_COMMENTS = """
    select attname::text, col_description(attrelid, attnum) from pg_attribute
    where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped
    and col_description(attrelid, attnum) is not null
"""


@dataclass(frozen=True)
class Found:
    """What the database says of a table: its columns with their comments, and its key."""

    columns: Sequence[Column]
    key: Sequence[str]
    times: frozenset[str]
    """Columns that hold a time."""
    computed: frozenset[str] = frozenset()
    """Columns that PostgreSQL computes; no change tells them."""


def look(settings: Settings, schema: str, table: str, key: Sequence[str] | None = None) -> Found:
    """What it says of this table; its primary key where no `key` is given. Raises SourceAway when the
    database can't be asked, FlowsError when it has no such table, or that no such key.
    """
    with answering(settings) as dsn:
        columns = catalog(dsn, schema, table)
        with psycopg.connect(dsn, connect_timeout=10, autocommit=True) as connection:
            connection.execute("set search_path = pg_catalog")
            name = sql.Identifier(schema, table).as_string(connection)
            key = key or connection.execute(_KEY, [name]).fetchall()[0][0]
            comments: dict[str, str] = dict(connection.execute(_COMMENTS, [name]).fetchall())
    if not columns:
        raise FlowsError(
            f"The application's database has no table {schema}.{table}, or its role may not see it. Where it "
            "is called otherwise than it is to be here, say how: --read SCHEMA.TABLE."
        )
    if strange := [one for one in key or () if one not in {column.name for column in columns}]:
        raise FlowsError(
            f"{schema}.{table} has no column {strange[0]}; it has {', '.join(one.name for one in columns)}."
        )
    if not key:
        raise FlowsError(
            f"{schema}.{table} has no primary key. Say which columns are unique together: "
            f"--key {' --key '.join(column.name for column in columns[:2])}"
        )
    return Found(
        [
            Column(
                one.name, spelled(one.duckdb_type), comments.get(one.name, ""), nullable=one.name not in key
            )
            for one in columns
        ],
        key,
        frozenset(one.name for one in columns if canonical_type(one.duckdb_type).startswith("TIMESTAMP")),
        frozenset(one.name for one in columns if one.is_generated),
    )


def mode_of(found: Found) -> Mode:
    """By its cursor where it has one, else whole."""
    return "incremental" if CURSOR in found.times else "snapshot"


def declaration(name: str, found: Found, mode: Mode, schema: str, table: str) -> str:
    """The text of the declaration, as an element of ENTITIES in transforms/sources/app.py."""
    told = (
        "one row per change of {}, what was there at first included"
        if mode == "cdc"
        else "one row per read version of {}"
    )
    left_out = found.computed if mode == "cdc" else frozenset()
    words = [
        in_python(name),
        in_python(told.format(one_of(name))),
        "{\n"
        + "".join(
            f"    {in_python(column.name)}: {in_python(column.type)},\n"
            for column in found.columns
            if column.name not in left_out
        )
        + "}",
    ]
    if tuple(found.key) != ("id",):
        words.append(f"key={tuple_in_python(found.key)}")
    if mode != "incremental":
        words.append(f'mode="{mode}"')
    if schema != "public":
        words.append(f"schema={in_python(schema)}")
    if table != name:
        words.append(f"table={in_python(table)}")
    return call("_entity", words)


def one_of(name: str) -> str:
    """`a refund` of `refunds`."""
    word = singular(name).replace("_", " ")
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def singular(name: str) -> str:
    """Of an English plural: `category` of `categories`, `address` of `addresses`."""
    for plural, one in (("ies", "y"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("shes", "sh")):
        if name.endswith(plural):
            return name.removesuffix(plural) + one
    return name.removesuffix("s") if not name.endswith("ss") else name


def staged(entity: SourceEntity, found: Found) -> list[tuple[Column, Column]]:
    """Each column as it lands, and as the staging model calls it: in the letters of columns, a key `id` by
    what it identifies, and one that can't be called so, or as another, by its place.
    """
    one, names = singular(entity.name), {column.name for column in entity.columns}
    comments = {column.name: column.description for column in found.columns}
    pairs: list[tuple[Column, Column]] = []
    taken = set[str]()
    for column in entity.columns:
        name = column_name(column.name).lstrip("_")
        if entity.key == ("id",) and column.name == "id" and f"{one}_id" not in names:
            name = f"{one}_id"
        if not _COLUMN.fullmatch(name) or name in taken:
            name = f"column_{len(pairs) + 1}"
        taken.add(name)
        otherwise = (
            f"Identifies {one_of(entity.name)}"
            if (column.name,) == entity.key
            else f"{column.name}, as the application has it"
        )
        called = replace(column, name=name, description=comments.get(column.name, ""))
        pairs.append((column, replace(called, description=documented(called, entity.source, otherwise))))
    return pairs


def staging(entity: SourceEntity, pairs: Sequence[tuple[Column, Column]]) -> str:
    """The text of the staging model: of each key what it was last, without what is gone."""
    key = [called.name for landed, called in pairs if landed.name in entity.key]
    at_source = ", ".join(landed.name for landed, _ in pairs if landed.name in entity.key)
    ordered = ", ".join(in_sql(landed.name) for landed, _ in pairs if landed.name in entity.key)
    personal = [called.name for landed, called in pairs if landed.pii]
    header = [
        f"grain:     one row per {singular(entity.name).replace('_', ' ')} of the application",
        f"key:       [{', '.join(key)}]",
        "write:     merge",
        f"changed:   [{entity.table}]",
        f"by_key:    {{{entity.table}: [{at_source}]}}",
        f"passes:    [{entity.table}]",
        "owner:     data-team",
        "freshness: 1 hour",
        *([f"pii:       [{', '.join(personal)}]"] if personal else []),
    ]
    items = [
        item(in_sql(landed.name), called.type, called.name, called.description) for landed, called in pairs
    ]
    return (
        "/* ---\n" + "\n".join(header) + "\n--- */\n"
        "with latest as (\n"
        "    select *\n"
        f"    from {entity.table}\n"
        f"    qualify row_number() over (partition by {ordered} order by _landed_at desc, _seq desc) = 1\n"
        ")\n\n"
        "select\n" + select_list(items) + "\nfrom latest\nwhere _op <> 'd'\n"
    )


def rows(entity: SourceEntity, pairs: Sequence[tuple[Column, Column]]) -> str:
    """The given/expect case of the staging model."""
    landed, called = [column for column, _ in pairs], [column for _, column in pairs]
    keys = [column for column in landed if column.name in entity.key]
    key_called = [called for landed, called in pairs if landed.name in entity.key]
    return case(
        f"{one_of(entity.name)} is as it last was, and one that is gone is left out",
        {
            entity.table: [
                row(landed, 1),
                row(landed, 2, **row(keys, 1)),
                row(landed, 3),
                row(keys, 3, _op="d"),
            ]
        },
        [row(called, 2, **row(key_called, 1))],
    )
