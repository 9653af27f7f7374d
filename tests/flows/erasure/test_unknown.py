"""Whom nothing published names may still be somebody: in raw, in a dead letter, in a backup."""

from __future__ import annotations

import io

import pytest

from flows.erasure import listed
from flows.erasure.erasing import erase
from flows.erasure.identify import BadErasure
from flows.progress import Progress
from flows.recovery import raw_files
from flows.recovery.restoring import workplace
from flows.recovery.taking import open_vault, take
from tests.flows import kill_child
from tests.flows.erasure import child
from tests.flows.erasure.world import BOB, BOBS, Filled, bytes_of, one_more_address, rows, with_backups
from tests.flows.warehouses import Warehouses

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def filled(warehouses: Warehouses) -> Filled:
    return Filled.build(warehouses)


def test_somebody_whom_only_an_address_or_a_dead_letter_is_of_is_erased(filled: Filled) -> None:
    place = filled.copy()
    services = kill_child.services(place)
    with services.lake:
        one_more_address(services, 41, "1 Hidden Lane")
    with services.warehouse.connect() as connection:
        connection.execute(
            "insert into ops.dead_letter (letter_id, source, entity, reason, payload, received_at) "
            """values ('theirs', 'app', 'users', 'no number', '{"id": 42, "name": "Mel"', now())"""
        )
    assert "1 hidden lane" in bytes_of(place)

    child.play(place, 41)
    child.play(place, 42)

    assert "1 hidden lane" not in bytes_of(place)
    assert rows(place, "select payload, status from ops.dead_letter where letter_id = 'theirs'") == [
        (None, "discarded")
    ]


def test_somebody_whom_only_a_backup_has_is_on_the_list_by_which_a_restore_erases_them(
    filled: Filled,
) -> None:
    place = filled.copy()
    services = with_backups(place)
    with services.lake, Progress("backup", io.StringIO()) as progress:
        backup = take(services, progress).backup
    empty = with_backups(filled.warehouses.place(), f"{place.lake}-backups")
    with empty.lake, kill_child.without_audit(), Progress("erase", io.StringIO()) as progress:
        with pytest.raises(BadErasure, match=r"There is no user 77 in .* or the raw files of the backups"):
            erase(empty, [77], "", "erase", progress)

        erase(empty, [BOB], "", "erase", progress)

        vault = open_vault(empty)
        with workplace(vault) as work:
            assert raw_files.erased_since(vault, backup, empty.lake.root, work) == [BOB]
        with empty.ledger() as ledger:
            assert listed.known(ledger.connection, empty.lake)[BOB].has(BOBS)

        unlisted = backup.folder / "raw.jsonl"
        unlisted.write_text("{")
        said = f"What was not searched: backup {backup.id} does not say which raw files it has"
        with pytest.raises(BadErasure, match=said):
            erase(empty, [77], "", "erase", progress)
