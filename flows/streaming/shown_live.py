"""Which tables follow the application's changes within seconds."""

from __future__ import annotations

from collections.abc import Iterable

from transforms import registry
from transforms.contract import Layer, Table, Write
from transforms.entities import SourceEntity


def shown_live(entities: Iterable[SourceEntity]) -> list[Table]:
    """The tables that follow changes, in build order: staging of these entities, the dimensions and, of the
    facts that are made of nothing else, those that are changed by merge. What is partitioned in PostgreSQL,
    and marts, are the batch's.
    """
    reached = {entity.table for entity in entities}
    found = []
    for table in registry.build_order():
        is_fact = table.layer is Layer.FACTS and reached.issuperset(table.upstreams)
        is_shown = (table.layer is Layer.DIMENSIONS or is_fact) and table.write is Write.MERGE
        if reached.intersection(table.upstreams) and (is_shown or table.layer is Layer.STAGING):
            reached.add(table.name)
            found.append(table)
    return found
