"""What a declaration's `on_change` makes of columns that are otherwise than declared.

Two things say how a table's columns are: its catalog, now, and the fields of each change record, as they
were when it was written. A record is read by the catalog that it was written under: its fields, in their
order, are those of one that was seen. What no catalog proves is never taken for a null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from flows.extract import Extract, SchemaChange, SchemaChanged
from flows.extract.postgres_types import SourceColumn, declared_type
from flows.extract.schema_differences import (
    STRUCTURE,
    Difference,
    Remembered,
    differences,
    names_of,
    type_change,
)
from flows.extract.told_texts import is_told
from transforms.changes import OWN, RECORD
from transforms.contract import Column
from transforms.entities import Postgres, SourceEntity

CATALOG = "catalog"
"""Key under which a position keeps what was seen of the source's catalog."""
DECLARE = "python -m flows schema diff --write"


@dataclass(frozen=True)
class Fit:
    """How the fields of a record stand to the declared columns.

    `served` are columns whose values have another name in it; `missing` those it lacks though they were
    there when it was written, or nothing proves that they were not; `problem` says why it can't be told.
    `is_of_before`: the table has what it lacks, so it was altered and altered back, and nobody saw it.
    """

    added: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    served: Mapping[str, str] = field(default_factory=dict)
    is_old: bool = False
    """Whether it was written under a catalog that the table has no more."""
    problem: str = ""
    is_of_before: bool = False


def computed(entity: SourceEntity, columns: Sequence[SourceColumn]) -> frozenset[str]:
    """Where changes are read, the columns that PostgreSQL computes: only Debezium's reads of a table tell
    them. One that is declared is not among them: it halts its table (debezium_guard).
    """
    assert isinstance(entity.read, Postgres)
    declared = {column.name for column in entity.columns}
    names = {c.name for c in columns if c.is_generated} if entity.read.mode == "cdc" else set[str]()
    return frozenset(names - declared)


class Contract:
    """One table's declaration beside its columns. `stored` is what the position keeps under CATALOG;
    `current` is empty where the catalog can't be asked, then only records' fields speak.
    """

    def __init__(
        self,
        entity: SourceEntity,
        current: Sequence[SourceColumn],
        stored: Mapping[str, Any] | None,
        found_at: datetime,
    ) -> None:
        assert isinstance(entity.read, Postgres)
        self._declared, self._read, self._found_at = entity, entity.read, found_at
        self.computed = computed(entity, current)
        current = [column for column in current if column.name not in self.computed]
        self._current = tuple(current)
        self._remembered = Remembered.read(stored).without(self.computed).of(current)
        self._evolves = self._read.on_change == "evolve"
        self.differences: list[Difference] = (
            differences(entity, self._remembered, current, only_news=self._evolves) if current else []
        )
        self._after = self._remembered
        if self._evolves or not self.differences:
            self._after = self._remembered.then(entity, current, found_at.isoformat())
        else:
            told = tuple(change.change_id for change in self._changes())
            self._after = replace(self._remembered, told=told)
        self.entity = self._evolved() if self._evolves else entity

    @property
    def name(self) -> str:
        """As messages begin."""
        return f"{self._declared.source}.{self._declared.name}"

    def stored(self) -> dict[str, Any]:
        """What the position keeps once all of this is landed."""
        return {CATALOG: self._after.stored()} if self._after.versions or self._after.told else {}

    @property
    def names(self) -> frozenset[str]:
        """Every name that a column of the table has or had."""
        return frozenset(name for version in self._versions() for _, name in version)

    def column(self, name: str) -> SourceColumn | None:
        """The source's column that a landed column is read from; None where there is none."""
        number = self._after.numbers.get(name)
        return next((c for c in self._current if c.number == number or (not number and c.name == name)), None)

    def texts(self) -> dict[str, SourceColumn]:
        """The source's columns whose values are landed as text, by the names that they are landed under."""
        names = [c.name for c in self.entity.columns if declared_type(c.type) == "VARCHAR"]
        return {name: source for name in names if (source := self.column(name)) is not None}

    def _evolved(self) -> SourceEntity:
        """The entity with the columns that nobody declared, and with those that were widened as they are."""
        columns = []
        for column in self._declared.columns:
            now = self.column(column.name)
            if now and type_change(declared_type(column.type), now.duckdb_type) == "widened":
                column = replace(column, type=now.duckdb_type)
            columns.append(column)
        return replace(self._declared, columns=(*columns, *undeclared(self._declared, self._after)))

    # ---------------------------------------------------------------------------------------------- catalog

    def hold(self, extract: Extract, *, by_record: bool) -> None:
        """Enter and tell what the catalog has otherwise; raises SchemaChanged where the table stops.

        `by_record`: what does not fit can be told record by record, so that a quarantine need not stop.
        """
        changes = self._changes()
        if stopping := [one for one in self.differences if self._stops(one, by_record)]:
            what = " and ".join(one.sentence for one in stopping)
            raise SchemaChanged(
                f"{self.name}: {what}; nothing was landed. {self._cure(stopping)}, then run again.", changes
            )
        extract.schema_changes += changes
        for one, change in zip(self.differences, changes, strict=True):
            if change.change_id not in self._remembered.told:
                extract.warnings.append(f"{self.name}: {one.sentence}. {self._consequence(one)}")

    def _stops(self, one: Difference, by_record: bool) -> bool:
        if self._read.on_change == "freeze":
            return True
        if self._evolves:
            return one.declared is not None and (
                one.change in ("dropped", "recreated", "retyped")
                or (one.change == "renamed" and one.column in self._holding)
            )
        if by_record:
            return one.column in self._holding and one.change in STRUCTURE
        return one.change in STRUCTURE or (
            one.change == "retyped"
            and one.declared is not None
            and not can_be_parted(one.declared, one.after)
        )

    @property
    def _holding(self) -> frozenset[str]:
        """The columns by whose names rows are found and counted."""
        entity, control = self._declared, self._declared.control
        names = {*entity.key, self._read.cursor, entity.partition.by if entity.partition else None}
        if control:
            names |= {control.by, control.amount, control.group}
        return frozenset(name for name in names if name)

    def _cure(self, stopping: Sequence[Difference]) -> str:
        source = f"transforms/sources/{self._declared.source}.py"
        cure = f"Bring {source} in line with the table ({DECLARE}), or the table with it"
        if self._read.mode == "cdc" and any(one.change in ("recreated", "retyped") for one in stopping):
            # PostgreSQL tells no change of rows that it only rewrote.
            cure += f", let its rows be read again (python -m flows cdc resnapshot {self._read.table})"
        return cure

    def _consequence(self, one: Difference) -> str:
        again = (
            f"python -m flows cdc resnapshot {self._read.table}"
            if self._read.mode == "cdc"
            else "a change of theirs"
        )
        if self._read.on_change == "quarantine":
            return f"What does not fit is a dead letter until it is declared: {DECLARE}"
        if one.change == "added" and one.column not in {column.name for column in self.entity.columns}:
            return self._not_kept(one.column)
        if one.change == "added":
            kept = f"It is kept and shown in raw; {DECLARE} declares it for models."
            if one.after and one.after.fills and self._read.mode != "snapshot":
                kept += f" Rows that were there before got its default untold: {again} brings it."
            return kept
        if one.change == "renamed" and one.declared:
            return f"Its values are still read as {one.column}; {DECLARE} declares the new name."
        if one.is_of_precision and one.change == "narrowed" and self._read.mode != "snapshot":
            return f"The source has rounded what rows had of more decimals untold: {again} brings it."
        if one.change == "widened" and one.declared and not one.is_of_precision:
            return f"Raw holds the wider values; a model that casts them narrower stops at one: {DECLARE}"
        lost = {*one.before.labels} - {*one.after.labels} if one.before and one.after else set()
        if one.change == "labels" and lost and self._read.mode != "snapshot":
            return f"Rows that had an old value changed untold: {again} brings the new one."
        return f"{DECLARE} shows and accepts it."

    def _not_kept(self, name: str) -> str:
        names = {column.name.lower() for column in self.entity.columns} | OWN | {*RECORD}
        if name.lower() in names:
            return (
                "It is not kept: raw has a column of that name already, whatever its case. Rename it in the "
                "database, or read a view that calls it otherwise."
            )
        if name.startswith("_"):
            return f"It is not kept before it is declared: {DECLARE}"
        return "It is not kept: Debezium does not tell values of that type. Read the table otherwise for it."

    def _changes(self) -> list[SchemaChange]:
        found = []
        for one in self.differences:
            before, after = one.described()
            found.append(
                SchemaChange(
                    table=self._declared.table,
                    column=one.column,
                    change=one.change,
                    before=before,
                    after=after,
                    contract=self._read.on_change,
                    found_at=self._found_at,
                    since=self._remembered.since,
                )
            )
        return found

    # ---------------------------------------------------------------------------------------------- records

    def fit(self, fields: Sequence[str]) -> Fit:
        """How the fields of a record stand to the declared columns."""
        formerly = {column.name: column.formerly for column in self._declared.columns}
        version = self._version(fields)
        served: dict[str, str] = {}
        missing: list[str] = []
        for name in formerly:
            number = self._after.numbers.get(name)
            if version is None or number is None:
                meant = {n for one in self._versions() for n, known in one if known == name}
                if name not in fields:
                    former = next((one for one in formerly[name] if one in fields), None)
                    if former is None:
                        missing.append(name)
                    else:
                        served[name] = former
                elif number is not None and meant - {number}:
                    return Fit(problem=f"nothing says which column the {name} in it was")
                continue
            there = version.get(number)
            if there is None and name in version.values():
                return Fit(problem=f"the {name} in it was another column of that name")
            if there is None and number < max(version):
                missing.append(name)
            elif there is not None and there != name:
                served[name] = there
        known = {*formerly, *served.values()}
        added = tuple(sorted(name for name in fields if name not in known))
        is_old = version is not None and tuple(version.items()) != names_of(self._current)
        if lost := [name for name in served if name in self._holding]:
            return Fit(added, tuple(missing), served, is_old, f"its {lost[0]} has another name")
        is_of_before = bool(missing) and all(self.column(name) for name in missing)
        return Fit(added, tuple(sorted(missing)), served, is_old, is_of_before=is_of_before)

    def fits(self, fit: Fit) -> bool:
        """Whether a record is one that the declaration speaks of: by its fields, or because it was written
        under an earlier catalog that was accepted too."""
        if fit.problem or fit.missing:
            return False
        return fit.is_old or not (fit.added or fit.served)

    def is_of_now(self, fields: Sequence[str]) -> bool:
        """Whether a record with these fields was written under the catalog that the contract knows."""
        return [column.name for column in self._current] == list(fields)

    def told(self, fields: Sequence[str]) -> bool:
        """Whether fields that nobody declared are columns of the catalog, which was told of already."""
        return {name for version in self._versions() for _, name in version} >= set(fields)

    def _versions(self) -> list[tuple[tuple[int, str], ...]]:
        own = [names_of(self._current)] if self._current else []
        return [*own, *reversed(self._remembered.versions)]

    def _version(self, fields: Sequence[str]) -> dict[int, str] | None:
        wanted = list(fields)
        for version in self._versions():
            if [name for _, name in version] == wanted:
                return dict(version)
        return None

    def refusals(self) -> list[tuple[str, tuple[str, ...] | None, str]]:
        """Of a quarantine: (column, the values it may have or None for all but null, reason)."""
        if self._read.on_change != "quarantine":
            return []
        found: list[tuple[str, tuple[str, ...] | None, str]] = []
        for one in self.differences:
            if one.declared is None or one.before is None or one.after is None:
                continue
            if one.change == "labels":
                found.append(
                    (one.column, one.before.labels, f"{one.column} has a value of the enum that is new")
                )
            if one.change == "nullability" and one.after.nullable:
                found.append((one.column, None, f"{one.column} is null, which it could not be"))
        return found


def undeclared(entity: SourceEntity, remembered: Remembered) -> tuple[Column, ...]:
    """The columns of the source that nobody declared, typed from its catalog; of changes those that Debezium
    tells.
    """
    is_cdc = isinstance(entity.read, Postgres) and entity.read.mode == "cdc"
    taken = {*remembered.numbers.values()}
    own = {name for column in entity.columns for name in (column.name, *column.formerly)}
    names = {name.lower() for name in own} | OWN
    found: list[Column] = []
    for column in remembered.accepted:
        if column.number in taken or column.name in own or column.name in RECORD:
            continue
        if column.name.lower() in names or column.name.startswith("_"):
            continue
        if is_told(column.pg_type) or not is_cdc:
            names.add(column.name.lower())
            found.append(Column(column.name, column.duckdb_type, "Not declared yet"))
    return tuple(found)


def can_be_parted(declared: Column, now: SourceColumn | None) -> bool:
    """Whether a value of the source can be asked if the declared type holds it exactly: numbers, and
    everything as text.
    """
    if now is None:
        return False
    kinds = (declared_type(declared.type), now.duckdb_type)
    numbers = all(kind.startswith(("DECIMAL", "SMALLINT", "INTEGER", "BIGINT")) for kind in kinds)
    return kinds[0] == "VARCHAR" or (numbers and "[]" not in "".join(kinds))
