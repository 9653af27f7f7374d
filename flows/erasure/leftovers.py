"""What is left of tables that nothing declares any more: an erasure can't build them anew, and of their
columns nobody says which are personal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flows.erasure import ops, search
from flows.erasure.identify import CannotErase
from flows.erasure.person import Person
from flows.maintenance import undeclared
from flows.maintenance.undeclared import Undeclared
from flows.services import Services
from flows.stores.ledger import Ledger
from transforms import registry
from warehouse_ddl.statements import PERSONAL, SERVED

_ANYTHING = ("json", "jsonb", "bytea")
"""PostgreSQL's types of columns that can hold whole records."""


def refuse(services: Services, ledger: Ledger, people: Sequence[Person] = ()) -> None:
    """Raise CannotErase for tables that nothing declares any more and that may hold somebody: by what their
    columns are called, or (`people`) because they name one of these people. Says what to do with each.

    Of a table without a person's id, and without a column named like a personal one, it is enough that no
    address stands in it.
    """
    found = [
        one
        for one in undeclared.find(ledger.connection, services.lake)
        if _may_hold(ledger, one) or (people and _names(ledger, one, people))
    ]
    if found:
        raise CannotErase(
            "Nobody was erased yet: no model or source declares these tables any more, and they may hold "
            "persons whom nothing would take out of them.\n" + "\n".join(map(_told, found))
        )


def _told(one: Undeclared) -> str:
    lost = " (raw: what its source no longer has is lost)" if one.is_raw else ""
    is_others = not one.is_entered and not one.folders
    moved = f", or move it out of our schemas if it is yours (`alter table {one.where} set schema …`)"
    return (
        f"  {one.name} ({one.where}): declare it again, or remove it for good{lost}: "
        f"`python -m flows maintain --drop {one.name} --yes`{moved if is_others else ''}."
    )


def _may_hold(ledger: Ledger, one: Undeclared) -> bool:
    files = list(_files(one))
    if any(schema == PERSONAL for schema, _ in one.relations) or (one.is_raw and files):
        return True
    rows = ledger.connection.execute(
        "SELECT a.attname, format_type(a.atttypid, NULL) FROM pg_attribute a "
        "JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = ANY(%s) AND c.relname = %s AND c.relkind IN ('r', 'p', 'm') "
        "AND a.attnum > 0 AND NOT a.attisdropped",
        (list(SERVED), one.name),
    ).fetchall()
    names = {name for name, _ in rows}
    if any(kind in _ANYTHING for _, kind in rows):
        return True
    for path in files:
        for field in pq.read_schema(path):
            kind = field.type
            if isinstance(kind, pa.JsonType) or pa.types.is_nested(kind) or pa.types.is_binary(kind):
                return True
            names.add(field.name)
    telling = _telling()
    return any(name == word or name.endswith(f"_{word}") for name in names for word in telling)


def _telling() -> set[str]:
    """Names of columns by which a row is a person's or tells of one, as declared anywhere."""
    telling = {"user_id"}
    for table in registry.tables().values():
        telling.update(table.personal)
    for entity in registry.entities():
        telling.update(entity.personal)
        telling.update({entity.person} - {None, "id"} if entity.person else ())
    return telling


def _names(ledger: Ledger, one: Undeclared, people: Sequence[Person]) -> bool:
    """Whether an address of one of these people stands in it."""
    for path in (path for folder in one.folders for path in sorted(folder.rglob("*")) if path.is_file()):
        if path.suffix == ".parquet":
            if search.naming(path, people):
                return True
        elif any(person.is_named_in(path.read_bytes().decode("utf-8", "replace")) for person in people):
            return True
    return any(
        ops.naming(ledger.connection, schema, table, column, kind, people)
        for schema, table, column, kind in ops.columns(ledger.connection, SERVED)
        if table == one.name
    )


def _files(one: Undeclared) -> Iterator[Path]:
    for folder in one.folders:
        yield from search.whole_files(folder)
