"""Change records of the application's orders, shaped as Debezium 3.7 sends them without JSON schemas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from transforms import engine

USERS, PRODUCTS = 5_000, 300
CONTEXT: list[tuple[str, str | bytes | None]] = [
    ("__debezium.context.connectorLogicalName", b"app"),
    ("__debezium.context.taskId", b"0"),
    ("__debezium.context.connectorName", b"postgresql"),
]
"""Headers of every change."""
CHUNK = 10_000
_FIRST_DAY, _DAYS = "2025-01-01", 300


@dataclass(frozen=True)
class Life:
    """What is sent, as SQL: rows of (step, key, op, position), op null for a tombstone."""

    query: str
    number: int
    """How many of them are changes."""


def lives(keys: int) -> Life:
    """Each second key: made, changed, deleted, made again, changed twice; the others: made, changed three
    times. That is 30 % creates, 60 % updates, 10 % deletes.
    """
    return Life(
        "select step, key, op, step / len(ops) + (hash(key) % 1000) / 5000.0 as position, "
        f"from (select range as key, case when range % 2 = 0 then ['c', 'u', 'd', null, 'c', 'u', 'u'] "
        f"else ['c', 'u', 'u', 'u'] end as ops, from range({keys})), "
        "lateral (select unnest(ops) as op, generate_subscripts(ops, 1) as step)",
        5 * keys,
    )


def few(keys: int, number: int, turn: int) -> Life:
    """Of so many orders some are changed and some deleted, others are new: 6 : 1 : 3."""
    stride = keys // number
    return Life(
        f"select 1 as step, case when i % 10 < 7 then {turn} + i * {stride} "
        f"else {keys} * 10 + {turn} * {number} + i end as key, "
        "case when i % 10 < 6 then 'u' when i % 10 = 6 then 'd' else 'c' end as op, "
        f"i::double as position from (select range as i from range({number}))",
        number,
    )


def row(key: str, step: str) -> str:
    """SQL: an order as Debezium writes it, from its number and how often it has changed."""
    return (
        f"{{'id': {_id(key)}, 'user_id': {key} % {USERS} + 1, 'product_id': {key} % {PRODUCTS} + 1, "
        f"'quantity': 1 + {step} % 5, 'unit_price': '12.50', 'discount_amount': '0.00', "
        f"'total_amount': ((1 + {step} % 5) * 12.50)::decimal(10, 2)::varchar, 'currency': 'EUR', "
        "'coupon_code': null::varchar, "
        f"'status': (['pending', 'paid', 'shipped', 'delivered'])[1 + {step} % 4], "
        f"'created_at': strftime({_made(key)}, '%Y-%m-%dT%H:%M:%S.%fZ'), "
        f"'updated_at': strftime({_made(key)} + to_hours({step}), '%Y-%m-%dT%H:%M:%S.%fZ')}}"
    )


def made_in(key: str) -> str:
    """SQL: the month in which an order was made, from its number."""
    return f"strftime({_made(key)}, '%Y-%m')"


def months() -> list[str]:
    """The months in which orders were made."""
    first = date.fromisoformat(_FIRST_DAY)
    return sorted({f"{first + timedelta(days=day):%Y-%m}" for day in range(_DAYS)})


def _id(key: str) -> str:
    return f"md5('order ' || {key})::uuid"


def _made(key: str) -> str:
    return f"(timestamp '{_FIRST_DAY}' + to_seconds(hash({key}) % ({_DAYS} * 86400)))"


def sent(life: Life, from_lsn: int) -> Iterator[tuple[bytes, bytes | None]]:
    """Keys and values in their order, ten changes a transaction; a delete's row before is invented."""
    invented = (
        f"{{'id': {_id('key')}, 'user_id': 0, 'product_id': 0, 'quantity': 0, 'unit_price': '0.00', "
        "'discount_amount': '0.00', 'total_amount': '0.00', 'currency': '', 'coupon_code': null::varchar, "
        "'status': '', 'created_at': '1970-01-01T00:00:00.000000Z', "
        "'updated_at': '1970-01-01T00:00:00.000000Z'}"
    )
    source = (
        "{'version': '3.7.0.Final', 'connector': 'postgresql', 'name': 'app', 'ts_ms': ts // 1000, "
        "'snapshot': 'false', 'db': 'app', 'sequence': '[\"' || (lsn - 8) || '\",\"' || lsn || '\"]', "
        "'ts_us': ts, 'ts_ns': ts * 1000, 'schema': 'public', 'table': 'orders', 'txId': txid, 'lsn': lsn, "
        "'xmin': null::bigint, 'origin': null::varchar, 'origin_lsn': null::bigint}"
    )
    envelope = (
        f"{{'before': case when op = 'd' then {invented} end, 'after': case when op <> 'd' then "
        f"{row('key', 'step')} end, 'source': {source}, 'transaction': {{'id': txid || ':' || lsn, "
        "'total_order': 1 + number % 10, 'data_collection_order': 1 + number % 10}, 'op': op, "
        "'ts_ms': ts // 1000 + 40, 'ts_us': ts + 40000, 'ts_ns': ts * 1000 + 40000000}"
    )
    begun = datetime(2025, 11, 1, tzinfo=UTC)
    micros = int(begun.timestamp() * 1_000_000)
    query = (
        f"select encode(to_json({{'id': {_id('key')}}})::varchar) as key, "
        f"case when op is not null then encode(to_json({envelope})::varchar) end as value from ("
        f"select *, {from_lsn} + number * 64 as lsn, {from_lsn} + number // 10 as txid, "
        f"{micros} + number * 100 as ts from ("
        f"select *, row_number() over (order by position, key, step) as number "
        f"from ({life.query}))) order by number"
    )
    with engine.connect(keeps_order=True) as session:
        cursor = session.execute(query)
        while rows := cursor.fetchmany(CHUNK):
            yield from rows
