"""One stream for several readers: nothing twice, nothing lost, no share that only looks complete."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pyarrow as pa
import pytest

from flows.stores.batches import SharedBatches
from flows.stores.warehouse import Warehouse
from flows.stores.warehouse_errors import WarehouseError
from transforms import engine

SCHEMA = pa.schema([("n", pa.int64())])


def _batches(count: int, breaks_at: int = -1) -> Iterator[pa.RecordBatch]:
    for number in range(count):
        if number == breaks_at:
            raise OSError("the disk is gone")
        yield pa.record_batch([pa.array([number])], schema=SCHEMA)


def _shared(count: int, breaks_at: int = -1) -> SharedBatches:
    return SharedBatches(pa.RecordBatchReader.from_batches(SCHEMA, _batches(count, breaks_at)))


def test_two_readers_share_every_batch_exactly_once() -> None:
    shared = _shared(1000)
    assert shared.has_many
    with ThreadPoolExecutor(2) as pool:
        shares = list(pool.map(lambda reader: reader.read_all(), [shared.reader(), shared.reader()]))
    assert sorted(pa.concat_tables(shares)["n"].to_pylist()) == list(range(1000))


def test_one_batch_or_none_needs_one_reader() -> None:
    assert not _shared(0).has_many
    assert not _shared(1).has_many
    assert _shared(1).reader().read_all().num_rows == 1


def test_an_error_of_the_source_reaches_every_reader() -> None:
    shared = _shared(10, breaks_at=5)
    for reader in (shared.reader(), shared.reader()):
        with pytest.raises(OSError, match="the disk is gone"):
            reader.read_all()


def test_a_stopped_share_fails_instead_of_ending_early() -> None:
    shared = _shared(10)
    shared.stop()
    with pytest.raises(OSError, match="Another part"):
        shared.reader().read_all()


def test_a_copy_by_two_connections_holds_every_row_and_says_what_failed(dsn: str) -> None:
    warehouse = Warehouse(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE unpublished.wide (n bigint CHECK (n <> 700000))")
        columns = warehouse.columns(connection, "unpublished", "wide")
        with engine.connect(keeps_order=True) as session:
            copied = warehouse.copy(
                "unpublished", "wide", columns, session.sql("SELECT i AS n FROM range(600000) t(i)")
            )
            assert copied == 600_000
            found = connection.execute(
                "SELECT count(*), count(DISTINCT n), max(n) FROM unpublished.wide"
            ).fetchone()
            assert found == (600_000, 600_000, 599_999)
            with pytest.raises(WarehouseError, match="wide_n_check"):
                warehouse.copy(
                    "unpublished", "wide", columns, session.sql("SELECT i AS n FROM range(800000) t(i)")
                )
