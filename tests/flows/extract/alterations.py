"""Tables that an application alters, a change each, and what each contract makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from flows.extract import SchemaChanged
from flows.landing import Landing
from transforms.contract import Column
from transforms.entities import Postgres, SourceEntity

Contract = Literal["evolve", "freeze", "quarantine"]
Mode = Literal["cdc", "incremental", "snapshot"]

DDL = """
create type mood_{t} as enum ('good', 'bad');
create table {t} (
    id bigint primary key, label text, amount integer, price numeric(10, 2), mood mood_{t} default 'good',
    note varchar(10) not null default 'n', at timestamptz not null default clock_timestamp()
);
insert into {t} (id, label, amount, price) values (1, 'one', 1, 1.10), (2, 'two', 2, 2.20)
"""
COLUMNS = {
    "id": "bigint",
    "label": "varchar",
    "amount": "integer",
    "price": "decimal(10, 2)",
    "mood": "varchar",
    "note": "varchar",
    "at": "timestamptz",
}


@dataclass(frozen=True)
class Alteration:
    """What happens to a table, then row 3, which shows it, and row 4, which need not.

    `evolve` and `parted` say whether rows 3 and 4 arrive (+), become dead letters (-) or the table stops
    (""): under evolve, and under a quarantine that can tell row by row; `whole` under one that can't.
    """

    change: str
    alter: str
    third: str
    fourth: str = "insert into {t} (id, amount) values (4, 4)"
    evolve: str = "++"
    parted: str = "-+"
    whole: str = "-+"


ALTERATIONS = {
    "add": Alteration(
        "added",
        "alter table {t} add column colour text",
        "insert into {t} (id, colour) values (3, 'red')",
        parted="--",
        whole="",
    ),
    "drop": Alteration(
        "dropped",
        "alter table {t} drop column label",
        "insert into {t} (id) values (3)",
        evolve="",
        parted="--",
        whole="",
    ),
    "rename": Alteration(
        "renamed",
        "alter table {t} rename column label to title",
        "insert into {t} (id, title) values (3, 'three')",
        parted="--",
        whole="",
    ),
    "recreate": Alteration(
        "recreated",
        "alter table {t} drop column label; alter table {t} add column label text",
        "insert into {t} (id, label) values (3, 'three')",
        evolve="",
        parted="--",
        whole="",
    ),
    "widen": Alteration(
        "widened",
        "alter table {t} alter column amount type bigint",
        "insert into {t} (id, amount) values (3, 3000000000)",
    ),
    "narrow": Alteration(
        "narrowed",
        "alter table {t} alter column price type numeric(8, 2)",
        "insert into {t} (id, price) values (3, 3.30)",
        parted="++",
        whole="++",
    ),
    "retype": Alteration(
        "retyped",
        "alter table {t} alter column amount type text using amount::text",
        "insert into {t} (id, amount) values (3, 'three')",
        evolve="",
        whole="",
    ),
    "enum": Alteration(
        "labels",
        "alter type mood_{t} add value 'great'",
        "insert into {t} (id, mood) values (3, 'great')",
    ),
    "nullability": Alteration(
        "nullability",
        "alter table {t} alter column note drop not null",
        "insert into {t} (id, note) values (3, null)",
    ),
}


def entity(table: str, mode: Mode, contract: Contract, **columns: str) -> SourceEntity:
    """The declaration of such a table as it was made."""
    cursor = "at" if mode == "incremental" else None
    return SourceEntity(
        "app",
        table,
        Postgres(table, mode=mode, on_change=contract, cursor=cursor),
        ("id",),
        "one row per version of a thing",
        columns=tuple(Column(name, kind) for name, kind in (columns or COLUMNS).items()),
    )


@dataclass
class Altered:
    """One table, what is to happen to it, and what came of it."""

    entity: SourceEntity
    what: Alteration
    outcome: str
    landing: Landing | None = None
    stopped: SchemaChanged | None = None

    @property
    def table(self) -> str:
        """Its name."""
        return self.entity.name

    def sql(self, text: str) -> list[str]:
        """A statement for this table, those of a transaction each apart."""
        return [one for one in text.format(t=self.table).split(";") if one.strip()]

    def land(self, land: Callable[[SourceEntity], Landing | None]) -> None:
        """Land it; what stops it is kept."""
        self.stopped = None
        try:
            self.landing = land(self.entity)
        except SchemaChanged as stopped:
            self.stopped = stopped

    def check(self, seen: list[tuple[Any, ...]], letters: int, changes: list[str]) -> None:
        """Hold what came of it to what should. `seen`: (id, label) that models see."""
        name = self.table
        assert (self.stopped is not None) == (self.outcome == ""), (name, self.stopped)
        arrived = {3 + place for place, sign in enumerate(self.outcome) if sign == "+"}
        assert {row[0] for row in seen} == {1, 2, *arrived}, name
        assert letters == self.outcome.count("-"), name
        assert self.what.change in changes, (name, changes)
        if self.stopped is not None:
            assert "nothing was landed. Bring transforms/sources/app.py" in str(self.stopped), name
        else:
            assert self.landing is not None
            assert self.landing.warnings, name
        labels = dict(seen)
        assert (labels[1], labels[2]) == ("one", "two"), name
        if self.what.change == "renamed" and 3 in arrived:
            assert labels[3] == "three"


def every(mode: Mode, contracts: tuple[Contract, ...]) -> Iterator[Altered]:
    """A table for each change and contract."""
    for contract in contracts:
        for name, what in ALTERATIONS.items():
            outcome = {
                "evolve": what.evolve,
                "freeze": "",
                "quarantine": what.parted if mode == "cdc" else what.whole,
            }[contract]
            yield Altered(entity(f"{name}_{contract}", mode, contract), what, outcome)


def redeclared(altered: Altered, columns: tuple[Column, ...]) -> SourceEntity:
    """Its declaration with other columns."""
    return replace(altered.entity, columns=columns)
