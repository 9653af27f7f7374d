"""`python -m flows check --source [TABLE …]`: the application's tables beside the lake's, key by key.

Both sides hash each row as text and add the hashes up by the first digits of the key's hash. Only what
differs there is looked at by key: equal tables cost a scan on each side and a few thousand numbers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from duckdb import DuckDBPyConnection
from psycopg import sql

from flows import change_topics
from flows.change_landing import land_changes
from flows.extract import SourceError, postgres_types
from flows.extract.debezium_guard import ANEW
from flows.extract.postgres_session import Snapshot
from flows.extract.postgres_types import SourceColumn
from flows.extract.schema_contract import CATALOG, Contract
from flows.landed import rows_landed
from flows.landing import land
from flows.recovery.agreement import refuse_two_stories
from flows.services import Services
from flows.source_names import by_name
from transforms import registry
from transforms.contract import ContractError
from transforms.engine import quoted
from transforms.entities import Postgres, SourceEntity

ROUNDS = 5
"""So often a difference is looked at again: the application may have changed a row after it was landed."""
_PAUSE_SECONDS = 1.0
_SHOWN = 5
_NULL, _NEXT, _ITEM = "\x1e", "\x1f", "\x1d"
_INEXACT = frozenset({"DOUBLE", "FLOAT"})


@dataclass(frozen=True)
class Compared:
    """One table on both sides: rows at the source, and the keys of those that differ."""

    entity: SourceEntity
    rows: int
    only_there: Sequence[str] = ()
    only_here: Sequence[str] = ()
    other_values: Sequence[str] = ()
    left_out: Sequence[str] = field(default=())
    """Columns that have no text both sides agree on, floating point numbers, or that the source lacks."""
    unheld: int = 0
    """Rows at the source that can't be held; each is a dead letter."""
    halted: str = ""
    """Why it can't be compared."""

    @property
    def is_equal(self) -> bool:
        """Whether every key that can be held has the same values on both sides."""
        return not (self.only_there or self.only_here or self.other_values or self.halted)

    def line(self) -> str:
        """For people."""
        name = f"{self.entity.source}.{self.entity.name}"
        if self.halted:
            return f"{name}: not compared: {self.halted.removeprefix(f'{name}: ').removeprefix(f'{name} ')}"
        beside = f" (without {', '.join(self.left_out)})" if self.left_out else ""
        if self.unheld:
            beside += f"; {self.unheld:,} rows at the source can't be held: python -m flows dlq list"
        if self.is_equal:
            return f"{name}: {self.rows:,} rows, equal{beside}"
        found = [
            f"{len(keys):,} {what} ({', '.join(keys[:_SHOWN])}{', …' if len(keys) > _SHOWN else ''})"
            for what, keys in (
                ("only at the source", self.only_there),
                ("only in the lake", self.only_here),
                ("with other values", self.other_values),
            )
            if keys
        ]
        assert isinstance(self.entity.read, Postgres)
        cure = {
            # Reading again beside the changes does not say which rows are gone.
            "cdc": ANEW if self.only_here else f"python -m flows cdc resnapshot {self.entity.read.table}",
            "incremental": f"what changes a row there has to move its {self.entity.read.cursor}, "
            "or declare the table as cdc or snapshot",
            "snapshot": "python -m flows",
        }[self.entity.read.mode]
        return f"{name}: {'; '.join(found)}: {cure}"


def compare(services: Services, names: Sequence[str]) -> Iterator[Compared]:
    """Each table of the application (all if no `names`) beside the rows that models read of it.

    What the source has to say is landed first, and again while something differs: both sides are then at one
    position. Rows that can't be held are dead letters and left out; a table that is halted keeps none of the
    others from being compared. Raises ContractError, and TwoStories where the lake is not the warehouse's.
    """
    with services.ledger() as ledger:
        refuse_two_stories(ledger, services.lake)
    for entity in chosen(names):
        try:
            yield _in_step(services, entity)
        except SourceError as error:
            yield Compared(entity, 0, halted=str(error))


def _in_step(services: Services, entity: SourceEntity) -> Compared:
    for number in range(ROUNDS):
        if number:
            time.sleep(_PAUSE_SECONDS)
        _land(services, entity)
        found = compared(services, entity)
        if found.is_equal:
            break
    return found


def _land(services: Services, entity: SourceEntity) -> None:
    """Changes land together with those of the other tables: whatever a transaction changed is one."""
    changed = change_topics.of(registry.entities())
    if entity not in changed:
        land(services, entity, "check")
        return
    land_changes(services, changed, "check").of(entity)


def chosen(names: Sequence[str]) -> list[SourceEntity]:
    """The application's tables by these names, all of them without one. Raises ContractError."""
    every = [entity for entity in registry.entities() if isinstance(entity.read, Postgres)]
    known = by_name(every)
    if unknown := sorted(set(names) - known.keys()):
        raise ContractError(
            f"The application has no table {unknown[0]}; there are {', '.join(e.name for e in every)}."
        )
    return [known[name] for name in names] if names else every


def compared(services: Services, entity: SourceEntity) -> Compared:
    """One table of the source, as it is now, beside what was landed of it."""
    assert isinstance(entity.read, Postgres)
    table = sql.Identifier(entity.read.schema, entity.read.table)
    name = f"{entity.source}.{entity.name}"
    with (
        services.ledger() as ledger,
        Snapshot(services.settings.require("app_dsn"), name, table) as snapshot,
        services.lake.duckdb(keeps_order=False) as session,
    ):
        seen = ledger.positions(entity.table).positions.get(CATALOG)
        contract = Contract(entity, snapshot.columns(), seen, services.settings.now())
        columns = postgres_types.fitted(entity, {c.name: contract.column(c.name) for c in entity.columns})
        hashed = [column for column in columns if column.landed_type.removesuffix("[]") not in _INEXACT]
        rows = rows_landed(session, services.lake, entity, ledger.files(entity.table))
        if rows is not None:
            rows.create_view("landed")
        _take_here(session, entity, hashed, is_empty=rows is None)
        there = _There(snapshot, entity, table, hashed, postgres_types.problem(columns, entity.required))
        sums = there.sums()
        ours = {row[0]: row[1:] for row in session.execute(_SUMS).fetchall()}
        differing = sorted(bucket for bucket in {*sums, *ours} if sums.get(bucket) != ours.get(bucket))
        known = {column.landed_as for column in hashed}
        left_out = [column.name for column in entity.columns if column.name not in known]
        equal = Compared(entity, sum(count for count, _ in sums.values()), left_out=left_out)
        return _by_key(session, there, equal, differing) if differing else equal


def _by_key(session: DuckDBPyConnection, there: _There, equal: Compared, buckets: Sequence[int]) -> Compared:
    theirs = there.rows(buckets)
    found = session.execute(
        "select key, digest from here where list_contains(?, bucket)", [list(buckets)]
    ).fetchall()
    ours = dict(found)
    # The lake has what such a row was before.
    unheld = there.unheld() if ours.keys() - theirs.keys() else set()
    return replace(
        equal,
        unheld=len(unheld),
        only_there=_shown(theirs.keys() - ours.keys()),
        only_here=_shown(ours.keys() - theirs.keys() - unheld),
        other_values=_shown(key for key in theirs.keys() & ours.keys() if theirs[key] != ours[key]),
    )


# ------------------------------------------------------------------------------------- one text, two dialects

_BUCKET, _DIGEST = 3, 15
"""Hexadecimal digits of a key's hash that name its bucket, and of a row's that are added up."""
_SUMS = "select bucket, count(*), sum(digest)::hugeint from here group by 1"


def _take_here(
    session: DuckDBPyConnection, entity: SourceEntity, columns: Sequence[SourceColumn], *, is_empty: bool
) -> None:
    """`here`: bucket, key and digest of the newest version of each key that is there."""
    if is_empty:
        session.execute(
            "create temp table here as select 0 as bucket, '' as key, 0::hugeint as digest where false"
        )
        return
    kinds = {column.landed_as: column.landed_type for column in columns}
    key = _joined([_here(kinds[name], quoted(name)) for name in entity.key])
    row = _joined([_here(kind, quoted(name)) for name, kind in kinds.items()])
    session.execute(
        f"create temp table here as select ('0x' || substr(md5(key), 1, {_BUCKET}))::integer as bucket, key, "
        f"newest.digest as digest from (select {key} as key, "
        f"arg_max({{'op': _op, 'digest': ('0x' || substr(md5({row}), 1, {_DIGEST}))::hugeint}}, "
        "row(_landed_at, _seq)) as newest from landed group by 1) where newest.op = 'r'"
    )


def _joined(texts: Sequence[str]) -> str:
    known = ", ".join(f"coalesce({text}, '{_NULL}')" for text in texts)
    return f"concat_ws('{_NEXT}', {known})"


def _here(kind: str, name: str) -> str:
    if kind == "VARCHAR[]":
        # As JSON the two write control characters otherwise.
        items = f"list_transform({name}, lambda item: coalesce(item, '{_NULL}'))"
        return f"len({name})::varchar || '{_ITEM}' || array_to_string({items}, '{_ITEM}')"
    if kind.endswith("[]"):
        return f"to_json({name})::varchar"
    match kind:
        case "BOOLEAN":
            return f"{name}::integer::varchar"
        case "TIMESTAMP WITH TIME ZONE" | "TIMESTAMP" | "TIME":
            return f"epoch_us({name})::varchar"
        case "DATE":
            return f"({name}::date - date '1970-01-01')::varchar"
        case "BLOB":
            return f"lower(hex({name}))"
    return f"{name}::varchar"


def _there(column: SourceColumn) -> sql.Composable:
    kind, name = column.landed_type, sql.Identifier(column.name)
    if kind == "VARCHAR[]":
        return sql.SQL("cardinality({0})::text || {1} || array_to_string({0}, {1}, {2})").format(
            name, sql.Literal(_ITEM), sql.Literal(_NULL)
        )
    if kind.endswith("[]"):
        return sql.SQL("array_to_json({})::text").format(name)
    match kind:
        case "BOOLEAN":
            return sql.SQL("{}::integer::text").format(name)
        case "TIMESTAMP WITH TIME ZONE" | "TIMESTAMP" | "TIME":
            return sql.SQL("(extract(epoch from {}) * 1000000)::bigint::text").format(name)
        case "DATE":
            return sql.SQL("({} - date '1970-01-01')::text").format(name)
        case "BLOB":
            return sql.SQL("encode({}, 'hex')").format(name)
    return sql.SQL("({})::text").format(column.expression)


class _There:
    """The same of the source's table, in one snapshot."""

    def __init__(
        self,
        snapshot: Snapshot,
        entity: SourceEntity,
        table: sql.Identifier,
        columns: Sequence[SourceColumn],
        problem: sql.Composable,
    ) -> None:
        self._snapshot = snapshot
        named = {column.landed_as: column for column in columns}
        key = self._joined([named[name] for name in entity.key])
        self._unheld = sql.SQL("select {} as key from {} where ({}) is not null").format(key, table, problem)
        self._hashed = sql.SQL(
            "(select ('x' || substr(md5(key), 1, {bucket}))::{bucket_bits}::integer as bucket, key, "
            "('x' || substr(md5(content), 1, {digest}))::{digest_bits}::bigint as digest "
            "from (select {key} as key, {content} as content from {table} where ({problem}) is null) "
            "as texts) as hashed"
        ).format(
            bucket=sql.Literal(_BUCKET),
            bucket_bits=sql.SQL(f"bit({4 * _BUCKET})"),
            digest=sql.Literal(_DIGEST),
            digest_bits=sql.SQL(f"bit({4 * _DIGEST})"),
            key=key,
            content=self._joined(columns),
            table=table,
            problem=problem,
        )

    def sums(self) -> dict[int, tuple[int, int]]:
        """Bucket → rows, and the sum of their digests."""
        query = sql.SQL("select bucket, count(*), sum(digest)::numeric from {} group by 1").format(
            self._hashed
        )
        return {bucket: (count, int(total)) for bucket, count, total in self._snapshot.rows(query)}

    def rows(self, buckets: Sequence[int]) -> dict[str, int]:
        """Key → digest of the rows in these buckets."""
        query = sql.SQL("select key, digest from {} where bucket = any({})").format(
            self._hashed, sql.Literal(list(buckets))
        )
        return dict(self._snapshot.rows(query))

    def unheld(self) -> set[str]:
        """The keys of rows that can't be held."""
        return {key for (key,) in self._snapshot.rows(self._unheld)}

    @staticmethod
    def _joined(columns: Sequence[SourceColumn]) -> sql.Composable:
        texts = [sql.SQL("coalesce({}, {})").format(_there(column), sql.Literal(_NULL)) for column in columns]
        return sql.SQL("concat_ws({}, {})").format(sql.Literal(_NEXT), sql.SQL(", ").join(texts))


def _shown(keys: Iterable[str]) -> list[str]:
    return [key.replace(_NEXT, "/") for key in sorted(keys)]
