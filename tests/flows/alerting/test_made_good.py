"""What makes good what a failed run left undone, and what does not."""

from __future__ import annotations

from flows.alerting.made_good import noted, people
from flows.monitoring.health import record
from flows.monitoring.verdict import State
from flows.stores.publication import Pending, Publication
from tests.flows.alerting.conftest import FAILURE, Watch


def test_a_failed_backfill_is_made_good_by_an_ordinary_run(watch: Watch) -> None:
    watch.ran("one", "fct_orders: refused", flow="backfill")
    watch.ran("two")
    assert watch.open() == []


def test_a_run_of_some_tables_makes_good_what_failed_of_these_alone(watch: Watch) -> None:
    watch.ran("one", "fct_orders: refused", "fct_payments: refused")
    watch.ran("two", selected=["fct_orders"])
    watch.minute()
    assert watch.open() == ["flow:analytics_pipeline"]
    watch.ran("three", selected=["fct_payments"])
    assert watch.open() == []


def test_a_failed_batch_after_which_none_has_run_is_told_however_long_ago_it_was(watch: Watch) -> None:
    watch.ran("one", "fct_orders: refused")
    watch.later(days=40)
    watch.ran("two", flow="maintain")
    assert watch.open() == ["flow:analytics_pipeline"]
    watch.ran("three")
    assert watch.open() == []


def test_what_somebodys_lock_keeps_from_being_seen_is_not_made_good(watch: Watch) -> None:
    watch.ran("one", "fct_orders: refused", "mv_daily_revenue: refused")
    table = Publication("fct_orders", pending=(Pending("2025-11", "session 7"),)).message()
    view = "mv_daily_revenue waits for its refresh: session 7 is in the way."
    watch.ran("two", pending=[table, view])
    assert watch.open() == ["flow:analytics_pipeline"]
    watch.ran("three", pending=[table])
    assert watch.open() == ["flow:analytics_pipeline"]
    watch.ran("four")
    assert watch.open() == []


def test_a_run_that_broke_off_is_made_good_once_all_is_landed_and_built_since(watch: Watch) -> None:
    watch.ran("one", "the machine has no memory left")
    watch.ran("two", flow="backfill")
    assert watch.open() == ["flow:analytics_pipeline"]
    # It lands every source.
    watch.ran("three", selected=["fct_orders"])
    assert watch.open() == []


def test_what_a_failed_batch_lacked_is_made_good_by_the_hourly_run_that_lands_and_builds_it(
    watch: Watch,
) -> None:
    skipped = ["fct_payments, mart_revenue_reconciliation: they need raw_stripe__charges, which failed"]
    watch.ran("one", FAILURE, skipped=skipped)
    watch.ran("two", "raw_sendgrid__bounces: SendGrid answers 500", flow="api_ingest")
    assert watch.open() == ["flow:api_ingest"]
    watch.ran("three", "raw_app__orders: refused")
    # It landed SendGrid, and has its own trouble.
    assert watch.open() == ["flow:analytics_pipeline"]
    watch.ran("four", flow="api_ingest")
    assert watch.open() == ["flow:analytics_pipeline"]


def test_what_is_of_no_table_is_made_good_by_its_own_flow_for_the_same_alone(watch: Watch) -> None:
    watch.reported("erase", "erase", "Crashed", "The machine went away.", users=[7, 8])
    for flow in ("drill", "maintain", "weekly_report"):
        watch.reported(flow, flow, "Crashed", "The machine went away.")
    watch.ran("batch")
    watch.later(days=40)
    watch.ran("next batch")
    # The others come by themselves and are missed; who waits to be erased is not.
    assert "flow:erase" in watch.open()
    watch.completed("erase", people([7]))
    watch.minute()
    assert "flow:erase" in watch.open()
    watch.completed("erase", people([8, 9]))
    watch.minute()
    assert "flow:erase" not in watch.open()


def test_a_dump_does_not_make_good_that_a_physical_backup_failed_nor_that_one_a_dump(watch: Watch) -> None:
    watch.reported("dump", "backup", "Failed", "No room.")
    watch.later(minutes=1)
    watch.completed("backup", ["physical"])
    watch.minute()
    assert "flow:backup" in watch.open()
    watch.completed("backup", [])
    watch.minute()
    assert "flow:backup" not in watch.open()
    watch.reported("copy", "backup", "Failed", "No room.", physical=True)
    watch.completed("backup", [])
    watch.minute()
    assert "flow:backup" in watch.open()


def test_a_failed_upkeep_is_made_good_by_the_next(watch: Watch) -> None:
    watch.reported("one", "maintain", "Failed", "No room.")
    watch.later(days=1)
    watch.ran("batch")
    assert watch.open() == ["flow:maintain"]
    watch.later(minutes=1)
    watch.completed("maintain")
    watch.minute()
    assert watch.open() == []


def test_a_failed_look_is_made_good_by_the_next_that_measured(watch: Watch) -> None:
    watch.reported("one", "monitor", "TimedOut", "It took longer than 50 s.")
    assert watch.open() == ["flow:monitor"]
    watch.later(minutes=1)
    seen = watch.verdict("disk", "lake", State.OK)
    with watch.services().warehouse.connect() as connection:
        record(connection, [seen], watch.now)
    watch.minute(seen)
    assert watch.open() == []


def test_a_run_counts_by_when_it_ran_not_by_when_that_was_noted(watch: Watch) -> None:
    """What dies because PostgreSQL is away is reported hours later."""
    failed = watch.now
    watch.later(minutes=30)
    watch.completed("backup")
    watch.later(hours=3)
    watch.reported("one", "backup", "Failed", "No room.", ended_at=failed)
    assert watch.open() == []
    watch.reported("two", "maintain", "Failed", "No room.", ended_at=failed)
    assert watch.rows("select since from ops.incident") == [(failed,)]


def test_what_was_at_work_before_a_run_failed_does_not_make_it_good(watch: Watch) -> None:
    with noted(watch.services(), "erase", people([7])):
        watch.later(minutes=10)
        watch.reported("one", "erase", "Failed", "The lake is away.", users=[7])
        watch.later(minutes=10)
    watch.minute()
    assert watch.open() == ["flow:erase"]
    watch.completed("erase", people([7]))
    watch.minute()
    assert watch.open() == []


def test_a_look_that_failed_after_it_had_measured_is_not_made_good_by_itself(watch: Watch) -> None:
    watch.later(minutes=-0.5)
    with watch.services().warehouse.connect() as connection:
        record(connection, [watch.verdict("disk", "lake", State.OK)], watch.now)
    watch.later(minutes=0.5)
    watch.reported("one", "monitor", "Crashed", "The machine went away.")
    assert watch.open() == ["flow:monitor"]
