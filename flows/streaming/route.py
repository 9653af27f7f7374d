"""What a topic flows through: its staging model, and the published tables that are made of topics alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.errors import FlowsError
from transforms import registry
from transforms.contract import Table, Write
from transforms.entities import Kafka, SourceEntity

GROUP = "analytics-stream"


@dataclass(frozen=True)
class Route:
    """`staging` is by raw table. `identity` are the columns that tell two copies of one record, `windows` the
    windowed tables that count one of the topics, `group` is the consumer group of the stream.
    """

    entities: Mapping[str, SourceEntity]
    staging: Mapping[str, Table]
    facts: tuple[Table, ...]
    identity: tuple[str, ...]
    windows: tuple[Table, ...] = ()
    group: str = GROUP

    @property
    def topics(self) -> dict[str, SourceEntity]:
        """Topic → its entity."""
        found = {}
        for entity in self.entities.values():
            assert isinstance(entity.read, Kafka)
            found[entity.read.topic] = entity
        return found

    def topic(self, raw: str) -> str:
        """What the topic of a raw table is called."""
        read = self.entities[raw].read
        assert isinstance(read, Kafka)
        return read.topic

    def counted(self, table: Table) -> SourceEntity:
        """The topic whose records a windowed table counts."""
        (upstream,) = table.upstreams
        return next(self.entities[raw] for raw, staged in self.staging.items() if staged.name == upstream)


def is_counted(entity: SourceEntity) -> bool:
    """Whether a windowed table counts the records of a topic."""
    staged = {table.name for table in registry.build_order() if table.upstreams == (entity.table,)}
    return any(table.windowed and staged.intersection(table.upstreams) for table in registry.build_order())


class NothingToStream(FlowsError):
    """No published table is made of topics alone."""


def whole_route() -> Route | None:
    """The way of all topics that are declared; None where there is none. The models of the topics may have
    been taken away: what a stream has left in the warehouse is then nobody's to go on with.
    """
    try:
        return route(registry.entities())
    except NothingToStream:
        return None


def route(entities: Sequence[SourceEntity]) -> Route:
    """The way of these topics. Raises NothingToStream when no published table is made of topics alone,
    FlowsError when copies of one record can't be told across them.
    """
    tables = registry.tables()
    everything = {entity.table for entity in registry.entities() if isinstance(entity.read, Kafka)}
    staged = {
        table.name: table
        for table in tables.values()
        if table.upstreams and set(table.upstreams) <= everything
    }
    facts = tuple(
        table
        for table in registry.build_order()
        if table.is_published and table.write is Write.APPEND and set(table.upstreams) <= staged.keys()
    )
    staging = {table.upstreams[0]: table for table in staged.values()}
    chosen = {entity.table: entity for entity in entities if isinstance(entity.read, Kafka)}
    if not chosen or not facts:
        raise NothingToStream(
            "There is nothing to stream: no topic is declared in transforms/sources that a published table "
            "with `write: append` is made of."
        )
    identities = {staging[name].key for name in chosen}
    if len(identities) != 1:
        raise FlowsError(
            "The staging models of the topics have different keys "
            f"({', '.join(map(str, sorted(identities)))}), so copies of one record can't be told across "
            "topics. Give them the same key."
        )
    used = {name: staging[name] for name in chosen}
    counted = {(table.name,) for table in used.values()}
    windows = tuple(
        table for table in registry.build_order() if table.windowed and table.upstreams in counted
    )
    return Route(chosen, used, facts, identities.pop(), windows)
