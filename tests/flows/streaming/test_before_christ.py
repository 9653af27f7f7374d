"""An event whose producer says a year before Christ: a dead letter of no window, and nothing stops of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.planner import ASKED_FOR, REPLAYED
from tests.flows.replaying import day, execute
from tests.flows.streaming.topics import MODELS, Topics
from tests.house import House

LONG_AGO = "-0100-03-15T09:00:00+00:00"
"""DuckDB writes its day as `-100-03-15`, which is as long as one of today."""
FALSE_KEY = "-100-03-15"


@pytest.fixture
def topics(house: House, tmp_path: Path) -> Topics:
    return Topics.build(house, tmp_path)


def _mark(topics: Topics, fingerprint: str) -> None:
    """What `backfill`, `rebuild`, `replay` and an erasure begin with."""
    with topics.world.services().ledger() as ledger:
        assert ledger.mark([(name, day(topics, 0)) for name in MODELS], fingerprint)


def _is_built_anew(topics: Topics) -> None:
    for fingerprint in (ASKED_FOR, REPLAYED):
        _mark(topics, fingerprint)
        topics.batch()
        assert topics.numbers() == [(1, 0, 0), (3, 0, 2)]
        left = "select count(*) from ops.partition_state where fingerprint in ('backfill', 'replay')"
        assert topics.rows(left) == [(0,)]
    assert {name for name, _ in topics.ask(dry_run=True).partitions} >= {"fct_events"}


def _landed(topics: Topics) -> set[str]:
    return {key for (key,) in topics.rows("select distinct landed_window from ops.landed_window")}


def test_an_event_of_a_year_before_christ_keeps_nothing_from_being_built_anew(topics: Topics) -> None:
    topics.send([topics.event(1, user_id=1), topics.event(2, event_time=LONG_AGO), topics.event(3)])
    topics.batch()

    assert _landed(topics) == {"", day(topics, 0)}
    assert topics.rows("select partition from ops.comparison_owed") == [(day(topics, 0),)]
    assert topics.rows("select count(*) from ops.dead_letter") == [(1,)]
    _is_built_anew(topics)


def test_a_ledger_that_has_such_a_year_as_a_window_is_built_anew_from_too(topics: Topics) -> None:
    topics.send([topics.event(1, user_id=1), topics.event(2, event_time=LONG_AGO), topics.event(3)])
    topics.batch()
    execute(
        topics,
        "update ops.ledger set windows = (windows - '') || jsonb_build_object("
        f"'{FALSE_KEY}', windows -> '') where windows ? ''",
        f"update ops.landed_window set landed_window = '{FALSE_KEY}' where landed_window = ''",
        "insert into ops.comparison_owed (entity, partition) "
        f"select entity, '{FALSE_KEY}' from ops.comparison_owed",
    )
    assert FALSE_KEY in _landed(topics)

    _is_built_anew(topics)
    topics.send([topics.event(4)])
    topics.batch()
    assert topics.numbers() == [(1, 0, 0), (3, 0, 2), (4, 0, 3)]
    assert all(result.passed for result in topics.reconcile())
