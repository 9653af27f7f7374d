"""What a plan tells people: each table, partition and reason; and what nobody can tell beforehand."""

from __future__ import annotations

from unittest import mock

import pytest

from flows import plan
from flows.extract import kafka, waiting
from flows.extract.debezium_guard import ANEW
from flows.extract.kafka import PositionGone, Topic
from flows.plan import Arriving
from flows.planner import UNKNOWN, WHOLE, Due, Work
from flows.settings import Settings
from transforms import registry

DAYS = registry.table("fct_events")


def _work(*due: tuple[str, str, int], mode: str = "replace") -> Work:
    return Work(DAYS, "v1", tuple(Due(key, mode, reason, {}, rows) for key, reason, rows in due))


def test_each_reason_has_a_line_that_names_its_partitions_rows_and_seconds() -> None:
    days = ["2025-10-05", "2025-10-06", "2025-10-09"]
    news = [(day, "new data in stg_events__clicks", 150_000) for day in days]
    work = _work(("2025-10-01", "asked for by a backfill", 150_000), *news)
    asked, new, whole = plan.lines([work], Arriving())
    assert asked.endswith(
        "1 partition     ~150,000 rows  ~1.3 s  2025-10-01  because: asked for by a backfill"
    )
    assert (
        "3 partitions    ~450,000 rows  ~3.0 s  2025-10-05 … 2025-10-06, 2025-10-09  because: new data" in new
    )
    assert whole.startswith("About 4.3 s of building here.")


def test_partitions_of_days_that_only_reading_tells_are_not_counted() -> None:
    work = _work(
        ("2025-10-05", "new data in stg_events__clicks", 2), (UNKNOWN, "new data in stg_events__clicks", 5)
    )
    line = plan.lines([work], Arriving({"raw_events__clicks": {UNKNOWN: 5}}))[1]
    assert "? partitions" in line
    assert "2025-10-05, of days that only reading tells" in line


@pytest.mark.parametrize(("mode", "said"), [("append", "what is new"), ("replace", "all of it")])
def test_a_whole_table_is_told_from_what_is_new_of_it(mode: str, said: str) -> None:
    assert plan.named(_work((WHOLE, "new", 1), mode=mode).due, DAYS.partition) == said


def test_nothing_new_is_not_said_of_sources_that_were_not_asked() -> None:
    assert plan.lines([], Arriving()) == ["Nothing is new: a run would rebuild nothing."]
    unasked = Arriving(not_asked=["raw_app__categories", "raw_stripe__charges", "raw_stripe__refunds"])
    assert plan.lines([], unasked) == [
        "Nothing is new at the sources that can say it beforehand: a run would rebuild nothing for them.",
        "Only reading tells what is new in app (categories), stripe (charges, refunds).",
    ]
    assert plan.document([], unasked)["not_asked"] == unasked.not_asked
    away = Arriving(notes=["raw_app__users: it did not answer."])
    assert plan.lines([], away) == away.notes


def test_what_waits_in_a_topic_is_of_an_unknown_day_and_apis_can_not_be_asked() -> None:
    settings = Settings(_env_file=None, kafka_bootstrap="127.0.0.1:1")
    clicks, charges = registry.entity("raw_events__clicks"), registry.entity("raw_stripe__charges")
    with mock.patch.object(kafka, "lag", return_value={0: 3, 1: 4}):
        assert waiting.waiting(clicks, {}, settings) == {UNKNOWN: 7}
    with mock.patch.object(kafka, "lag", return_value={0: 0}):
        assert waiting.waiting(clicks, {}, settings) == {}
    with mock.patch.object(Topic, "held", return_value={0: (5, 9)}), pytest.raises(PositionGone) as gone:
        waiting.waiting(clicks, {"offsets": {"0": 3}}, settings)
    assert str(gone.value).endswith("To accept the loss: python -m flows positions clicks")
    assert waiting.waiting(charges, {}, settings) is None
    assert waiting.waiting(registry.entity("raw_app__categories"), {}, settings) is None


def test_of_changes_that_a_broker_has_lost_the_way_on_is_to_read_everything_anew() -> None:
    settings = Settings(_env_file=None, kafka_bootstrap="127.0.0.1:1")
    position = {"offsets": {"0": 3}}
    with mock.patch.object(Topic, "held", return_value={0: (5, 9)}), pytest.raises(PositionGone) as gone:
        waiting.waiting(registry.entity("raw_app__users"), position, settings)
    assert str(gone.value).endswith(f"To accept the loss: {ANEW}")
