"""A clock that is ahead for one run takes nothing away for its age."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import psycopg
import pytest

from flows import finish, maintain
from flows.alerting.made_good import noted
from flows.doubted import doubt
from flows.recovery.taking import open_vault, take
from flows.services import Services
from flows.stores.apply import leaves
from flows.summary import Summary
from tests.flows.clock import At
from tests.flows.landings import enter_object
from tests.flows.recovery.conftest import filled, unseen
from tests.flows.stores.world import DAY, EVENTS
from tests.house import Server
from transforms import registry
from transforms.registry import Registry

NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=365)
RAW = "raw_stripe__payouts"


@pytest.fixture
def moment() -> list[datetime]:
    return [NOW]


@pytest.fixture
def services(postgres18: Server, tmp_path: Path, moment: list[datetime]) -> Iterator[Services]:
    """A warehouse with backups, whose clock a test moves, and in which a run was a hundred days ago and each
    day since; payouts are kept for sixty days.
    """
    known = registry.default()
    shorter = replace(known.entities[RAW], retention=timedelta(days=60))
    declared = Registry(dict(known.models), {**known.entities, RAW: shorter})
    with filled(postgres18.database(), tmp_path) as services:
        given = {name: getattr(services.settings, name) for name in ("warehouse_dsn", "lake", "backups")}
        moved = Services(At(_env_file=None, moment=moment, sandbox=tmp_path / "none", **given))
        _run_at(moved, *(NOW - timedelta(days=days) for days in range(100)))
        with moved.lake, mock.patch.object(registry, "default", return_value=declared):
            enter_object(moved, shorter, 1, {"id": "po_1", "created": int(NOW.timestamp())})
            yield moved


def _run_at(services: Services, *times: datetime) -> None:
    with services.warehouse.connect() as connection:
        for at in times:
            values = (f"at {at}", at, at)
            connection.execute("insert into ops.run values (%s, 'daily', %s, %s, 'Completed')", values)


def _runs(services: Services) -> int:
    with services.warehouse.connect() as connection:
        row = connection.execute("select count(*) from ops.run").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize(
    ("days", "is_in_doubt"),
    [
        ([], False),
        ([0, 0.5], False),
        ([0, 1.5, 400], False),
        ([7.9], False),
        ([8.1], True),
        ([0, 0.9, 365], True),
        ([-300, 0, 365], True),
        ([-300, 0, 1], False),
    ],
)
def test_what_is_in_doubt_is_a_clock_by_which_nothing_ran_for_a_week_until_today(
    dsn: str, days: list[float], is_in_doubt: bool
) -> None:
    with psycopg.connect(dsn) as connection:
        for number, ago in enumerate(days):
            at = NOW - timedelta(days=ago)
            connection.execute("insert into ops.run values (%s, 'f', %s, null, '')", (str(number), at))
        said = doubt(connection, NOW)
    assert (said is not None) is is_in_doubt
    assert said is None or "may be ahead" in said


def test_upkeep_by_a_clock_that_is_a_year_ahead_takes_nothing_for_its_age(
    services: Services, moment: list[datetime], capsys: pytest.CaptureFixture[str]
) -> None:
    for days in (3, 2, 1):
        moment[0] = NOW - timedelta(days=days)
        take(services, unseen())
    moment[0] = LATER
    _run_at(services, LATER - timedelta(minutes=5))
    runs = _runs(services)

    done = maintain.tidy(services, unseen())

    assert (done.let_go, done.pruned, done.expired) == (0, 0, 0)
    assert _runs(services) == runs
    assert len(open_vault(services).backups()) == 3

    _run_at(services, LATER - timedelta(days=2))
    done = maintain.tidy(services, unseen())
    assert (done.let_go, done.pruned, done.expired) == (1, 64, 2), "it was right after all"


def test_who_runs_anything_once_a_month_lets_go_of_what_is_old_as_the_doubt_says(
    services: Services, moment: list[datetime]
) -> None:
    def tidied() -> maintain.Maintained:
        with noted(services, "maintain"):
            return maintain.tidy(services, unseen())

    moment[0] = NOW + timedelta(days=90)
    with psycopg.connect(services.settings.require("warehouse_dsn")) as connection:
        said = doubt(connection, moment[0]) or ""
    assert "run `python -m flows maintain` now and again a day to a week later" in said
    assert tidied().let_go == 0
    moment[0] += timedelta(days=1, hours=1)
    assert tidied().let_go == 1


def test_a_backup_by_a_clock_that_was_ahead_before_it_began_takes_no_other_away(
    services: Services, moment: list[datetime], caplog: pytest.LogCaptureFixture
) -> None:
    for days in (3, 2, 1):
        moment[0] = NOW - timedelta(days=days)
        take(services, unseen())
    moment[0] = LATER

    with caplog.at_level(logging.WARNING, "flows.backups"):
        assert take(services, unseen()).expired == ()

    assert len(open_vault(services).backups()) == 4
    assert "Nothing was let go of for its age: between 2025-11-03 12:00 UTC and today" in caplog.text


def test_a_run_by_a_clock_that_is_ahead_drops_no_leaf_and_says_why(
    services: Services, moment: list[datetime]
) -> None:
    table = replace(EVENTS, retention=timedelta(days=90))
    for now, is_there in ((LATER, True), (NOW + timedelta(days=100), False)):
        moment[0] = now
        if not is_there:
            _run_at(services, now - timedelta(days=2))
        summary = Summary(run_id="r", flow="daily")
        finish.run(services, [table], summary, unseen())
        assert any("may be ahead" in said for said in summary.warnings) is is_there
        with services.warehouse.connect() as connection:
            assert (table.leaf(DAY) in leaves(connection, table)) is is_there
