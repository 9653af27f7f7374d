"""A setting is taken as whoever it is for takes it."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest

from flows import setting_checks
from flows.settings import Settings


@pytest.mark.parametrize(
    "text", ["1GB", "1.5 gb", "500MB", "60%", "0.5%", "100 %", "2GiB", "1k", "1G", " 3T "]
)
def test_a_limit_of_memory_is_what_duckdb_takes(text: str) -> None:
    setting_checks.size(text)
    duckdb.connect(config={"memory_limit": text}).close()


@pytest.mark.parametrize("text", ["lots", "", "GB", "100", "1ki", "1 Mi", "2PB", "1,5GB", "101%", "٣GB"])
def test_a_limit_of_memory_that_duckdb_would_refuse_is_refused_at_once(text: str) -> None:
    with pytest.raises(duckdb.Error):
        duckdb.connect(config={"memory_limit": text}).close()
    with pytest.raises(ValueError, match="2GB, 500MB or 60%"):
        setting_checks.size(text)


@pytest.mark.parametrize("text", ["0GB", "0.0%", "none", "-1GB"])
def test_no_memory_at_all_and_no_limit_are_no_limit(text: str) -> None:
    with pytest.raises(ValueError, match="2GB, 500MB or 60%"):
        setting_checks.size(text)


@pytest.mark.parametrize("text", ["inf", "nan", "-1"])
def test_a_pause_before_the_next_try_is_a_time_that_passes(text: str) -> None:
    given: dict[str, Any] = {"_env_file": None, "retry_seconds": text}
    with pytest.raises(ValueError, match="retry_seconds"):
        Settings(**given)
