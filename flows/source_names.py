"""The names that people call tables of the application by: said once, for every command that takes one."""

from __future__ import annotations

from collections.abc import Iterable

from transforms.entities import Postgres, SourceEntity


def by_name(entities: Iterable[SourceEntity]) -> dict[str, SourceEntity]:
    """Those of `entities` that are read of a database, by each of their names: as declared (`orders`), as
    messages have it (`app.orders`), as it is landed (`raw_app__orders`), as the database has it
    (`public.orders`).
    """
    found: dict[str, SourceEntity] = {}
    for entity in entities:
        if isinstance(read := entity.read, Postgres):
            for name in (entity.name, entity.place, entity.table, f"{read.schema}.{read.table}"):
                found.setdefault(name, entity)
    return found
