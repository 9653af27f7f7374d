"""A topic as its newest records show it: the declaration, and a staging model that reads each value."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from flows.declaration import column_name, in_sql
from flows.errors import FlowsError
from flows.extract import kafka
from flows.new.draft import documented, item
from flows.new.json_fields import NAME, TIME, Kind, by_field, is_moment, kind_of, told_apart, wrapped
from flows.new.samples import case, sample
from flows.settings import Settings
from transforms.contract import Column

RECORDS = 1_000
"""So many of the newest records are looked at, of all partitions together."""
_SECONDS = 15.0
_MODEL, _TEXTS = (Path(__file__).with_name(f"{name}.sql") for name in ("topic", "topic_texts"))
_TAKEN = frozenset(
    {
        *("topic", "kafka_partition", "kafka_offset", "kafka_timestamp", "key", "headers", "value"),
        *("received", "text", "event", "event_id", "event_time", "no_text", "without_strings"),
    }
)
"""Names that the staging model uses itself."""

_READ_AS: Mapping[Kind, str] = {"varchar": "VARCHAR", "timestamptz": "VARCHAR"}
_MATCHES: Mapping[Kind, tuple[str, str]] = {
    "bigint": ("-?[0-9]+", "no integer"),
    "integer": ("-?[0-9]+", "no integer"),
    "double": ("-?[0-9]+([.][0-9]+)?([eE][-+]?[0-9]+)?", "no number"),
    "boolean": ("true|false", "neither true nor false"),
    "timestamptz": (TIME.pattern, "no ISO 8601 time with an offset"),
}
"""Type → what a value of it looks like, and what is said of one that does not."""
_NO_TEXT = r"^([\[{]|(-?[0-9][-+.0-9eE]*|true|false)$)"
"""What `from_json` makes of an array, an object, a number or a boolean that is to be a text."""
_FRAME = b"\0"
_OF_A_REGISTRY = (
    ", and all begin as those of a schema registry do (Avro or Protobuf, which `new` does not read)"
)


@dataclass(frozen=True)
class Field:
    """A field of the topic's values, and the column that it becomes."""

    name: str
    kind: Kind
    documentation: str = ""

    @property
    def column(self) -> str:
        """In the letters of columns; beside what the model itself calls so, `event_<name>`."""
        name = column_name(self.name).lstrip("_")
        return f"event_{name}" if name in _TAKEN else name


@dataclass(frozen=True)
class Shape:
    """What the values of a topic have: what tells events apart, when they were, and the other fields."""

    key: str
    time: str
    fields: Sequence[Field]
    left_out: Sequence[str] = ()
    """Fields whose names no column can have, or two have but for case."""


def look(settings: Settings, topic: str, key: str | None, time: str | None) -> Shape:
    """The shape of a topic's newest records. Raises SourceError when the broker can't be asked, FlowsError
    when they are no events that a staging model could read.
    """
    asked = kafka.Topic(topic, settings.require("kafka_bootstrap"), settings.kafka_options, _SECONDS)
    held = {part: span for part, span in asked.held().items() if span[0] < span[1]}
    each = -(-RECORDS // max(1, len(held)))
    spans = {part: [(max(first, end - each), end)] for part, (first, end) in held.items()}
    batches = kafka.reread(asked, spans)
    values = (value for batch in batches for value in batch.column("value").to_pylist())
    return shape(topic, list(islice(values, 2 * RECORDS)), key, time)


def shape(
    topic: str, values: Iterable[bytes | None], key: str | None = None, time: str | None = None
) -> Shape:
    """The same of these values. Raises FlowsError as `look`."""
    sent = [value for value in values if value is not None]
    objects = [one for value in sent if isinstance(one := _read(value), dict)]
    if not objects:
        if not sent:
            raise FlowsError(
                f"Topic {topic} has no record with a value yet, so there is nothing to go by. Send one, or "
                "write its declaration and its staging model as docs/connect.md says."
            )
        of_a_registry = _OF_A_REGISTRY if all(value.startswith(_FRAME) for value in sent) else ""
        raise FlowsError(
            f"Topic {topic}: none of its newest {len(sent):,} values is a JSON object{of_a_registry}. Have "
            "its producer send JSON, or write its declaration and its staging model as docs/connect.md says: "
            "bytes land as they are."
        )
    found = by_field(objects)
    apart, happened = (
        "what tells one event from the others: a UUID",
        "when it happened: ISO 8601 with an offset",
    )
    key = _chosen(topic, objects, key, ("--key", "event_id"), apart, _uuid)
    time = _chosen(topic, objects, time, ("--time", "event_time"), happened, is_moment)
    fields = [Field(name, kind_of(seen)) for name, seen in found.items() if name not in (key, time)]
    kept, left_out = told_apart(fields, found)
    return Shape(key, time, kept, left_out)


def _read(value: bytes | None) -> Any:
    try:
        return json.loads(value or b"null")
    except (ValueError, RecursionError):
        return None


def _chosen(
    topic: str,
    objects: Sequence[Mapping[str, Any]],
    asked: str | None,
    usual: tuple[str, str],
    what: str,
    fits: Callable[[Any], bool],
) -> str:
    """The field that was asked for; else the one that most records have under its usual name; else the only
    one that can be it in all of them. `usual` is the option to say it with, and that name.
    """
    option, name = usual
    names = [one for one in dict.fromkeys(name for value in objects for name in value) if NAME.fullmatch(one)]
    share = {one: sum(fits(value.get(one)) for value in objects) / len(objects) for one in names}
    sure = [one for one in names if share[one] == 1]
    if asked is not None and share.get(asked, 0) > 0:
        return asked
    if asked is None and share.get(name, 0) >= 0.5:
        return name
    if asked is None and len(sure) == 1:
        return sure[0]
    which = f"{asked} is not" if asked else "none is sure to be" if sure else "none is"
    cure = f"Say which one: {option} {' or '.join(sure)}." if sure else "Write its staging model by hand."
    raise FlowsError(f"Topic {topic}: of the fields {', '.join(names)} {which} {what}. {cure}")


def _uuid(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(UUID(value))
    except ValueError:
        return False


def staging(raw: str, grain: str, shape: Shape) -> str:
    """The text of the staging model."""
    texts = [field.name for field in shape.fields if field.kind == "varchar"]
    told = {
        "grain": grain,
        "raw": raw,
        "key": shape.key,
        "time": shape.time,
        "read": wrapped(
            [
                f'"{shape.key}": "VARCHAR"',
                f'"{shape.time}": "VARCHAR"',
                *(f'"{field.name}": "{_READ_AS.get(field.kind, "JSON")}"' for field in shape.fields),
            ]
        ),
        "typed": "\n".join(_with_texts(shape.fields, _typed, _no_text(texts))),
        "reasons": "\n".join(
            _with_texts(
                shape.fields,
                _reason,
                "            when no_text is not null then no_text || ' is no text'" if texts else "",
            )
        ),
        "selected": "\n".join(_selected(field) for field in shape.fields),
    }
    return _filled(_MODEL, told)


def _filled(template: Path, told: Mapping[str, str]) -> str:
    """A template with what stands in place of each `{{name}}`; a line for which there is nothing goes."""
    text = template.read_text(encoding="utf-8")
    for name, value in told.items():
        text = text.replace(f"{{{{{name}}}}}" if value else f"{{{{{name}}}}}\n", value)
    return text


def _with_texts(fields: Sequence[Field], written: Callable[[Field], str], of_texts: str) -> list[str]:
    """What is written of each field that is no text, and between whose it is and the rest of them what is
    written of all texts.
    """
    lines = {field.name: written(field) for field in fields if field.kind in _MATCHES}
    whose = [lines.pop("user_id")] if "user_id" in lines else []
    return [line for line in (*whose, of_texts, *lines.values()) if line]


def _typed(field: Field) -> str:
    pattern, _ = _MATCHES[field.kind]
    given = f"event.{field.name}"
    return (
        f"        case when regexp_full_match({given}, '{pattern}') "
        f"then try_cast({given} as {field.kind}) end as {in_sql(field.column)},"
    )


def _reason(field: Field) -> str:
    said = _MATCHES[field.kind][1] + (" of 64 bits" if field.name == "user_id" else "")
    is_other = f"event.{field.name} is not null and {in_sql(field.column)} is null"
    return f"            when {is_other} then '{field.name} is {said}'"


def _no_text(names: Sequence[str]) -> str:
    if not names:
        return "        null as no_text,"
    looks = [f"regexp_matches(event.{in_sql(name)}, '{_NO_TEXT}')" for name in names]
    listed = ", ".join(f"'{name}'" for name in names)
    told = {"looks": f"\n{' ' * 16}or ".join(looks), "listed": listed}
    return _filled(_TEXTS, told).removesuffix("\n")


def _selected(field: Field) -> str:
    given = in_sql(field.column) if field.kind in _MATCHES else f"event.{in_sql(field.name)}"
    said = field.documentation or documented(
        Column(field.column, field.kind), "events", f"{field.name}, as the producer sends it"
    )
    return item(f"judged.{given}", field.kind, field.column, said)


def rows(raw: str, shape: Shape) -> str:
    """The given/expect cases of the staging model."""
    first, other = str(sample("uuid", 1)), str(sample("uuid", 2))
    at = str(sample("timestamptz", 7))
    values = {field: sample(field.kind, 1) for field in shape.fields}
    sent = {
        field.name: json.loads(str(value))
        if field.kind == "json"
        else float(str(value))
        if field.kind == "double"
        else value
        for field, value in values.items()
    }
    seen = {field.column: value for field, value in values.items()}

    def message(partition: int, offset: int, identity: str) -> dict[str, Any]:
        body = json.dumps({shape.key: identity, shape.time: at, **sent})
        return {"kafka_partition": partition, "kafka_offset": offset, "value": body}

    return case(
        "a message comes out typed, no JSON is a dead letter, and of two copies the lower place stays",
        {
            raw: [
                message(0, 0, first),
                message(1, 0, first),
                message(1, 1, other),
                {"kafka_partition": 1, "kafka_offset": 2, "value": "no JSON"},
            ]
        },
        [
            {"event_id": first, "event_time": at, **seen, "kafka_partition": 0, "kafka_offset": 0},
            {"event_id": other, "event_time": at, **seen, "kafka_partition": 1, "kafka_offset": 1},
        ],
        dead_letters=[{"kafka_offset": 2, "_dead_letter_reason": "it is not valid JSON"}],
    )
