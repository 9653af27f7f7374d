"""What DuckDB holds is what PostgreSQL holds after COPY: exactly, or refused by name."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import sql

from flows.stores import binary_copy
from flows.stores.warehouse import Warehouse
from flows.stores.warehouse_errors import WarehouseError
from flows.tries import may_pass
from tests.house import Server
from transforms import engine
from transforms.contract import Column
from transforms.model import canonical_type
from transforms.postgres_types import postgres_type

TYPES: dict[str, tuple[str, pa.DataType, Any]] = {
    "i2": ("smallint", pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    "i4": ("integer", pa.int64(), st.integers(-(2**31), 2**31 - 1)),
    "i8": ("bigint", pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "u8": ("bigint", pa.uint64(), st.integers(0, 2**63 - 1)),
    "f4": ("double precision", pa.float32(), st.floats(width=32, allow_nan=False)),
    "f8": ("double precision", pa.float64(), st.floats(allow_nan=False)),
    "n38": (
        "numeric(38,18)",
        pa.decimal128(38, 18),
        st.decimals(Decimal(-(10**20)) + 1, Decimal(10**20) - 1, places=18),
    ),
    "n10": ("numeric(10,2)", pa.decimal128(10, 2), st.decimals(-99999999, 99999999, places=2)),
    "t": ("text", pa.string(), st.text(st.characters(exclude_characters="\0", codec="utf-8"))),
    "v": (
        "varchar(5)",
        pa.string(),
        st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=5),
    ),
    "b": ("bytea", pa.binary(), st.binary()),
    "d": ("date", pa.date32(), st.dates(date(1, 1, 1), date(9999, 12, 31))),
    "ts": (
        "timestamptz",
        pa.timestamp("us", "UTC"),
        st.datetimes().map(lambda moment: moment.replace(tzinfo=UTC, fold=0)),
    ),
    "tn": ("timestamp", pa.timestamp("us"), st.datetimes().map(lambda moment: moment.replace(fold=0))),
    "tm": ("time", pa.time64("us"), st.times().map(lambda moment: moment.replace(fold=0))),
    "o": ("boolean", pa.bool_(), st.booleans()),
    "u": ("uuid", pa.string(), st.uuids().map(str)),
    "e": ("mood", pa.string(), st.sampled_from(["sad", "glad"])),
    "l": (
        "text[]",
        pa.list_(pa.string()),
        st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"))),
    ),
}


@pytest.fixture(scope="module")
def typed(postgres18: Server) -> Warehouse:
    dsn = postgres18.database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TYPE public.mood AS ENUM ('sad', 'glad')")
        listed = ", ".join(f"{name} {type_}" for name, (type_, _, _) in TYPES.items())
        connection.execute(f"CREATE TABLE unpublished.typed ({listed})".encode())
        connection.execute(
            "CREATE TABLE unpublished.narrow (n integer, m numeric(6,2), at timestamptz, t text)"
        )
    return Warehouse(dsn)


ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | values for name, (_, _, values) in TYPES.items()}),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("way", ["by itself", "in a transaction"])
@settings(
    max_examples=40,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(ROWS)
def test_every_value_arrives_as_it_is(typed: Warehouse, way: str, rows: list[dict[str, Any]]) -> None:
    schema = pa.schema([(name, type_) for name, (_, type_, _) in TYPES.items()])
    with typed.connect() as connection, engine.connect(keeps_order=True) as session:
        connection.execute("TRUNCATE unpublished.typed")
        columns = typed.columns(connection, "unpublished", "typed")
        relation = session.from_arrow(pa.Table.from_pylist(rows, schema))
        if way == "by itself":
            typed.copy("unpublished", "typed", columns, relation)
        else:
            batches = typed.exact(columns, relation).to_arrow_reader(2)
            binary_copy.copy(connection, sql.Identifier("unpublished", "typed"), columns, batches)
        found = connection.execute("SELECT * FROM unpublished.typed").fetchall()
    expected = [
        tuple(uuid.UUID(row[name]) if name == "u" and row[name] else row[name] for name in TYPES)
        for row in rows
    ]
    assert sorted(map(repr, found)) == sorted(map(repr, expected))


@pytest.mark.parametrize(
    "value",
    [
        "18446744073709551615::UBIGINT AS n",
        "2147483648 AS n",
        "12345.678::DECIMAL(10,3) AS m",
        "'infinity'::TIMESTAMPTZ AS at",
        "'5000-01-01 (BC) 00:00:00+00'::TIMESTAMPTZ AS at",
        "'not a number' AS n",
        "chr(0) AS t",
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_loaded(typed: Warehouse, value: str) -> None:
    with typed.connect() as connection, engine.connect(keeps_order=True) as session:
        columns = typed.columns(connection, "unpublished", "narrow")
        with pytest.raises(WarehouseError) as caught:
            typed.copy("unpublished", "narrow", columns, session.sql(f"SELECT {value}"))
        assert connection.execute("SELECT count(*) FROM unpublished.narrow").fetchone() == (0,)
    assert not may_pass(caught.value), "the same content would be refused again"
    assert "not a number" not in str(caught.value)
    assert "18446744073709551615" not in str(caught.value)


def test_what_is_copied_in_a_transaction_goes_with_it(typed: Warehouse) -> None:
    with typed.connect() as connection, engine.connect(keeps_order=True) as session:
        columns = typed.columns(connection, "unpublished", "narrow")
        rows = session.sql("SELECT range::INTEGER AS n FROM range(5000)")
        with connection.transaction(force_rollback=True):
            batches = typed.exact(columns, rows).to_arrow_reader(binary_copy.BATCH_ROWS)
            binary_copy.copy(connection, sql.Identifier("unpublished", "narrow"), columns, batches)
            found = connection.execute("SELECT count(*), sum(n) FROM unpublished.narrow").fetchone()
        left = connection.execute("SELECT count(*) FROM unpublished.narrow").fetchone()
    assert (found, left) == ((5000, 12497500), (0,))


def test_after_a_refused_copy_the_next_one_serves(typed: Warehouse) -> None:
    with typed.connect() as connection, engine.connect(keeps_order=True) as session:
        columns = typed.columns(connection, "unpublished", "narrow")
        with pytest.raises(WarehouseError):
            typed.copy("unpublished", "narrow", columns, session.sql("SELECT 'x' AS n"))
        assert typed.copy("unpublished", "narrow", columns, session.sql("SELECT 1 AS n")) == 1
        connection.execute("TRUNCATE unpublished.narrow")


def test_json_arrives_as_jsonb(typed: Warehouse) -> None:
    with typed.connect() as connection, engine.connect(keeps_order=True) as session:
        connection.execute("CREATE TABLE unpublished.objects (j jsonb, at timestamptz)")
        columns = typed.columns(connection, "unpublished", "objects")
        typed.copy(
            "unpublished", "objects", columns, session.sql("""SELECT '{"a": [1, null]}' AS j, now() AS at""")
        )
        found = connection.execute("SELECT j, at FROM unpublished.objects").fetchone()
    assert found is not None
    assert found[0] == {"a": [1, None]}
    assert isinstance(found[1], datetime)


LIMITS = {
    "bigint": ["-9223372036854775808", "9223372036854775807"],
    "blob": [r"\xff", ""],
    "boolean": ["true", "false"],
    "date": ["0001-01-01", "9999-12-31"],
    "double": ["nan", "-infinity", "1.7976931348623157e308", "4.9e-324", "-0.0"],
    "float": ["nan", "infinity", "3.4028235e38", "1e-45"],
    "integer": ["-2147483648", "2147483647"],
    "json": ['[1.10, null, "é"]', "null"],
    "smallint": ["-32768", "32767"],
    "time": ["00:00:00", "23:59:59.999999", "24:00:00"],
    "timestamp": ["0001-01-01 00:00:00", "9999-12-31 23:59:59.999999"],
    "timestamptz": ["0001-01-01 00:00:00+00", "9999-12-31 23:59:59.999999+00"],
    "tinyint": ["-128", "127"],
    "ubigint": ["18446744073709551615"],
    "uinteger": ["4294967295"],
    "usmallint": ["65535"],
    "utinyint": ["255"],
    "uuid": ["ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "varchar": ["", "é𝄞", "null"],
    "decimal(38,18)": ["99999999999999999999.999999999999999999", "-0.000000000000000001"],
    "decimal(38,0)": ["99999999999999999999999999999999999999"],
}
"""Type → texts of values that DuckDB and PostgreSQL read alike."""
IN_LISTS = [name for name in LIMITS if name not in {"decimal(38,18)", "decimal(38,0)", "ubigint", "boolean"}]


@pytest.mark.parametrize("type_", [*LIMITS, *(f"{name}[]" for name in IN_LISTS)])
def test_each_type_that_may_be_published_arrives_at_its_limits(typed: Warehouse, type_: str) -> None:
    """What else there is is refused where the model is read (tests/transforms/test_postgres_types.py)."""
    own = postgres_type(Column("v", canonical_type(type_)))

    def given(to: str) -> list[str]:
        element = to.removesuffix("[]")
        values = [f"'{text}'::{element}" for text in LIMITS[type_.removesuffix("[]")]]
        return [f"ARRAY[{', '.join(values)}, NULL]"] if to != element else values

    with typed.connect() as connection, engine.connect(keeps_order=True) as session:
        connection.execute("DROP TABLE IF EXISTS unpublished.one")
        connection.execute(f"CREATE TABLE unpublished.one (v {own})".encode())
        columns = typed.columns(connection, "unpublished", "one")
        relation = session.sql(" UNION ALL ".join(f"SELECT {value} AS v" for value in given(type_)))
        assert relation.types == [canonical_type(type_)]
        typed.copy("unpublished", "one", columns, relation)
        found = connection.execute("SELECT v::text FROM unpublished.one").fetchall()
        union = " UNION ALL ".join(f"SELECT {value}::{own}::text" for value in given(own))
        assert sorted(found) == sorted(connection.execute(union.encode()).fetchall())
