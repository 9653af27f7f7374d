"""Declarations of sources that contradict themselves: refused where they are read, with what to write.

What is let pass here would end a landing with an error that names no declaration, or land something else
than what was meant.
"""

from __future__ import annotations

from collections.abc import Iterator

from transforms import changes
from transforms.contract import ContractError
from transforms.entities import Kafka, Postgres, Rest, SourceEntity
from transforms.model import canonical_type

_READ_BY: dict[str, type] = {"app": Postgres, "events": Kafka, "sendgrid": Rest, "stripe": Rest}
"""The sources that settings name, and what is read of each."""
_WHAT = {Postgres: "tables (Postgres)", Kafka: "topics (Kafka)", Rest: "lists of an API (Rest)"}


def check(entity: SourceEntity) -> None:
    """Raises ContractError for a declaration that no reader could follow."""
    told = (
        [*_of_the_source(entity)]
        or [*_of_texts(entity)]
        or [*_of_the_key(entity)]
        or [*_of_the_protocol(entity)]
    )
    if told:
        raise ContractError(f"{entity.place}: {told[0]}")


def _of_the_source(entity: SourceEntity) -> Iterator[str]:
    kind = _READ_BY.get(entity.source)
    if kind is None:
        yield (
            f"no setting says where a source '{entity.source}' is. Write one of {', '.join(_READ_BY)}; "
            "another API needs an address and a key in flows/settings.py first."
        )
    elif not isinstance(entity.read, kind):
        fitting = " or ".join(name for name, one in _READ_BY.items() if isinstance(entity.read, one))
        yield (
            f"of {entity.source} are read {_WHAT[kind]}, and this is declared as "
            f"{type(entity.read).__name__}. Write another `source` ({fitting}), or `read={kind.__name__}(…)`."
        )


def _of_texts(entity: SourceEntity) -> Iterator[str]:
    """A text where a tuple belongs is one of letters."""
    fields: dict[str, object] = {"key": entity.key, "personal": entity.personal}
    if isinstance(entity.read, Rest):
        fields["id_fields"] = entity.read.id_fields
    for name, value in fields.items():
        if isinstance(value, str):
            yield f'its {name} is a text, where names belong. Write `{name}=("{value}",)`, with the comma.'


def _of_the_key(entity: SourceEntity) -> Iterator[str]:
    names = {column.name for column in entity.columns}
    strange = [name for name in entity.key if names and name not in names]
    if not entity.key or strange:
        what = f"its key has {strange[0]}, which is none of its columns" if strange else "it has no key"
        yield f"{what}. Write `key=(…,)` with the columns that are unique together."


def _of_the_protocol(entity: SourceEntity) -> Iterator[str]:
    if isinstance(entity.read, Postgres):
        yield from _of_columns(entity, entity.read)
        return
    if entity.columns:
        yield "columns are a table's; topics and lists have the same ones always. Take `columns` out."
    by = entity.partition.by if entity.partition else None
    if by is not None and by != entity.read.event_time:
        kind, given = type(entity.read).__name__, entity.read.event_time or "not given"
        yield (
            f"its windows are told by the event_time of `{kind}(…)`, which is {given}, "
            f'and its partition is by {by}. Write `event_time="{by}"` there, or the same in `Partition(…)`.'
        )
    if isinstance(entity.read, Rest):
        yield from _of_a_list(entity.read)


def _of_columns(entity: SourceEntity, read: Postgres) -> Iterator[str]:
    seen: dict[str, str] = {}
    for column in entity.columns:
        folded = column.name.lower()
        if folded in seen:
            yield (
                f"both {seen[folded]} and {column.name} are among its columns, and case makes no difference "
                "here. Declare one of them; to have both, read a view that calls the other otherwise."
            )
        elif folded in changes.OWN:
            yield (
                f"raw has a column {column.name} of its own. Leave that out, or read a view that calls it "
                "otherwise."
            )
        seen[folded] = column.name
    types = {column.name: column.type for column in entity.columns}
    spoken = {"cursor": read.cursor, "partition": entity.partition.by if entity.partition else None}
    spoken["person"] = entity.person
    if entity.control:
        spoken["control"] = entity.control.by
        spoken["control's amount"], spoken["control's group"] = entity.control.amount, entity.control.group
    for word, name in spoken.items():
        if name is not None and types and name not in types:
            yield f"its {word} is {name}, which is none of its columns. Declare that, or correct the name."
    kind = types.get(entity.partition.by) if entity.partition else None
    if kind and not canonical_type(kind).startswith(("DATE", "TIMESTAMP")):
        yield (
            f"its partition is by {spoken['partition']}, which is no time but {kind}. Name a date or a "
            "timestamp, or take `partition` out."
        )


def _of_a_list(read: Rest) -> Iterator[str]:
    if not read.path.startswith("/"):
        yield f"the path '{read.path}' begins without /. Write what follows the address, e.g. `/v1/charges`."
    if not read.id_fields:
        yield 'nothing tells its objects apart. Write `id_fields=("id",)`, with the fields that do.'
    least = 2 if read.paging == "offset" else 1
    if read.page_size < least:
        yield (
            f"a page_size of {read.page_size} reads no list whole. Write {least} or more: as many as the "
            "API gives at once."
        )
    given = " ".join(read.parameters.values())
    if read.paging == "window" and not (
        (read.since or "{since}" in given) and (read.until or "{until}" in given)
    ):
        yield (
            "paging by windows asks for ranges of time, and nothing says how. Name the parameters, "
            "`since=` and `until=`, or write {since} and {until} into one of `parameters`."
        )
