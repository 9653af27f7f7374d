"""A row is the same row in raw whichever way its table is read: by snapshot, by a cursor, by its changes.

Real PostgreSQL, Debezium and Kafka.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import SecretStr

from flows.services import Services
from tests.flows.capture import Capture, entity
from tests.flows.extract.test_postgres_types import TYPES, repr_sql
from tests.flows.extract.test_told_texts import landed
from tests.flows.extract.told import rows_of
from tests.flows.streaming.topics import until
from tests.house import House
from transforms.entities import Postgres, SourceEntity

pytestmark = pytest.mark.full
Mode = Literal["snapshot", "incremental", "cdc"]
MORE: list[tuple[str, str, str]] = [
    ("numeric(38, 18)", "decimal(38, 18)", "99999999999999999999.999999999999999999"),
    ("numeric(38, 18)", "decimal(38, 18)", "-0.000000000000000001"),
    ("bigint", "bigint", str(-(2**63))),
    ("double precision", "double", "-0"),
    ("double precision", "double", "1.7976931348623157e308"),
    ("double precision", "double", "4.9e-324"),
    ("real", "float", "3.4028235e38"),
    ("real", "float", "1e-45"),
    ("text", "varchar", "x" * 100_000),
    ("timestamp", "timestamp", "9999-12-31 23:59:59.999999"),
    ("timestamp", "timestamp", "0001-01-01 00:00:00"),
    ("date", "date", "0001-01-01"),
    ("date", "date", "9999-12-31"),
    ("time", "time", "00:00:00"),
    ("jsonb", "json", '{"n": 0.10, "e": 1e400, "s": "\\u00e9", "deep": [[[[{}]]]]}'),
    ("json", "json", " [1.0 , -0]"),
    ("jsonb", "json", "null"),
    ("bytea", "blob", "\\x"),
    ("boolean", "boolean", "false"),
    ("text[]", "varchar[]", '{"NULL",null,"a\\\\b\\"c"}'),
    ("bigint[]", "bigint[]", "{9223372036854775807,-9223372036854775808}"),
    ("uuid", "uuid", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
]
VALUES = [*((kind, declared, text) for kind, declared, text, _ in TYPES), *MORE]
EXACT = entity(
    "exact", id="bigint", changed_at="timestamptz", **{f"v{n}": kind for n, (_, kind, _) in enumerate(VALUES)}
)
NOT_HELD = [
    ("timestamptz", "timestamptz", "infinity"),
    ("timestamp", "timestamp", "0044-03-15 12:00:00 BC"),
    ("date", "date", "-infinity"),
    ("numeric(10,2)", "decimal(10, 2)", "NaN"),
    ("time", "time", "24:00"),
]
BAD = entity(
    "bad", id="bigint", changed_at="timestamptz", **{f"v{n}": kind for n, (_, kind, _) in enumerate(NOT_HELD)}
)


@pytest.fixture
def capture(house: House, tmp_path: Path) -> Iterator[Capture]:
    capture = Capture.build(house, tmp_path, warehouse_dsn=house.server().database())
    capture.app("create type mood as enum ('so so')", "create domain positive as integer check (value > 0)")
    try:
        yield capture
    finally:
        capture.end()


def _create(capture: Capture, table: str, kinds: list[str]) -> None:
    columns = ", ".join(f"v{number} {kind}" for number, kind in enumerate(kinds))
    own = "id bigint primary key, changed_at timestamptz default '2025-10-07'"
    capture.app(f"create table {table} ({own}, {columns})")


def _insert(capture: Capture, table: str, key: int, texts: list[str | None]) -> None:
    columns = ", ".join(f"v{number}" for number in range(len(texts)))
    values = ", ".join("null" if text is None else f"E{repr_sql(text)}" for text in texts)
    capture.app(f"insert into {table} (id, {columns}) values ({key}, {values})")


def _by(mode: Mode, one: SourceEntity) -> SourceEntity:
    assert isinstance(one.read, Postgres)
    cursor = "changed_at" if mode == "incremental" else None
    return one if mode == "cdc" else replace(one, read=Postgres(one.read.table, mode=mode, cursor=cursor))


def _read(
    capture: Capture, house: House, folder: Path, mode: Mode, *entities: SourceEntity
) -> tuple[dict[str, list[tuple[Any, ...]]], list[tuple[Any, ...]]]:
    """Table → its rows; and of each row that can't be held its key and the column."""
    warehouse = SecretStr(house.server().database())
    services = Services(
        capture.settings.model_copy(update={"lake": folder / mode, "warehouse_dsn": warehouse})
    )
    with services.lake:
        landed(services, *(_by(mode, one) for one in entities))
        with services.ledger() as ledger:
            letters = ledger.connection.execute(
                "select coalesce(told -> 'after', told -> 'payload' -> 'after', told) ->> 'id', "
                "split_part(reason, ' ', 1) "
                "from ops.dead_letter cross join lateral (select convert_from(payload, 'UTF8')::json) "
                "as one (told) order by 1, 2"
            ).fetchall()
        return {one.table: rows_of(services, _by(mode, one)) for one in entities}, letters


def test_a_row_is_the_same_by_snapshot_by_cursor_and_by_its_changes(
    capture: Capture, house: House, tmp_path: Path
) -> None:
    texts: list[str | None] = [text for _, _, text in VALUES]
    nothing: list[str | None] = [None] * len(VALUES)
    _create(capture, "exact", [kind for kind, *_ in VALUES])
    _create(capture, "bad", [kind for kind, *_ in NOT_HELD])
    _insert(capture, "exact", 0, texts)
    _insert(capture, "exact", 1, nothing)
    _insert(capture, "bad", 9, [None] * len(NOT_HELD))
    capture.register(EXACT, BAD)
    until(lambda: len(capture.ids("exact")) == 2, seconds=60)
    _insert(capture, "exact", 2, texts)
    _insert(capture, "exact", 3, nothing)
    capture.app(
        "update exact set changed_at = '2025-10-08' where id in (0, 2)"
    )  # what is large is not told again
    for number, (*_, text) in enumerate(NOT_HELD):
        _insert(capture, "bad", number, [text if n == number else None for n in range(len(NOT_HELD))])
    until(lambda: capture.ids("exact").count(2) == 2 and 4 in capture.ids("bad"), seconds=60)

    told, letters = _read(capture, house, tmp_path, "cdc", EXACT, BAD)

    assert [row[0] for row in told[EXACT.table]] == [0, 1, 2, 3]
    assert letters == [(str(number), f"v{number}") for number in range(len(NOT_HELD))]
    modes: tuple[Mode, ...] = ("snapshot", "incremental")
    for mode in modes:
        rows, reasons = _read(capture, house, tmp_path, mode, EXACT, BAD)
        for ours, theirs in zip(told[EXACT.table], rows[EXACT.table], strict=True):
            for (kind, declared, text), one, other in zip(VALUES, ours[2:], theirs[2:], strict=True):
                assert repr(one) == repr(other), (mode, ours[0], kind, declared, text[:50])
        assert (rows[BAD.table], reasons) == (told[BAD.table], letters), mode
