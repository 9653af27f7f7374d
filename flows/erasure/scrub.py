"""Rows without what they say about erased people. Pure: what is landed and what the lake holds goes through.

A row that is a person's (its entity declares whose) loses the columns with personal data. Wherever an address
of theirs stands, in any column, in JSON or in bytes that are neither, their alias takes its place. All else
stays, so counts and sums stay what they were.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flows.erasure.person import AT, LONGEST, Person, with_aliases
from transforms.entities import Rest, SourceEntity

USER = "user_id"
"""Where the application says, in the metadata of an API's object, whose it is."""
_JSON_COLUMNS = {"value", "_filled", "object", "key"}
_PARTS = ("before", "after")
_MARKS = (b"@", b"%")
"""One of them stands in whatever matches `AT`."""
_REMEMBERED = 1 << 16
"""Addresses of which it is known whose they are: each is asked of every person once, by a hash of its own."""


class Scrubber:
    """Takes people out of record batches of one entity (None: of no entity, as in quarantine)."""

    def __init__(
        self, people: Sequence[Person], entity: SourceEntity | None = None, *, is_arriving: bool = False
    ) -> None:
        """`is_arriving`: rows of the users themselves say that the user is gone, whatever the source says."""
        is_account = entity is not None and entity.person in entity.key
        self._goes = is_arriving and is_account
        self._people = {person.user_id: person for person in people}
        self._entity = entity
        self._person = entity.person if entity is not None else None
        self._personal = _personal_fields(entity)
        self._is_rest = entity is not None and isinstance(entity.read, Rest)
        self._beside = frozenset(entity.personal) if entity is not None else frozenset()
        # Whatever else quotes an address is searched by hash once only that is known. An account's address is
        # its own: somebody has it now.
        quotes = entity is not None and not is_account
        self._by_hash = quotes and not all(person.is_known for person in people)
        self._rough = self._roughly()
        self._looks_for_at = self._rough == f"(?i){AT}"
        self._asked = lru_cache(_REMEMBERED)(self._whose)

    def batch(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, list[int]]:
        """The batch as it may be kept, and the numbers of the rows that are other ones now."""
        rows = self._candidates(batch)
        if not rows:
            return batch, []
        values = {name: _column(batch, name).take(pa.array(rows)).to_pylist() for name in batch.schema.names}
        edited: dict[str, dict[int, Any]] = {}
        for place, row in enumerate(rows):
            before = {name: column[place] for name, column in values.items()}
            for name, value in self._edited(before).items():
                edited.setdefault(name, {})[row] = value
        changed = sorted({row for cells in edited.values() for row in cells})
        if not changed:
            return batch, []
        columns = [
            with_cells(batch.column(number), edited[field.name])
            if field.name in edited
            else batch.column(number)
            for number, field in enumerate(batch.schema)
        ]
        return pa.record_batch(columns, schema=batch.schema), changed

    def batches(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The same for a stream of batches."""
        for batch in batches:
            yield self.batch(batch)[0]

    # ---------------------------------------------------------------------------------------- which rows

    def _candidates(self, batch: pa.RecordBatch) -> list[int]:
        """Numbers of the rows that may have to change: all that have to, and few others."""
        mask = pa.array([False] * batch.num_rows) if batch.num_rows else pa.array([], pa.bool_())
        for field in batch.schema:
            column = _column(batch, field.name)
            if field.name == self._person and pa.types.is_integer(column.type):
                found = pc.is_in(column, pa.array(list(self._people), column.type))
            elif _is_text(column.type) and self._rough:
                if self._looks_for_at and not _may_hold_address(column):
                    continue
                found = pc.match_substring_regex(column, self._rough)
            elif pa.types.is_list(column.type) and self._rough:
                found = _matching_within(column, self._rough)
            else:
                continue
            mask = pc.or_(mask, pc.fill_null(found, False))
        return [int(row) for row in pc.indices_nonzero(mask).to_pylist()]

    def _roughly(self) -> str:
        parts = [person.rough_pattern.removeprefix("(?i)") for person in self._people.values()]
        parts = [part for part in parts if part]
        if self._by_hash:
            parts.append(AT)
        says = USER if self._is_rest else self._person
        if says is not None and self._people:
            ids = "|".join(map(str, self._people))
            parts.append(rf'"{says}"\s*:\s*"?(?:{ids})\b')
        return "(?i)" + "|".join(parts) if parts else ""

    # ---------------------------------------------------------------------------------------- what changes

    def _edited(self, row: dict[str, Any]) -> dict[str, Any]:
        """The columns of one row that are other ones afterwards."""
        person = self._people.get(row[self._person]) if self._person in row else None
        found: dict[str, Any] = {}
        for name, value in row.items():
            if value is None:
                continue
            if self._goes and name == "_op" and person is not None:
                new: Any = "d"
            elif person is not None and name in self._personal:
                new = _blanked(value) if isinstance(value, str) else None
            else:
                new = self._value(name, value, person)
            if new is not value and new != value:
                found[name] = new
        return found

    def _value(self, name: str, value: Any, person: Person | None) -> Any:
        """A value of a column, or one within it (of the headers of a message), as it may be kept."""
        if isinstance(value, str):
            return self._text(name, value, person)
        if isinstance(value, bytes):
            text = self._text(name, value.decode("utf-8", "surrogateescape"), person)
            return text.encode("utf-8", "surrogateescape")
        if isinstance(value, list):
            return [self._value("", inner, person) for inner in value]
        if isinstance(value, dict):
            return {key: self._value("", inner, person) for key, inner in value.items()}
        return value

    def _text(self, name: str, text: str, person: Person | None) -> str:
        if name in _JSON_COLUMNS and (self._personal or self._is_rest):
            try:
                document = json.loads(text)
            except ValueError:
                document = None
            if self._in_document(document, person):
                text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        for somebody in self._people.values():
            text = somebody.without(text)
        return with_aliases(text, self._alias_of) if self._by_hash else text

    def _in_document(self, document: Any, person: Person | None) -> bool:
        """Take personal fields out of a change record, and known addresses out of any document, in place;
        whether there was something.
        """
        changed = False
        if isinstance(document, dict):
            inner = document.get("payload")
            for around in (document, inner if isinstance(inner, dict) else {}):
                for part in (around, *(around.get(name) for name in _PARTS)):
                    if isinstance(part, dict) and (person is not None or self._is_theirs(part)):
                        changed |= _without_fields(part, self._personal)
        if self._is_rest:
            changed |= self._in_objects(document)
        return changed

    def _in_objects(self, document: Any) -> bool:
        """An address of theirs becomes their alias; what is declared to be personal goes beside it, and from
        what is of them, also from what that was before a change.
        """
        if isinstance(document, list):
            return sum(self._in_objects(inner) for inner in document) > 0
        if not isinstance(document, dict):
            return False
        changed = False
        before = document.get("previous_attributes")
        if before is not None and self._is_of_theirs(document.get("object")):
            changed |= _without_fields_below(before, self._beside)
        if self._is_of_theirs(document):
            changed |= _without_fields_below(document, self._beside)
        found = self._aliases(document)
        document.update(found)
        return sum(self._in_objects(inner) for inner in document.values()) > 0 or changed or bool(found)

    def _is_of_theirs(self, document: Any) -> bool:
        """Whether an object of an API is one of them: an address of theirs stands in it, or the application
        has said so when it made it.
        """
        if not isinstance(document, dict):
            return False
        return owner_of(document) in {str(user) for user in self._people} or bool(self._aliases(document))

    def _aliases(self, document: dict[str, Any]) -> dict[str, str]:
        """Fields of an object that are an address of theirs, and what takes its place."""
        texts = {name: value for name, value in document.items() if isinstance(value, str)}
        return {name: alias for name, text in texts.items() if (alias := self._alias_of(text))}

    def _is_theirs(self, part: dict[str, Any]) -> bool:
        value = part.get(self._person) if self._person else None
        return str(value) in {str(user) for user in self._people}

    def _alias_of(self, text: str) -> str | None:
        return self._asked(text) if "@" in text and len(text) <= LONGEST else None

    def _whose(self, address: str) -> str | None:
        return next((person.alias for person in self._people.values() if person.has(address)), None)


def _personal_fields(entity: SourceEntity | None) -> frozenset[str]:
    if entity is None or entity.person is None:
        return frozenset()
    return frozenset(name for c in entity.columns if c.pii for name in (c.name, *c.formerly))


def owner_of(document: Any) -> str | None:
    """Whose an object of an API is, as the application has said when it made it."""
    metadata = document.get("metadata") if isinstance(document, dict) else None
    named = metadata.get(USER) if isinstance(metadata, dict) else None
    return None if named is None else str(named)


def _without_fields(part: dict[str, Any], names: frozenset[str]) -> bool:
    changed = False
    for name in names & part.keys():
        old = part[name]
        new = _blanked(old) if isinstance(old, str) else None
        changed |= new != old
        part[name] = new
    return changed


def _without_fields_below(document: Any, names: frozenset[str]) -> bool:
    if not isinstance(document, dict):
        return False
    changed = _without_fields(document, names)
    return sum(_without_fields_below(inner, names) for inner in document.values()) > 0 or changed


def _blanked(text: str) -> str | None:
    """Of a JSON list or object its shape, each sentence and address in it emptied; of other text nothing."""
    if not re.match(r"\s*[\[{]", text):
        return None
    try:
        document = json.loads(text)
    except ValueError:
        return None
    _replaced(document, lambda inner: "" if re.search(r"[\s@]", inner) else inner)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _replaced(document: Any, by: Callable[[str], str]) -> bool:
    """Put other strings in the place of those in a document; whether one differs."""
    changed = False
    places: Iterable[tuple[Any, Any]] = ()
    if isinstance(document, dict):
        places = list(document.items())
    elif isinstance(document, list):
        places = list(enumerate(document))
    for place, value in places:
        if isinstance(value, str):
            document[place] = by(value)
            changed |= document[place] != value
        else:
            changed |= _replaced(value, by)
    return changed


def _is_text(kind: pa.DataType) -> bool:
    return any(
        check(kind)
        for check in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_binary,
            pa.types.is_large_binary,
        )
    )


def _matching_within(column: pa.Array, pattern: str) -> pa.Array:
    """Which rows of a list column have a text that matches in one of their items, or in a field of one."""
    items = pc.list_flatten(column)
    hits = pa.array([False] * len(items), pa.bool_())
    for texts in items.flatten() if pa.types.is_struct(items.type) else [items]:
        if _is_text(texts.type):
            hits = pc.or_(hits, pc.fill_null(pc.match_substring_regex(texts, pattern), False))
    rows = pc.list_parent_indices(column)
    return pc.is_in(pa.array(range(len(column)), rows.type), rows.filter(hits))


def _may_hold_address(column: pa.Array) -> bool:
    """Whether what stands in every address stands anywhere in a column of text: ten times sooner known than
    in which rows, and mostly it does not.
    """
    data = column.buffers()[2]
    text = data.to_pybytes() if data is not None else b""
    return any(mark in text for mark in _MARKS)


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    column = batch.column(name)
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def with_cells(column: pa.Array, cells: dict[int, Any]) -> pa.Array:
    """A column with other values in some of its rows."""
    storage = column.storage if isinstance(column, pa.ExtensionArray) else column
    if pa.types.is_nested(storage.type):
        return pa.array(
            [cells.get(row, value) for row, value in enumerate(storage.to_pylist())], storage.type
        )
    mask = [number in cells for number in range(len(storage))]
    values = pa.array([cells[number] for number in sorted(cells)], storage.type)
    new = pc.replace_with_mask(storage, pa.array(mask), values)
    return pa.ExtensionArray.from_storage(column.type, new) if isinstance(column, pa.ExtensionArray) else new
