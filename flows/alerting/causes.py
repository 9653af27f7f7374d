"""What is whose fault: verdicts grouped by cause along the lineage, so that one trouble is one message."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cache

from flows.monitoring.verdict import Verdict
from transforms import registry
from transforms.entities import Kafka, Postgres, SourceEntity
from warehouse_ddl.files import View, views

# Signals in the order in which they can cause each other: what keeps data from coming, what shows that it did
# not come, then what came. The earlier explains the later, never the other way round.
_ORDER = (
    "warehouse",
    "source",
    "wal",
    "missing_run",
    "run_late",
    "schema_drift",
    "pipeline_failed",
    "stream_lag",
    "stream_latency",
    "data_freshness",
    "dead_letters",
    "duplicate_rate",
    "row_count",
    "null_rate",
    "distribution_drift",
    "reconciliation",
)
_RANKS = {signal: rank for rank, signal in enumerate(_ORDER)}
_UNRANKED = len(_ORDER)
_LATE, _SCHEMA = _RANKS["data_freshness"], _RANKS["schema_drift"]
_MISSED = {"row_count", "reconciliation"}
"""What is odd about content when some of it has not come; odd values have another reason."""
_SHOWS_IN = {
    "dead_letters": _MISSED,
    "duplicate_rate": _MISSED,
    "row_count": {"reconciliation"},
    "null_rate": {"distribution_drift"},
}
"""What came: in which other signals it shows."""
_SOURCES_OF_FLOWS = {
    "daily": ("app", "events", "stripe", "sendgrid"),
    "analytics_pipeline": ("app", "events", "stripe", "sendgrid"),
    "hourly": ("stripe", "sendgrid"),
    "api_ingest": ("stripe", "sendgrid"),
    "stream": ("events", "app"),
    "event_stream": ("events", "app"),
}


@dataclass(frozen=True)
class Trouble:
    """One signal of one subject: what a bad verdict is about, or an open incident."""

    signal: str
    subject: str
    tables: frozenset[str]
    """Tables that it is about; empty where it is about none."""

    @property
    def key(self) -> str:
        """Its identity: the same trouble has the same key every minute."""
        return f"{self.signal}:{self.subject}"

    @property
    def rank(self) -> int:
        return _RANKS.get(self.signal, _UNRANKED)

    @property
    def reach(self) -> frozenset[str]:
        """Its tables and all that is made of them."""
        return frozenset(self.tables.union(*(below(name) for name in self.tables)))

    def explains(self, other: Trouble) -> bool:
        """Whether the other would be as it is because of this one."""
        if not other.tables or not other.tables <= self.reach or self.rank > other.rank:
            return False
        if self.rank <= _LATE < other.rank and other.signal not in _MISSED:
            return self.rank == _SCHEMA and other.signal != "duplicate_rate"
        if self.rank > _LATE and self.signal != other.signal:
            return other.signal in _SHOWS_IN.get(self.signal, ())
        # Of two of a kind the one upstream explains the other.
        return self.rank < other.rank or not self.tables <= other.reach


def trouble(verdict: Verdict) -> Trouble:
    """What a verdict is about. Tables that a run names in `observed` are those it is about."""
    named = verdict.observed.get("tables")
    tables = frozenset(map(str, named)) if isinstance(named, list) else frozenset()
    return Trouble(
        verdict.signal, verdict.subject, tables & _everything() or tables_of(verdict.signal, verdict.subject)
    )


def root(of: Trouble, among: Collection[Trouble]) -> Trouble:
    """The trouble that explains this one and is explained by none; itself when there is no such."""
    known = [other for other in among if other.key != of.key and other.explains(of)]
    tops = [one for one in known if not any(other.explains(one) for other in known if other is not one)]
    return min(tops, key=lambda one: (one.rank, -len(one.reach), one.key)) if tops else of


@cache
def tables_of(signal: str, subject: str) -> frozenset[str]:
    """The tables that a subject names: `fct_orders`, `fct_orders.revenue`, `source:raw_app__orders`,
    `source:stripe`, `topic:clicks`, `slot:…`, `deployment:daily`.
    """
    if signal == "warehouse":
        return _everything()
    kind, _, rest = subject.rpartition(":") if ":" in subject else ("", "", subject)
    word = re.match(r"\w*", rest)
    name = word[0] if word else ""
    if name in _everything():
        return frozenset({name})
    if kind in {"slot", "connector"} or subject == "stream:changes":
        return _raw(_is_changes)
    if kind in {"deployment", "flow"}:
        sources = _SOURCES_OF_FLOWS.get(rest, ())
        return _raw(lambda entity: entity.source in sources)
    return _raw(lambda entity: _is_named(entity, rest))


@cache
def below(name: str) -> frozenset[str]:
    """Everything that is made of a table, views too."""
    found = set(registry.downstream(name)) if name in registry.tables() else set()
    return frozenset(found | {view.name for view in _views() if (found | {name}) & set(view.upstreams)})


def served(names: Iterable[str]) -> list[str]:
    """Of these tables the ones that people read, in build order, views last."""
    wanted = set(names)
    tables = [table.name for table in registry.build_order() if table.is_published and table.name in wanted]
    return tables + [view.name for view in _views() if view.name in wanted]


def owner(tables: Collection[str]) -> str:
    """Who owns the first of these tables, raw ones first; empty for none."""
    return next((table.owner for name, table in registry.tables().items() if name in tables), "")


@cache
def _everything() -> frozenset[str]:
    return frozenset(registry.tables()) | {view.name for view in _views()}


@cache
def _views() -> tuple[View, ...]:
    return views()


def _raw(wanted: Callable[[SourceEntity], bool]) -> frozenset[str]:
    return frozenset(entity.table for entity in registry.entities() if wanted(entity))


def _is_changes(entity: SourceEntity) -> bool:
    return isinstance(entity.read, Postgres) and entity.read.mode == "cdc"


def _is_named(entity: SourceEntity, name: str) -> bool:
    """A source, a topic, or an entity as people write it: `stripe`, `clicks`, `app.orders`."""
    topic = entity.read.topic if isinstance(entity.read, Kafka) else None
    return name in (entity.source, topic, f"{entity.source}.{entity.name}")
