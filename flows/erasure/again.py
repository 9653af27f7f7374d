"""Erasures held against a warehouse that came from a backup: it is older than the list in the lake says."""

from __future__ import annotations

from flows.erasure import listed, ops
from flows.stores.lake import Lake
from flows.stores.warehouse import Warehouse


def in_warehouse(warehouse: Warehouse, lake: Lake) -> int:
    """Take everybody who was ever erased out of a warehouse whose published tables are the lake's already:
    out of its dead letters and other entries of ops. Returns how many people that are. The lake is only read.
    """
    with warehouse.connect() as connection:
        if not listed.take_over(connection, lake):
            return 0
        people = ops.recognized(connection, listed.people(connection))
        ops.forget(connection, people)
    return len(people)
