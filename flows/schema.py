"""`python -m flows schema diff`: the application's tables beside their declarations."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flows.check_source import chosen
from flows.declaration import declared_columns, edited, selected
from flows.errors import FlowsError
from flows.extract.application import answering
from flows.extract.postgres_session import catalog
from flows.extract.postgres_types import SourceColumn
from flows.extract.schema_contract import CATALOG, computed
from flows.extract.schema_differences import Difference, Remembered, differences
from flows.services import Services, open_services
from flows.stores.ledger import Ledger
from transforms import declared, registry
from transforms.contract import Column
from transforms.entities import Postgres, SourceEntity
from transforms.sources import app


@dataclass(frozen=True)
class Compared:
    """One table's declaration beside its columns at the source, which are none where there is no table."""

    entity: SourceEntity
    current: Sequence[SourceColumn]
    remembered: Remembered
    differences: Sequence[Difference] = field(default=())

    @property
    def name(self) -> str:
        """As messages begin."""
        return f"{self.entity.source}.{self.entity.name}"

    def lines(self) -> list[str]:
        """For people: a sentence for each difference."""
        if not self.current:
            assert isinstance(self.entity.read, Postgres)
            place = f"{self.entity.read.schema}.{self.entity.read.table}"
            return [f"{self.name}: the database has no table {place}"]
        return [f"{self.name}: {one.sentence}" for one in self.differences]

    def as_json(self) -> list[dict[str, Any]]:
        """For programs: one object for each difference."""
        assert isinstance(self.entity.read, Postgres)
        own = {"table": self.entity.table, "contract": self.entity.read.on_change}
        if not self.current:
            return [{**own, "column": None, "change": "no table", "before": [], "after": []}]
        found = []
        for one in self.differences:
            before, after = (list(side) for side in one.described())
            found.append(
                {**own, "column": one.column, "change": one.change, "before": before, "after": after}
            )
        return found


def compare(services: Services, names: Sequence[str]) -> list[Compared]:
    """Each table of the application (all if no `names`) beside its declaration, and beside what was accepted
    of it where a declaration does not say it: an enum's values, lengths of texts, whether it may be null.

    Raises SourceAway, ContractError.
    """
    found = []
    with services.ledger() as ledger, answering(services.settings) as dsn:
        for entity in chosen(names):
            assert isinstance(entity.read, Postgres)
            every = catalog(dsn, entity.read.schema, entity.read.table)
            left_out = computed(entity, every)
            current = [column for column in every if column.name not in left_out]
            stored = ledger.positions(entity.table).positions.get(CATALOG)
            remembered = Remembered.read(stored).without(left_out).of(current)
            found.append(Compared(entity, current, remembered, differences(entity, remembered, current)))
    return found


def write(services: Services, found: Sequence[Compared], folder: Path) -> list[str]:
    """Declare what the source has: edit the declarations in the files of `folder` and the staging models
    beside it that passed new columns on, and let landings go on from it.

    Returns what was done, as sentences. Raises FlowsError where a person has to decide, ContractError for
    what can't be declared; nothing is written then.
    """
    wanted = [one for one in found if one.differences]
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
    done: list[str] = []
    accepted: list[tuple[Compared, SourceEntity]] = []
    models: dict[Path, str] = {}
    for one in wanted:
        _refuse_what_hangs(one)
        columns = declared_columns(one.entity, one.differences)
        declared.check(replace(one.entity, columns=columns))
        if columns != one.entity.columns:
            path = edited(texts, one.entity, columns)
            chosen_in = _passing(one, columns, folder)
            models |= chosen_in
            named = f" {', '.join(sorted(file.name for file in chosen_in))} selects it." if chosen_in else ""
            what = f"declared in {path.name} as the source has it.{named}"
            done.append(f"{one.name}: {what}{_to_do(one, columns, path)}")
        else:
            done.append(f"{one.name}: accepted; its declaration says nothing of it.")
        accepted.append((one, replace(one.entity, columns=columns)))
    for file, content in {**models, **texts}.items():
        if file.read_text(encoding="utf-8") != content:
            file.write_text(content, encoding="utf-8")
    with services.ledger() as ledger:
        for one, entity in accepted:
            accept(ledger, one, entity, services.settings.now().isoformat())
    return done


def accept(ledger: Ledger, one: Compared, entity: SourceEntity, since: str) -> None:
    """Let the next landing compare with the catalog as it is; one that was never landed has nothing to."""
    with ledger.locked("land", entity.table):
        position = ledger.positions(entity.table)
        if position.positions:
            accepted = replace(one.remembered, numbers={}).then(entity, one.current, since)
            kept = {**position.positions, CATALOG: accepted.stored()}
            ledger.move_on(entity.table, kept, position.version)


def _passing(one: Compared, columns: Sequence[Column], folder: Path) -> dict[Path, str]:
    """The text of the models beside the declarations that have passed on what is new among these columns:
    they select it from now on.
    """
    added = {difference.column for difference in one.differences if difference.change == "added"}
    new = [column for column in columns if column.name in added]
    files = [
        folder.parent / table.layer.value / f"{table.name}.sql"
        for table in registry.build_order()
        if one.entity.table in table.passes
    ]
    return {file: selected(file, new) for file in files if new and file.exists()}


def _refuse_what_hangs(one: Compared) -> None:
    entity, read = one.entity, one.entity.read
    assert isinstance(read, Postgres)
    control = entity.control
    held = {*entity.key, read.cursor, entity.partition.by if entity.partition else None}
    held |= {control.by, control.amount, control.group} if control else set()
    for difference in one.differences:
        if difference.column in held and difference.change in ("dropped", "renamed"):
            raise FlowsError(
                f"{one.name}: {difference.sentence}, and the declaration's key, cursor, window or control "
                f"totals are by it: decide what they are by now in transforms/sources/{entity.source}.py. "
                "Nothing was written."
            )


def _to_do(one: Compared, columns: Sequence[Column], path: Path) -> str:
    gone = {column.name for column in one.entity.columns} - {column.name for column in columns}
    new = {column.name for column in columns} - {column.name for column in one.entity.columns}
    readers = [table.name for table in registry.build_order() if one.entity.table in table.upstreams]
    said, personal = "", "_PERSONAL" if path.name == "app.py" else "pii=True"
    if new:
        said += f" If {', '.join(sorted(new))} tells of a person, say so there ({personal})."
    if readers and (gone or new):
        said += f" Models that read it select by the new names: {', '.join(readers)}."
    return said


def diff(arguments: argparse.Namespace) -> int:
    """Print what differs; exit 1 when something does. With --write declare it, and exit 0."""
    services = open_services()
    found = compare(services, arguments.table)
    if arguments.json:
        print(json.dumps([entry for one in found for entry in one.as_json()], indent=2))
    else:
        for one in found:
            for line in one.lines():
                print(line)
    differing = [one for one in found if one.differences or not one.current]
    if arguments.write and differing:
        for line in write(services, found, Path(app.__file__).parent):
            print(line, file=sys.stderr)
        return 1 if any(not one.current for one in found) else 0
    if not arguments.json and not differing:
        print(f"{len(found)} tables are as they are declared.")
    elif differing:
        print("python -m flows schema diff --write declares what the source has.", file=sys.stderr)
    return 1 if differing else 0
