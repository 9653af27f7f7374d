"""The machine's clock was ahead for a while and is put back: what was noted meanwhile is in nobody's way."""

from __future__ import annotations

from datetime import timedelta

import pytest
from psycopg.types.json import Jsonb

from flows.monitoring.look import look
from flows.monitoring.schedules import Deployment, Switched
from flows.monitoring.verdict import State, Verdict
from flows.stores.warehouse_errors import WarehouseError
from tests.flows.monitoring.conftest import NOW, Place

YEAR = timedelta(days=365)


def _verdict(place: Place, subject: str, state: State = State.WARNING) -> Verdict:
    return Verdict("row_count", subject, state, place.moment[0], message="m")


def _ahead(place: Place, *subjects: str) -> None:
    place.later(YEAR.total_seconds())
    place.record(*(_verdict(place, subject) for subject in subjects))
    place.later(-YEAR.total_seconds())


def test_verdicts_are_kept_again_each_with_its_minute(place: Place) -> None:
    _ahead(place, "fct_orders", "fct_gone")
    for _ in range(2):
        place.later(60)
        (kept,) = place.record(_verdict(place, "fct_orders"))
        assert kept.since == NOW + timedelta(seconds=60)
    assert place.execute("select subject, since from ops.health") == [("fct_orders", kept.since)]
    assert place.execute("select since, until from ops.health_span where since < %s", NOW + YEAR) == [
        (NOW + timedelta(seconds=60), NOW + timedelta(seconds=120))
    ]
    place.record(_verdict(place, "fct_orders", State.OK))
    assert place.execute("select verdict from ops.health") == [("ok",)]


def test_a_run_of_then_has_brought_nothing_yet(place: Place) -> None:
    place.run(NOW - timedelta(days=3))
    assert place.measure("data_freshness")["fct_orders"].state is State.CRITICAL
    place.run(NOW + YEAR)
    assert place.measure("data_freshness")["fct_orders"].state is State.CRITICAL


def test_a_backup_and_a_drill_of_then_hide_none_that_is_missing_or_failed(place: Place) -> None:
    place.schedules = Switched(
        {name: Deployment(name, name, ("0 4 * * *",), "1") for name in ("backup", "drill")}
    )
    for moment, differences in ((NOW + YEAR, []), (NOW - timedelta(hours=1), ["fct_orders differs"])):
        place.execute(
            "insert into ops.backup values (%s, 'f', 1, 1, 1, 1, false, 1.0, %s)", str(moment), moment
        )
        place.execute(
            "insert into ops.drill values (%s, 'backup', %s, 1.0, 1.0, 1.0, 1, 1, %s, %s)",
            str(moment),
            not differences,
            Jsonb(differences),
            moment,
        )
    assert place.measure("drill")["warehouse"].state is State.CRITICAL
    assert place.measure("backup")["warehouse"].value == 3600.0


def test_a_look_whose_verdicts_are_not_kept_says_so_once_all_is_told(place: Place) -> None:
    place.run(NOW - timedelta(hours=1), "raw_app__orders: it is away")
    place.execute("alter table ops.health_span add constraint is_full check (false) not valid")
    try:
        with pytest.raises(WarehouseError, match=r"The warehouse refused.*violates check constraint"):
            look(place.services)
        assert place.execute("select signal from ops.incident") == [("pipeline_failed",)]
    finally:
        place.execute("alter table ops.health_span drop constraint is_full")
