"""How a table's columns differ from the declared ones, and from what was last seen of them. Pure.

A column is known by its number (`pg_attribute.attnum`): under another name it is the same column, and one
that was dropped and made anew is not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flows.extract.postgres_types import SourceColumn, declared_type, without_precision
from transforms.contract import Column
from transforms.entities import SourceEntity

STRUCTURE = frozenset({"added", "dropped", "renamed", "recreated"})
"""Changes that every row of the table shows, whatever its values are."""
_MOST_VERSIONS = 20
_WHOLE = ("SMALLINT", "INTEGER", "BIGINT")
_Names = tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Remembered:
    """What a table's position keeps of its catalog.

    `accepted` are the columns that the declaration was held to, since `since`; `numbers` by declared name the
    column that it stands for; `versions` the (number, name) of each accepted catalog, oldest first; `told`
    the changes that a quarantine has told of.
    """

    table: int = 0
    since: str = ""
    accepted: tuple[SourceColumn, ...] = ()
    numbers: Mapping[str, int] = field(default_factory=dict)
    versions: tuple[_Names, ...] = ()
    told: tuple[str, ...] = ()

    @classmethod
    def read(cls, stored: Mapping[str, Any] | None) -> Remembered:
        """What `stored` gave; nothing for nothing."""
        if not stored:
            return cls()
        return cls(
            stored["table"],
            stored["since"],
            tuple(
                SourceColumn(name, kind, number, nullable, tuple(labels))
                for number, name, kind, nullable, labels in stored["columns"]
            ),
            dict(stored["numbers"]),
            tuple(tuple((number, name) for number, name in version) for version in stored["versions"]),
            tuple(stored.get("told", ())),
        )

    def stored(self) -> dict[str, Any]:
        """As JSON, for a position."""
        return {
            "table": self.table,
            "since": self.since,
            "columns": [[c.number, c.name, c.pg_type, c.nullable, list(c.labels)] for c in self.accepted],
            "numbers": dict(self.numbers),
            "versions": [[list(pair) for pair in version] for version in self.versions],
            "told": list(self.told),
        }

    def without(self, names: Collection[str]) -> Remembered:
        """The same of a table that has no such columns."""
        return replace(
            self,
            accepted=tuple(column for column in self.accepted if column.name not in names),
            versions=tuple(
                tuple(pair for pair in version if pair[1] not in names) for version in self.versions
            ),
        )

    def of(self, current: Sequence[SourceColumn]) -> Remembered:
        """The same, of the table that is there: one that was made anew is compared by names."""
        if not current or not self.accepted or current[0].table == self.table:
            return self
        numbers = {column.name: column.number for column in current}
        accepted = (replace(c, number=numbers.get(c.name, -c.number)) for c in self.accepted)
        return replace(self, table=current[0].table, accepted=tuple(accepted), numbers={}, versions=())

    def then(
        self, entity: SourceEntity, current: Sequence[SourceColumn], since: str, told: Sequence[str] = ()
    ) -> Remembered:
        """With the table's present columns accepted."""
        if not current:
            return self
        by_name = {column.name: column.number for column in current}
        there = set(by_name.values())
        numbers = {}
        for column in entity.columns:
            number = self.numbers.get(column.name)
            if number not in there:
                number = by_name.get(column.name)
            if number is not None:
                numbers[column.name] = number
        names = names_of(current)
        versions = self.versions if self.versions and self.versions[-1] == names else (*self.versions, names)
        accepted = tuple(current)
        return Remembered(
            current[0].table,
            self.since if accepted == self.accepted else since,
            accepted,
            numbers,
            versions[-_MOST_VERSIONS:],
            tuple(told),
        )


def names_of(columns: Sequence[SourceColumn]) -> _Names:
    """Each column's number and name."""
    return tuple((column.number, column.name) for column in columns)


@dataclass(frozen=True)
class Difference:
    """One column. `column` is its declared name, or the source's where nobody declared it; `before` is None
    where nothing was seen before, then `declared` says what was expected.
    """

    column: str
    change: str
    before: SourceColumn | None = None
    after: SourceColumn | None = None
    declared: Column | None = None

    @property
    def is_of_precision(self) -> bool:
        """Whether it is a time that is kept with another number of decimals, and nothing else."""
        if self.change not in ("widened", "narrowed") or self.before is None or self.after is None:
            return False
        return without_precision(self.before.pg_type) == without_precision(self.after.pg_type)

    @property
    def sentence(self) -> str:
        """What is otherwise, for people."""
        was = self.before.pg_type if self.before else self.declared.type if self.declared else ""
        now = self.after.pg_type if self.after else ""
        match self.change:
            case "added":
                return f"the database has a column {self.column} ({now}) that nobody declared"
            case "dropped":
                return f"the database has no column {self.column} any more"
            case "renamed" if self.after:
                return f"the database calls column {self.column} {self.after.name} now"
            case "recreated":
                return f"column {self.column} of the database is another one than it was, of the same name"
            case "labels" if self.before and self.after:
                values, old = ", ".join(self.after.labels), ", ".join(self.before.labels)
                return f"column {self.column} takes the values {values} in the database, and took {old}"
            case "nullability" if self.after:
                now = "may be null" if self.after.nullable else "may not be null any more"
                return f"column {self.column} {now} in the database"
        return f"column {self.column} is {now} in the database, and was {was} ({self.change})"

    def described(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The column before and after, as they are recorded."""
        if self.change == "labels" and self.before and self.after:
            return self.before.labels, self.after.labels
        expected = (f"{self.column} {self.declared.type}",) if self.declared else ()
        before = _described(self.before) if self.before else expected
        return before, _described(self.after) if self.after else ()


def differences(
    entity: SourceEntity,
    remembered: Remembered,
    current: Sequence[SourceColumn],
    *,
    only_news: bool = False,
) -> list[Difference]:
    """How `current` differs from the declaration and from what was accepted.

    `only_news`: what was accepted before is left out though the declaration does not say it.
    """
    by_number = {column.number: column for column in current}
    by_name = {column.name: column for column in current}
    accepted = {column.number: column for column in remembered.accepted}
    found: list[Difference] = []
    taken: set[int] = set()
    for column in entity.columns:
        number = remembered.numbers.get(column.name)
        namesake = by_name.get(column.name)
        now = namesake if number is None else by_number.get(number)
        before = accepted.get(now.number if now else number or 0)
        if namesake is not None:
            taken.add(namesake.number)
        if now is None or (namesake is not None and namesake is not now):
            kind = "recreated" if namesake is not None else "dropped"
            found.append(Difference(column.name, kind, before, namesake, column))
            continue
        taken.add(now.number)
        if now.name != column.name and not (only_news and before and before.name == now.name):
            found.append(Difference(column.name, "renamed", before, now, column))
        found += _of_values(column, before, now, only_news=only_news)
    for now in current:
        if now.number in taken:
            continue
        before = accepted.get(now.number)
        if before is None or not only_news:
            found.append(Difference(now.name, "added", None, now))
            continue
        if before.name != now.name:
            found.append(Difference(before.name, "renamed", before, now))
        found += _of_values(Column(before.name, before.duckdb_type), before, now, only_news=True)
    spoken = {*by_number, *taken, *remembered.numbers.values()}
    found += [
        Difference(column.name, "dropped", column)
        for column in accepted.values()
        if column.number not in spoken
    ]
    return found


def type_change(declared: str, actual: str) -> str:
    """What becomes of values of a DuckDB type that are read as another: `widened`, where each of the old is
    one of the new and a cast back raises rather than rounds; `narrowed`, the other way; or `retyped`.
    """
    for one, other, kind in ((declared, actual, "widened"), (actual, declared, "narrowed")):
        if one in _WHOLE and other in _WHOLE and _WHOLE.index(one) < _WHOLE.index(other):
            return kind
        small, large = _decimal(one), _decimal(other)
        if small and large and small[1] == large[1] and small[0] < large[0]:
            return kind
    return "retyped"


def _of_values(
    column: Column, before: SourceColumn | None, now: SourceColumn, *, only_news: bool
) -> Iterator[Difference]:
    declared, kind = declared_type(column.type), ""
    # Every value has a text, so that what no type of DuckDB holds (an infinite time) can be declared so.
    if declared not in ("VARCHAR", now.duckdb_type):
        kind = type_change(declared, now.duckdb_type)
        if only_news and kind != "retyped" and before and before.pg_type == now.pg_type:
            kind = ""
    elif before and before.pg_type != now.pg_type:
        kind = _unseen_change(before, now)
    if kind:
        yield Difference(column.name, kind, before, now, column)
    if before and before.labels and now.labels and before.labels != now.labels:
        yield Difference(column.name, "labels", before, now, column)
    if before and before.nullable != now.nullable:
        yield Difference(column.name, "nullability", before, now, column)


def _unseen_change(before: SourceColumn, now: SourceColumn) -> str:
    """The same of two types of PostgreSQL that are read as one of DuckDB's; '' where both hold the same."""
    if {before.pg_type, now.pg_type} == {"json", "jsonb"}:
        return "widened" if now.pg_type == "json" else "narrowed"
    if without_precision(before.pg_type) == without_precision(now.pg_type):
        decimals, kept = _decimals_of_time(before), _decimals_of_time(now)
        return "" if decimals == kept else "widened" if kept > decimals else "narrowed"
    was, now_holds = _text_length(before), _text_length(now)
    if was is None or now_holds is None:
        return "retyped"
    return "widened" if now_holds >= was else "narrowed"


def _text_length(column: SourceColumn) -> float | None:
    """How much text it holds, an enum less than any other; None where it holds none."""
    if column.labels:
        return 0
    kind = column.pg_type.removesuffix("[]")
    if kind in ("text", "character varying"):
        return float("inf")
    length = re.fullmatch(r"character varying\((\d+)\)", kind)
    return int(length[1]) if length else None


def _decimals_of_time(column: SourceColumn) -> int:
    """How many decimals of a second it keeps: six unless its type says otherwise."""
    given = re.search(r"\((\d)\)", column.pg_type)
    return int(given[1]) if given else 6


def _decimal(kind: str) -> tuple[int, int] | None:
    found = re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", kind)
    return (int(found[1]), int(found[2])) if found else None


def _described(column: SourceColumn) -> tuple[str, ...]:
    return (f"{column.name} {column.pg_type}{'' if column.nullable else ' not null'}",)
