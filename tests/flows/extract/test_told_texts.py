"""Every type of PostgreSQL has one form in raw, whether a change told its value or its table was read.

Real PostgreSQL, Debezium and Kafka.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from flows import landing
from flows.change_landing import land_changes
from flows.check_source import compared
from flows.services import Services
from tests.flows.capture import Capture, entity
from tests.flows.extract.told import rows_of
from tests.flows.streaming.topics import until
from tests.house import House
from transforms.entities import Postgres, SourceEntity

pytestmark = pytest.mark.full
TEXTS: dict[str, list[str]] = {
    "numeric": ["1.50", "NaN", "Infinity", "-Infinity", "1e30", "0.00000012", "-0.0"],
    "numeric(50,18)": ["0", "NaN", "0.00000012"],
    "numeric(10,2)": ["1.50", "NaN"],
    "date": ["2025-10-07", "infinity", "-infinity", "20000-01-01", "5874897-12-31"],
    "timestamp": ["2025-10-07 01:02:03.4", "infinity", "-infinity", "0044-03-15 12:00 BC", "20000-01-01"],
    "timestamptz": [
        "2025-10-07 01:02+02",
        "infinity",
        "-infinity",
        "0044-03-15 12:00:00.5+00 BC",
        "20000-01-01",
    ],
    "time": ["23:59:59.999999", "24:00", "00:00"],
    "timetz": ["23:59:59.999999+02", "01:00-05:30", "12:00+00", "12:00:00.5+00"],
    "timestamp(3)": ["2025-10-07 01:02:03.4567", "infinity"],
    "timestamptz(0)": ["2025-10-07 01:02:03.4567+02", "-infinity"],
    "timestamptz(6)": ["2025-10-07 01:02:03.4567+02"],
    "time(3)": ["23:59:59.1239", "23:59:59.9996", "00:00"],
    "timetz(3)": ["23:59:59.1239+02", "12:00+00"],
    "interval(3)": ["-04:00:00.5678", "1 day"],
    "interval day to second(2)": ["2 days 04:00:00.5678"],
    "interval year": ["2 years"],
    "interval": ["1 year 2 mons 3 days 04:05:06.789", "-1 day", "0", "-04:00:00.5", "30 min", "1.000001 s"],
    "real": ["1.5", "NaN", "-Infinity", "1234567.5", "1234567", "123456", "1e-5", "-0"],
    "double precision": ["0.1", "NaN", "Infinity", "1e15", "-1234567890123456", "123456789012345", "1e300"],
    "money": ["1234.56", "-5"],
    "bit(3)": ["101", "000"],
    "bit(12)": ["000000000001", "100000000000"],
    "bit(1)": ["1", "0"],
    "point": ["(1.5,-2)", "(0.1,1e300)"],
    "line": ["{1,2,3}"],
    "circle": ["<(1,2),3.5>"],
    "bytea": ["\\x00ff10", ""],
    "boolean": ["true", "false"],
    "bigint": ["-9223372036854775808"],
    "uuid": ["00000000-0000-4000-8000-0000000000ff"],
    "jsonb": ['{"b": 1}'],
    "inet": ["10.1.2.3", "10.1.2.3/8", "::1"],
    "cidr": ["10.0.0.0/8"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "tstzrange": ["[2025-01-01 00:00+00,)", "empty"],
    "int4range": ["[1,5)"],
    "int4multirange": ["{[1,5),[7,9)}"],
    "tsvector": ["'a':1 'b':2"],
    "tsquery": ["a & b"],
    "pg_lsn": ["16/B374D848"],
    "xid8": ["12345678901"],
    "jsonpath": ["$.a"],
    "oid": ["4294967295"],
    "name": ["abc"],
    "char(5)": ["ab"],
    "mood": ["so so"],
    "any_mood": ["so so"],
    "pair": ["(1,x)"],
    "positive": ["7"],
    "text[]": ['{a,NULL,"b,c","","null","q\\"\\\\"}', "{}", "{NULL}"],
    "bigint[]": ["{1,NULL}", "{}"],
    "numeric[]": ["{1.50,NULL}"],
    "double precision[]": ["{1,1e300,NULL,NaN}"],
    "boolean[]": ["{t,f}"],
    "date[]": ["{2025-01-01,NULL,infinity}"],
    "timestamp[]": ["{2025-01-01 00:00:00.5}"],
    "timestamptz[]": ["{2025-01-01 00:00:00+00,infinity}"],
    "timestamptz(3)[]": ["{2025-01-01 00:00:00.1239+00}"],
    "time[]": ["{01:02:03}"],
    "timetz[]": ["{01:00+00}"],
    "uuid[]": ["{00000000-0000-4000-8000-0000000000ff,NULL}"],
    "bytea[]": ['{"\\\\x00ff"}'],
    "jsonb[]": ['{"{\\"a\\": 1}"}'],
    "inet[]": ["{10.1.2.3/8,::1}"],
    "tstzrange[]": ['{"[2025-01-01 00:00+00,)"}'],
}
"""Type → values of it, as PostgreSQL takes them. All are declared as varchar."""
LOST: dict[str, list[str]] = {
    "text[]": ["{{a,b},{c,d}}"],
    "bigint[]": ["{{1,2},{3,4}}"],
    "uuid[]": ["{{00000000-0000-4000-8000-0000000000ff}}"],
    "numeric(5,2)[]": ["{{1,2}}"],
}
"""Values that Debezium does not tell: arrays of several dimensions."""
UNTOLD = ("mood[]", "interval[]", "money[]", "point[]", "name[]", "bit varying(5)")
"""Types of which it tells null, nothing, or not all."""
MAKE = (
    "create type mood as enum ('so so')",
    "create domain any_mood as mood",
    "create type pair as (one integer, other text)",
    "create domain positive as integer check (value > 0)",
)
WIDE = entity("wide", id="bigint", **{f"c{number}": "varchar" for number in range(len(TEXTS))})
AS_READ = replace(WIDE, read=Postgres("wide", mode="snapshot"))


@pytest.fixture
def capture(house: House, tmp_path: Path) -> Iterator[Capture]:
    capture = Capture.build(house, tmp_path, warehouse_dsn=house.server().database())
    capture.app(*MAKE)
    try:
        yield capture
    finally:
        capture.end()


def insert(capture: Capture, table: str, texts: dict[str, list[str]], first: int) -> int:
    """Rows with the values side by side, nulls where a type has no more; returns their number."""
    count = max(map(len, texts.values()))
    for row in range(count):
        values = [
            f"'{v[row].replace(chr(39), chr(39) * 2)}'" if row < len(v) else "null" for v in texts.values()
        ]
        capture.app(f"insert into {table} values ({first + row}, {', '.join(values)})")
    return count


def create(capture: Capture, table: str, kinds: list[str]) -> None:
    columns = ", ".join(f"c{number} {kind}" for number, kind in enumerate(kinds))
    capture.app(f"create table {table} (id bigint primary key, {columns})")


def landed(services: Services, *entities: SourceEntity) -> None:
    for one in entities:
        if isinstance(one.read, Postgres) and one.read.mode == "cdc":
            land_changes(services, [one], os.urandom(4).hex()).of(one)
        else:
            landing.land(services, one, os.urandom(4).hex())


def letters(services: Services) -> list[tuple[Any, ...]]:
    with services.ledger() as ledger:
        return ledger.connection.execute(
            "select substring(convert_from(payload, 'UTF8') from '\"after\":{\"id\":(\\d+)')::int, reason "
            "from ops.dead_letter order by 1"
        ).fetchall()


def test_a_value_has_one_text_whether_it_was_told_or_read(
    capture: Capture, house: House, tmp_path: Path
) -> None:
    create(capture, "wide", list(TEXTS))
    count = insert(capture, "wide", TEXTS, 0)
    capture.register(WIDE)
    until(lambda: len(capture.ids("wide")) == count, seconds=60)
    insert(capture, "wide", TEXTS, 100)
    capture.app("update wide set c0 = c0 where id >= 104")
    capture.app("update wide set id = id + 100 where id = 103")
    until(lambda: 203 in capture.ids("wide"))
    told = Services(capture.settings)
    with told.lake:
        landed(told, WIDE)
        assert letters(told) == []
        found = rows_of(told, WIDE)
        again = compared(told, WIDE)
    other = {"lake": tmp_path / "read", "warehouse_dsn": SecretStr(house.server().database())}
    read = Services(capture.settings.model_copy(update=other))
    with read.lake:
        landed(read, AS_READ)
        expected = rows_of(read, AS_READ)
    assert len(found) == 2 * count
    for ours, theirs in zip(found, expected, strict=True):
        assert dict(zip(TEXTS, ours[1:], strict=True)) == dict(zip(TEXTS, theirs[1:], strict=True)), ours[0]
    assert again.is_equal, again


def test_a_time_of_fewer_decimals_is_one_time_whether_it_was_told_or_read(
    capture: Capture, house: House, tmp_path: Path
) -> None:
    kinds = ["timestamptz(3)", "timestamptz(0)", "timestamp(3)", "timestamp(1)", "time(3)", "timetz(3)"]
    declared = ["timestamptz", "timestamptz", "timestamp", "timestamp", "time", "varchar"]
    timed = entity("timed", id="bigint", **{f"c{number}": kind for number, kind in enumerate(declared)})
    values = {kind: ["2025-10-07 23:01:02.345678+00"] for kind in kinds}
    create(capture, "timed", kinds)
    insert(capture, "timed", values, 0)
    capture.register(timed)
    until(lambda: bool(capture.ids("timed")), seconds=60)
    insert(capture, "timed", values, 1)
    until(lambda: 1 in capture.ids("timed"))
    told = Services(capture.settings)
    with told.lake:
        landed(told, timed)
        found = rows_of(told, timed)
        assert letters(told) == []
        again = compared(told, timed)
    other = {"lake": tmp_path / "read", "warehouse_dsn": SecretStr(house.server().database())}
    read = Services(capture.settings.model_copy(update=other))
    as_read = replace(timed, read=Postgres("timed", mode="snapshot"))
    with read.lake:
        landed(read, as_read)
        assert found == rows_of(read, as_read)
    assert len(found) == 2
    assert found[0][1] == datetime(2025, 10, 7, 23, 1, 2, 346000, UTC)
    assert again.is_equal, again


def test_an_array_of_several_dimensions_is_a_dead_letter_and_never_a_list_of_nothing(
    capture: Capture,
) -> None:
    create(capture, "lost", [kind for kind, texts in LOST.items() for _ in texts])
    table = entity("lost", id="bigint", c0="varchar[]", c1="bigint[]", c2="varchar", c3="varchar")
    for number, texts in enumerate(LOST.values()):
        capture.app(f"insert into lost (id, c{number}) values ({number}, '{texts[0]}')")
    capture.app("insert into lost values (9)")
    capture.register(table)
    until(lambda: 9 in capture.ids("lost"), seconds=60)
    services = Services(capture.settings)
    with services.lake:
        landed(services, table)
        assert letters(services) == [
            (0, "c0 can't be held as VARCHAR[]"),
            (1, "c1 can't be held as BIGINT[]"),
            (2, "c2 can't be told exactly by Debezium"),
            (3, "c3 can't be told exactly by Debezium"),
        ]
        assert [row[0] for row in rows_of(services, table)] == [9]


def test_a_table_with_a_declared_column_that_debezium_does_not_tell_is_halted(capture: Capture) -> None:
    create(capture, "untold", list(UNTOLD))
    capture.app("alter table untold add column twice bigint generated always as (id * 2) stored")
    capture.app("create table told (id bigint primary key, label text, moods mood[])")
    columns = {f"c{number}": "varchar" for number in range(len(UNTOLD))}
    table = entity("untold", id="bigint", **columns, twice="bigint")
    lenient = replace(entity("told"), read=Postgres("told", mode="cdc", on_change="evolve"))
    capture.register(table, lenient)
    named = ", ".join(f"c{number} ({kind})" for number, kind in enumerate(UNTOLD)).replace(
        "mood[]", "public.mood[]"
    )
    assert capture.halts(table, lenient) == [
        f"app.untold is halted: Debezium does not tell what stands in {named}, twice (generated) of "
        "public.untold; "
        "declare the table's mode as incremental or snapshot."
    ]
