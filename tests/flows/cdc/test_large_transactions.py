"""Transactions that are larger than what lands at once, on real Debezium: whole, whatever room there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from flows import change_landing
from flows.cdc import backlog
from flows.change_landing import land_changes
from flows.services import Services
from tests.flows.capture import Capture, entity
from tests.flows.streaming.topics import until
from tests.house import House

ALPHA, BETA = entity("alpha"), entity("beta")
ROWS = 6_000


@pytest.mark.full
def test_a_transaction_larger_than_a_slice_lands_as_one_from_disk_and_others_beside(
    capture: Capture, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_landing, "BYTES_AT_ONCE", 100_000)
    monkeypatch.setattr(backlog, "MEMORY_BYTES", 200_000)
    put_away: list[Path] = []
    put_one_away = backlog.Backlog._put_away

    def noting(self: backlog.Backlog, batch: Any) -> Path:
        put_away.append(put_one_away(self, batch))
        return put_away[-1]

    monkeypatch.setattr(backlog.Backlog, "_put_away", noting)
    dsn = SecretStr(house.server().database())
    services = Services(capture.settings.model_copy(update={"warehouse_dsn": dsn}))
    capture.tables("alpha", "beta")
    capture.register(ALPHA, BETA)
    until(lambda: capture.ids("alpha") == capture.ids("beta") == [1, 2, 3])
    numbers = f"select n, repeat('x', 200) from generate_series(10, {9 + ROWS}) n"
    capture.app(
        *(f"insert into alpha values ({number}, 'before')" for number in range(4, 10)),
        "begin",
        f"insert into alpha {numbers}",
        f"insert into beta {numbers}",
        "commit",
        "insert into beta values (1000000, 'after')",
    )
    until(lambda: 1_000_000 in capture.ids("beta"), seconds=60)
    with services.lake, services.ledger() as ledger:
        landed = land_changes(services, [ALPHA, BETA], "run")
        assert landed.incomplete == []
        alpha, beta = ledger.landed(ALPHA.table), ledger.landed(BETA.table)
    # What came before it lands before it, the transaction in one landing of each table.
    assert sum(landing.row_count for landing in alpha) == 9 + ROWS
    assert sum(landing.row_count for landing in beta) == 4 + ROWS
    assert max(landing.row_count for landing in alpha) >= ROWS
    assert max(landing.row_count for landing in beta) >= ROWS
    assert put_away
    assert not any(path.exists() for path in put_away)
