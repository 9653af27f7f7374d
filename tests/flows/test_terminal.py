"""Whoever reads what a command says may leave before its end (`| head`): the work is done all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.recovery.vault import Vault
from tests.flows.company import ROOT
from tests.flows.recovery.conftest import filled
from tests.house import Server


def _unread(*words: str, both: bool = False, **environment: str) -> tuple[int, str]:
    """The exit code of `python -m WORDS`, to whose output nobody listens, and what it says besides."""
    reads, writes = os.pipe()
    os.close(reads)
    try:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=writes,
            stderr=writes if both else subprocess.PIPE,
            text=True,
            check=False,
            timeout=120,
        )
    finally:
        os.close(writes)
    return done.returncode, done.stderr or ""


@pytest.mark.parametrize("words", [["--help"], ["lineage", "fct_orders.revenue"], ["catalog"]], ids=" ".join)
def test_what_nobody_reads_any_more_ends_without_a_word(tmp_path: Path, words: list[str]) -> None:
    assert _unread("flows", *words, ANALYTICS_SANDBOX=str(tmp_path)) == (0, "")


def test_what_went_wrong_is_told_by_the_exit_code_also_where_nobody_reads(tmp_path: Path) -> None:
    assert _unread("flows", "lineage", "nothing", both=True, ANALYTICS_SANDBOX=str(tmp_path))[0] == 2


def test_the_ddl_is_compared_and_a_reader_who_left_sees_no_traceback() -> None:
    assert _unread("warehouse_ddl", "--check")[1] == ""


def test_work_goes_on_when_nobody_sees_its_progress(postgres18: Server, tmp_path: Path) -> None:
    dsn = postgres18.database()
    with filled(dsn, tmp_path) as services:
        settings = services.settings
    environment = {
        "ANALYTICS_SANDBOX": str(settings.sandbox),
        "ANALYTICS_WAREHOUSE_DSN": dsn,
        "ANALYTICS_LAKE": str(settings.lake_root),
        "ANALYTICS_BACKUPS": str(settings.backups_root),
    }
    assert _unread("flows", "backup", both=True, **environment)[0] == 0
    assert len(Vault(settings.backups_root, None).backups()) == 1
