"""A warehouse in which no run ever was: whoever asks it for something is told to begin with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows.company import run_here
from tests.house import House

ASKING = [
    ["alerts", "list"],
    ["alerts", "ack", "1"],
    ["alerts", "end", "1"],
    ["alerts", "summary"],
    ["sla"],
    ["metrics"],
    ["dlq", "list"],
    ["check"],
    ["check", "--stream"],
    ["rebuild", "fct_orders"],
    ["backfill", "--from", "2025-10-20", "--to", "2025-10-21"],
    ["replay", "--topic", "clicks", "--from", "0"],
]


@pytest.fixture(scope="module")
def settings(house: House) -> dict[str, str]:
    """An empty database for a warehouse; nothing else is asked."""
    nowhere = "127.0.0.1:1"
    return {
        "ANALYTICS_WAREHOUSE_DSN": house.server().empty(),
        "ANALYTICS_APP_DSN": f"postgresql://{nowhere}/none",
        "ANALYTICS_KAFKA_BOOTSTRAP": nowhere,
        "ANALYTICS_STRIPE_URL": f"http://{nowhere}",
        "ANALYTICS_SENDGRID_URL": f"http://{nowhere}",
        "ANALYTICS_LAKE": "lake",
    }


def test_a_table_that_no_run_has_made_yet_is_described_without_examples(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    done = run_here(["catalog", "fct_orders"], tmp_path, settings)
    assert done.code == 0, done.said
    assert "revenue" in done.out
    said = "No examples: This warehouse was never prepared, or not since that was declared"
    assert done.err.startswith(said)
    assert "42P01" not in done.err


@pytest.mark.parametrize("words", ASKING, ids=" ".join)
def test_a_warehouse_that_was_never_prepared_says_to_run_the_batch(
    tmp_path: Path, settings: dict[str, str], words: list[str]
) -> None:
    done = run_here(words, tmp_path, settings)
    assert done.code == 2, done.said
    assert len(done.err.strip().splitlines()) == 1, done.err
    assert "run" in done.err
    assert "python -m flows" in done.err
    assert "refused" not in done.err
