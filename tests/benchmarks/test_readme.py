"""The front door says what is so."""

from __future__ import annotations

import json
from pathlib import Path

from tests.benchmarks import readme

RESULTS = Path(__file__).with_name("results.json")


def test_the_table_of_measurements_is_that_of_the_last_ones() -> None:
    assert readme.shown() == readme.table(json.loads(RESULTS.read_text(encoding="utf-8")))
