"""A value as Debezium writes it: exactly as declared, or said to be impossible; never rounded, never NULL."""

from __future__ import annotations

import pytest
from duckdb import DuckDBPyConnection

from transforms.change_values import UNAVAILABLE, encoded, is_unavailable, problem, value
from transforms.contract import Column

EXACT = [
    ("bigint", "-9223372036854775808", "-9223372036854775808"),
    ("smallint", "7", "7"),
    ("boolean", "true", "true"),
    ("double", "NaN", "nan"),
    ("double", "-Infinity", "-inf"),
    ("double", "1.0E300", "1e+300"),
    ("decimal(38, 18)", "0.000000100000000000", "0.000000100000000000"),
    ("decimal(38, 18)", "0E-18", "0.000000000000000000"),
    ("decimal(12, 2)", "-7.5", "-7.50"),
    ("decimal(12, 2)", "7.500000", "7.50"),
    ("varchar", "POSITIVE_INFINITY", "POSITIVE_INFINITY"),
    ("varchar", "P1Y2M3DT4H5M6.789S", "P1Y2M3DT4H5M6.789S"),
    ("varchar", '["2025-01-01 00:00:00+00",)', '["2025-01-01 00:00:00+00",)'),
    ("date", "20368", "2025-10-07"),
    ("date", "2025-10-07Z", "2025-10-07"),
    ("date", "-719162", "0001-01-01"),
    ("timestamp", "1735787045123456", "2025-01-02 03:04:05.123456"),
    ("timestamp", "2025-01-02T03:04:05.123456Z", "2025-01-02 03:04:05.123456"),
    ("timestamptz", "2025-01-02T01:04:05.123456Z", "2025-01-02 01:04:05.123456+00"),
    ("timestamptz", "9999-12-31T23:59:59.999999Z", "9999-12-31 23:59:59.999999+00"),
    ("time", "86399999999", "23:59:59.999999"),
    ("time", "21:00:00Z", "21:00:00"),
    ("uuid", "11111111-1111-1111-1111-111111111111", "11111111-1111-1111-1111-111111111111"),
    ("json", '{"a": [1, 2.50]}', '{"a": [1, 2.50]}'),
    ("blob", "AAH/", "\\x00\\x01\\xFF"),
    ("varchar[]", '["x",null,"y,z"]', "[x, NULL, 'y,z']"),
    ("bigint[]", "[1,null,3]", "[1, NULL, 3]"),
    ("varchar[]", "[null]", "[NULL]"),
    ("bigint[]", "[]", "[]"),
]
IMPOSSIBLE = [
    ("bigint", "9223372036854775808"),
    ("integer", "1.5"),
    ("smallint", "40000"),
    ("decimal(12, 2)", "NAN"),
    ("decimal(12, 2)", "POSITIVE_INFINITY"),
    ("decimal(12, 2)", "1.005"),
    ("decimal(4, 2)", "123.45"),
    ("date", "-622191234"),
    ("date", "-735160"),
    ("date", "+292278994-08-16Z"),
    ("date", "-0043-03-15Z"),
    ("timestamp", "-9223372036854775808"),
    ("timestamp", "-63517824000000000"),
    ("timestamptz", "infinity"),
    ("timestamptz", "-infinity"),
    ("timestamptz", "-0043-03-15T00:00:00Z"),
    ("timestamptz", "10000-01-01T00:00:00Z"),
    ("time", "86400000000"),
    ("time", "24:00:00Z"),
    ("uuid", "not a uuid"),
    ("json", "{"),
    ("blob", "!!"),
    ("bigint[]", '["x"]'),
    ("varchar[]", "{a,b}"),
    ("varchar[]", '[["a"],["b"]]'),
    ("varchar[]", '["[Ljava.lang.String;@411f3f91"]'),
    ("bigint[]", "[null,null]"),
]


@pytest.mark.parametrize(("kind", "text", "expected"), EXACT)
def test_a_value_is_exact_and_can_be_written_back(
    duck: DuckDBPyConnection, kind: str, text: str, expected: str
) -> None:
    column = Column("it", kind)
    shown, wrong, again = duck.execute(
        f"select {value(column, 'v')}::varchar, {problem(column, 'v')}, "
        f"({value(column, encoded(column, value(column, 'v')))})::varchar from (select ?::varchar as v)",
        [text],
    ).fetchall()[0]
    assert (shown, wrong, again) == (expected, None, expected)


@pytest.mark.parametrize(("kind", "text"), IMPOSSIBLE)
def test_what_the_type_can_not_hold_is_said(duck: DuckDBPyConnection, kind: str, text: str) -> None:
    column = Column("it", kind)
    (wrong,) = duck.execute(
        f"select {problem(column, 'v')} from (select ?::varchar as v)", [text]
    ).fetchall()[0]
    assert str(wrong).startswith("it can't be held as ")


def test_nothing_is_nothing(duck: DuckDBPyConnection) -> None:
    for kind in sorted({kind for kind, *_ in EXACT}):
        column = Column("it", kind)
        query = f"select {value(column, 'v')}, {problem(column, 'v')} from (select null::varchar as v)"
        assert duck.execute(query).fetchall() == [(None, None)]


@pytest.mark.parametrize(
    "text",
    [
        UNAVAILABLE,
        "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==",
        f'"{UNAVAILABLE}"',
        f'{{"{UNAVAILABLE}":"{UNAVAILABLE}"}}',
        f'["{UNAVAILABLE}"]',
        '["b68a35a7-17ad-35b3-af2a-ae46edb4545a"]',
        "[" + ",".join(str(byte) for byte in UNAVAILABLE.encode()) + "]",
    ],
)
def test_every_form_of_a_value_that_was_not_sent_is_known(duck: DuckDBPyConnection, text: str) -> None:
    assert duck.execute(f"select {is_unavailable('v')} from (select ? as v)", [text]).fetchall() == [(True,)]
