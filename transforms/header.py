"""The words of a model's header, checked: front matter of a `.sql` model, keywords of a `.py` one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from transforms.contract import ContractError, Lookup, Partition, Rule, Windowed, Write
from transforms.expectations import read_expectations

LineOf = Callable[[str], int | None]

_WORDS = {
    "grain": "grain: one row per order",
    "key": "key: [order_id]",
    "description": "description: Orders as the application has them",
    "partition": "partition: {by: created_at, every: month}",
    "write": "write: replace_partition   # or merge, append",
    "owner": "owner: data-team",
    "expect": "expect:\n  - not_null: [user_id]",
    "freshness": "freshness: 1 hour",
    "pii": "pii: [email]",
    "retention": "retention: 400 days",
    "sensitivity": "sensitivity: low   # or normal, high",
    "lengths": "lengths: {event_type: 50}",
    "indexes": "indexes: {idx_orders_user: [user_id]}",
    "foreign_keys": "foreign_keys: {user_id: dim_users}",
    "changed": "changed: [stg_app__orders]",
    "as_of": "as_of: {dim_users_history: created_at}",
    "by_key": "by_key: {stg_app__orders: [order_id]}",
    "mentioned_by": "mentioned_by: {raw_app__orders: user_id}",
    "looks_up": "looks_up: {stg_app__users: {found: user_id, of: to_email, by: lower(email)}}",
    "passes": "passes: [raw_app__orders]",
    "lookback": "lookback: 8 days",
    "tie_break": "tie_break: [kafka_partition, kafka_offset]",
    "windowed": "windowed: {adds: event_count, end: window_end, lateness: 1 hour, topic: user_event_counts}",
}
SENSITIVITIES = ("high", "normal", "low")
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}


@dataclass(frozen=True)
class Header:
    """A header, read and typed; `required` are the columns that may not be null."""

    grain: str
    key: tuple[str, ...]
    description: str
    partition: Partition | None
    write: Write
    owner: str
    expect: tuple[Rule, ...]
    freshness: timedelta | None
    pii: tuple[str, ...]
    retention: timedelta | None
    sensitivity: str
    lengths: Mapping[str, int]
    indexes: Mapping[str, tuple[str, ...]] | tuple[tuple[str, ...], ...]
    foreign_keys: Mapping[str, str]
    changed: tuple[str, ...]
    as_of: Mapping[str, str]
    by_key: Mapping[str, tuple[str, ...]]
    mentioned_by: Mapping[str, str]
    looks_up: Mapping[str, Lookup]
    passes: tuple[str, ...]
    lookback: timedelta
    tie_break: tuple[str, ...]
    windowed: Windowed | None

    @property
    def required(self) -> frozenset[str]:
        """Key columns and those with a critical not_null rule."""
        not_null = {
            str(rule.arguments["column"])
            for rule in self.expect
            if rule.check == "not_null" and rule.severity == "critical"
        }
        return frozenset(not_null | set(self.key))

    def index_columns(self) -> list[tuple[str, ...]]:
        """The column lists of all indexes, ' desc' included."""
        return list(self.indexes.values() if isinstance(self.indexes, Mapping) else self.indexes)

    def check_columns(self, types: Mapping[str, str], where: str) -> None:
        """Raise ContractError when the header speaks of a column that the model does not select, or
        partitions by one that is no time. `types`: column → its type, as DuckDB spells it.
        """
        spoken: list[tuple[str, str]] = [
            *(("key", name) for name in self.key),
            *(("pii", name) for name in self.pii),
            *(("lengths", name) for name in self.lengths),
            *(("foreign_keys", name) for name in self.foreign_keys),
            *(("looks_up", lookup.found) for lookup in self.looks_up.values()),
            *(("tie_break", name) for name in self.tie_break),
            *(("windowed", name) for name in (self.windowed.columns if self.windowed else ())),
            *(("indexes", name.split()[0]) for columns in self.index_columns() for name in columns),
            *(("expect", name) for rule in self.expect for name in rule_columns(rule)),
        ]
        if self.partition is not None:
            spoken.append(("partition", self.partition.by))
        for word, name in spoken:
            if name not in types:
                raise ContractError(
                    f"{where}: {word} speaks of column {name}, which the final select does not give "
                    f"({', '.join(sorted(types))}). Select it or take it out of {word}."
                )
        if self.partition is not None and not re.match("DATE|TIMESTAMP", types[self.partition.by]):
            raise ContractError(
                f"{where}: partition is by {self.partition.by}, which is no time but "
                f"{types[self.partition.by]}. Name a date or a timestamp, or take partition out."
            )

    def table_arguments(self, name: str) -> dict[str, Any]:
        """Keyword arguments of `Table` that come from the header."""
        indexes = self.indexes
        if not isinstance(indexes, Mapping):
            indexes = {index_name(name, columns): columns for columns in indexes}
        return {
            **{word: getattr(self, word) for word in _WORDS if word not in {"pii", "lengths", "indexes"}},
            "indexes": indexes,
        }


def index_name(table: str, columns: tuple[str, ...]) -> str:
    """The name of an index that the header leaves unnamed: `idx_orders_user_id`."""
    subject = re.sub(r"^(fct|dim|mart|mv)_", "", table)
    return "_".join(["idx", subject, *(column.split()[0] for column in columns)])


def rule_columns(rule: Rule) -> tuple[str, ...]:
    """The columns of its own table that a rule speaks of; none for a `sql` rule."""
    if "column" in rule.arguments:
        return (str(rule.arguments["column"]),)
    columns = rule.arguments.get("columns", ())
    return tuple(str(column) for column in columns) if isinstance(columns, list | tuple) else ()


def read_header(words: Mapping[str, Any], where: str, line_of: LineOf) -> Header:
    """Check and type a header's words. `line_of` gives the line a word stands on, for errors.

    Raises ContractError for an unknown word, a missing grain or key, or a value of the wrong form.
    """

    def fail(word: str, problem: str) -> ContractError:
        line = line_of(word)
        at = f"{where}:{line}" if line else where
        return ContractError(f"{at}: {problem} Write e.g. `{_WORDS.get(word, word)}`.")

    for word in words:
        if word not in _WORDS:
            line = line_of(str(word))
            at = f"{where}:{line}" if line else where
            raise ContractError(f"{at}: the header has no word '{word}'. Write one of {', '.join(_WORDS)}.")
    for word in ("grain", "key"):
        if not words.get(word):
            raise fail(word, f"the header lacks {word}.")

    def names(word: str) -> tuple[str, ...]:
        value = words.get(word) or ()
        value = (value,) if isinstance(value, str) else value
        if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
            raise fail(word, f"{word} is no list of names.")
        return tuple(value)

    def mapping(word: str) -> dict[str, Any]:
        value = words.get(word) or {}
        if not isinstance(value, Mapping):
            raise fail(word, f"{word} is no mapping.")
        return {str(key): item for key, item in value.items()}

    def duration(word: str) -> timedelta | None:
        value = words.get(word)
        return None if value is None else _duration(value, word, fail)

    lengths = mapping("lengths")
    if not all(isinstance(length, int) and length > 0 for length in lengths.values()):
        raise fail("lengths", "a length is a whole number of characters.")
    try:
        write = Write(words.get("write", Write.REPLACE_PARTITION))
    except ValueError as error:
        raise fail("write", f"'{words['write']}' is no way to write.") from error
    if len(set(names("key"))) < len(names("key")):
        raise fail("key", "key names a column twice.")
    header = Header(
        grain=str(words["grain"]),
        key=names("key"),
        description=str(words.get("description") or ""),
        partition=_partition(words.get("partition"), fail),
        write=write,
        owner=str(words.get("owner") or "data-team"),
        expect=read_expectations(words.get("expect") or (), where, line_of),
        freshness=duration("freshness"),
        pii=names("pii"),
        retention=duration("retention"),
        sensitivity=str(words.get("sensitivity") or "normal"),
        lengths=lengths,
        indexes=_indexes(words.get("indexes") or {}, fail),
        foreign_keys={column: str(target) for column, target in mapping("foreign_keys").items()},
        changed=names("changed"),
        as_of={history: str(moment) for history, moment in mapping("as_of").items()},
        by_key=_by_key(mapping("by_key"), names("key"), fail),
        mentioned_by={upstream: str(column) for upstream, column in mapping("mentioned_by").items()},
        looks_up=_looks_up(mapping("looks_up"), fail),
        passes=names("passes"),
        lookback=duration("lookback") or timedelta(0),
        tie_break=names("tie_break"),
        windowed=_windowed(words.get("windowed"), fail),
    )
    if header.sensitivity not in SENSITIVITIES:
        raise fail("sensitivity", f"'{header.sensitivity}' is no sensitivity.")
    if header.write is Write.APPEND and not header.tie_break:
        raise fail("tie_break", "write: append must say which of two copies of a key wins.")
    if header.by_key and header.write is not Write.MERGE:
        raise fail("by_key", "by_key only means something with write: merge.")
    if header.mentioned_by and not (header.by_key and header.partition is None and len(header.key) == 1):
        raise fail(
            "mentioned_by", "mentioned_by is for tables without windows that follow one column by_key."
        )
    is_followed = [len(columns) for columns in header.by_key.values()] == [len(header.key)]
    if header.looks_up and (header.partition or header.changed or not is_followed):
        raise fail(
            "looks_up",
            "looks_up is for tables without windows or changed that follow one table by their whole key.",
        )
    if header.foreign_keys and header.write is not Write.MERGE:
        raise fail(
            "foreign_keys", "only a table with write: merge may have foreign keys (others check references)."
        )
    return header


def _duration(value: Any, word: str, fail: Callable[[str, str], ContractError]) -> timedelta:
    if isinstance(value, timedelta):
        return value
    match = re.fullmatch(r"(\d+)\s*(second|minute|hour|day|week)s?", str(value).strip())
    if match is None:
        raise fail(word, f"{word} '{value}' is no duration.")
    try:
        return timedelta(seconds=int(match.group(1)) * _UNITS[match.group(2)])
    except OverflowError as error:
        raise fail(word, f"{word} '{value}' is longer than time is counted.") from error


def _windowed(value: Any, fail: Callable[[str, str], ContractError]) -> Windowed | None:
    if value is None or isinstance(value, Windowed):
        return value
    if not isinstance(value, Mapping) or set(value) != {"adds", "end", "lateness", "topic"}:
        raise fail("windowed", "windowed names what is added up, a window's end, the lateness and a topic.")
    return Windowed(
        str(value["adds"]),
        str(value["end"]),
        _duration(value["lateness"], "windowed", fail),
        str(value["topic"]),
    )


def _by_key(
    value: Mapping[str, Any], key: tuple[str, ...], fail: Callable[[str, str], ContractError]
) -> dict[str, tuple[str, ...]]:
    found = {}
    for upstream, columns in value.items():
        if not isinstance(columns, list | tuple) or not 0 < len(columns) <= len(key):
            raise fail(
                "by_key", f"by_key of {upstream} is no list of the columns that are ({', '.join(key)})."
            )
        found[upstream] = tuple(map(str, columns))
    if len({len(columns) for columns in found.values()}) > 1:
        raise fail("by_key", "by_key names more columns of one upstream than of another.")
    return found


def _looks_up(value: Mapping[str, Any], fail: Callable[[str, str], ContractError]) -> dict[str, Lookup]:
    for upstream, words in value.items():
        if not isinstance(words, Mapping) or set(words) != {"found", "of", "by"}:
            raise fail(
                "looks_up",
                f"looks_up of {upstream} names the column that tells what was found, the column of what is "
                "followed that it is looked up with, and what that equals there.",
            )
    return {
        upstream: Lookup(**{word: str(said) for word, said in words.items()})
        for upstream, words in value.items()
    }


def _partition(value: Any, fail: Callable[[str, str], ContractError]) -> Partition | None:
    if value is None or isinstance(value, Partition):
        return value
    if not isinstance(value, Mapping) or set(value) != {"by", "every"}:
        raise fail("partition", "partition names a column and an interval.")
    if value["every"] not in {"day", "month"}:
        raise fail("partition", f"a partition can't be every {value['every']}.")
    return Partition(str(value["by"]), value["every"])


def _indexes(
    value: Any, fail: Callable[[str, str], ContractError]
) -> dict[str, tuple[str, ...]] | tuple[tuple[str, ...], ...]:
    lists = value.values() if isinstance(value, Mapping) else value
    well_formed = isinstance(lists, list | tuple) or isinstance(value, Mapping)
    if not well_formed or not all(isinstance(columns, list | tuple) and columns for columns in lists):
        raise fail("indexes", "indexes gives no lists of columns.")
    for columns in lists:
        for column in columns:
            if not re.fullmatch(r"\w+( (asc|desc))?", str(column)):
                raise fail("indexes", f"'{column}' is no column of an index.")
    if isinstance(value, Mapping):
        return {str(name): tuple(map(str, columns)) for name, columns in value.items()}
    return tuple(tuple(map(str, columns)) for columns in value)
