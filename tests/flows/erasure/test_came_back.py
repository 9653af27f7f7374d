"""Somebody who was erased and signs up again is another user, to whom the address belongs from then on."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest

from flows.erasure.erasing import apply_erasures
from flows.progress import Progress
from tests.flows import kill_child
from tests.flows.erasure import child
from tests.flows.erasure.world import ADA, Filled, one_more_account, rows
from tests.flows.warehouses import NOW, Warehouses

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

AGAIN = 4
HERS = "ada@example.com"


@pytest.fixture(scope="module")
def filled(warehouses: Warehouses) -> Filled:
    return Filled.build(warehouses)


def test_a_restore_that_erases_again_leaves_the_new_account_its_address(filled: Filled) -> None:
    place = replace(filled.copy(), models=None)
    child.play(place, ADA)
    services = kill_child.services(place)
    with services.lake, kill_child.without_audit():
        one_more_account(services, AGAIN, HERS)
        kill_child.build_all(services, place, "later")
        with services.warehouse.connect() as connection:
            connection.execute(
                "insert into ops.check_result values ('quoted', 'dim_users', '', 'rule', 'accuracy', "
                "'warning', 'duckdb', false, 1, %s, %s)",
                (json.dumps({"examples": [HERS]}), NOW),
            )
        users = "select user_id, email, is_deleted from analytics.dim_users order by 1"
        before = rows(place, users)
        assert (AGAIN, HERS, False) in before
        with Progress("apply", io.StringIO()) as progress:
            done = apply_erasures(services, progress)
        kill_child.build_all(services, place, "after")

    assert done is not None
    assert [one.found for one in done.places] == [0] * len(done.places)
    assert rows(place, users) == before
    quoted = "select observed ->> 'examples' from ops.check_result where run_id = 'quoted'"
    assert rows(place, quoted) == [(f'["{HERS}"]',)]
