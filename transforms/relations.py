"""What models say of other tables (upstreams, references, histories), and whether it holds."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

from transforms.contract import ContractError, Table, Write
from transforms.entities import SourceEntity
from transforms.model import Model, place


def checked(models: Mapping[str, Model], landed: Mapping[str, SourceEntity]) -> dict[str, Model]:
    """The models, patterns of their headers written out. `landed` is by raw table.

    Raises ContractError for a table, column or history that is named and is not there.
    """
    known = {*landed, *models}
    found = {name: replace(model, table=_resolve(model.table, known)) for name, model in models.items()}
    for model in found.values():
        _check_references(model.table, found)
        _check_foreign_keys(model.table, found)
        _check_windows(model.table, found)
        _check_counted(model.table, found, landed)
        _check_histories(model.table, found)
        _check_lookups(model.table, found)
    _check_index_names([model.table for model in found.values()])
    return found


def referenced(table: Table) -> set[str]:
    """Other tables that foreign keys or `references` rules of this one point to."""
    keys = {target.partition(".")[0] for target in table.foreign_keys.values()}
    rules = {str(rule.arguments["table"]) for rule in table.expect if rule.check == "references"}
    return (keys | rules) - {table.name}


def close(name: str, known: Iterable[str]) -> str:
    """A sentence that names what is known and spelled alike, with a space before; empty for none."""
    alike = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(alike)}?" if alike else ""


def close_table(name: str, known: Iterable[str]) -> str:
    """The same for a table that somebody typed: where none is spelled alike, how to see all there are."""
    return close(name, known) or " All there are: python -m flows catalog"


def _resolve(table: Table, known: set[str]) -> Table:
    """The table with its patterns written out; raises ContractError for unknown upstreams."""
    where = _where(table)
    for upstream in table.upstreams:
        if upstream not in known:
            raise ContractError(
                f"{where}: it reads {upstream}, which is no model and no landed table."
                f"{close(upstream, known - {table.name})} Correct the name, add what makes it, or take this "
                "file away too."
            )
    passes = tuple(name for pattern in table.passes for name in _meant(table, "passes", pattern))
    changed = [name for pattern in table.changed for name in _meant(table, "changed", pattern)]
    mentioned_by = {
        name: column
        for pattern, column in table.mentioned_by.items()
        for name in _meant(table, "mentioned_by", pattern)
    }
    if strange := sorted(table.by_key.keys() - set(table.upstreams)):
        raise ContractError(
            f"{where}: by_key names {strange[0]}, which it does not read. "
            f"Write one of {', '.join(table.upstreams)}."
        )
    if unknown := [name for name in changed if name not in table.by_key]:
        raise ContractError(
            f"{where}: changed names {unknown[0]}, and by_key does not say which of its columns are the key. "
            "Add it to by_key, or take it out of changed."
        )
    if strange := sorted(table.looks_up.keys() - (set(table.upstreams) - table.by_key.keys())):
        raise ContractError(
            f"{where}: looks_up names {strange[0]}, which it does not read, or by_key says is followed. "
            "Name a table in which it looks up rows by another column than its key."
        )
    if table.by_key and table.partition and table.by_key.keys() != set(table.upstreams):
        raise ContractError(
            f"{where}: it is partitioned and follows keys, so by_key names every table that it reads "
            f"({', '.join(table.upstreams)}). Name them all, or take by_key out."
        )
    return replace(table, changed=tuple(dict.fromkeys(changed)), mentioned_by=mentioned_by, passes=passes)


def _meant(table: Table, word: str, pattern: str) -> list[str]:
    matches = [upstream for upstream in table.upstreams if fnmatchcase(upstream, pattern)]
    if not matches:
        raise ContractError(
            f"{_where(table)}: {word} names {pattern}, which it does not read. "
            f"Write one of {', '.join(table.upstreams)}."
        )
    return matches


def _check_references(table: Table, models: Mapping[str, Model]) -> None:
    targets = [(column, *target.partition(".")[::2]) for column, target in table.foreign_keys.items()]
    for rule in table.expect:
        if rule.check == "references":
            arguments = rule.arguments
            targets.append((str(arguments["column"]), str(arguments["table"]), str(arguments["to"])))
    for column, name, to in targets:
        if name not in models:
            raise ContractError(
                f"{_where(table)}: {column} references {name}, which is no model.{close(name, models)}"
            )
        names = [c.name for c in models[name].table.columns]
        if to and to not in names:
            raise ContractError(
                f"{_where(table)}: {column} references {name}.{to}, which it does not have. "
                f"Write `to:` one of {', '.join(names)}."
            )


def _check_foreign_keys(table: Table, models: Mapping[str, Model]) -> None:
    """PostgreSQL lets one point to the whole key of a table that it serves in one piece."""
    for column, target in table.foreign_keys.items():
        name, _, to = target.partition(".")
        other = models[name].table
        key = (to,) if to else other.key
        if not other.is_published or other.is_partitioned_in_postgres or key != other.key or len(key) != 1:
            why = (
                "which PostgreSQL does not serve"
                if not other.is_published
                else "which has leaves in PostgreSQL"
                if other.is_partitioned_in_postgres
                else f"whose key is ({', '.join(other.key)})"
            )
            raise ContractError(
                f"{_where(table)}: the foreign key of {column} points to {target}, {why}. Write the rule "
                f"`references: {{column: {column}, table: {name}}}` under expect instead."
            )
        ours, theirs = table.column(column).type, other.column(key[0]).type
        if ours != theirs:
            raise ContractError(
                f"{_where(table)}: the foreign key of {column} points to {name}.{key[0]}, which is {theirs}, "
                f"and {column} is {ours}. Cast one of them to the other's type."
            )


def _check_windows(table: Table, models: Mapping[str, Model]) -> None:
    """What is appended window by window finds its news in the windows of the same name upstream."""
    if table.write is not Write.APPEND or not all(name in models for name in table.upstreams):
        return
    own = table.partition.every if table.partition else None
    for name in table.upstreams:
        partition = models[name].table.partition
        theirs = partition.every if partition else None
        if own != theirs:
            there = f"one partition a {theirs}" if theirs else "no partitions"
            raise ContractError(
                f"{_where(table)}: it is appended by {own or 'no window'}, and {name}, which it reads, has "
                f"{there}: it would find nothing there. Write the same `every:` in both headers, or another "
                "`write:`."
            )


def _check_counted(table: Table, models: Mapping[str, Model], landed: Mapping[str, SourceEntity]) -> None:
    """What the stream has taken in and no run has built yet is noted by the windows of its topic: by them its
    counts are held back from the comparison.
    """
    if table.windowed is None or table.partition is None:
        return
    for name in table.upstreams:
        above = models[name].table.upstreams if name in models else ()
        counted = {name: models[name].table.partition} if name in models else {}
        counted |= {raw: landed[raw].partition for raw in above if raw in landed}
        for other, partition in counted.items():
            if partition is None or partition.every != table.partition.every:
                own, there = table.partition.every, f"by {partition.every}" if partition else "not at all"
                raise ContractError(
                    f"{_where(table)}: it is windowed and partitioned by {own}, and {other}, which it "
                    f"counts, {there}: the stream's counts would be compared, and corrected, before a run "
                    "has built what they count. Partition both alike."
                )


def _check_index_names(tables: Iterable[Table]) -> None:
    """In PostgreSQL tables and indexes have their names together: a second one would silently not be made."""
    published = [table for table in tables if table.is_published]
    known = {table.name: table for table in published}
    for table in published:
        for index in table.indexes:
            other = known.setdefault(index, table)
            if other is not table:
                raise ContractError(
                    f"{_where(table)}: its index {index} is called as {other.name} or an index of that is. "
                    f"Give it another, `indexes: {{{index}_2: [{', '.join(table.indexes[index])}]}}`."
                )


def _check_histories(table: Table, models: Mapping[str, Model]) -> None:
    for name in table.as_of:
        if name not in models or not models[name].table.is_history or models[name].table.partition:
            raise ContractError(
                f"{_where(table)}: as_of names {name}, which is no history: an unpartitioned model with "
                "valid_from in its key. Name one, or join the table without asof."
            )


def _where(table: Table) -> str:
    return place(table.path) if table.path else table.name


def _check_lookups(table: Table, found: Mapping[str, Model]) -> None:
    """What is looked up are rows of a model with one key column, by columns that the two models have."""
    for name, lookup in table.looks_up.items():
        where = f"{_where(table)}: looks_up of {name}"
        (followed,) = table.by_key
        for upstream, words in ((followed, lookup.of), (name, lookup.by)):
            if upstream not in found:
                raise ContractError(f"{where}: {upstream} is no model. Look up rows of one, and follow one.")
            there = {column.name for column in found[upstream].table.columns}
            if strange := [
                word for word in re.findall(r"\b[a-z_]\w*\b(?!\s*\()", words) if word not in there
            ]:
                raise ContractError(
                    f"{where}: {upstream} has no column {strange[0]}.{close(strange[0], there)} "
                    f"Write one of {', '.join(sorted(there))}."
                )
        key = found[name].table.key
        if len(key) != 1:
            raise ContractError(
                f"{where}: its key has {len(key)} columns ({', '.join(key)}), and {lookup.found} can hold "
                "one. Look up rows of a table with one key column."
            )
