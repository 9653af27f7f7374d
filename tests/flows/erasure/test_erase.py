"""A person who is erased is nowhere any more, nobody else is touched, and a kill anywhere is made good."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows import failpoints
from flows.erasure import again
from flows.erasure.erasing import apply_erasures, erase, unfinished
from flows.erasure.identify import BadErasure, CannotErase
from flows.progress import Progress
from flows.recovery.drill import drill
from flows.recovery.restoring import restore, workplace
from flows.recovery.taking import open_vault, take
from flows.recovery.vault import Backup
from flows.recovery.whole import from_lake
from flows.services import Services
from flows.stores import roles
from flows.stores.warehouse import Warehouse
from flows.streaming.journal import Journal
from tests import children
from tests.flows import kill_child
from tests.flows.company import Done, run_here
from tests.flows.erasure import child
from tests.flows.erasure.world import (
    ADA,
    BOB,
    BOBS,
    EVE,
    EVES,
    SECRETS,
    Filled,
    bytes_of,
    rows,
    with_backups,
)
from tests.flows.kill_child import Place
from tests.flows.stores.logins import login
from tests.flows.warehouses import Warehouses
from tests.house import Server
from transforms import registry

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[3]
STEPS = (
    "erase.noted",
    "erase.listed",
    "erase.file_written",
    "erase.substituted",
    "erase.manifest_true",
    "erase.deletion_written",
    "erase.deletion_landed",
    "erase.marked",
    "erase.built",
    "erase.compacted",
    "erase.letters_forgotten",
    "erase.ops_forgotten",
    "erase.quarantine_forgotten",
    "erase.file_removed",
    "erase.removed",
)
"""Every failpoint of an erasure, in the order in which it comes there."""
PAST_STEPS = ("erase.past_written", "erase.past_recorded")
"""The same of what it does to windows past their retention."""


@pytest.fixture(scope="module")
def filled(warehouses: Warehouses) -> Filled:
    return Filled.build(warehouses)


def _seen(place: Place) -> dict[str, Any]:
    """What people see afterwards, and what the ledger and the manifests say is there."""
    services = kill_child.services(place)
    differing = []
    with services.ledger() as ledger:
        for name, table in registry.tables().items():
            named = {file.path: file.sha256 for file in ledger.files(name)}
            for commit in services.lake.manifest(table.layer.value, name):
                for file in commit.add:
                    if file.path in named and named[file.path] != file.sha256:
                        differing.append(file.path)
            services.lake.paths(ledger.files(name) if table.layer.value == "raw" else [])
        assert unfinished(ledger) == []
    assert differing == []
    return {
        "users": rows(
            place, "select user_id, email, name, country, is_deleted from analytics.dim_users order by 1"
        ),
        "orders": rows(place, "select user_id, revenue from analytics.fct_orders order by 1"),
        "events": rows(place, "select user_id, count(*) from analytics.fct_events group by 1 order by 1"),
        "emails": rows(place, "select user_id, opens from analytics.fct_emails order by 1"),
        "letters": rows(place, "select letter_id, payload is null, status from ops.dead_letter order by 1"),
        "history": rows(
            place, "select user_id, is_deleted from analytics.dim_users_history where is_current order by 1"
        ),
    }


def _kill(place: Place, name: str, who: int) -> None:
    """Erase somebody in a process that dies at this failpoint."""
    assert children.dies(name, child.play, place, who), name


def test_nothing_names_an_erased_person_and_everybody_else_is_as_before(filled: Filled) -> None:
    place = filled.copy()
    before = _seen(place)
    assert all(secret in bytes_of(place) for secret in SECRETS)

    done = child.play(place, ADA, reason="asked")

    assert [place.found for place in done.places] == [0] * len(done.places)
    left = bytes_of(place)
    assert [secret for secret in SECRETS if secret in left.replace(BOBS, "")] == []
    assert BOBS in left
    after = _seen(place)
    assert after["users"] == [
        (ADA, None, None, "GB", True),
        (BOB, BOBS, "bob lovelace", "GB", False),
        (EVE, None, None, "GB", True),
    ]
    assert after["orders"] == before["orders"]
    assert after["events"] == before["events"]
    assert after["emails"] == [(BOB, 1), (None, 1)]
    assert after["letters"] == [
        ("letter0", True, "discarded"), ("letter1", True, "discarded"), ("letter2", False, "waiting")
    ]  # fmt: skip
    assert after["history"] == [(ADA, True), (BOB, False), (EVE, True)]
    ((alias, identifiers, hashes),) = rows(place, "select alias, identifiers, email_hashes from ops.erasure")
    assert identifiers == []
    assert len(hashes) == 3
    assert alias in left


@pytest.mark.parametrize("killed_at", [(), PAST_STEPS], ids=["at once", "killed at every step"])
def test_of_windows_past_their_retention_the_person_goes_and_every_row_stays(
    filled: Filled, killed_at: Sequence[str]
) -> None:
    place = filled.copy()
    later = replace(place, now="2028-12-01T12:00:00+00:00")
    old = ("stg_events__page_views", "fct_events")
    standing = (
        "select table_name, token, row_count from ops.partition_state "
        "where table_name = any(array['stg_events__page_views', 'fct_events']) and partition <> '' order by 1"
    )
    before = rows(place, standing)
    assert [name for name, _, _ in before] == sorted(old)

    for name in killed_at:
        _kill(later, name, ADA)
    done = child.play(later, ADA)

    assert [place.found for place in done.places] == [0] * len(done.places)
    assert [secret for secret in SECRETS if secret in bytes_of(place).replace(BOBS, "")] == []
    assert rows(place, standing) == before
    _seen(later)
    services = kill_child.services(later)
    with services.lake, services.lake.duckdb() as session, services.ledger() as ledger:
        for name, column in zip(old, ("path", "page"), strict=True):
            files = [file for state in ledger.states([name]).values() for file in state.files]
            pages = session.sql(f"select {column} from {services.lake.scan(files)}").fetchall()
            assert [page == "/home" for (page,) in sorted(pages)] == [True, False]


def test_what_is_rebuilt_from_raw_is_what_stands(filled: Filled) -> None:
    place = filled.copy()
    child.play(place, ADA)
    before = _seen(place)
    services = kill_child.services(place)
    with services.lake, kill_child.without_audit():
        with services.ledger() as ledger:
            ledger.mark(list(ledger.states()), "replay")
        kill_child.build_all(services, place, "again")
    assert _seen(place) == before


def test_an_erasure_is_repeated_after_an_older_backup_was_restored(filled: Filled) -> None:
    place = filled.copy()
    child.play(place, ADA)
    older = filled.copy()  # a warehouse and a lake from before; only the list is the newer one
    (listed,) = Path(place.lake, "_erasures.jsonl").read_text().splitlines()
    later = {
        **json.loads(listed),
        "user_id": 77,
        "email_hashes": [],
    }  # came after the backup, without address
    Path(older.lake, "_erasures.jsonl").write_text(f"{listed}\n{json.dumps(later)}\n")
    services = kill_child.services(older)
    with services.lake, kill_child.without_audit(), Progress("apply", io.StringIO()) as progress:
        done = apply_erasures(services, progress)
    assert done is not None
    assert done.users == (ADA, 77)
    assert _seen(older) == _seen(place)
    alias = f"select alias from ops.erasure where user_id = {ADA}"
    assert rows(older, alias) == rows(place, alias)


def _restored(services: Services, backup: Backup, place: Place, server: Server) -> Place:
    """A warehouse as the backup has it, beside the lake of the place."""
    dsn, vault = server.empty(), open_vault(services)
    with workplace(vault) as work:
        restore(vault, backup, dsn, work)
    return replace(place, warehouse_dsn=dsn)


def test_a_backup_from_before_an_erasure_brings_nobody_back(filled: Filled, postgres18: Server) -> None:
    """Rehearsed, restored beside the lake that there is, and together with the lake that the backup has when
    the list of the erased is nowhere but beside the backups.
    """
    place = filled.copy()
    services = with_backups(place)
    with Progress("backup", io.StringIO()) as progress:
        with services.lake:
            backup = take(services, progress).backup
            with kill_child.without_audit():
                erase(services, [ADA], "", "erase", progress)
        erased, letters = _seen(place), "select payload from ops.dead_letter order by letter_id"
        with services.lake:
            assert drill(services, None, progress).differences == []

        rehearsed = _restored(services, backup, place, postgres18)
        assert b"ada@EXAMPLE.com" in bytes(rows(rehearsed, letters)[0][0])
        with kill_child.services(rehearsed).lake as lake:
            assert again.in_warehouse(Warehouse(rehearsed.warehouse_dsn), lake) == 1
        assert [payload is None for (payload,) in rows(rehearsed, letters)] == [True, True, False]
        ((alias,),) = rows(place, "select alias from ops.erasure")
        quoted = "select observed from ops.check_result where run_id = 'r'"
        assert alias in str(rows(rehearsed, quoted))

        restored = _restored(services, backup, place, postgres18)
        with kill_child.without_audit(), kill_child.services(restored).lake:
            from_lake(kill_child.services(restored), progress)
        assert _seen(restored) == erased
        assert rows(restored, quoted) == rows(rehearsed, quoted)

        lost = Path(f"{place.lake}-lost")
        told = _restore(place, "--lake", str(lost))
        assert f"User {ADA}, erased after this backup was taken, can be read in these files" in told.out
        assert "ada@example.com" in bytes_of(replace(place, lake=str(lost)))
        both = replace(_restored(services, backup, place, postgres18), lake=str(lost))
        with kill_child.without_audit(), kill_child.services(both).lake:
            from_lake(kill_child.services(both), progress)
    assert _seen(both) == erased
    left = bytes_of(both).replace(BOBS, "")
    assert [secret for secret in SECRETS if secret in left] == []


def _restore(place: Place, *words: str) -> Done:
    """`python -m flows restore` beside the lake of a place and its backups."""
    lake = Path(place.lake)
    environment = {
        "ANALYTICS_WAREHOUSE_DSN": place.warehouse_dsn,
        "ANALYTICS_LAKE": place.lake,
        "ANALYTICS_BACKUPS": f"{place.lake.removesuffix('-gone')}-backups",
    }
    return run_here(["restore", *words], lake.parent, environment)


def test_a_backup_that_still_has_an_erased_person_is_not_restored_where_nothing_takes_them_out(
    filled: Filled, postgres18: Server
) -> None:
    place, dsn = filled.copy(), postgres18.empty()
    services = with_backups(place)
    with services.lake, kill_child.without_audit(), Progress("backup", io.StringIO()) as progress:
        before = take(services, progress).backup
        erase(services, [ADA], "", "erase", progress)
    next_day = with_backups(replace(place, now="2025-11-04T12:00:00+00:00"))
    with next_day.lake, Progress("backup", io.StringIO()) as progress:
        after = take(next_day, progress).backup

    told = [
        _restore(place, "--into", dsn, "--no-replay", "--backup", before.id),
        _restore(replace(place, lake=f"{place.lake}-gone"), "--into", dsn, "--backup", before.id),
    ]

    assert [done.code for done in told] == [2, 2]
    assert all(f"Backup {before.id} still has User {ADA}" in done.err for done in told), told
    assert rows(replace(place, warehouse_dsn=dsn), "select to_regnamespace('ops')") == [(None,)]
    done = _restore(place, "--into", dsn, "--no-replay", "--backup", after.id)
    assert done.code == 0, done.said
    assert _seen(replace(place, warehouse_dsn=dsn))["users"] == _seen(place)["users"]


def test_a_loader_and_nothing_else_is_enough(filled: Filled) -> None:
    place = filled.copy()
    with Warehouse(place.warehouse_dsn).connect() as connection:
        roles.lay(connection)
        roles.hand_over(connection)
    with login(place.warehouse_dsn, "loader") as dsn:
        done = child.play(replace(place, warehouse_dsn=dsn), ADA)
    assert sum(place.found for place in done.places) == 0


def test_nobody_is_erased_by_mistake(filled: Filled) -> None:
    place = filled.copy()
    before = bytes_of(place)
    with pytest.raises(BadErasure, match="There is no user 77"):
        child.play(place, 77)
    services = kill_child.services(place)
    with services.warehouse.connect() as streaming:
        Journal(streaming).join(["raw_events__clicks"])
        with pytest.raises(CannotErase, match="A stream is at work"):
            child.play(place, ADA)
    assert bytes_of(place) == before


def test_kills_at_every_step_are_made_good_by_the_same_command(filled: Filled) -> None:
    """One after the other, each in the try that follows the kill before; then one try that nobody kills."""
    unharmed = filled.copy()
    child.play(unharmed, EVE, ADA)
    place = filled.copy()
    for name in (n for n in failpoints.names(ROOT / "flows") if n.startswith("erase.")):
        assert name in (*STEPS, *PAST_STEPS), f"say at which step {name} stands"
    # Files have to be written anew for nothing but a person where nothing else changes by it: Eve's.
    for who, name in [
        (EVE, "erase.compacted"),
        *((ADA, name) for name in STEPS if name != "erase.compacted"),
    ]:
        _kill(place, name, who)
    assert sum(found.found for found in child.play(place, EVE, ADA).places) == 0
    left = bytes_of(place).replace(BOBS, "")
    assert [secret for secret in (*SECRETS, EVES) if secret in left] == []
    assert _seen(place) == _seen(unharmed)
