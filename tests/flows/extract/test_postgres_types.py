"""Every type of PostgreSQL arrives exactly, as text, or as a dead letter; never as something else."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from tests.flows.extract.parts import World
from transforms.contract import Column
from transforms.entities import Postgres, SourceEntity

MOMENT = datetime(2025, 10, 26, 0, 59, 59, 999999, UTC)

TYPES: list[tuple[str, str, str, Any]] = [
    ("numeric(38, 18)", "decimal(38, 18)", "-12345678901234567890.123456789012345678", None),
    ("numeric(38, 0)", "decimal(38, 0)", "9" * 38, None),
    ("numeric(10, 2)", "decimal(10, 2)", "99999999.99", None),
    ("numeric", "varchar", "1" + "0" * 60 + ".5", "1" + "0" * 60 + ".5"),
    ("bigint", "bigint", str(2**63 - 1), 2**63 - 1),
    ("integer", "integer", str(-(2**31)), -(2**31)),
    ("smallint", "smallint", "-32768", -32768),
    ("double precision", "double", "NaN", None),
    ("double precision", "double", "-Infinity", float("-inf")),
    ("real", "float", "1.5", 1.5),
    ("boolean", "boolean", "true", True),
    ("text", "varchar", "naïve 'quotes\" \\ 日本 🙂\n", "naïve 'quotes\" \\ 日本 🙂\n"),
    ("text", "varchar", "", ""),
    ("varchar(5)", "varchar", "abc", "abc"),
    ("char(5)", "varchar", "ab", "ab   "),
    ("timestamptz", "timestamptz", "2025-10-26 02:59:59.999999+02", MOMENT),
    ("timestamptz", "timestamptz", "0001-01-01 00:00+00", datetime(1, 1, 1, tzinfo=UTC)),
    (
        "timestamptz",
        "timestamptz",
        "9999-12-31 23:59:59.999999+00",
        datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
    ),
    ("timestamp", "timestamp", "2025-10-26 02:30:00", datetime(2025, 10, 26, 2, 30)),  # noqa: DTZ001
    (
        "timestamptz(3)",
        "timestamptz",
        "2025-10-26 02:59:59.1239+02",
        datetime(2025, 10, 26, 0, 59, 59, 124000, UTC),
    ),
    ("timestamp(0)", "timestamp", "2025-10-26 02:30:00.4", datetime(2025, 10, 26, 2, 30)),  # noqa: DTZ001
    ("date", "date", "2025-02-28", date(2025, 2, 28)),
    ("time", "time", "23:59:59.999999", time(23, 59, 59, 999999)),
    ("time(3)", "time", "23:59:59.1239", time(23, 59, 59, 124000)),
    ("timetz(3)", "varchar", "23:59:59.1239+02", "21:59:59.124+00"),
    ("interval", "varchar", "1 mon 2 days 03:00:00", "P1M2DT3H"),
    ("interval(3)", "varchar", "2 days 00:00:00.1239", "P2DT0.124S"),
    ("timestamptz(3)[]", "varchar", "{2025-01-01 00:00:00.1239+00}", '{"2025-01-01 00:00:00.124+00"}'),
    ("uuid", "uuid", "00000000-0000-4000-8000-0000000000ff", UUID("00000000-0000-4000-8000-0000000000ff")),
    ("jsonb", "json", '{"a": [1, null, "\\\\u00e9"], "big": 12345678901234567890123}', None),
    ("json", "json", '{"b":1,  "b":2}', '{"b":1,  "b":2}'),
    ("bytea", "blob", "\\x00ff10", b"\x00\xff\x10"),
    ("text[]", "varchar[]", '{a,NULL,"b,c",""}', ["a", None, "b,c", ""]),
    ("text[]", "varchar[]", "{}", []),
    ("bigint[]", "bigint[]", "{1,NULL,-3}", [1, None, -3]),
    ("numeric(5,2)[]", "varchar", "{1.50,NULL}", "{1.50,NULL}"),
    ("uuid[]", "varchar", "{00000000-0000-4000-8000-0000000000ff}", "{00000000-0000-4000-8000-0000000000ff}"),
    ("inet", "varchar", "10.1.2.3/8", "10.1.2.3/8"),
    ("inet", "varchar", "10.1.2.3", "10.1.2.3"),
    ("mood", "varchar", "so so", "so so"),
    ("tstzrange", "varchar", "[2025-10-26 02:00+02,infinity)", '["2025-10-26 00:00:00+00",infinity)'),
    ("positive", "integer", "7", 7),
]


def entity(kind: str) -> SourceEntity:
    return SourceEntity(
        source="app",
        name="samples",
        read=Postgres("samples"),
        key=("id",),
        grain="one row per sample",
        columns=(Column("id", "integer"), Column("value", kind)),
    )


def setup(world: World, kind: str, texts: list[str | None]) -> None:
    world.app(
        "create type mood as enum ('so so')",
        "create domain positive as integer check (value > 0)",
        f"create table samples (id integer primary key, value {kind})",
        *(
            f"insert into samples values ({number}, {'null' if text is None else 'E' + repr_sql(text)})"
            for number, text in enumerate(texts)
        ),
    )


def repr_sql(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def test_every_type_arrives_exactly(world: World) -> None:
    names = [f"v{number}" for number in range(len(TYPES))]
    columns = ", ".join(f"{name} {kind[0]}" for name, kind in zip(names, TYPES, strict=True))
    values = ", ".join(f"E{repr_sql(kind[2])}" for kind in TYPES)
    nothing = ", ".join("null" for _ in TYPES)
    world.app(
        "create type mood as enum ('so so')",
        "create domain positive as integer check (value > 0)",
        f"create table samples (id integer primary key, {columns})",
        f"insert into samples values (1, {values}), (2, {nothing})",
    )
    wide = SourceEntity(
        source="app",
        name="samples",
        read=Postgres("samples"),
        key=("id",),
        grain="one row per sample",
        columns=(Column("id", "integer"), *(Column(n, k[1]) for n, k in zip(names, TYPES, strict=True))),
    )
    landing = world.land(wide)
    assert landing is not None
    assert landing.dead_letters == 0
    first, second = world.raw(wide, f"select {', '.join(names)} from raw order by id")
    assert all(value is None for value in second)
    types = dict(world.raw(wide, "select column_name, column_type from (describe raw)"))
    for name, value, (kind, declared, text, expected) in zip(names, first, TYPES, strict=True):
        assert types[name].replace(" ", "") in {
            declared.upper().replace(" ", ""),
            {"timestamptz": "TIMESTAMPWITHTIMEZONE"}.get(declared, ""),
        }, kind
        if expected is not None:
            assert value == expected, kind
        elif declared.startswith("decimal"):
            assert value == Decimal(text), kind
        elif declared == "double":
            assert value != value, kind
        else:
            assert value == world.app(f"select {name}::text from samples where id = 1")[0][0], kind


@pytest.mark.parametrize(
    ("kind", "declared", "text", "reason"),
    [
        ("timestamptz", "timestamptz", "infinity", "value is outside the years 1 to 9999"),
        ("timestamptz", "timestamptz", "-infinity", "value is outside the years 1 to 9999"),
        ("timestamptz", "timestamptz", "4000-01-01 00:00:00+00 BC", "value is outside the years 1 to 9999"),
        ("timestamptz", "timestamptz", "200000-01-01 00:00:00+00", "value is outside the years 1 to 9999"),
        ("timestamp(0) with time zone", "timestamptz", "infinity", "value is outside the years 1 to 9999"),
        ("timestamp", "timestamp", "infinity", "value is outside the years 1 to 9999"),
        ("date", "date", "-infinity", "value is outside the years 1 to 9999"),
        ("numeric(10, 2)", "decimal(10, 2)", "NaN", "value is not a number (NaN)"),
        ("time", "time", "24:00", "value is 24:00"),
        ("time(3)", "time", "23:59:59.9996", "value is 24:00"),
        ("text[]", "varchar[]", "{{a,b},{c,d}}", "value has more than one dimension"),
    ],
)
def test_what_nobody_can_hold_is_a_dead_letter_and_the_rest_lands(
    world: World, kind: str, declared: str, text: str, reason: str
) -> None:
    setup(world, kind, [None, text])
    landing = world.land(entity(declared))
    assert landing is not None
    assert (landing.rows, landing.dead_letters) == (1, 1)
    letters = world.warehouse(
        "select reason, convert_from(payload, 'UTF8')::json ->> 'id' from ops.dead_letter"
    )
    assert letters == [(reason, "1")]
    assert world.land(entity(declared)) is None
    assert world.warehouse("select count(*) from ops.dead_letter") == [(1,)]
