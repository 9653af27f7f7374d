"""Every table there is: the models of this package and the raw tables of the declared sources."""

from __future__ import annotations

import graphlib
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transforms import changes, declared, relations, retention
from transforms.contract import Column, ContractError, Layer, Table, check_name
from transforms.entities import Kafka, Rest, SourceEntity
from transforms.model import MODEL_LAYERS, Model, canonical_type, load, place

_PACKAGE = Path(__file__).parent

_LANDED = (
    Column("_batch_id", "VARCHAR", "The landing that brought the row", nullable=False),
    Column("_landed_at", "TIMESTAMP WITH TIME ZONE", "When that landing began (UTC)", nullable=False),
    Column("_seq", "BIGINT", "Number of the row in its batch", nullable=False),
)
_KAFKA = (
    Column("topic", "VARCHAR", "Topic", nullable=False),
    Column("kafka_partition", "INTEGER", "Partition of the topic", nullable=False),
    Column("kafka_offset", "BIGINT", "Offset in the partition", nullable=False),
    Column("kafka_timestamp", "TIMESTAMP WITH TIME ZONE", "When the record was sent (UTC)"),
    Column("key", "BLOB", "Key, as sent"),
    Column(
        "headers",
        canonical_type("struct(name varchar, value blob)[]"),
        "Headers, in order; null where the name of one is not UTF-8",
    ),
    Column("value", "BLOB", "Value, as sent"),
)
_REST = (
    Column("id", "VARCHAR", "Stable id of the object", nullable=False),
    Column("object", "JSON", "The object, as received"),
    Column("window_start", "TIMESTAMP WITH TIME ZONE", "Start of the range that was asked for (UTC)"),
    Column("window_end", "TIMESTAMP WITH TIME ZONE", "End of the range that was asked for (UTC)"),
)
_ROW = (
    Column("_op", "VARCHAR", "'r' a row as it was then, 'd' a row that is gone (only its key is filled)"),
    Column(
        "_changed_at",
        "TIMESTAMP WITH TIME ZONE",
        "When the source committed the change (UTC); null for what was read and not told as a change",
    ),
    Column(
        "_registered_at",
        "TIMESTAMP WITH TIME ZONE",
        "When the connector's registration began to land (UTC); places in the log compare within one. Null "
        "for what was read",
    ),
    Column("_lsn", "BIGINT", "Where the change stands in the source's log; null for what was read"),
)
_DELETED_AT = Column(
    "_deleted_at",
    "TIMESTAMP WITH TIME ZONE",
    "When the row was deleted (UTC): the commit, else when it was found gone; null while it is there",
)


@dataclass(frozen=True)
class Registry:
    """Models and source entities, each by the name of its table."""

    models: Mapping[str, Model]
    entities: Mapping[str, SourceEntity]
    traced: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """Column lineage that was already worked out (by transforms.lineage), by table."""
    codes: dict[str, str | None] = field(default_factory=dict, compare=False, repr=False)
    """The code that was already digested (by transforms.catalog), by table."""

    @cached_property
    def tables(self) -> Mapping[str, Table]:
        """Every table by name: raw ones first, then models in build order."""
        raw = {name: raw_table(entity) for name, entity in self.entities.items()}
        return MappingProxyType({**raw, **{table.name: table for table in self.build_order}})

    @cached_property
    def build_order(self) -> tuple[Table, ...]:
        """The models' tables, upstreams before what reads them, by name where that leaves a choice.

        What a table references comes before it too, since its rows are checked against that.

        Raises ContractError for a circle.
        """
        sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
        for name in sorted(self.models):
            sorter.add(
                name, *self.models[name].table.upstreams, *relations.referenced(self.models[name].table)
            )
        try:
            sorter.prepare()
        except graphlib.CycleError as error:
            circle = " needs ".join(reversed(error.args[1]))
            raise ContractError(
                f"Models need each other in a circle: {circle}. Take one of them out."
            ) from error
        order: list[Table] = []
        while sorter.is_active():
            ready = sorted(sorter.get_ready())
            order.extend(self.models[name].table for name in ready if name in self.models)
            sorter.done(*ready)
        return tuple(order)

    def with_found(self, found: Mapping[str, Sequence[Column]]) -> Registry:
        """The same, with columns that sources have and nobody declared, by raw table: it has them, and so
        has every model that passes them on.
        """
        entities = {
            name: replace(entity, columns=(*entity.columns, *found.get(name, ())))
            for name, entity in self.entities.items()
        }
        passed = {name: tuple(columns) for name, columns in found.items()}
        models = dict(self.models)
        for table in self.build_order:
            given = {column.name: column for name in table.passes for column in passed.get(name, ())}
            own = {column.name.lower() for column in table.columns}
            columns = tuple(column for name, column in given.items() if name.lower() not in own)
            if columns:
                passed[table.name] = columns
                wider = replace(table, columns=(*table.columns, *columns))
                models[table.name] = replace(models[table.name], table=wider, passed=columns)
        return Registry(models, entities)

    def table(self, name: str) -> Table:
        """The table of that name. Raises ContractError, naming what is close, when there is none."""
        if name not in self.tables:
            raise ContractError(f"There is no table {name}.{relations.close_table(name, self.tables)}")
        return self.tables[name]

    def model(self, name: str) -> Model:
        """The model that makes `name`. Raises ContractError when it is no model's table."""
        if name not in self.models:
            raise ContractError(f"There is no model {name}.{relations.close(name, self.models)}")
        return self.models[name]

    def upstream(self, name: str) -> tuple[str, ...]:
        """Every table that `name` is made from, however far up, raw tables first, then in build order."""
        found: set[str] = set()
        waiting = list(self.table(name).upstreams)
        while waiting:
            current = waiting.pop()
            if current not in found:
                found.add(current)
                waiting.extend(self.table(current).upstreams)
        return self._in_order(found)

    def downstream(self, name: str) -> tuple[str, ...]:
        """Every model that is made from `name`, however far down, in build order."""
        found = {self.table(name).name}
        for table in self.build_order:
            if found & set(table.upstreams):
                found.add(table.name)
        return self._in_order(found - {name})

    def select(self, words: str | Iterable[str]) -> tuple[str, ...]:
        """Models by name, in build order: `NAME`, `NAME+` (and all made from it), `+NAME` (and all it is
        made from).

        Several stand side by side, with spaces or commas between; `*` matches any letters. A raw table may
        be named with `+`, and is itself not among what is selected. Raises ContractError for a name that
        matches nothing.
        """
        if isinstance(words, str):
            words = re.split(r"[\s,]+", words.strip())
        selected: set[str] = set()
        for word in words:
            name = word.strip("+")
            matches = [table for table in self.tables if fnmatchcase(table, name)]
            if not matches:
                raise ContractError(f"'{name}' selects no table.{relations.close_table(name, self.tables)}")
            for match in matches:
                selected.add(match)
                if word.endswith("+"):
                    selected.update(self.downstream(match))
                if word.startswith("+"):
                    selected.update(self.upstream(match))
        return tuple(name for name in self._in_order(selected) if name in self.models)

    def _in_order(self, names: set[str]) -> tuple[str, ...]:
        return tuple(name for name in self.tables if name in names)


def raw_table(entity: SourceEntity) -> Table:
    """The raw table that an entity lands in: what arrived, then `_batch_id`, `_landed_at` and `_seq`."""
    match entity.read:
        case Kafka():
            columns: tuple[Column, ...] = _KAFKA
        case Rest():
            columns = _REST
        case _:
            changes.check(entity)
            own = (replace(c, type=canonical_type(c.type), nullable=True) for c in entity.columns)
            columns = (*own, *_ROW, *((_DELETED_AT,) if changes.marks_deleted(entity) else ()))
    return Table(
        name=entity.table,
        layer=Layer.RAW,
        grain=f"one row per landed record: {entity.grain}",
        key=("_batch_id", "_seq"),
        columns=(*columns, *_LANDED),
        partition=entity.partition,
        owner=entity.owner,
        description=entity.description,
        retention=entity.retention,
    )


def read(root: Path, entities: Iterable[SourceEntity]) -> Registry:
    """Read every model file under `root` (its folders are the layers).

    Raises ContractError for a file that is no model, two files of one name, an upstream that does not exist,
    a declaration that contradicts itself, or a retention of raw under which a model could not be built anew.
    """
    landed: dict[str, SourceEntity] = {}
    for entity in entities:
        declared.check(entity)
        if entity.table in landed:
            raise ContractError(f"Two source entities land in {entity.table}. Rename one of them.")
        landed[entity.table] = entity
    declared.check_together(landed.values())
    models: dict[str, Model] = {}
    for path in _model_files(root):
        try:
            check_name(path.stem)
        except ContractError as error:
            raise ContractError(f"{place(path)}: {error} The table is called as its file.") from error
        if path.stem in models:
            other = models[path.stem].table.path
            raise ContractError(
                f"{place(path)} and {place(other) if other else path.stem} both make {path.stem}. "
                "Keep one of them."
            )
        models[path.stem] = load(path)
    found = relations.checked(models, landed)
    retention.check((model.table for model in found.values()), landed)
    return Registry(found, landed)


def _model_files(root: Path) -> Iterator[Path]:
    """The files that make tables, by path. Raises ContractError for one that would stand there and make none:
    outside the folders of the layers, or with a suffix of another case.
    """
    layers = {layer.value for layer in MODEL_LAYERS}
    for path in sorted(root.rglob("*")):
        folder, kind = path.parent.relative_to(root).parts, path.suffix.lower()
        is_hidden = any(part.startswith(".") for part in (*folder, path.name))  # an editor's, not ours
        is_a_model = kind == ".sql" or (kind == ".py" and folder[:1] and folder[0] in layers)
        if is_hidden or not is_a_model or path.name == "__init__.py":
            continue
        if len(folder) != 1 or folder[0] not in layers or path.suffix != kind:
            raise ContractError(
                f"{'/'.join((*folder, path.name))}: no table would be made of this file. Move it to the "
                f"folder of its layer ({', '.join(sorted(layers))}), under a name that ends in {kind}."
            )
        yield path


def declared_entities() -> tuple[SourceEntity, ...]:
    """The `ENTITIES` of every file in transforms/sources, by file name. Raises ContractError for a file that
    Python can't read, or that has none.
    """
    found: list[SourceEntity] = []
    for path in sorted((_PACKAGE / "sources").glob("*.py")):
        if path.name != "__init__.py":
            try:
                module = importlib.import_module(f"{_PACKAGE.name}.sources.{path.stem}")
                found.extend(module.ENTITIES)
            except ContractError:
                raise
            except (AttributeError, ImportError, NameError, SyntaxError, TypeError, ValueError) as error:
                line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
                raise ContractError(
                    f"sources/{path.name}{line}: its declarations can't be read: {error}. Write them as "
                    "docs/connect.md shows, in a list that is called ENTITIES."
                ) from error
    return tuple(found)


@cache
def default() -> Registry:
    """The registry of this package, read once per process."""
    return read(_PACKAGE, declared_entities())


def tables() -> Mapping[str, Table]:
    """Every table by name: raw ones first, then models in build order."""
    return default().tables


def table(name: str) -> Table:
    """The table of that name. Raises ContractError when there is none."""
    return default().table(name)


def build_order() -> tuple[Table, ...]:
    """The models' tables, upstreams before what reads them."""
    return default().build_order


def upstream(name: str) -> tuple[str, ...]:
    """Every table that `name` is made from, however far up."""
    return default().upstream(name)


def downstream(name: str) -> tuple[str, ...]:
    """Every model that is made from `name`, however far down, in build order."""
    return default().downstream(name)


def select(words: str | Iterable[str]) -> tuple[str, ...]:
    """Names of models by `NAME`, `NAME+` or `+NAME`, in build order."""
    return default().select(words)


def entity(name: str) -> SourceEntity:
    """The source entity that lands in raw table `name`. Raises ContractError when there is none."""
    entities = default().entities
    if name not in entities:
        raise ContractError(f"No source entity lands in {name}.{relations.close(name, entities)}")
    return entities[name]


def entities() -> tuple[SourceEntity, ...]:
    """Every declared source entity."""
    return tuple(default().entities.values())
