"""An erasure beside a run that writes, and after a try that a kill left half done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows.stores.lake import Lake
from tests.flows.erasure import child
from tests.flows.erasure.world import ADA, Filled
from tests.flows.warehouses import Warehouses

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def filled(warehouses: Warehouses) -> Filled:
    return Filled.build(warehouses)


def test_files_that_somebody_is_writing_are_left_to_them_and_what_a_kill_left_goes(filled: Filled) -> None:
    place = filled.copy()
    lake = Path(place.lake)
    left = [lake / "quarantine" / "dim_users" / ".tmp-1-b0.parquet", lake / "raw" / ".tmp-1-b0.parquet"]
    for path in left:
        path.write_bytes(b"PAR1 and no end")
        os.utime(path, (0, 0))  # the disk's clock is too coarse to tell it from what is begun right after
    with Lake(lake) as beside:
        beside.begin_session()
        written = [lake / layer / "fct_emails" / ".tmp-2-b1.parquet" for layer in ("staging", "facts")]
        for path in written:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"PAR1 and no end yet")

        done = child.play(place, ADA)

        assert sum(found.found for found in done.places) == 0
        assert [path.exists() for path in (*left, *written)] == [False, False, True, True]
