"""What the quality page shows of rows that were refused: whose they are is not among it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.portal.quarantine import quarantined
from flows.services import Services
from tests.flows.clock import At
from tests.flows.portal.filled import NOW, SECRET


@pytest.fixture
def services(tmp_path: Path) -> Services:
    """A lake, and no warehouse that could be asked."""
    return Services(At(_env_file=None, moment=[NOW], lake=tmp_path / "lake"))


def _refuse(services: Services, table: str, **columns: Sequence[object]) -> Path:
    """Put rows aside as a build does."""
    folder = services.settings.lake_root / "quarantine" / table
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "b0.parquet"
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("table", "key"), [("dim_users", "user_id"), ("stg_app__users", "user_id"), ("raw_app__users", "id")]
)
def test_refused_rows_are_shown_without_what_is_personal(services: Services, table: str, key: str) -> None:
    people = {"email": [SECRET, SECRET], "name": ["somebody private"] * 2, "country": ["GB", "FR"]}
    said = {"_rule": ["not_null_plan"] * 2, "_reason": ["plan is null"] * 2}
    _refuse(services, table, **{key: [1, 2]}, **people, **said)
    (kept,) = quarantined(services)
    assert (kept.table, kept.rule, kept.reason, kept.rows) == (table, "not_null_plan", "plan is null", 2)
    assert (kept.columns, kept.sample) == ((key, "country"), (("1", "GB"), ("2", "FR")))
    assert "private" not in str(kept)


def test_a_text_that_may_hold_anything_is_left_out(services: Services) -> None:
    said = {"_rule": ["r"], "_reason": ["r"]}
    _refuse(services, "fct_events", event_id=["e"], properties=[f'{{"mail": "{SECRET}"}}'], **said)
    (kept,) = quarantined(services)
    assert kept.columns == ("event_id",)


def test_a_file_that_cannot_be_read_takes_no_other_with_it(services: Services) -> None:
    _refuse(services, "dim_users", user_id=[1], _rule=["r"], _reason=["r"])
    _refuse(services, "fct_orders", order_id=["o"], _rule=["r"], _reason=["r"]).write_bytes(b"PAR1 torn")
    assert [kept.table for kept in quarantined(services)] == ["dim_users"]
