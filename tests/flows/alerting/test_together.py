"""Several who work on incidents at the same moment, each held up where it is in the middle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import psycopg

from flows.alerts import acknowledge, send_alert
from tests.flows.alerting.conftest import Watch

LATE = "data_freshness"


@contextmanager
def _no_message_can_be_noted(watch: Watch) -> Iterator[None]:
    """Whoever opens an incident has read which are open, and waits until the block ends."""
    with psycopg.connect(watch.dsn) as connection:
        connection.execute("lock table ops.notification in exclusive mode")
        yield


def _waiting(watch: Watch, sessions: int, *others: Future[None]) -> None:
    """Until so many sessions wait for a lock, or one of these is done without."""
    query = (
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' "
        "and datname = current_database()"
    )
    for _ in range(200):
        if watch.rows(query)[0][0] >= sessions or any(one.done() for one in others):
            return
        time.sleep(0.05)
    raise AssertionError("nobody waits")


def test_who_acknowledges_while_a_monitor_is_at_work_is_on_it_afterwards(watch: Watch) -> None:
    known = watch.verdict(LATE, "fct_orders")
    watch.minute(known)
    ((incident,),) = watch.rows("select incident_id from ops.incident")
    watch.later(minutes=1)

    def by_eve() -> None:
        with psycopg.connect(watch.dsn, autocommit=True) as connection:
            acknowledge(connection, incident, "eve", watch.now)

    with ThreadPoolExecutor(2) as pool:
        with _no_message_can_be_noted(watch):
            monitor = pool.submit(send_alert, watch.services(), [watch.verdict(LATE, "fct_emails"), known])
            _waiting(watch, 1)
            eve = pool.submit(by_eve)
            _waiting(watch, 2, eve)
        monitor.result()
        eve.result()
    watch.later(hours=5)
    watch.minute(known)
    acknowledged = "select acknowledged_by, acknowledged_at is not null, escalated_at from ops.incident "
    assert watch.rows(f"{acknowledged} where subject = 'fct_orders'") == [("eve", True, None)]


def test_of_two_monitors_the_second_finds_what_the_first_has_opened(watch: Watch) -> None:
    bad = [watch.verdict(LATE, "fct_orders")]
    with ThreadPoolExecutor(2) as pool:
        with _no_message_can_be_noted(watch):
            both = [pool.submit(send_alert, watch.services(), bad) for _ in range(2)]
            _waiting(watch, 2)
        for one in both:
            one.result()
    assert watch.rows("select count(*) from ops.incident") == [(1,)]
    assert len(watch.messages()) == 1
