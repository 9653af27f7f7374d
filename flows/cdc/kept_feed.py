"""The change topics that the warehouse keeps, read together, as `ChangeFeed` reads those at a broker.

What fills them ends between two transactions of the application, so all that they hold is whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flows.cdc.pending import Cut
from flows.extract import Extract, SourceAway, SourceError, cdc, debezium
from flows.extract.embedded import topics
from flows.extract.embedded.topics import Span
from flows.settings import Settings
from transforms.entities import Postgres, SourceEntity


@dataclass
class _Table:
    entity: SourceEntity
    span: Span


class KeptFeed:
    """Reads the topics from the positions given to the ends that they have now. For one thread.

    `failed` says of which tables nothing is read, and why. Raises SourceAway when the warehouse does not
    answer.
    """

    is_at_end = is_read = True
    """Nothing has to be waited for: what is not in the topics yet, the next reading of the log brings."""

    def __init__(self, settings: Settings, positions: Mapping[SourceEntity, Mapping[str, Any]]) -> None:
        self._settings = settings
        self.failed: dict[str, SourceError] = {}
        self._tables: dict[str, _Table] = {}
        for entity, position in positions.items():
            name = self.topic(entity)
            try:
                self._tables[name] = _Table(entity, topics.span(settings, name, position))
            except SourceAway:
                raise
            except SourceError as error:
                self.failed[entity.table] = error

    def close(self) -> None:
        """Nothing is open between two reads."""

    @property
    def entities(self) -> list[SourceEntity]:
        """The tables that are read."""
        return [table.entity for table in self._tables.values()]

    @property
    def waiting(self) -> int:
        """Records that were not handed on."""
        return sum(table.span.records for table in self._tables.values())

    @property
    def waiting_bytes(self) -> int:
        """How large those are that were read: they are read when they are landed."""
        return 0

    @property
    def is_done(self) -> bool:
        """Whether all was handed on."""
        return self.waiting == 0

    def topic(self, entity: SourceEntity) -> str:
        """The change topic of a table."""
        assert isinstance(entity.read, Postgres)
        return debezium.topic(self._settings, entity.read)

    def is_all_told(self, entity: SourceEntity) -> bool:  # noqa: ARG002 - nobody looks at the records
        """Whether its topic is known to have told of every row that ever went."""
        return False

    def poll(self, seconds: float) -> int:  # noqa: ARG002 - nothing comes while one reads
        """The number of records that came: none."""
        return 0

    def cut(self) -> Cut | None:
        """All that is there; None when there is nothing to hand on."""
        after = {name: table.span.end for name, table in self._tables.items() if table.span.records}
        return Cut(after, self.waiting) if after else None

    def quiet(self) -> list[SourceEntity]:
        """The tables of which nothing waits."""
        return [table.entity for table in self._tables.values() if not table.span.records]

    def passed(self) -> Cut:
        """Nobody has to tell which transactions ended: nothing."""
        return Cut()

    def records(self, entity: SourceEntity, cut: Cut) -> Extract:
        """The records of one table before the cut, as `kafka.read` gives them."""
        name = self.topic(entity)
        span = self._tables[name].span
        extract = topics.read(self._settings, name, span if name in cut.after else span.nothing)
        extract.positions[cdc.TRANSACTIONS] = 0
        return extract

    def done(self, cut: Cut) -> None:
        """What was handed on is landed."""
        for name in cut.after.keys() & self._tables.keys():
            self._tables[name].span = self._tables[name].span.rest

    def leave_out(self, entity: SourceEntity, error: SourceError) -> None:
        """Read this table no more: it can't be landed."""
        del self._tables[self.topic(entity)]
        self.failed[entity.table] = error
