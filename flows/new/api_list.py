"""A list of an API as its first page shows it: a declaration like that of another list of the API, and a
staging model that reads the newest version of each object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from os.path import commonpath
from typing import Any

from flows.declaration import column_name, in_python, in_sql
from flows.errors import FlowsError
from flows.extract.answer import moment, steps
from flows.extract.api import connection
from flows.extract.asking import Asking, Window
from flows.extract.oauth import opened
from flows.extract.rest import BEGINNING
from flows.new.app_table import one_of, singular
from flows.new.draft import documented, item, select_list
from flows.new.json_fields import by_field, kind_of, told_apart, wrapped
from flows.new.samples import case, sample
from flows.settings import Settings
from transforms.contract import Column
from transforms.entities import Rest, SourceEntity

_READ_AS = {"timestamptz": "TIMESTAMPTZ"}


@dataclass(frozen=True)
class Field:
    """A field of the list's objects, and the column that it becomes; `per_second`: how many of its units a
    second has, where it is a time as a number.
    """

    name: str
    column: str
    kind: str
    per_second: int = 0


@dataclass(frozen=True)
class Shape:
    """How a list is asked, like which other one, and what its objects have."""

    read: Rest
    like: SourceEntity
    fields: Sequence[Field]
    left_out: Sequence[str] = ()
    """Fields whose names no column can have, or two would have."""

    @property
    def time(self) -> str | None:
        """The column of the time that windows are told by, where it is one."""
        return next((field.column for field in self.fields if field.name == self.read.event_time), None)


def look(
    settings: Settings,
    lists: Sequence[SourceEntity],
    name: str,
    path: str | None = None,
    key: Sequence[str] | None = None,
) -> Shape:
    """The shape of a list of the API that `lists` are of: asked as the one of them whose path is most like
    its own. Raises SettingsError, RestError when the API can't be asked, FlowsError when it lists nothing.
    """
    path = path or f"{_read(lists[0]).path.rpartition('/')[0]}/{name}"
    if not path.startswith("/"):
        raise FlowsError(
            f"--read {path} is no path of an API. Write what follows its address: --read /{path}"
        )
    like = max(lists, key=lambda one: len(commonpath([_read(one).path, str(path)])))
    read = replace(_read(like), path=path, id_fields=tuple(key) if key else _read(like).id_fields)
    place = f"{like.source}.{name}"
    with opened(place, connection(settings, like, tries=settings.retries + 1), read.api) as http:
        window = Window(BEGINNING, settings.now().replace(microsecond=0))
        records = Asking(place, read, http, 1).page(window, {}).records
    objects = [record.value for record in records if record.id is not None and record.value is not None]
    if not objects:
        raise FlowsError(
            f"{place}: the first page of {path} has no object with {', '.join(read.id_fields)}, so there is "
            "nothing to go by. Say what tells them apart, --key FIELD, make one, or write its declaration as "
            "docs/connect.md says."
        )
    is_ms = read.time_format == "unix_ms"
    if not all(moment(one, steps(read.event_time), is_ms) for one in objects):
        read = replace(read, event_time=None)
    if not any(moment(one, steps(read.recorded_at), is_ms) for one in objects):
        read = replace(read, since=None, until=None, recorded_at=_default("recorded_at"))
    return _shape(read, like, name, objects)


def _read(entity: SourceEntity) -> Rest:
    assert isinstance(entity.read, Rest)
    return entity.read


def _default(word: str) -> Any:
    return next(field.default for field in fields(Rest) if field.name == word)


def _shape(read: Rest, like: SourceEntity, name: str, objects: Sequence[Mapping[str, Any]]) -> Shape:
    found = by_field(objects)
    own = f"{singular(name)}_id"
    if read.id_fields == ("id",):
        found.pop("id", None)
    made: list[Field] = []
    for word, seen in found.items():
        kind: str = kind_of(seen)
        column = column_name(word).lstrip("_")
        units = 0
        if kind == "bigint" and word in (read.event_time, read.recorded_at):
            kind, units = "timestamptz", 1000 if read.time_format == "unix_ms" else 1
            column = column if column.endswith("_at") else f"{column}_at"
        made.append(Field(word, column, kind, units))
    kept, left_out = told_apart(made, found, [own])
    return Shape(read, like, kept, left_out)


def declaration(name: str, shape: Shape, has_api: bool) -> str:
    """The text of the declaration; `has_api`: whether its file calls how the API is asked API."""
    words = [
        f"{field.name}={'API' if field.name == 'api' and has_api else literal(value)}"
        for field in fields(Rest)
        if (
            (value := getattr(shape.read, field.name)) != _default(field.name)
            and (field.name != "parameters" or value)
        )
        or field.name == "records"
    ]
    inside = "".join(f"        {word},\n" for word in words)
    time, like = shape.read.event_time, shape.like.partition
    said = [
        f"source={in_python(shape.like.source)}",
        f"name={in_python(name)}",
        f"read=Rest(\n{inside}    )",
        'key=("id",)',
        f"grain={in_python(f'one row per version of {one_of(name)} seen in the list of {name}')}",
        *([f"partition=Partition({in_python(time)}, {in_python(like.every)})"] if time and like else []),
    ]
    return "SourceEntity(\n" + "".join(f"    {word},\n" for word in said) + ")"


def literal(value: Any) -> str:
    """A declared value as Python writes it."""
    if isinstance(value, str):
        return in_python(value)
    if isinstance(value, timedelta):
        return repr(value).removeprefix("datetime.")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(name)}: {literal(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        inner = ", ".join(map(literal, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    if hasattr(value, "__dataclass_fields__"):
        words = (f"{field.name}={literal(getattr(value, field.name))}" for field in fields(value))
        return f"{type(value).__name__}({', '.join(words)})"
    return repr(value)


def staging(entity: SourceEntity, shape: Shape) -> str:
    """The text of the staging model: of each object what it was last."""
    who = shape.read.api.title or entity.source
    key = f"{singular(entity.name)}_id"
    header = [
        f"grain:     one row per {singular(entity.name).replace('_', ' ')} of {who}, as it last was",
        f"key:       [{key}]",
        "write:     merge",
        f"changed:   [{entity.table}]",
        f"by_key:    {{{entity.table}: [id]}}",
        "owner:     data-team",
        "freshness: 1 hour",
        *([f"expect:\n  - not_null: [{shape.time}]"] if shape.time else []),
    ]
    items = [item("id", "varchar", key, f"Identifies {one_of(entity.name)}")]
    for field in shape.fields:
        given = f"entry.{in_sql(field.name)}"
        if field.per_second:
            given = f"to_timestamp({given}{f' / {field.per_second}' if field.per_second > 1 else ''})"
        said = documented(Column(field.column, field.kind), entity.source, f"{field.name}, as {who} sends it")
        items.append(item(given, field.kind, field.column, said))
    read = wrapped([f'"{field.name}": "{_type(field)}"' for field in shape.fields] or ['"id": "JSON"'])
    return (
        "/* ---\n" + "\n".join(header) + "\n--- */\n"
        "with latest as (\n"
        "    select\n"
        "        id,\n"
        f"        from_json(object, '{{\n{read}\n        }}') as entry\n"
        f"    from {entity.table}\n"
        "    qualify row_number() over (partition by id order by _landed_at desc, _seq desc) = 1\n"
        ")\n\n"
        "select\n" + select_list(items) + "\nfrom latest\n"
    )


def _type(field: Field) -> str:
    return "BIGINT" if field.per_second else _READ_AS.get(field.kind, field.kind.upper())


def rows(entity: SourceEntity, shape: Shape) -> str:
    """The given/expect case of the staging model."""

    def landed(number: int) -> dict[str, Any]:
        sent = {field.name: _sent(field, number) for field in shape.fields}
        return {"id": "x1", "object": {"id": "x1", **sent}, "_seq": number}

    last = {field.column: sample(field.kind, 2) for field in shape.fields}
    return case(
        f"{one_of(entity.name)} that was listed twice is there once, as it last was",
        {entity.table: [landed(1), landed(2)]},
        [{f"{singular(entity.name)}_id": "x1", **last}],
    )


def _sent(field: Field, number: int) -> Any:
    value = sample(field.kind, number)
    if field.per_second:
        return int(datetime.fromisoformat(str(value)).timestamp()) * field.per_second
    if field.kind == "json":
        return json.loads(str(value))
    return float(str(value)) if field.kind == "double" else value
