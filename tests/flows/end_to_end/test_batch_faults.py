"""What goes wrong stops what depends on it and nothing else, is said in one line, and heals by itself."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import httpx
import psycopg
import pytest

from tests.flows.company import Company, Done, Place
from tests.flows.streaming.topics import until
from transforms import registry

pytestmark = pytest.mark.full


@pytest.fixture
def fault(company: Company) -> Iterator[Callable[..., None]]:
    """Let the simulated services misbehave until the test ends."""
    services = company.state().stripe_url

    def arm(kind: str, path: str, **arguments: object) -> None:
        answer = httpx.post(
            f"{services}/_control/faults",
            json={"kind": kind, "path": path, **arguments},
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text

    yield arm
    company.behave()


def _failures(done: Done) -> list[str]:
    return [
        line.removeprefix("FAILED:").strip() for line in done.err.splitlines() if line.startswith("FAILED:")
    ]


def _without(source: str) -> set[str]:
    """Published tables that hang on nothing of a source."""
    lost = {
        name
        for entity in registry.entities()
        if entity.source == source
        for name in registry.downstream(entity.table)
    }
    return {table.name for table in registry.build_order() if table.is_published} - lost


# ----------------------------------------------------------------------------------------------- sources


def test_a_source_that_fails_stops_only_what_depends_on_it_and_the_next_run_heals(
    company: Company, fault: Callable[..., None]
) -> None:
    place = company.empty()
    fault("status", "/v1/charges", status=500)

    done = place.run()
    assert done.code == 1
    (failure,) = _failures(done)
    assert failure.startswith("raw_stripe__charges: ")
    assert "Traceback" not in done.said
    summary = place.summary()
    assert summary["state"] == "Failed"
    assert any("raw_stripe__charges" in line and "fct_payments" in line for line in summary["skipped"])
    complete = _without("stripe")
    assert {"fct_events", "fct_orders", "dim_users"} <= complete
    assert all(place.value(f"select count(*) from analytics.{name}") for name in complete)
    assert place.value("select count(*) from analytics.fct_payments") == 0

    company.behave()
    healed = place.run()
    assert healed.code == 0, healed.said
    assert place.differences() == []


def test_an_application_database_that_is_stopped_stops_only_what_reads_it(company: Company) -> None:
    place = company.empty()
    nowhere = "postgresql://app:hunter2-canary@127.0.0.1:1/app"

    done = place.run(ANALYTICS_APP_DSN=nowhere)
    assert done.code == 1
    failures = _failures(done)
    named = {failure.split(":")[0] for failure in failures}
    assert named == {entity.table for entity in registry.entities() if entity.source == "app"}
    assert len(failures) == len(named), "one line each"
    assert "canary" not in done.said
    assert place.value("select sum(row_count) from ops.ledger where table_name like 'raw_events%%'") > 0

    healed = place.run()
    assert healed.code == 0, healed.said
    assert place.differences() == []


# ------------------------------------------------------------------------------------------------ checks


def test_a_failed_check_leaves_what_is_published_as_it_was_to_the_byte(company: Company) -> None:
    place = company.copy(own_application=True)
    place.application(
        "update orders set total_amount = 0, coupon_code = null, updated_at = "
        "(select max(updated_at) from orders) + interval '1 second' where id in "
        "(select id from orders where total_amount > 0 and created_at > "
        "(select max(created_at) from orders) - interval '2 days' order by id limit 3)"
    )
    before, refreshed = place.physical(), place.refreshed()
    assert "mv_daily_revenue" in refreshed

    done = place.run()
    assert done.code == 1
    (failure,) = _failures(done)
    assert failure.startswith("fct_orders: rule free_only_with_coupon failed for 3 rows")
    summary = place.summary()
    assert summary["state"] == "Failed"
    assert any("fct_orders" in line for line in summary["skipped"])

    assert (place.physical(), place.refreshed()) == (before, refreshed)
    (kept,) = place.files("quarantine/fct_orders")
    assert str(kept.parent) in failure
    with duckdb.connect() as connection:
        rows = connection.execute(f"select order_id, revenue, _rule, _reason from '{kept}'").fetchall()
    assert rows
    assert all(rule and reason for _, _, rule, reason in rows)
    recorded = place.rows(
        "select rule, failing_rows from ops.check_result where table_name = 'fct_orders' and not passed"
    )
    assert recorded
    assert any(rule in failure for rule, _ in recorded)


def test_what_a_failed_check_held_back_is_published_when_the_source_is_mended(company: Company) -> None:
    place = company.copy(own_application=True)
    later = "(select max(updated_at) from orders) + interval '1 second'"
    change = f"update orders set total_amount = {{}}, updated_at = {later} where id = '{{}}'"
    order, amount = place.application("select id, total_amount from orders where total_amount > 0 limit 1")[0]
    place.application(change.format(-5, order))
    assert place.run().code == 1
    place.application(change.format(amount, order))
    done = place.run()
    assert done.code == 0, done.said
    assert place.value("select revenue from analytics.fct_orders where order_id = %s", order) == amount


# ----------------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize("damage", ["a flipped bit", "a cut end", "no file"])
def test_a_damaged_raw_file_is_never_loaded_and_the_message_names_it(company: Company, damage: str) -> None:
    place = company.copy()
    path = place.files("raw/raw_app__orders")[0]
    _damage(path, damage)
    before = place.physical()
    days = place.rows("select min(order_date), max(order_date) + 1 from analytics.fct_orders")[0]

    done = place.run("backfill", "--from", str(days[0]), "--to", str(days[1]), "--select", "stg_app__orders")
    assert done.code == 1
    failures = _failures(done)
    assert failures
    assert all(path.name in failure for failure in failures), failures
    assert "Traceback" not in done.said
    assert place.physical() == before


def _damage(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "a flipped bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "a cut end":
        path.write_bytes(content[:-100])


# ----------------------------------------------------------------------------------- readers and rivals


def test_two_runs_at_once_give_the_same_rows(company: Company) -> None:
    place = company.empty()
    first, second = place.spawn(), place.spawn()
    said = [""] * 2

    def wait(number: int) -> None:
        process = (first, second)[number]
        out, err = process.communicate(timeout=280)
        said[number] = out + err

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (first.returncode, second.returncode) == (0, 0), "\n".join(said)
    assert place.differences() == []
    assert place.rows("select relname from pg_class where relnamespace = 'unpublished'::regnamespace") == []
    again = place.run()
    assert again.code == 0
    assert place.summary()["landed"] == {}
    assert place.changed() == {}


@pytest.mark.parametrize(("by", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_run_that_is_stopped_ends_within_half_a_minute_and_the_same_command_goes_on(
    company: Company, by: signal.Signals, code: int
) -> None:
    """Also where what it is at waits for a lock that somebody holds all the while."""
    place = company.empty()
    process = _landing(place)
    with psycopg.connect(place.warehouse_dsn) as somebody:
        somebody.execute("lock table ops.ledger in access exclusive mode")
        waiting = "select count(*) from pg_locks where not granted and relation = 'ops.ledger'::regclass"
        until(lambda: place.value(waiting) >= 1)
        process.send_signal(by)
        out, err = process.communicate(timeout=30)
        assert process.returncode == code, out + err
        assert "Traceback" not in out + err
        assert ("run the same command again" in err) == (by is signal.SIGINT)
    summary = place.summary()
    assert summary["state"] == "Failed"
    assert any(failure.startswith("It was stopped") for failure in summary["failures"]), summary["failures"]
    assert summary["was_stopped"]
    _goes_on(place)


def _landing(place: Place) -> subprocess.Popen[str]:
    """A run that has begun to land."""
    process = place.spawn()
    assert process.stderr is not None
    assert any("rows landed" in line for line in process.stderr)
    return process


def _goes_on(place: Place) -> None:
    done = place.run()
    assert done.code == 0, done.said
    assert place.differences() == []


# ------------------------------------------------------------------------------------------ PostgreSQL 15


def test_a_whole_batch_on_postgresql_15_equals_the_truth(company: Company, postgres15: object) -> None:
    place = company.empty(company.house.server(15))
    done = place.run()
    assert done.code == 0, done.said
    assert place.value("select current_setting('server_version_num')::int / 10000") == 15
    assert place.differences() == []
    assert place.run("check").code == 0
