"""A table that is made of others: what they have, to be changed into what is wanted."""

from __future__ import annotations

from collections.abc import Sequence

from flows.errors import FlowsError
from flows.new.draft import item, select_list
from flows.new.samples import case, row
from transforms import catalog, registry
from transforms.contract import Column, Layer, Table

LAYERS = {"stg": Layer.STAGING, "dim": Layer.DIMENSIONS, "fct": Layer.FACTS, "mart": Layer.MARTS}
"""First word of a table's name → its layer."""


def layer_of(name: str) -> Layer:
    """The layer that a table's name says. Raises FlowsError."""
    layer = LAYERS.get(name.split("_")[0])
    if layer is None or "_" not in name:
        raise FlowsError(
            f"'{name}' does not say what it is to be. A table is called stg_…, dim_…, fct_… or mart_…; what "
            "is read is called by its source: app.invoices, events.searches."
        )
    return layer


def made_of(names: Sequence[str]) -> list[Table]:
    """The tables that it reads. Raises FlowsError where one can't be joined with the first by its own key,
    ContractError for a name that no table has.
    """
    first, *others = tables = [registry.table(name) for name in names]
    for other in others:
        missing = [name for name in other.key if not any(column.name == name for column in first.columns)]
        if missing:
            raise FlowsError(
                f"{other.name} can't be joined with {first.name} by its key: {first.name} has no column "
                f"{missing[0]}. Begin with one of the two, and write the join into its file."
            )
    return tables


def text(tables: Sequence[Table]) -> str:
    """A model that has a row for each of the first table's, with the columns of all that hold nothing
    personal.
    """
    first, *others = tables
    header = [f"grain:     {first.grain}", f"key:       [{', '.join(first.key)}]"]
    if first.partition is not None:
        by, every = first.partition.by, first.partition.every
        header += [f"partition: {{by: {by}, every: {every}}}", "write:     replace_partition"]
    else:
        header.append("write:     merge")
    items = [
        item(f"{table.name}.{column.name}", column.type, column.name, column.description)
        for table, column in _columns(tables)
    ]
    joins = "".join(f"\nleft join {other.name} using ({', '.join(other.key)})" for other in others)
    return (
        "/* ---\n" + "\n".join([*header, "owner:     data-team"]) + "\n--- */\n"
        "select\n" + select_list(items) + f"\nfrom {first.name}{joins}\n"
    )


def rows(tables: Sequence[Table]) -> str:
    """Its given/expect case."""
    shown = [column for _, column in _columns(tables)]
    given = {table.name: [row([one for one in table.columns if not one.pii], 1)] for table in tables}
    return case(f"a row of {tables[0].name} is one of it", given, [row(shown, 1)])


def _columns(tables: Sequence[Table]) -> list[tuple[Table, Column]]:
    """Each name once, of the first table that has it."""
    found: dict[str, tuple[Table, Column]] = {}
    for table in tables:
        for column in catalog.columns(table):
            if not column.pii and not column.name.startswith("_"):
                found.setdefault(column.name, (table, column))
    return list(found.values())
