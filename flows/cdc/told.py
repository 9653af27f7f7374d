"""What Debezium's messages tell of transactions, as queries over the relation `fresh` of what was read."""

from __future__ import annotations

from transforms.engine import text_literal

_PATHS = (
    *("source.snapshot", "source.lsn", "source.txId"),
    *("transaction.id", "transaction.data_collection_order"),
)
_END = (
    '{"status": "VARCHAR", "id": "VARCHAR", '
    '"data_collections": [{"data_collection": "VARCHAR", "event_count": "BIGINT"}]}'
)


def of_records(seen_at: float) -> str:
    """Each record's place, transaction and number among its changes of the table; `mark` and `lsn`, which are
    for the table's first read. Each value is parsed once.
    """
    paths = [f"'$.{wrap}{path}'" for path in _PATHS for wrap in ("payload.", "")]
    mark, lsn, xid, transaction, number = (
        f"coalesce(e[{at}], e[{at + 1}])" for at in range(1, len(paths), 2)
    )
    return (
        "select topic, kafka_offset, kafka_timestamp, case when mark = 'false' then coalesce(try_cast("
        f"split_part({transaction}, ':', 1) as bigint), try_cast({xid} as bigint)) end as tx, "
        f"try_cast({number} as bigint) as number, {seen_at} as seen_at, mark, "
        f"try_cast({lsn} as bigint) as lsn from ("
        f"select *, coalesce({mark}, 'false') as mark from (select *, "
        f"try(json_extract_string(decode(value), [{', '.join(paths)}])) as e from fresh))"
    )


def of_ends() -> str:
    """Each transaction that ended: the place of its end, and how many changes of which table it made."""
    # With or without the schema that Connect can put around a value.
    shape = text_literal('{"payload": ' + _END + ", " + _END[1:])
    return (
        "select kafka_offset as place, "
        "try_cast(split_part(coalesce(e.payload.id, e.id), ':', 1) as bigint) as tx, "
        "coalesce(e.payload.data_collections, e.data_collections) as collections from "
        f"(select *, try(from_json(decode(value), {shape})) as e from fresh) "
        "where coalesce(e.payload.status, e.status) = 'END' and tx is not null"
    )
