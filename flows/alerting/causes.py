"""What is whose fault: verdicts grouped by cause along the lineage, so that one trouble is one message."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache

from flows.extract import debezium
from flows.flow_names import BACKUP, DRILL, reads
from flows.monitoring import schedules
from flows.monitoring.storage import WAREHOUSE
from flows.monitoring.verdict import Verdict
from transforms import registry
from transforms.contract import ContractError
from transforms.entities import Kafka, SourceEntity
from transforms.lineage_steps import Origin
from warehouse_ddl.files import View, views

# Signals in the order in which they can cause each other: what keeps data from coming, what shows that it did
# not come, then what came. The earlier explains the later, never the other way round.
_ORDER = (
    "warehouse",
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


@dataclass(frozen=True)
class Trouble:
    """One signal of one subject: what a bad verdict is about, or an open incident."""

    signal: str
    subject: str
    tables: frozenset[str]
    """Tables that it is about; empty where it is about none."""
    since: datetime = field(default=datetime.max.replace(tzinfo=UTC), compare=False)
    """From when on it is so."""
    is_told: bool = field(default=False, compare=False)
    """Whether it has an open incident: of two that are about the same, that one goes on."""

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

    @property
    def work(self) -> str:
        """`backup` or `drill` where it is about one that failed, did not start or is missing; else empty."""
        kind, _, name = self.subject.rpartition(":")
        of = {"flow": name, "deployment": _flow(name), "": self.signal}.get(kind, "")
        return of if of in (BACKUP, DRILL) else ""

    def explains(self, other: Trouble) -> bool:
        """Whether the other would be as it is because of this one."""
        if self.work and self.work == other.work:
            return (not self.is_told, self.rank, self.key) < (not other.is_told, other.rank, other.key)
        if self._shares_source_with(other):
            # The one on which more hangs speaks for both.
            return (-len(self.reach), self.key) < (-len(other.reach), other.key)
        if not other.tables or not other.tables <= self.reach or self.rank > other.rank:
            return False
        if self.rank <= _LATE < other.rank and other.signal not in _MISSED:
            return self.rank == _SCHEMA and other.signal != "duplicate_rate"
        if self.rank > _LATE and self.signal != other.signal:
            return other.signal in _SHOWS_IN.get(self.signal, ())
        if self.rank == other.rank < _LATE and self.tables == other.tables:
            # Two that say the same of the same, as flows that fail by one source do.
            return (not self.is_told, self.since, self.key) < (not other.is_told, other.since, other.key)
        # Of two of a kind the one upstream explains the other.
        return self.rank < other.rank or not self.tables <= other.reach

    def _shares_source_with(self, other: Trouble) -> bool:
        """Whether both are about columns, of two tables, that are made of the same column of a source."""
        if self.signal != other.signal or self.tables == other.tables:
            return False
        one, two = _source_columns(self.subject), _source_columns(other.subject)
        return bool(one and two) and (one <= two or two <= one)


def trouble(verdict: Verdict) -> Trouble:
    """What a verdict is about. Tables that a run names in `observed` are those it is about."""
    named = verdict.observed.get("tables")
    tables = frozenset(map(str, named)) if isinstance(named, list) else frozenset()
    about = tables & _everything() or _tables_of(verdict.signal, verdict.subject)
    return Trouble(verdict.signal, verdict.subject, about, verdict.since or verdict.measured_at)


def before(signal: str) -> tuple[str, ...]:
    """The signals that can be why this one is bad."""
    return _ORDER[: _RANKS[signal]]


def root(of: Trouble, among: Collection[Trouble]) -> Trouble:
    """The trouble that explains this one and is explained by none; itself when there is no such."""
    known = [other for other in among if other.key != of.key and other.explains(of)]
    tops = [one for one in known if not any(other.explains(one) for other in known if other is not one)]
    if not tops:
        return of
    return root(min(tops, key=lambda one: (one.rank, -len(one.reach), one.key)), among)


@cache
def _source_columns(subject: str) -> frozenset[Origin]:
    """The columns of sources that the column is made of which a subject names (`fct_orders.revenue`)."""
    table, _, column = subject.rpartition(".")
    if table not in registry.tables():
        return frozenset()
    from flows.lineage import graph  # reads SQL, which few looks need

    try:
        return graph().made_of(Origin(table, column))
    except ContractError:
        return frozenset()  # a model that nobody can follow keeps no trouble from being told, by itself


@cache
def _tables_of(signal: str, subject: str) -> frozenset[str]:
    """The tables that a subject names: `fct_orders`, `fct_orders.revenue`, `source:raw_app__orders`,
    `stream:events`, `slot:…`, `flow:api_ingest`, `deployment:daily`.
    """
    if signal == WAREHOUSE:
        return _everything()
    kind, _, name = subject.rpartition(":")
    table = name.partition(".")[0]
    if table in _everything():
        return frozenset({table})
    if kind == "slot" or subject == "stream:changes":
        return _raw(debezium.entities())
    if subject == "stream:events":
        return _raw(entity for entity in registry.entities() if isinstance(entity.read, Kafka))
    if kind == "deployment":
        name = _flow(name)
    return _raw(reads(name))


def _flow(deployment: str) -> str:
    return next((one.flow for one in schedules.declared() if one.name == deployment), "")


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


def _raw(entities: Iterable[SourceEntity]) -> frozenset[str]:
    return frozenset(entity.table for entity in entities)
